"""Whole blocks against a second, plain account of them in float64; sizes; switches; what may see what."""

import functools
import math

import numpy as np
import pytest
import torch

import gato.model.transformer as transformer
from gato.episodes import Episode, Spec, TaskSpec
from gato.model import Gato, GatoConfig
from gato.model.embed import hats
from gato.sequences import Segment, TokenStore, collate
from gato.sequences.batch import Batch
from gato.tokens import TimestepCodec
from gato.tokens.timestep import ACTION_POSITION

SMALL = GatoConfig.tiny().replace(
    layer_width=32, num_attention_heads=2, key_value_size=16, feedforward_hidden_size=64, num_transformer_blocks=2
)


def make(seed=0, **changes) -> Gato:
    """A small network with every parameter away from zero, so that none can be left out unnoticed."""
    torch.manual_seed(seed)
    model = Gato(SMALL.replace(**changes)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("bias", "smooth")) or "norm" in name:
                p.add_(torch.randn_like(p) * 0.3)
    return model


@functools.cache
def store(separate=False) -> TokenStore:
    """Every kind of token: patches, discrete, continuous, actions."""
    spec = TaskSpec(
        {
            "camera": Spec("image", (32, 48, 3), "uint8", (0.0,), (255.0,)),
            "joints": Spec("continuous", (3,), "float32", (-np.inf,), (np.inf,)),
            "switch": Spec("discrete", (2,), "int64", (0.0,), (9.0,)),
        },
        {"a": Spec("discrete", (), "int64", (0.0,), (9.0,)), "b": Spec("continuous", (2,), "float32", (-1.0,), (1.0,))},
    )
    rng = np.random.default_rng(0)
    n = 12
    episode = Episode(
        "t/t",
        {
            "camera": rng.integers(0, 256, (n, 32, 48, 3)).astype(np.uint8),
            "joints": rng.normal(0, 3, (n, 3)).astype(np.float32),
            "switch": rng.integers(0, 10, (n, 2)),
        },
        {"a": rng.integers(0, 10, n), "b": rng.uniform(-1, 1, (n, 2)).astype(np.float32)},
        np.zeros(n, np.float32),
    )
    config = SMALL.replace(separate_discrete=separate)
    return TokenStore.build("t/t", TimestepCodec(spec, config.vocabulary, None), [episode])


def batch_of(*steps, parallel=False, store=store()) -> Batch:
    """Segments of whole timesteps, (from, to) each."""
    segments = [Segment(0, ((int(store.starts[a]), int(store.starts[b])),)) for a, b in steps]
    return collate(segments, [store], parallel_actions=parallel)


def plain_forward(model: Gato, batch: Batch) -> torch.Tensor:
    """The normed last layer of a batch of one segment, (L, D), in float64, written from the paper's text alone."""
    w = {k: v.detach().double() for k, v in model.state_dict().items()}
    c = model.config
    heads, d, width = c.num_attention_heads, c.key_value_size, c.layer_width

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        x = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x, tanh):
        if tanh:
            return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    def group_norm(x, name):  # (C, h, w)
        g = x.reshape(c.num_group_norm_groups, -1)
        g = (g - g.mean(1, keepdim=True)) / torch.sqrt(g.var(1, unbiased=False, keepdim=True) + 1e-5)
        return g.view_as(x) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def conv(x, name, stride=1, padding=0):
        return torch.nn.functional.conv2d(x[None], w[f"{name}.weight"], w[f"{name}.bias"], stride, padding)[0]

    def embed_patch(pixels):
        x = torch.tensor(pixels, dtype=torch.float64).view(16, 16, 3).permute(2, 0, 1)
        x = conv((x / 255 * 2 - 1) / 4, "embed.patch.stem", c.patch_stem_stride)
        for b in range(c.num_residual_blocks):
            name = f"embed.patch.blocks.{b}"
            h = conv(gelu(group_norm(x, f"{name}.norm1"), False), f"{name}.conv1", padding=1)
            x = x + conv(gelu(group_norm(h, f"{name}.norm2"), False), f"{name}.conv2", padding=1)
        return w["embed.patch.out.weight"] @ gelu(x, False).flatten() + w["embed.patch.out.bias"]

    table = w["embed.table"].clone()
    if c.smooth_bin_rows:
        table[c.vocabulary_size : c.vocabulary_size + 1024] += hats().double() @ w["embed.smooth"]
    image = {int(r): k for k, r in enumerate(batch.image_rows)}
    rows = []
    for i in range(len(batch.ids)):
        if i in image:
            k = image[i]
            row, column = batch.image_places[k].tolist()
            x = (
                embed_patch(batch.patches[batch.image_index[k]].tolist())
                + w["embed.row"][row]
                + w["embed.column"][column]
            )
        else:
            x = table[batch.ids[i]].clone()
            if batch.blank is not None and batch.blank[i]:
                x = torch.zeros_like(x)
        p = int(batch.positions[i])
        if p == ACTION_POSITION:
            x = x + w["embed.local"][-1]
        elif p >= 0:
            x = x + w["embed.local"][p]
        rows.append(x)
    x = torch.stack(rows)
    length = len(x)

    rates = 10000.0 ** (-torch.arange(d // 2, dtype=torch.float64) / (d // 2))
    sin_rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    for b in range(c.num_transformer_blocks):
        name = f"blocks.{b}.attention"
        h = norm(x, f"blocks.{b}.norm1")
        q, k, v = ((h @ w[f"{name}.{m}"].T).view(length, heads, d) for m in ("query", "key", "value"))
        out = torch.zeros(length, heads, d, dtype=torch.float64)
        for i in range(length):
            for n in range(heads):
                scores = torch.zeros(i + 1, dtype=torch.float64)
                for j in range(i + 1):
                    if c.position == "rope":  # as complex numbers: a turn by position · rate
                        at = lambda z, p: torch.complex(z[: d // 2], z[d // 2 :]) * torch.exp(1j * p * rates)  # noqa: E731
                        scores[j] = (at(q[i, n], i) * at(k[j, n], j).conj()).real.sum()
                    else:
                        angle = (i - j) * sin_rates
                        r = (w[f"{name}.relative"] @ torch.cat([angle.sin(), angle.cos()])).view(heads, d)[n]
                        scores[j] = (q[i, n] + w[f"{name}.content_bias"][n]) @ k[j, n]
                        scores[j] += (q[i, n] + w[f"{name}.distance_bias"][n]) @ r
                out[i, n] = (scores / math.sqrt(d)).softmax(0) @ v[: i + 1, n]
        x = x + out.flatten(1) @ w[f"{name}.out"].T
        h = norm(x, f"blocks.{b}.norm2")  # of the stream after attention, not of the tensor before it
        gate, value = (h @ w[f"blocks.{b}.feedforward.hidden"].T).split(c.feedforward_hidden_size // 2, dim=1)
        x = x + (gelu(gate, True) * value) @ w[f"blocks.{b}.feedforward.out"].T
    return norm(x, "norm")


@pytest.mark.parametrize(
    "changes",
    [
        {"position": "rope"},
        {"position": "xl", "smooth_bin_rows": False},
        {"position": "rope", "num_residual_blocks": 3, "separate_discrete": True},
        {"position": "xl", "num_residual_blocks": 2, "parallel_actions": True},
    ],
)
def test_the_whole_network_against_a_plain_one(changes):
    model = make(**changes).double()
    if hasattr(model.embed, "hats"):
        model.embed.hats = hats().double()
    batch = batch_of(
        (2, 4), parallel=model.config.parallel_actions, store=store(changes.get("separate_discrete", False))
    )
    with torch.no_grad():
        wanted = plain_forward(model, batch)
        assert (model.hidden_states(batch) - wanted).abs().max() < 1e-10
        table = model.embed.vocabulary()  # tied: what embeds also predicts
        rows = torch.tensor([i for i in range(len(batch.ids) - 1) if batch.positions[i + 1] == ACTION_POSITION])
        assert (model(batch) - wanted[rows] @ table.T).abs().max() < 1e-10


@pytest.mark.parametrize("position", ["rope", "xl"])
def test_nothing_later_and_no_neighbour_is_seen(position):
    """A changed token, patch or value changes its own row and later ones of its segment; nothing else, to the bit."""
    model = make(position=position)
    batch = batch_of((0, 3), (3, 5), (6, 7), (8, 11))
    with torch.no_grad():
        before = model.hidden_states(batch)
        first = 0
        for n, length, _ in batch.groups:
            for row in (first + 1, first + length // 2, first + n * length - 2):
                segment = (row - first) // length
                end = first + (segment + 1) * length
                ids = batch.ids.clone()
                if row in batch.image_rows:
                    places = batch.image_places.clone()
                    places[batch.image_rows == row] = (places[batch.image_rows == row] + 5) % 128
                    after = model.hidden_states(Batch(**{**vars(batch), "image_places": places}))
                else:
                    ids[row] = (ids[row] + 7) % 1000
                    after = model.hidden_states(Batch(**{**vars(batch), "ids": ids}))
                changed = (before != after).any(-1)
                assert changed[row:end].all()
                assert not changed[:row].any() and not changed[end:].any()
            first += n * length


@pytest.mark.parametrize("position", ["rope", "xl"])
def test_logits_are_those_of_every_row_at_the_queries(position):
    """The last block leaves rows out, group by group; what it keeps is what it would have been."""
    model = make(position=position)
    store_ = store()
    window = lambda a, b: (int(store_.starts[a]), int(store_.starts[b]))  # noqa: E731
    segments = [
        Segment(0, (window(0, 2), window(4, 6)), masked=window(0, 2)[1]),
        Segment(0, (window(1, 2),)),
        Segment(0, (window(7, 8),)),
        Segment(0, (window(8, 11),)),
    ]
    batch = collate(segments, [store_])
    assert min(first for _, _, first in batch.groups) > 0
    with torch.no_grad():
        everything, rows, base, suffix = model.hidden_states(batch), [], 0, 0
        for n, length, first in batch.groups:
            rows.append((base + torch.arange(n)[:, None] * length + torch.arange(first, length)).reshape(-1))
            base, suffix = base + n * length, suffix + n * (length - first)
        rows = torch.cat(rows)[batch.queries]
        assert torch.equal(batch.ids[rows + 1], batch.targets)
        assert torch.allclose(model(batch), model.logits(everything[rows]), atol=1e-5)


@pytest.mark.parametrize("position", ["rope", "xl"])
def test_long_and_short_segments_take_the_same_attention(position):
    """Above 192 tokens another kernel may be used; the first rows of a long segment are those of a short one."""
    model = make(position=position)
    store_ = store()
    assert int(store_.starts[12]) - int(store_.starts[0]) < 192
    long = collate([Segment(0, ((0, int(store_.starts[12])), (0, int(store_.starts[12]))))], [store_])
    short = collate([Segment(0, ((0, int(store_.starts[12])),))], [store_])
    with torch.no_grad():
        assert len(long.ids) > 192
        assert torch.allclose(model.hidden_states(long)[: len(short.ids)], model.hidden_states(short), atol=1e-5)


def test_rotary_positions_far_out_are_as_exact_as_near():
    """Only distances matter: after two million tokens the same two tokens attend to each other in the same way."""
    q, k = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float32)

    def turned(x, at):
        cos, sin = transformer._angles(torch.tensor([at]), 32, x.dtype)
        return transformer._turn(x, torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))

    near, far = (
        [float((turned(q, at + 9) * turned(k, at)).sum()) for at in starts] for starts in ([0, 5], [250_000, 2_000_003])
    )
    assert far == pytest.approx([near[0]] * 2, abs=2e-5) and near[0] == pytest.approx(near[1], abs=1e-5)


@pytest.mark.parametrize("name", ["rope", "xl"])
def test_every_parameter_is_used(name):
    model = make(position=name, num_residual_blocks=2).train()
    model(batch_of((0, 3), (4, 5))).square().mean().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


def test_image_rows_have_no_id():
    """Patches take nothing from the table's row 0 and give it no gradient."""
    model = make(position="rope").train()
    batch = batch_of((0, 2))
    assert (batch.ids[batch.image_rows] == 0).all() and len(batch.image_rows) == 12
    text = torch.ones(len(batch.ids), dtype=torch.bool)
    text[batch.image_rows] = False
    batch.ids[text & (batch.ids == 0)] = 1  # nobody else is 0
    x = model.embed(batch, model.embed.vocabulary())
    x[batch.image_rows].sum().backward()
    assert model.embed.table.grad is None or model.embed.table.grad.abs().max() < 1e-6


def test_smooth_rows_share_and_start_as_nothing():
    """Zero at the start, so that it changes no initial prediction; then neighbours move together, other ids not at all."""
    config = SMALL.replace(smooth_bin_rows=True)
    torch.manual_seed(0)
    model = Gato(config)
    table = model.embed.table
    assert torch.equal(model.embed.vocabulary(), table)
    features = hats()
    assert features.shape[0] == 1024 and torch.allclose(features.sum(1), torch.full((1024,), 2.0), atol=1e-5)
    assert (
        (features[500] @ features[501]) > 0.9 * (features[500] @ features[500]) > 10 * (features[500] @ features[900])
    )
    rows = model.embed.vocabulary()
    rows[config.vocabulary_size + 500].sum().backward()
    with torch.no_grad():
        model.embed.smooth -= model.embed.smooth.grad
        moved = (model.embed.vocabulary() - table).abs().sum(1)
    first = config.vocabulary_size
    assert moved[:first].max() == 0 and moved[first + 1024 :].max() == 0
    assert moved[first + 500] > 0 and moved[first + 501] > 0.9 * moved[first + 500] > 10 * moved[first + 900]


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_residual_blocks(blocks):
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in Gato(SMALL.replace(num_residual_blocks=n)).embed.patch.parameters())
            for n in (1, blocks)
        ]
    width = SMALL.patch_stem_width
    assert sizes[1] - sizes[0] == (blocks - 1) * (2 * (9 * width * width + width) + 4 * width)
    patches = torch.arange(2 * 768).remainder(256).to(torch.uint8).view(2, 768)
    assert make(num_residual_blocks=blocks).embed.patch(patches).shape == (2, SMALL.layer_width)


def test_stochastic_depth_by_segment_and_not_in_evaluation():
    """With p = 1 - 1e-9 nothing but the embedding is left; in evaluation every sub-layer is there, unscaled."""
    batch = batch_of((0, 2), (2, 4), (5, 6))
    model = make(position="rope")
    gone = Gato(model.config.replace(stochastic_depth=1 - 1e-9))
    gone.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(gone.eval().hidden_states(batch), model.hidden_states(batch))
        embedded = model.norm(model.embed(batch, model.embed.vocabulary()))
        assert torch.allclose(gone.train().hidden_states(batch), embedded, atol=1e-6)
        half = Gato(model.config.replace(stochastic_depth=0.5, num_transformer_blocks=1))
        half.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("blocks.1.")})
        torch.manual_seed(0)
        n, length, _ = batch.groups[0]
        kept = set()
        for _ in range(60):
            out = half.train().hidden_states(batch)[: n * length].view(n, length, -1)
            kept |= {tuple(torch.isclose(out, embedded[: n * length].view(n, length, -1)).all(-1).all(-1).tolist())}
    assert len(kept) == 2**n  # each segment by itself, all of its tokens together


def test_the_biases_of_relative_attention_begin_at_zero():
    torch.manual_seed(0)
    model = Gato(SMALL.replace(position="xl"))
    attention = model.blocks[0].attention
    assert not attention.content_bias.any() and not attention.distance_bias.any() and attention.relative.std() > 0.01


def test_the_first_loss_is_that_of_knowing_nothing():
    torch.manual_seed(0)
    model = Gato(GatoConfig.tiny())
    with torch.no_grad():
        logits = model(batch_of((0, 4)))
    loss = torch.nn.functional.cross_entropy(logits, batch_of((0, 4)).targets)
    assert float(loss) == pytest.approx(math.log(GatoConfig.tiny().vocabulary.size), rel=0.03)


def test_images_cost_nothing_where_there_are_none():
    """A batch without patches does not touch the patch embedder."""
    model = make()
    batch = batch_of((0, 2))
    kept = torch.ones(len(batch.ids), dtype=torch.bool)
    kept[batch.image_rows] = False
    none = torch.zeros(0, dtype=torch.long)
    text = Batch(**{
        **vars(batch), "ids": batch.ids[kept], "positions": batch.positions[kept], "image_rows": none, "image_index": none,
        "image_places": torch.zeros(0, 2, dtype=torch.long), "patches": torch.zeros(0, 768, dtype=torch.uint8),
        "groups": ((1, int(kept.sum()), 0),), "queries": torch.tensor([3]), "num_tokens": int(kept.sum()),
    })  # fmt: skip
    model(text).sum().backward()
    assert all(p.grad is None for p in model.embed.patch.parameters())
