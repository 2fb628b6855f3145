"""Windows, mixtures and batches: nothing shifted, nothing dropped, the same batch on any number of ranks."""

import numpy as np
import pytest
import torch

from gato.episodes import Episode, Spec, TaskSpec
from gato.errors import RecipeError
from gato.sequences import Mixture, Segment, TokenStore, collate
from gato.tokens import TimestepCodec, Vocabulary
from gato.tokens.timestep import ACTION_POSITION

V = Vocabulary(1024)
COUNT = 1000


def counting_store(task: str, width: int = 3, lengths=(5, 1, 8, 12), success=True) -> TokenStore:
    """Observation and action both hold the number of the step over the whole dataset."""
    spec = TaskSpec(
        {"x": Spec("discrete", (width,), "int64", (0.0,), (1023.0,))},
        {"action": Spec("discrete", (), "int64", (0.0,), (1023.0,))},
    )
    episodes, n = [], 0
    for length in lengths:
        steps = np.arange(n, n + length)
        episodes.append(
            Episode(
                task,
                {"x": np.repeat(steps[:, None], width, 1)},
                {"action": steps},
                np.zeros(length, np.float32),
                info={"success": success},
            )
        )
        n += length
    return TokenStore.build(task, TimestepCodec(spec, V, None, task=task), episodes)


def decode_batch(batch):
    """(predicting token's id, target id) of every target."""
    rows, base, suffix = [], 0, 0
    for n, length, first in batch.groups:
        inside = batch.queries[(batch.queries >= suffix) & (batch.queries < suffix + n * (length - first))] - suffix
        rows.append(base + inside // (length - first) * length + inside % (length - first) + first)
        base, suffix = base + n * length, suffix + n * (length - first)
    return batch.ids[torch.cat(rows)], batch.targets, torch.cat(rows)


@pytest.mark.parametrize("most", [1, 3, None])
def test_targets_follow_their_separator(most):
    """The dummy that counts: the token before the action is the separator, and the observation before it is the step."""
    mixture = Mixture(
        [counting_store("a/one"), counting_store("b/two", 6, (4, 30))],
        {"*": 1.0},
        4,
        128,
        64,
        {"*": most},
        prompt_share=0.5,
    )
    seen = set()
    for step in range(60):
        batch = mixture.batch(step)
        before, targets, rows = decode_batch(batch)
        assert (before == V.separator).all()
        assert torch.equal(batch.ids[rows - 1], targets)
        assert torch.equal(batch.ids[rows + 1], targets)
        assert (batch.positions[rows + 1] == ACTION_POSITION).all()
        seen |= {(int(s), int(t)) for s, t in zip(batch.stores, targets, strict=True)}
    assert seen == {(0, t) for t in range(26)} | {(1, t) for t in range(34)}  # the last step of every episode too


def test_windows_stay_in_their_episode():
    store = counting_store("a/one", lengths=(5, 1, 8, 40))
    rng = np.random.default_rng(0)
    for _ in range(500):
        begin, end = store.window(rng, 32)
        assert begin in store.starts and end in store.starts and 0 < end - begin <= 32
        assert store.episode_at(begin) == store.episode_at(end - 1)


def test_slots_are_pure_and_ranks_share_the_batch():
    def make():
        return Mixture(
            [counting_store("a/one"), counting_store("b/two", 6)],
            {"a": 1.0, "b": 2.0},
            6,
            200,
            64,
            {"*": 2},
            0.25,
            seed=3,
        )

    one, other = make(), make()
    assert [one.slot(5, i) for i in range(6)] == [other.slot(5, i) for i in reversed(range(6))][::-1]
    whole = sorted(map(str, (s for i in range(6) for s in one.slot(9, i))))
    for world in (2, 3):
        split = sorted(str(s) for r in range(world) for i in range(r, 6, world) for s in other.slot(9, i))
        assert split == whole


def test_shares_follow_the_weights():
    mixture = Mixture(
        [counting_store("a/one", 2), counting_store("b/two", 40), counting_store("b/three", 10)],
        {"a": 1.0, "b": 3.0},
        8,
        512,
        64,
        {"*": 1},
    )
    tokens = np.zeros(3)
    for step in range(40):
        for i in range(8):
            for segment in mixture.slot(step, i):
                tokens[segment.store] += len(segment)
    assert tokens / tokens.sum() == pytest.approx(
        [0.25, 0.375, 0.375], abs=0.03
    )  # the end of a slot favours short windows a little


def test_prompts():
    store = counting_store("a/one", lengths=(6,) * 30)
    mixture = Mixture([store], {"*": 1.0}, 4, 1024, 64, {"*": 2}, prompt_share=0.25)
    prompted = plain = ends = 0
    for step in range(400):
        for i in range(4):
            for segment in mixture.slot(step, i):
                if len(segment.spans) == 1:
                    plain += 1
                    continue
                prompted += 1
                (a, b), (c, d) = segment.spans
                assert store.episode_at(a) != store.episode_at(c)
                assert b - a <= 32 and d - c <= 32
                ends += b in store.starts[store.episodes]
    assert prompted + plain > 100_000
    share = prompted / (prompted + plain)
    assert share == pytest.approx(0.25, abs=0.02)  # the end of a slot has less room for prompted windows
    assert ends / prompted == pytest.approx(0.5 + 0.5 / 6, abs=0.01)  # a uniform part ends at the end one time in six


def test_padding_and_gaps():
    stores = [counting_store(f"a/{k}", 40 + k) for k in range(12)]
    batch = Mixture(stores, {"*": 1.0}, 8, 1024, 512, {"*": 1}).batch(0)
    assert batch.padding < 0.05
    assert len(batch.ids) == sum(n * length for n, length, _ in batch.groups)


def test_loss_free_prompts_and_blank_actions():
    store = counting_store("a/one")
    segment = Segment(0, ((0, 5), (10, 20)), masked=5)
    batch = collate([segment], [store], parallel_actions=True)
    assert batch.targets.tolist() == store.tokens.ids[[14, 19]].tolist()
    assert batch.blank.tolist() == (batch.positions == ACTION_POSITION).tolist()


def test_bad_weights():
    for kwargs in ({"weights": {"a": -1.0}}, {"weights": {"c": 1.0}}, {"prompt_share": 1.5}):
        with pytest.raises(RecipeError):
            Mixture(
                [counting_store("a/one")],
                **{"weights": {"*": 1.0}, "slots": 1, "slot_tokens": 64, "window_tokens": 32, **kwargs},
            )
    with pytest.raises(RecipeError, match=r"a/one|5 tokens"):
        Mixture([counting_store("a/one")], {"*": 1.0}, 1, 64, window_tokens=4)


def test_long_episodes_are_prompted_too():
    """A window that could fill everything leaves half to its prompt."""
    mixture = Mixture(
        [counting_store("a/one", lengths=(100, 90))], {"*": 1.0}, 4, 512, 128, {"*": None}, prompt_share=0.25
    )
    segments = [s for step in range(150) for i in range(4) for s in mixture.slot(step, i)]
    share = sum(len(s.spans) == 2 for s in segments) / len(segments)
    assert share == pytest.approx(0.25, abs=0.04)
    assert all(len(s) <= 128 for s in segments)
