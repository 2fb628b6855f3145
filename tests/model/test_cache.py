"""The ring cache means one pass over the whole history through a band, whatever came in whichever pieces."""

import functools
import math

import numpy as np
import pytest
import torch

from gato.model import Gato, GatoConfig, RingCache
from gato.model.decoder import Decoder
from gato.sequences.batch import Batch

CONFIG = GatoConfig.tiny().replace(
    layer_width=32, num_attention_heads=2, key_value_size=16, feedforward_hidden_size=64, num_transformer_blocks=3
)
VOCABULARY = 2000


@functools.cache
def model_of(position: str) -> Gato:
    torch.manual_seed(0)
    model = Gato(CONFIG.replace(position=position)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("blocks.") and p.ndim == 2:
                p.mul_(1.3) if not name.endswith("_bias") else p.normal_(std=0.3)  # attention that is not flat
    return model


def batch(ids: torch.Tensor) -> Batch:
    """Text tokens (R, n) as a batch of one group."""
    rows, n = ids.shape
    none = torch.zeros(0, dtype=torch.long)
    return Batch(
        ids.reshape(-1), torch.full((rows * n,), -1), None, none, none, none.view(0, 2), torch.zeros(0, 768, dtype=torch.uint8),
        ((rows, n, 0),), none, none, none, none, rows * n,
    )  # fmt: skip


def feed(model, cache, pieces):
    """pieces: {slot: (ids, times)}; one pass, padded right. Hidden states by slot."""
    slots = list(pieces)
    n = max(len(ids) for ids, _ in pieces.values())
    ids, times = torch.zeros(len(slots), n, dtype=torch.long), torch.zeros(len(slots), n, dtype=torch.long)
    valid = torch.zeros(len(slots), n, dtype=torch.bool)
    for r, slot in enumerate(slots):
        got, when = pieces[slot]
        ids[r, : len(got)], times[r, : len(got)], valid[r, : len(got)] = torch.tensor(got), torch.tensor(when), True
    hidden = Decoder(model)(batch(ids), torch.tensor(slots), valid, times, cache)
    assert torch.isfinite(hidden).all()  # padding too
    return {slot: hidden[r, : len(pieces[slot][0])] for r, slot in enumerate(slots)}


@torch.no_grad()
def one_pass(model: Gato, ids, times, window: int, limit: int | None) -> torch.Tensor:
    """(L, D): all layers over the whole history, attention position by position over exactly the keys that may be seen."""
    x = model.embed.vocabulary()[torch.tensor(ids)]
    length, times = len(ids), np.asarray(times)
    for block in model.blocks:
        a = block.attention
        h = block.norm1(x)
        q, k, v = ((h @ m.T).view(length, a.heads, a.size) for m in (a.query, a.key, a.value))
        out = torch.zeros(length, a.heads, a.size)
        for i in range(length):
            seen = [j for j in range(max(0, i - window + 1), i + 1) if limit is None or times[j] > times[i] - limit]
            distance = torch.tensor([i - j for j in seen], dtype=torch.float64)
            for n in range(a.heads):
                if a.kind == "rope":
                    half = a.size // 2
                    angle = distance[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
                    turned_back = torch.complex(k[seen, n, :half].double(), k[seen, n, half:].double()) * torch.exp(
                        -1j * angle
                    )
                    mine = torch.complex(q[i, n, :half].double(), q[i, n, half:].double())
                    scores = (mine.conj() * turned_back).real.sum(1).float()
                else:
                    width = a.heads * a.size
                    angle = distance[:, None] * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
                    r = (torch.cat([angle.sin(), angle.cos()], 1).float() @ a.relative.T).view(
                        len(seen), a.heads, a.size
                    )[:, n]
                    scores = k[seen, n] @ (q[i, n] + a.content_bias[n]) + r @ (q[i, n] + a.distance_bias[n])
                out[i, n] = (scores / math.sqrt(a.size)).softmax(0) @ v[seen, n]
        x = x + out.flatten(1) @ a.out.T
        x = x + block.feedforward(block.norm2(x))
    return model.norm(x)


def history(seed: int, steps: int):
    """Timesteps of ragged lengths: ids, timestep of each, and the lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 7, steps)
    return rng.integers(0, VOCABULARY, lengths.sum()).tolist(), np.repeat(np.arange(steps), lengths).tolist(), lengths


@pytest.mark.parametrize("position", ["rope", "xl"])
@pytest.mark.parametrize("window, limit", [(13, None), (64, 1), (64, 3), (9, 3)])
def test_pieces_of_any_length_are_one_pass(position, window, limit):
    """Four slots of six, each with its own history; at random some are fed, some wait, and rows are of unequal length.
    The ring goes round many times."""
    model = model_of(position)
    cache = RingCache(model.config, 6, window, limit, most_new=8)
    rng = np.random.default_rng(1)
    slots = [4, 0, 5, 2]
    histories = {slot: history(slot, 25) for slot in slots}
    got = {slot: [] for slot in slots}
    while waiting := [s for s in slots if sum(map(len, got[s])) < len(histories[s][0])]:
        pieces = {}
        for slot in rng.permutation(waiting)[: rng.integers(1, 5)].tolist():
            at, n = sum(map(len, got[slot])), int(rng.integers(1, 9))
            pieces[slot] = (histories[slot][0][at : at + n], histories[slot][1][at : at + n])
        for slot, hidden in feed(model, cache, pieces).items():
            got[slot].append(hidden)
    for slot in slots:
        ids, times, _ = histories[slot]
        assert len(ids) > 3 * (window + 8) or window == 64
        a, b = model.logits(torch.cat(got[slot])), model.logits(one_pass(model, ids, times, window, limit))
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert cache.count.tolist() == [len(histories[s][0]) if s in slots else 0 for s in range(6)]


@pytest.mark.parametrize("position", ["rope", "xl"])
def test_inside_the_window_it_is_the_ordinary_forward(position):
    """What training computes and what acting computes are the same numbers: no second meaning of the network."""
    model = model_of(position)
    ids, times, _ = history(3, 20)
    whole = batch(torch.tensor([ids]))
    cache = RingCache(model.config, 1, len(ids))
    with torch.no_grad():
        wanted = model.hidden_states(whole)
    got = torch.cat([feed(model, cache, {0: ([i], [t])})[0] for i, t in zip(ids, times, strict=True)])
    assert (model.logits(got) - model.logits(wanted)).abs().max() <= 1e-5 * model.logits(wanted).abs().max()


def test_clearing_one_slot_leaves_the_others():
    model = model_of("rope")
    ids, times, _ = history(0, 12)
    cache = RingCache(model.config, 3, 16, most_new=64)
    feed(model, cache, {0: (ids[:20], times[:20]), 2: (ids[:20], times[:20])})
    cache.clear([0])
    after = feed(model, cache, {0: (ids[20:30], times[20:30]), 2: (ids[20:30], times[20:30])})
    fresh = RingCache(model.config, 1, 16, most_new=64)
    alone = feed(model, fresh, {0: (ids[20:30], times[20:30])})[0]
    assert torch.allclose(after[0], alone, atol=1e-6)  # as if nothing had been
    wanted = one_pass(model, ids[:30], times[:30], 16, None)[20:]
    assert torch.allclose(after[2], wanted, atol=1e-4) and not torch.allclose(after[0], wanted, atol=1e-2)


@pytest.mark.parametrize("position", ["rope", "xl"])
def test_late_in_a_long_episode_it_is_as_exact(position):
    """A million tokens in, positions have seven digits; the same recent history still gives the same answer."""
    model = model_of(position)
    ids, times, _ = history(5, 20)
    near, far = (RingCache(model.config, 1, 24, most_new=8) for _ in range(2))
    far.count += 1_000_003
    for at in range(0, len(ids) - 4, 4):
        piece = {0: (ids[at : at + 4], times[at : at + 4])}
        a, b = feed(model, near, piece)[0], feed(model, far, piece)[0]
        assert (model.logits(a) - model.logits(b)).abs().max() <= 2e-5 * model.logits(a).abs().max()


def test_memory_is_flat_and_every_new_key_gets_an_entry():
    """The longest pass overwrites nothing that its own first token may see."""
    model = model_of("rope")
    cache = RingCache(model.config, 1, 10, most_new=7)
    size, storage = cache.num_bytes, cache.keys.data_ptr()
    ids, times, _ = history(7, 30)
    got = [feed(model, cache, {0: (ids[at : at + 7], times[at : at + 7])})[0] for at in range(0, len(ids), 7)]
    a, b = model.logits(torch.cat(got)), model.logits(one_pass(model, ids, times, 10, None))
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert (cache.num_bytes, cache.keys.data_ptr()) == (size, storage)
    assert size == 2 * 3 * 1 * 2 * (10 + 7 + 1) * 16 * 4


def test_distances_are_projected_once():
    """Of relative attention: once per layer and cache, not once per token."""
    model = model_of("xl")
    cache = RingCache(model.config, 1, 16, most_new=4)
    feed(model, cache, {0: ([1, 2, 3], [0, 0, 0])})
    kept = dict(cache.relative)
    feed(model, cache, {0: ([4], [1])})
    assert len(kept) == 3 and all(cache.relative[layer] is r for layer, r in kept.items())


@pytest.mark.parametrize("position", ["rope", "xl"])
def test_tokens_taken_back_leave_no_trace(position):
    """Guesses of any length are read and forgotten between the pieces, while the ring goes round."""
    model = model_of(position)
    plain, guessing = (RingCache(model.config, 2, 12, most_new=8) for _ in range(2))
    ids, times, _ = history(2, 25)
    rng = np.random.default_rng(3)
    for at in range(0, len(ids) - 4, 4):
        piece = {1: (ids[at : at + 4], times[at : at + 4])}
        wrong = rng.integers(0, VOCABULARY, int(rng.integers(1, 5))).tolist()
        tail = {1: (piece[1][0] + wrong, piece[1][1] + [times[at + 3]] * len(wrong))}
        got = feed(model, guessing, tail)[1][:4]
        guessing.forget(torch.tensor([1]), torch.tensor([len(wrong)]))
        assert torch.allclose(got, feed(model, plain, piece)[1], atol=1e-5)
        assert guessing.count.tolist() == plain.count.tolist()


def test_a_prefix_begins_other_slots():
    model = model_of("rope")
    ids, times, _ = history(4, 12)
    one, other = (RingCache(model.config, 2, 64, 9, most_new=8) for _ in range(2))
    for at in (0, 8):
        feed(model, one, {0: (ids[at : at + 8], times[at : at + 8])})
    feed(model, other, {1: (ids[20:25], times[20:25])})  # forgotten
    other.begin(1, one.kept(0))
    piece = (ids[16:22], times[16:22])
    assert torch.equal(feed(model, one, {0: piece})[0], feed(model, other, {1: piece})[1])


def test_only_what_is_wanted_is_computed_to_the_end():
    """The last block's queries of chosen columns, rows of unequal length: the same hidden states."""
    model = model_of("xl")
    ids, times, _ = history(6, 12)
    caches = [RingCache(model.config, 2, 64, most_new=16) for _ in range(2)]
    pieces = torch.tensor([ids[:6], ids[6:12]])
    when, valid = torch.tensor([times[:6], times[6:12]]), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    wanted = torch.tensor([[2, 5], [0, 3]])
    decoder = Decoder(model)
    whole = decoder(batch(pieces), torch.arange(2), valid, when, caches[0])
    some = decoder(batch(pieces), torch.arange(2), valid, when, caches[1], wanted)
    assert torch.allclose(some, whole[torch.arange(2)[:, None], wanted], atol=1e-6)
    assert torch.equal(caches[0].keys[:, :, :, :-1], caches[1].keys[:, :, :, :-1])
