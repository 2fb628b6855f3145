"""Slots and batches: pure, shared fairly among domains, well packed, and what a segment is does not depend on its company."""

import numpy as np
import pytest
import torch

from gato.episodes import Episode, Spec, TaskSpec
from gato.model import Gato, GatoConfig
from gato.sequences import Mixture, Segment, TokenStore, collate
from gato.tokens import TimestepCodec, Vocabulary
from gato.tokens.patches import mean_index
from gato.tokens.timestep import ACTION_POSITION, IMAGE, NO_POSITION
from gato.training.loss import token_losses

V = Vocabulary(1024)
BUTTON = {"action": Spec("discrete", (2,), "int64", (0.0,), (7.0,))}


def plain(task, width, lengths=(20,) * 8, success=True):
    """Episodes of `width` observation values, a separator and two action tokens a step."""
    spec = TaskSpec({"x": Spec("discrete", (width,), "int64", (0.0,), (1023.0,))}, BUTTON)
    rng = np.random.default_rng(width)
    episodes = [
        Episode(
            task,
            {"x": rng.integers(0, 1024, (n, width))},
            {"action": rng.integers(0, 8, (n, 2))},
            np.zeros(n, np.float32),
            info={"success": success},
        )
        for n in lengths
    ]
    return TokenStore.build(task, TimestepCodec(spec, V, None, task=task), episodes)


def pictures(task, size, tokenizer, acts=True, count=6, action_position=True):
    """Episodes with an image, a text of changing length and an action; with `acts` false, captions."""
    rng = np.random.default_rng(size)
    observation = {"image": Spec("image", (size, size, 3), "uint8", (0.0,), (255.0,)), "text": Spec("text", (), "str")}
    codec = TimestepCodec(
        TaskSpec(observation, BUTTON if acts else {}), V, tokenizer, task=task, action_position=action_position
    )
    words = ["go", "to", "the", "red", "ball", "open", "a", "blue", "door"]
    episodes = []
    for _ in range(count):
        n = int(rng.integers(2, 9)) if acts else 1
        text = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(n)]
        episodes.append(
            Episode(
                task,
                {"image": rng.integers(0, 256, (n, size, size, 3)).astype(np.uint8), "text": text},
                {"action": rng.integers(0, 8, (n, 2))} if acts else {},
                np.zeros(n, np.float32),
            )
        )
    return TokenStore.build(task, codec, episodes)


def test_a_slot_is_a_function_of_its_numbers(tokenizer):
    stores = [plain("a/one", 5), pictures("b/two", 32, tokenizer), pictures("captions/c", 48, tokenizer, acts=False)]
    make = lambda seed=3: Mixture(stores, {"*": 1.0}, 6, 512, 256, {"*": 2}, 0.25, seed=seed)  # noqa: E731
    one, other = make(), make()
    for step in (0, 7, 10**6):
        assert [one.slot(step, i) for i in range(6)] == [other.slot(step, i) for i in reversed(range(6))][::-1]
    assert one.slot(0, 0) != one.slot(0, 1) and one.slot(0, 0) != one.slot(1, 0)
    assert one.slot(0, 0) != make(seed=4).slot(0, 0)


@pytest.mark.parametrize("world", [2, 3, 6])
def test_ranks_see_one_batch(tokenizer, world):
    """Any split of the slots holds the same targets as the whole, each once."""
    stores = [plain("a/one", 5), pictures("b/two", 32, tokenizer)]
    mixture = Mixture(stores, {"*": 1.0}, 6, 300, 256, {"*": 2}, 0.25)

    def content(batches):
        return sorted(
            (int(s), int(t), int(k)) for b in batches for s, t, k in zip(b.stores, b.targets, b.kinds, strict=True)
        )

    parts = [mixture.batch(4, rank, world) for rank in range(world)]
    assert content(parts) == content([mixture.batch(4)])
    assert sum(b.num_tokens for b in parts) == mixture.batch(4).num_tokens


@pytest.mark.parametrize(
    "options",
    [
        {"window_timesteps": {"*": 1}},
        {"window_timesteps": {"*": 1}, "prompt_share": 0.25},
        {"window_timesteps": {"*": 1, "b/*": 8}, "prompt_share": 0.0},
        {"prompt_share": 0.25},
        {"similar_timesteps": 4},
    ],
)
def test_token_shares_are_the_weights(options, tokenizer):
    """Short windows, long ones, prompts, timesteps alike and documents: a weight is a share of tokens for all of them."""
    stores = [plain("a/one", 3), plain("b/two", 60), plain("b/three", 30), plain("c/x", 100)]
    for store in stores:
        store.alike = np.random.default_rng(0).integers(store.num_timesteps, size=(store.num_timesteps, 4))
    documents = TaskSpec({"text": Spec("text", (), "str")}, {})
    texts = [Episode("text/x", {"text": ["return the key " * 60]}, {}, np.zeros(1, np.float32)) for _ in range(3)]
    stores.append(TokenStore.build("text/x", TimestepCodec(documents, V, tokenizer, task="text/x"), texts))
    mixture = Mixture(stores, {"a": 1.0, "b": 4.0, "c": 2.0, "text": 3.0}, 8, 1024, 512, document_tokens=256, **options)
    tokens = np.zeros(len(stores))
    for step in range(60):
        for i in range(8):
            for segment in mixture.slot(step, i):
                tokens[segment.store] += len(segment)
    assert tokens / tokens.sum() == pytest.approx([0.1, 0.2, 0.2, 0.2, 0.3], rel=0.1)


def test_a_task_counts_once_however_many_datasets_it_has():
    """Two of one task count as one of both would. One of each: to the bit what its pattern's weight over its tasks is."""
    few, many, both = (plain("a/one", 5, lengths=(20,) * n) for n in (2, 6, 8))
    rest, weights = [plain("a/two", 8), plain("a/three", 4), plain("b/four", 30)], {"a": 0.7, "a/three": 0.2, "b": 1.3}
    apart, one = (Mixture([*first, *rest], weights, 2, 256, 128) for first in ([few, many], [both]))
    share = np.array([0.7 / 2, 0.7 / 2, 0.2, 1.3])
    assert one.shares.tolist() == (share / share.sum()).tolist()
    assert apart.shares == pytest.approx([one.shares[0] / 4, 3 * one.shares[0] / 4, *one.shares[1:]])


def test_a_timestep_longer_than_half_the_window_can_be_prompted(tokenizer):
    """Ragged texts may make one timestep longer than the window itself; a slot is never empty for that."""
    spec = TaskSpec({"text": Spec("text", (), "str")}, BUTTON)
    codec = TimestepCodec(spec, V, tokenizer, task="a/long")
    texts = ["return the key " * 40, "go"]
    episodes = [
        Episode("a/long", {"text": texts}, {"action": np.zeros((2, 2), np.int64)}, np.zeros(2, np.float32))
    ] * 4  # fmt: skip
    store = TokenStore.build("a/long", codec, episodes)
    assert np.diff(store.starts).max() > 64
    mixture = Mixture([store], {"*": 1.0}, 2, 64, 64, prompt_share=1.0)
    for step in range(50):
        segments = mixture.slot(step, 0)
        assert segments and all(0 < len(s) <= 64 for s in segments)
        mixture.batch(step)


@pytest.mark.parametrize("often", [1, 3, 20])
def test_a_timestep_longer_than_a_slot_ends_at_its_action(tokenizer, often):
    """Among timesteps like it too, be it one of twenty or every one: it fills a slot, which is never empty for that."""
    spec = TaskSpec({"text": Spec("text", (), "str")}, BUTTON)
    codec = TimestepCodec(spec, V, tokenizer, task="a/long")
    episodes = [
        Episode(
            "a/long", {"text": ["return the key " * 40 if (e + t) % often == 0 else "go" for t in range(5)]},
            {"action": np.zeros((5, 2), np.int64)}, np.zeros(5, np.float32),
        )
        for e in range(8)
    ]  # fmt: skip
    stores = [TokenStore.build("a/long", codec, episodes, alike=2), plain("a/one", 5)]
    stores[1].alike = np.full((stores[1].num_timesteps, 2), -1)
    long = np.diff(stores[0].starts) > 64
    assert long.any()
    mixture = Mixture(stores, {"*": 1.0}, 2, 64, 64, similar_timesteps=2)
    met = set()
    for step in range(200):
        segments = mixture.slot(step, 0)
        assert segments and sum(map(len, segments)) <= 64
        for segment in segments:
            end = segment.spans[-1][1]
            assert end in stores[segment.store].starts
            if segment.store == 0 and long[np.searchsorted(stores[0].starts, end) - 1]:
                assert segment.spans == ((end - 64, end),) and not segment.masked
                met.add(end)
        mixture.batch(step)
    assert met


def test_slots_are_full_and_batches_hardly_padded():
    """Lengths as in BabyAI, where every instruction has its own: 60 to 90 tokens a step, one to six steps."""
    stores = [plain(f"babyai/{k}", 57 + k, lengths=(3, 5, 9, 14)) for k in range(0, 30, 2)]
    mixture = Mixture(stores, {"*": 1.0}, 8, 1024, 512, {"*": 6})
    padding, used = [], []
    for step in range(20):
        batch = mixture.batch(step)
        padding.append(batch.padding)
        used.append(batch.num_tokens / (8 * 1024))
        assert all(len(s) <= 512 for i in range(8) for s in mixture.slot(step, i))
        assert all(sum(map(len, mixture.slot(step, i))) <= 1024 for i in range(8))
        assert len(batch.ids) == sum(n * length for n, length, _ in batch.groups)
    assert np.mean(padding) < 0.05 and np.mean(used) > 0.75


def test_what_a_segment_holds_does_not_depend_on_its_company(tokenizer):
    """Alone, in company, first or last: the same ids, positions, patches, patch places and targets."""
    stores = [plain("a/one", 5), pictures("b/two", 32, tokenizer), pictures("b/three", 64, tokenizer, count=9)]
    mixture = Mixture(stores, {"*": 1.0}, 8, 600, 300, {"*": 2}, 0.5)
    segments = [s for i in range(8) for s in mixture.slot(1, i)]
    batch = collate(segments, stores)
    found = 0
    for segment in segments:
        alone = collate([segment], stores)
        pixels = patches_by_row(alone)
        for row in starts_of(batch):
            rows = slice(row, row + len(segment))
            if torch.equal(batch.ids[rows], alone.ids) and torch.equal(batch.positions[rows], alone.positions):
                mine = {r - row: v for r, v in patches_by_row(batch).items() if row <= r < row + len(segment)}
                if mine.keys() == pixels.keys() and all(torch.equal(mine[r], pixels[r]) for r in pixels):
                    found += 1
                    break
    assert found == len(segments)
    both = collate(segments[::-1], stores)
    assert len(both.targets) == len(batch.targets) and both.num_tokens == batch.num_tokens


@pytest.mark.parametrize("to", [1, 2, 7, 64])
def test_sizes_are_round_and_nothing_else_changes(tokenizer, to):
    """What is added is behind all else, is no target, and nothing that was there looks at it."""
    stores = [plain("a/one", 5), pictures("b/two", 32, tokenizer), pictures("b/three", 64, tokenizer, count=9)]
    mixture = Mixture(stores, {"*": 1.0}, 4, 600, 300, {"*": 2}, 0.5)
    config = GatoConfig.tiny().replace(
        layer_width=32, num_attention_heads=2, key_value_size=16, num_transformer_blocks=2
    )
    model = Gato(config).eval()
    for step in range(4):
        segments = [s for i in range(4) for s in mixture.slot(step, i)]
        plainly, rounded = (collate(segments, stores, parallel_actions=True, round_to=r) for r in (1, to))
        sizes = (
            len(rounded.ids),
            sum(n * (length - first) for n, length, first in rounded.groups),
            len(rounded.patches),
        )
        assert all(size % to == 0 for size in sizes)
        assert sum(n * length for n, length, _ in rounded.groups) == len(rounded.ids) < len(plainly.ids) + 3 * to
        assert rounded.groups[: len(plainly.groups)] == plainly.groups and rounded.num_tokens == plainly.num_tokens
        for name in ("ids", "positions", "blank", "patches"):
            one, other = getattr(plainly, name), getattr(rounded, name)
            assert torch.equal(one, other[: len(one)]) and not (other[len(one) :] > 0).any()
        for name in ("queries", "targets", "stores", "kinds", "observed", "image_rows", "image_index", "image_places"):
            assert torch.equal(getattr(plainly, name), getattr(rounded, name)), name
        with torch.no_grad():
            torch.testing.assert_close(model(rounded), model(plainly), rtol=1e-4, atol=1e-4)
    assert collate([], stores, round_to=to).ids.shape == (0,)
    batch = Mixture(stores, {"*": 1.0}, 4, 600, 300, {"*": 2}, 0.5).batch(3)
    assert len(batch.ids) % 64 == 0 and len(batch.patches) % 64 == 0


def starts_of(batch):
    base = 0
    for n, length, _ in batch.groups:
        yield from range(base, base + n * length, length)
        base += n * length


def patches_by_row(batch):
    """{row: place and pixels} of the image tokens."""
    return {
        int(row): torch.cat([place, batch.patches[index].long()])
        for row, index, place in zip(batch.image_rows, batch.image_index, batch.image_places, strict=True)
    }


@pytest.mark.parametrize("position", ["rope", "xl"])
def test_packed_is_the_same_loss(tokenizer, position):
    """Forty segments in one batch, or one by one: the losses agree to 1e-5, so that nothing sees its neighbour."""
    stores = [plain("a/one", 5), pictures("b/two", 32, tokenizer), pictures("captions/c", 48, tokenizer, acts=False)]
    mixture = Mixture(stores, {"*": 1.0}, 6, 400, 200, {"*": 2}, 0.5)
    segments = [s for i in range(6) for s in mixture.slot(0, i)]
    torch.manual_seed(0)
    tiny = GatoConfig.tiny().replace(
        layer_width=32, num_attention_heads=2, key_value_size=16, feedforward_hidden_size=64
    )
    model = Gato(tiny.replace(position=position, num_transformer_blocks=2)).eval()

    def losses(batch):
        return token_losses(model(batch), batch.targets, batch.kinds, V.continuous)

    with torch.no_grad():
        batch = collate(segments, stores)
        packed, at = losses(batch), 0
        for segment in sorted_as_packed(segments, stores):
            one = losses(collate([segment], stores))
            assert torch.allclose(one, packed[at : at + len(one)], atol=1e-5), segment
            at += len(one)
    assert at == len(packed) and len(batch.groups) > 2


def sorted_as_packed(segments, stores):
    return sorted(segments, key=lambda s: (stores[s.store].domain, -len(s)))


def test_positions_and_patches_after_collate(tokenizer):
    store = pictures("b/two", 32, tokenizer)
    begin, end = int(store.starts[1]), int(store.starts[3])
    still = collate([Segment(0, ((begin, end),))], [store])
    tokens = store.tokens
    assert still.ids.tolist() == tokens.ids[begin:end].tolist()
    assert still.positions.tolist() == tokens.positions[begin:end].tolist()
    image = tokens.kinds[begin:end] == IMAGE
    assert still.image_rows.tolist() == np.flatnonzero(image).tolist()
    assert np.array_equal(still.patches[still.image_index].numpy(), tokens.table.rows[tokens.patches[begin:end][image]])
    assert np.array_equal(still.image_places.numpy(), mean_index(tokens.boxes[begin:end][image]))
    drawn = torch.stack([collate([Segment(0, ((begin, end),), seed=k)], [store]).image_places for k in range(50)])
    boxes = torch.from_numpy(tokens.boxes[begin:end][image].astype(np.int64))
    assert (drawn >= boxes[:, 0::2]).all() and (drawn < boxes[:, 1::2]).all() and len(drawn.unique()) > 50


@pytest.mark.parametrize("action_position", [True, False])
def test_parallel_actions_blank_the_action_inputs_and_nothing_else(tokenizer, action_position):
    """In the prompt too, with and without its loss; textual observations are targets, but stay readable."""
    store = pictures("b/two", 32, tokenizer, action_position=action_position)
    prompt, window = (int(store.starts[0]), int(store.starts[1])), (int(store.starts[2]), int(store.starts[4]))
    segment = Segment(0, (prompt, window), masked=prompt[1] - prompt[0], seed=0)
    batch = collate([segment], [store], parallel_actions=True)
    rows = [*range(*prompt), *range(*window)]
    ends = {int(s) for s in store.starts}
    wanted = [r + 1 in ends or r + 2 in ends for r in rows]  # the last two tokens of each timestep
    assert batch.blank.tolist() == wanted
    assert collate([segment], [store]).blank is None
    shared = ACTION_POSITION if action_position else NO_POSITION
    assert (batch.positions[batch.blank] == shared).all()


def test_every_document_piece_draws_its_own_patch_positions(tokenizer):
    """The piece that fills up a slot is a segment like any other."""
    stores = [plain("a/one", 40), pictures("captions/c", 96, tokenizer, acts=False, count=12)]
    mixture = Mixture(stores, {"*": 1.0}, 8, 256, 128, {"a/one": 1})
    seeds = [s.seed for step in range(20) for i in range(8) for s in mixture.slot(step, i)]
    assert len(set(seeds)) == len(seeds)
