"""From collected episodes to token rows: what the store holds is what was played, step by step."""

import numpy as np
import pytest
import torch

from gato.corpora import asked_of, page_spec, questions_spec
from gato.episodes import Episode, Spec, TaskSpec
from gato.episodes.store import Dataset, find_datasets
from gato.errors import EpisodeError
from gato.rollouts.collect import collect
from gato.sequences import Mixture, Segment, TokenStore, collate
from gato.tokens import TimestepCodec, Vocabulary
from gato.tokens.timestep import ACTION_POSITION, IMAGE, TEXT
from gato.worlds import find

V = Vocabulary(1024)


@pytest.fixture(scope="module")
def counting(tmp_path_factory, tokenizer):
    """dummy/count through collect, the disk and the codec: (episodes, store)."""
    folder = tmp_path_factory.mktemp("counting")
    collect([find("dummy/count")], 12, folder, workers=0, progress=False)
    dataset = Dataset.open(find_datasets([folder])[0])
    episodes = [dataset[i] for i in range(len(dataset))]
    codec = TimestepCodec(dataset.spec, V, tokenizer, task="dummy/count")
    return episodes, TokenStore.build("dummy/count", codec, iter(episodes))


def documents(lengths, tokenizer):
    codec = TimestepCodec(TaskSpec({"text": Spec("text", (), "str")}, {}), V, tokenizer, task="text/x")
    words = np.array(["return", "key", "value", "list", "of", "the"])
    rng = np.random.default_rng(0)
    return TokenStore.build(
        "text/x",
        codec,
        [Episode("text/x", {"text": [" ".join(rng.choice(words, n))]}, {}, np.zeros(1, np.float32)) for n in lengths],
    )


def test_the_store_is_the_episodes(counting):
    episodes, store = counting
    assert store.num_episodes == len(episodes) and store.num_timesteps == sum(map(len, episodes))
    t = 0
    for e, episode in enumerate(episodes):
        assert int(store.episodes[e]) == t
        alone = store.codec.encode(episode)
        rows = slice(int(store.starts[t]), int(store.starts[t + len(episode)]))
        for name in ("ids", "kinds", "positions", "targets", "boxes"):
            assert np.array_equal(getattr(alone, name), getattr(store.tokens, name)[rows]), name
        image = alone.kinds == IMAGE
        assert np.array_equal(
            alone.table.rows[alone.patches[image]], store.tokens.table.rows[store.tokens.patches[rows][image]]
        )
        t += len(episode)
    assert len(store.tokens.table) == len({int(c) for e in episodes for c in e.observations["image"][:, 0, 0, 0]})


def test_encoding_in_chunks_changes_nothing(counting, monkeypatch):
    import gato.sequences.store as module

    episodes, store = counting
    monkeypatch.setattr(module, "CHUNK_STEPS", 1)
    again = TokenStore.build(store.task, store.codec, episodes)
    assert np.array_equal(again.tokens.ids, store.tokens.ids) and np.array_equal(again.starts, store.starts)
    image = store.tokens.patches >= 0
    pixels = [s.tokens.table.rows[s.tokens.patches[image]] for s in (again, store)]
    assert np.array_equal(*pixels) and np.array_equal(again.tokens.patches >= 0, image)


def test_every_target_is_predicted_by_the_row_before_it(counting):
    """collect → disk → store → mixture → collate. In this world the observation says what the action must be, so that a
    shift by one row or one step anywhere between the world and the loss shows here."""
    _, store = counting
    mixture = Mixture([store], {"*": 1.0}, 4, 512, 256, {"*": 3}, prompt_share=0.25)
    seen = set()
    for step in range(40):
        batch = mixture.batch(step)
        rows, predicted = rows_of(batch)
        assert torch.equal(batch.ids[rows + 1], predicted)
        image_rows = batch.image_rows.numpy()
        buttons = [
            r for r in rows.tolist() if batch.positions[r + 1] == ACTION_POSITION and batch.ids[r] == V.separator
        ]
        assert buttons
        for r in buttons:
            before = np.searchsorted(image_rows, r) - 1  # the last patch before the separator
            count = int(batch.patches[batch.image_index[before], 0])
            y = (np.array([count / 64 - 1, 1 - count / 64], np.float32) + 1) / 2 * 1024
            stick = V.continuous + np.clip(y.astype(int), 0, 1023)
            assert batch.ids[r + 1 : r + 4].tolist() == [count % 16, *stick.tolist()]
            seen.add(count)
        texts = batch.kinds == TEXT
        assert (batch.targets[texts] < V.continuous).all() and texts.any() and not texts.all()
    assert seen == {int(c) for e in counting[0] for c in e.observations["image"][:, 0, 0, 0]}  # last steps included


def rows_of(batch):
    """The batch row of each query, and its target, in order."""
    rows, base, suffix = [], 0, 0
    for n, length, first in batch.groups:
        kept = torch.arange(n)[:, None] * length + torch.arange(first, length) + base
        rows.append(kept.reshape(-1))
        base, suffix = base + n * length, suffix + n * (length - first)
    return torch.cat(rows)[batch.queries], batch.targets


@pytest.mark.parametrize("most", [1, 2, 5, None])
def test_windows(counting, most):
    _, store = counting
    rng = np.random.default_rng(0)
    last_steps, first_steps = set(), set()
    for _ in range(3000):
        begin, end = store.window(rng, 200, most)
        t, stop = np.searchsorted(store.starts, [begin, end])
        assert store.starts[t] == begin and store.starts[stop] == end  # whole timesteps
        assert end - begin <= 200 and (most is None or stop - t <= most)
        e = int(np.searchsorted(store.episodes, t, side="right")) - 1
        assert stop <= store.episodes[e + 1]  # of one episode
        assert store.episode_at(begin) == e == store.episode_at(end - 1)
        last_steps |= {e} if stop == store.episodes[e + 1] else set()
        first_steps |= {e} if t == store.episodes[e] else set()
    assert last_steps == first_steps == set(range(store.num_episodes))


def test_the_last_step_is_seen_as_often_as_the_middle(counting):
    _, store = counting
    rng = np.random.default_rng(0)
    seen = np.zeros(store.num_timesteps)
    for _ in range(20_000):
        begin, end = store.window(rng, 10_000, 3)
        t, stop = np.searchsorted(store.starts, [begin, end])
        seen[t:stop] += 1
    last = seen[store.episodes[1:] - 1].mean()
    middle = np.mean([seen[b + 5 : e - 5].mean() for b, e in zip(store.episodes, store.episodes[1:], strict=False)])
    assert last == pytest.approx(middle, rel=0.1)


def test_prompts_come_from_another_successful_episode(counting):
    episodes, store = counting
    marked = [
        Episode(e.task, e.observations, e.actions, e.rewards, info=e.info | {"success": i % 3 != 0})
        for i, e in enumerate(episodes)
    ]
    store = TokenStore.build(store.task, store.codec, marked)
    assert store.prompts.tolist() == [i for i in range(len(episodes)) if i % 3]
    assert store.example is marked[1]
    rng = np.random.default_rng(0)
    lengths = set()
    for n in range(600):
        begin, end = store.prompt(rng, n % store.num_episodes, 200, from_end=n % 2 == 0)
        e = store.episode_at(begin)
        assert e != n % store.num_episodes and e % 3 and e == store.episode_at(end - 1)
        assert begin in store.starts and end in store.starts and 0 < end - begin <= 200
        if n % 2 == 0:
            assert end == store.starts[store.episodes[e + 1]]
        lengths.add(end - begin)
    assert len(lengths) > 3
    assert store.prompt(rng, 0, 5, True) is None  # no room for one timestep
    assert store.prompt(rng, 0, -7, False) is None


def test_one_episode_has_no_prompt_but_itself(counting):
    episodes, store = counting
    one = TokenStore.build(store.task, store.codec, episodes[:1])
    assert one.prompt(np.random.default_rng(0), 0, 1000, True) is None
    mixture = Mixture([one], {"*": 1.0}, 2, 512, 256, prompt_share=1.0)
    assert all(len(s.spans) == 1 for s in mixture.slot(0, 0))


def test_failures_only_is_no_reason_to_fail(counting):
    episodes, store = counting
    failed = [Episode(e.task, e.observations, e.actions, e.rewards, info={"success": False}) for e in episodes[:3]]
    store = TokenStore.build(store.task, store.codec, failed)
    assert store.example is None and Mixture([store], {"*": 1.0}, 2, 512, 256, prompt_share=0.5).batch(0).num_tokens


def test_documents_are_cut_where_they_must_be(tokenizer):
    store = documents([400, 3, 50], tokenizer)
    rng = np.random.default_rng(0)
    begins = set()
    for _ in range(300):
        begin, end = store.window(rng, 64)
        assert store.episode_at(begin) == store.episode_at(end - 1) and 0 < end - begin <= 64
        begins.add(begin)
    assert len(begins) > 30  # any token of the long one may begin a window
    batch = collate([Segment(0, ((0, 64),), seed=0)], [store])
    assert len(batch.targets) == 63 and torch.equal(batch.targets, batch.ids[1:])


def test_nothing_at_all_is_a_named_error(tokenizer):
    with pytest.raises(EpisodeError, match=r"text/x"):
        documents([], tokenizer)


def test_a_window_of_questions_begins_with_their_picture(tokenizer):
    """Also where not all of a picture's questions fit, and at a picture in the middle of an episode."""
    codec = TimestepCodec(questions_spec(16, 16), V, tokenizer, task="questions/x")
    said = [(f"what is {i}?", f"{i}") for i in range(9)]

    def episode(value):
        return asked_of("questions/x", np.full((16, 16, 3), value, np.uint8), said[: 4 + value])

    store = TokenStore.build("questions/x", codec, [episode(i) for i in range(6)])
    rng = np.random.default_rng(0)
    for most in (20, 40, 64, 500):
        windows = [store.window(rng, most) for _ in range(300)]
        assert all(store.tokens.kinds[begin] == IMAGE for begin, _ in windows)
        assert {begin for begin, _ in windows} == set(np.flatnonzero(store.tokens.kinds == IMAGE))
        assert all(end - begin <= most and end in store.starts for begin, end in windows)
        assert all(store.episode_at(begin) == store.episode_at(end - 1) for begin, end in windows)


def test_questions_without_a_picture_of_their_own(tokenizer):
    """Marks that show none, as a person's own files may have it: a window is what it would be anyway."""
    spec = questions_spec(16, 16)
    codec = TimestepCodec(spec, V, tokenizer, task="questions/x")
    episode = asked_of("questions/x", np.zeros((16, 16, 3), np.uint8), [("one?", "1"), ("two?", "2")])
    episode.observations["marks"][0, 0] = 0
    store = TokenStore.build("questions/x", codec, [episode])
    rng = np.random.default_rng(0)
    assert all(store.window(rng, 500) == (0, len(store.tokens.ids)) for _ in range(20))


def test_a_page_whose_last_part_is_empty(tokenizer):
    page = Episode(
        "pages/x", {"image": np.zeros((2, 16, 16, 3), np.uint8), "marks": np.array([[1, 0], [0, 0]], np.int8), "text": ["key", ""]},
        {}, np.zeros(2, np.float32),
    )  # fmt: skip
    store = TokenStore.build("pages/x", TimestepCodec(page_spec(16, 16), V, tokenizer, task="pages/x"), [page])
    rng = np.random.default_rng(0)
    assert store.num_timesteps == 2
    assert all(store.window(rng, 64)[1] == len(store.tokens.ids) for _ in range(20))
