"""The network against plain references: causality, relative attention in float64, sizes, caches, bundles."""

import math

import numpy as np
import pytest
import torch

from gato.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointMissingError,
    RecipeError,
    UnknownNameError,
)
from gato.model import Gato, GatoConfig, RingCache, size
from gato.model.bundle import Bundle, TaskCard
from gato.model.decoder import Decoder
from gato.sequences.batch import Batch

TINY = GatoConfig.tiny().replace(
    layer_width=64, num_attention_heads=2, key_value_size=32, feedforward_hidden_size=256, num_transformer_blocks=3
)


def text_batch(groups, vocabulary=2000, seed=0) -> Batch:
    """Random ids in (segments, length) groups; every token but the first of a segment is predicted."""
    rng = np.random.default_rng(seed)
    n = sum(b * length for b, length in groups)
    ids = torch.from_numpy(rng.integers(0, vocabulary, n))
    rows, queries, at, suffix = [], [], 0, 0
    for b, length in groups:
        inside = (torch.arange(b)[:, None] * length + torch.arange(length - 1)).reshape(-1)
        rows.append(at + inside)
        queries.append(suffix + inside)
        at, suffix = at + b * length, suffix + b * length
    rows_all = torch.cat(rows)
    none = torch.zeros(0, dtype=torch.long)
    return Batch(
        ids, torch.full((n,), -1), None, none, none, torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 768, dtype=torch.uint8),
        tuple((b, length, 0) for b, length in groups), torch.cat(queries), ids[rows_all + 1], torch.zeros(len(rows_all), dtype=torch.long),
        torch.zeros(len(rows_all), dtype=torch.uint8), n,
    )  # fmt: skip


@pytest.fixture(params=["rope", "xl"])
def model(request):
    torch.manual_seed(0)
    m = Gato(TINY.replace(position=request.param)).eval()
    for name, p in m.named_parameters():
        if name.endswith("_bias"):
            torch.nn.init.normal_(p, std=0.5)
    return m


def test_causal_and_block_diagonal(model):
    batch = text_batch([(2, 9), (1, 5)])
    with torch.no_grad():
        before = model.hidden_states(batch)
        batch.ids[6] += 1  # segment 0, token 6
        after = model.hidden_states(batch)
    changed = (before != after).any(-1)
    assert not changed[:6].any() and changed[6] and changed[8]
    assert not changed[9:].any()


def test_last_block_skips_only_what_nobody_asks_for(model):
    batch = text_batch([(3, 8)])
    late = Batch(
        **{**vars(batch), "groups": ((3, 8, 5),), "queries": torch.tensor([0, 1, 3, 4, 6, 7])}
    )  # rows 5 and 6 of each
    with torch.no_grad():
        whole = model.logits(model.hidden_states(batch)).view(3, 8, -1)[:, 5:7].reshape(6, -1)
        assert torch.allclose(model(late), whole, atol=1e-5)


def plain_attention(attention, x):
    """(L, D) by loops over positions, in float64, straight from the definitions."""
    length, heads, d = len(x), attention.heads, attention.size
    q, k, v = ((x @ w.T).view(length, heads, d) for w in (attention.query, attention.key, attention.value))
    inverse = [10000.0 ** (-i / (d // 2)) for i in range(d // 2)]

    def rotate(vector, position):
        out = vector.clone()
        for i in range(d // 2):
            a, b, angle = vector[i], vector[i + d // 2], position * inverse[i]
            out[i], out[i + d // 2] = (
                a * math.cos(angle) - b * math.sin(angle),
                a * math.sin(angle) + b * math.cos(angle),
            )
        return out

    def sinusoid(distance):
        width = heads * d
        rates = [10000.0 ** (-i / width) for i in range(0, width, 2)]
        return torch.tensor(
            [math.sin(distance * r) for r in rates] + [math.cos(distance * r) for r in rates], dtype=x.dtype
        )

    rows = []
    for i in range(length):
        heads_out = []
        for h in range(heads):
            scores = []
            for j in range(i + 1):
                if attention.kind == "rope":
                    score = rotate(q[i, h], i) @ rotate(k[j, h], j)
                else:
                    r = (attention.relative @ sinusoid(i - j)).view(heads, d)[h]
                    score = (q[i, h] + attention.content_bias[h]) @ k[j, h] + (q[i, h] + attention.distance_bias[h]) @ r
                scores.append(score / math.sqrt(d))
            weights = torch.softmax(torch.stack(scores), 0)
            heads_out.append((weights[:, None] * v[: i + 1, h]).sum(0))
        rows.append(torch.cat(heads_out))
    return torch.stack(rows) @ attention.out.T


def test_attention_against_its_definition(model, monkeypatch):
    import gato.model.transformer as transformer

    # The library's frequencies are float32; in float64 both sides must use the same.
    monkeypatch.setattr(transformer, "_angles", lambda p, w, t: _angles64(p, w))
    monkeypatch.setattr(transformer, "_sinusoids", lambda n, w, dev: _sinusoids64(n, w))
    attention = model.blocks[0].attention.double()
    x = torch.randn(7, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = attention(x, ((1, 7, 0),))
        assert (ours - plain_attention(attention, x)).abs().max() < 1e-10


def rotated(x, angles):
    (a, b), (cos, sin) = x.chunk(2, dim=-1), angles
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def _angles64(positions, width):
    inverse = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angle = positions[..., None].double() * inverse
    return angle.cos(), angle.sin()


def _sinusoids64(length, width):
    angle = torch.arange(length, dtype=torch.float64)[:, None] * 10000.0 ** (
        -torch.arange(0, width, 2, dtype=torch.float64) / width
    )
    return torch.cat([angle.sin(), angle.cos()], -1)


@pytest.mark.parametrize("name, published", [("gato-79m", 79e6), ("gato-364m", 364e6), ("gato-1.18b", 1.18e9)])
def test_published_sizes(name, published):
    with torch.device("meta"):
        assert Gato(size(name)).num_parameters == pytest.approx(published, rel=0.015)


def test_tied_embeddings_and_patch_embedder(model):
    names = [n for n, _ in model.named_parameters()]
    assert not any("head" in n or "output" in n for n in names)
    with torch.device("meta"):
        patch = Gato(GatoConfig.small()).embed.patch
    assert 0.5e6 < sum(p.numel() for p in patch.parameters()) < 1.6e6


def test_stochastic_depth_drops_whole_segments():
    torch.manual_seed(0)
    m = Gato(TINY.replace(stochastic_depth=0.5)).train()
    block = m.blocks[0]
    y = torch.ones(40 * 3, 64)
    dropped = block._drop(y, ((40, 3, 0),)).view(40, 3, 64)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped.amax((1, 2)) == dropped.amin((1, 2))).all()
    assert torch.equal(m.eval().blocks[0]._drop(y, ((40, 3, 0),)), y)


@pytest.mark.parametrize("timesteps", [None, 1, 3])
def test_ring_cache_is_one_pass_with_a_band(model, timesteps):
    """40 timesteps of 3 + 1 tokens through a ring of 12, against a full pass with that band as its mask."""
    window, per, steps = 12, 4, 40
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(0, 2000, (2, steps * per)))
    times = torch.arange(steps).repeat_interleave(per)
    cache = RingCache(model.config, 3, window, timesteps, most_new=5)
    slots = torch.tensor([2, 0])
    got = []
    at = 0
    for t in range(steps):
        for n in (
            3,
            1,
        ):  # an observation in one pass, then the action; slot 0 gets a padding token with the observation
            part = text_batch([(2, n + 1)])
            part.ids = torch.cat([ids[:, at : at + n], torch.zeros(2, 1, dtype=torch.long)], 1).reshape(-1)
            valid = torch.tensor([[True] * n + [False]] * 2)
            hidden = Decoder(model)(part, slots, valid, torch.full((2, n + 1), t), cache)
            got.append(hidden[:, :n])
            at += n
    got = torch.cat(got, 1)
    distance = torch.arange(steps * per)[:, None] - torch.arange(steps * per)
    band = (distance >= 0) & (distance < window)
    if timesteps:
        band &= times[None] > times[:, None] - timesteps
    with torch.no_grad():
        wanted = banded(model, ids, band)
        a, b = model.logits(got), model.logits(wanted)
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    cache.clear([0])
    assert (cache.count == torch.tensor([0, 0, steps * per])).all()


def banded(model, ids, band):
    """A full pass whose attention is masked by `band`, written out with ordinary products."""
    import gato.model.transformer as transformer

    x = torch.nn.functional.embedding(ids, model.embed.vocabulary())
    length = ids.shape[1]
    for block in model.blocks:
        a = block.attention
        qkv = a._project(block.norm1(x)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv
        if a.kind == "rope":
            angles = transformer._angles(torch.arange(length), a.size, q.dtype)
            scores = rotated(q, angles) @ rotated(k, angles).transpose(-1, -2)
        else:
            r = a._distances(length, q)
            by_distance = (q + a.distance_bias[:, None]) @ r.transpose(-1, -2)
            index = (
                (torch.arange(length)[:, None] - torch.arange(length))
                .clamp(min=0)
                .expand(*by_distance.shape[:2], -1, -1)
            )
            scores = (q + a.content_bias[:, None]) @ k.transpose(-1, -2) + by_distance.gather(-1, index)
        weights = (scores * a.size**-0.5).masked_fill(~band, -torch.inf).softmax(-1)
        x = x + (weights @ v).transpose(1, 2).flatten(2) @ a.out.T
        x = x + block.feedforward(block.norm2(x))
    return model.norm(x)


def test_configs_that_do_not_fit():
    with pytest.raises(RecipeError):
        TINY.replace(num_attention_heads=3)
    with pytest.raises(UnknownNameError, match="layer_width"):
        TINY.replace(layer_widht=3)
    with pytest.raises(UnknownNameError):
        size("gato-80m")


@pytest.fixture(scope="module")
def bundle(tokenizer):
    from gato.worlds import find

    torch.manual_seed(0)
    config = TINY.replace(vocabulary_size=tokenizer.size)
    return Bundle(
        config,
        Gato(config).eval(),
        tokenizer,
        {"dummy/count": TaskCard(find("dummy/count").spec, 1)},
        {"discrete": "greedy", "continuous": "mean"},
        {"tokens": 0},
    )


def test_bundle_round_trip(bundle, tmp_path):
    bundle.save(tmp_path / "b")
    again = Bundle.load(tmp_path / "b")
    batch = text_batch([(2, 6)])
    with torch.no_grad():
        assert torch.equal(bundle.model(batch), again.model(batch))
    assert again.tasks == bundle.tasks and again.acting == bundle.acting
    with pytest.raises(CheckpointMissingError):
        Bundle.load(tmp_path / "nothing")


def test_bundle_damage_is_named(bundle, tmp_path):
    folder = bundle.save(tmp_path / "b")
    rng = np.random.default_rng(0)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for _ in range(3):
            at, bit = int(rng.integers(len(whole))), int(rng.integers(8))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
            with pytest.raises(CheckpointCorruptError, match=path.name):
                Bundle.load(folder)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointCorruptError, match=path.name):
            Bundle.load(folder)
        path.write_bytes(whole)
    Bundle.load(folder)


def test_weights_that_do_not_fit_are_listed(bundle):
    from gato.model.bundle import load_weights

    tensors = dict(bundle.model.state_dict())
    tensors.pop("norm.weight")
    tensors["extra"] = torch.zeros(1)
    tensors["norm.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointMismatchError) as caught:
        load_weights(bundle.model, tensors, "here")
    assert all(word in str(caught.value) for word in ("missing norm.weight", "unexpected extra", "norm.bias is (3,)"))


def test_the_table_that_an_agent_keeps_follows_the_weights():
    """Made once while acting, and made anew when a weight changes or training begins."""
    model = Gato(GatoConfig.tiny()).eval()
    with torch.no_grad():
        first = model.embed.vocabulary()
        assert model.embed.vocabulary() is first
        model.embed.smooth.add_(1.0)
        second = model.embed.vocabulary()
        assert second is not first and not torch.equal(first, second)
    model.load_state_dict(Gato(GatoConfig.tiny()).state_dict())
    with torch.inference_mode():
        assert not torch.equal(model.embed.vocabulary(), second)
    assert model.train().embed.vocabulary().requires_grad
