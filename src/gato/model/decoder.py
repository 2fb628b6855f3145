"""One pass of acting: new tokens against a ring cache, the weights at a precision of choice.

    R rows, n new tokens each, D width, H heads, d head width, W ring entries, m tokens whose hidden state is wanted

A pass of one token reads every weight once to multiply it with one row, so its time is the time to read the weights:
half the bytes, half the time. What is added up stays float32, and so do norms, attention, cache and logits. On a CPU each keeps
a copy of the matrices, in the order in which its products read them: of few rows, a product that has to bring them into that
order first takes twice as long. The products of float32 and float16 are our own there (`native.py`), with all that is between them.

    float32   the model's own weights, as they are
    float16   weights in 16 bits, ten of them behind the point; rows stay float32 (x86)
    bf16      weights and rows in bfloat16, seven bits behind the point
    int8      weights in 8 bits, a scale per output; rows in 8 bits, one scale for all rows of a pass, so here a slot can
              feel its neighbours (FBGEMM: x86)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from gato.errors import UsageError
from gato.model.cache import RingCache, View
from gato.model.native import Blocks, Rows
from gato.model.transformer import Attention, Block, Gato, _angles
from gato.sequences.batch import Batch

Product = Callable[[torch.Tensor], torch.Tensor]
PRECISIONS = ("float32", "float16", "bf16", "int8")
FEW_ROWS = 8  # that the order of oneDNN's copy is made for


class Decoder:
    """The network as it acts: the model, and a packed copy of its matrices."""

    def __init__(self, model: Gato, precision: str = "float32"):
        self.model, self.precision = model, precision
        make = _maker(precision, next(model.parameters()).device.type)
        self._native, self._layers = Blocks.of(model, precision), []
        for i, block in enumerate(model.blocks if self._native is None else ()):
            assert isinstance(block, Block)
            a, f = block.attention, block.feedforward
            # Of the last block only some rows are wanted, but all keys and values: its queries are a product of their own.
            split = i == len(model.blocks) - 1
            inward: list[list[torch.Tensor]] = [[a.query], [a.key, a.value]] if split else [[a.query, a.key, a.value]]
            self._layers.append(([make(ms) for ms in inward], make([a.out]), make([f.hidden]), make([f.out])))

    @torch.no_grad()
    def __call__(
        self,
        batch: Batch,
        slots: torch.Tensor,
        valid: torch.Tensor,
        times: torch.Tensor,
        cache: RingCache,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Feed R rows of n new tokens (one group, padded right; `valid` (R, n)) and return hidden states (R, n, D), or
        (R, m, D), those of the columns `wanted` (R, m).

        Row r belongs to cache slot slots[r]; `times` (R, n) are timestep numbers, for memories counted in timesteps.
        """
        rows, n = valid.shape
        model = self.model
        if self._native is not None:
            return self._in_c(self._native, batch, slots, valid, times, cache, wanted)
        view = cache.extend(slots, valid, times)
        positions = view.positions.masked_fill(
            ~valid, 0
        )  # of padding: one past the end would have no row in a learned table
        x = model.embed(batch, model.embed.vocabulary(), positions.flatten()).view(rows, n, -1)
        turn = _Turn(view.positions, model.config.key_value_size) if model.config.position == "rope" else None
        for i, block in enumerate(model.blocks):
            x = self._block(i, block, x, cache, view, turn, wanted)  # type: ignore[arg-type]
        return model.norm(x)

    def _in_c(
        self, blocks: Blocks, batch: Batch, slots: torch.Tensor, valid: torch.Tensor, times: torch.Tensor, cache: RingCache,
        wanted: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """The same in C, padding left out: its hidden states are zeros."""
        model, (rows, n) = self.model, valid.shape
        positions, entries = cache.take(slots, valid, times)
        new = Rows.of(slots, valid, times, positions, entries, wanted)
        at = torch.from_numpy(new.positions)
        x = model.embed(
            batch,
            model.embed.vocabulary(),
            positions.flatten() if len(at) == rows * n else positions.masked_fill(~valid, 0).flatten(),
        )
        turn = _Turn(at, model.config.key_value_size) if model.config.position == "rope" else None
        attentions: list[Attention] = [block.attention for block in model.blocks]  # type: ignore[misc]
        relative = [_relative(a, i, cache, x) for i, a in enumerate(attentions)] if attentions[0].kind == "xl" else []
        out = model.norm(
            blocks(
                x if len(at) == rows * n else x[valid.flatten()],
                cache,
                new,
                None if turn is None else (turn.cos, turn.sin),
                relative,
            )
        )
        if len(new.places) == len(out) == rows * new.columns:
            return out.view(rows, new.columns, -1)
        hidden = out.new_zeros(rows * new.columns, out.shape[-1])
        hidden[torch.from_numpy(new.places)] = out[torch.from_numpy(new.each)]
        return hidden.view(rows, new.columns, -1)

    def logits(self, hidden: torch.Tensor, low: int = 0, high: int | None = None) -> torch.Tensor:
        """(…, D) → logits of the ids [low, high): to choose among a few, only their rows of the table are read."""
        rows = self.model.embed.vocabulary()[low:high]
        return F.linear(hidden, rows) if self._native is None else self._native.logits(hidden, rows)

    def _block(
        self, i: int, block: Block, x: torch.Tensor, cache: RingCache, view: View, turn: _Turn | None, wanted: torch.Tensor | None
    ) -> torch.Tensor:  # fmt: skip
        inward, outward, hidden, out = self._layers[i]
        attention, normed = block.attention, block.norm1(x)
        bias, distances = view.bias, view.distances
        if len(inward) == 1:
            both, v = (
                inward[0](normed)
                .unflatten(-1, (3 * attention.heads, -1))
                .split([2 * attention.heads, attention.heads], 2)
            )
            q, k = (both if turn is None else turn(both)).chunk(2, dim=2)  # (R, n, H, d)
        else:
            k, v = inward[1](normed).unflatten(-1, (2, attention.heads, -1)).unbind(2)
            turn_q = turn
            if wanted is not None:
                at = torch.arange(len(x), device=x.device)[:, None]
                x, normed, bias = x[at, wanted], normed[at, wanted], bias[at, wanted]
                distances = distances[at, wanted] if distances is not None else None
                turn_q = turn.at(wanted) if turn is not None else None
            q = inward[0](normed).unflatten(-1, (attention.heads, -1))
            if turn is not None and turn_q is not None:
                q, k = turn_q(q), turn(k)
        keys, values = cache.write(i, view, k, v)  # (R, H, W, d)
        attended = _attend(attention, q.transpose(1, 2), keys, values, bias[:, None], distances, cache, i)
        x = x + outward(attended.transpose(1, 2).flatten(2))
        gate, value = hidden(block.norm2(x)).chunk(2, dim=-1)
        return x + out(F.gelu(gate, approximate="tanh") * value)


def _attend(
    attention: Attention, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor,
    distances: torch.Tensor | None, cache: RingCache, layer: int,
) -> torch.Tensor:  # fmt: skip
    """q (R, H, n, d) over keys and values (R, H, W, d); bias (R, 1, n, W) is 0 or -inf. (R, H, n, d)."""
    scale = attention.size**-0.5
    if attention.kind == "xl":
        assert distances is not None
        far = _relative(attention, layer, cache, q)
        scores = torch.matmul(q + attention.distance_bias[:, None], far.transpose(-1, -2))
        index = distances.clamp(0, cache.reach - 1)[:, None].expand(-1, attention.heads, -1, -1)
        bias = scores.gather(-1, index).mul_(scale).add_(bias)
        q = q + attention.content_bias[:, None]
    scores = torch.matmul(q * scale, keys.transpose(-1, -2)).add_(bias)
    return torch.matmul(scores.softmax(-1), values)


def _relative(attention: Attention, layer: int, cache: RingCache, like: torch.Tensor) -> torch.Tensor:
    """What a block makes of all distances, (H, reach, d): once per ring."""
    if layer not in cache.relative:
        cache.relative[layer] = attention._distances(cache.reach, like).contiguous()
    return cache.relative[layer]


class _Turn:
    """Rotary embedding of (R, n, H, d), halves rotated against each other; the angles are made once per pass."""

    def __init__(self, positions: torch.Tensor, width: int):
        cos, sin = _angles(positions[..., None], width, torch.float32)  # (R, n, 1, d/2)
        self.cos, self.sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)

    def at(self, wanted: torch.Tensor) -> _Turn:
        rows = torch.arange(len(wanted), device=wanted.device)[:, None]
        out = object.__new__(_Turn)
        out.cos, out.sin = self.cos[rows, wanted], self.sin[rows, wanted]
        return out

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.addcmul(x * self.cos, torch.cat([b, a], -1), self.sin)


def _maker(precision: str, device: str) -> Callable[[Sequence[torch.Tensor]], Product]:
    """[weight (out, in), …] → the product with all of them. Raises UsageError."""
    if precision in ("float32", "bf16"):
        packs = device == "cpu" and torch.backends.mkldnn.is_available()
        plain = _float32 if precision == "float32" else _bf16
        return (lambda ws: _onednn(ws, precision)) if packs else plain
    if precision not in PRECISIONS:
        raise UsageError(f"precision={precision!r}", fix=f"one of {', '.join(PRECISIONS)}")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        raise UsageError(f"precision={precision!r} needs an x86 processor", fix="precision=float32 or bf16")
    return _float16 if precision == "float16" else _int8


def _float32(weights: Sequence[torch.Tensor]) -> Product:
    return lambda x: F.linear(x, weights[0]) if len(weights) == 1 else torch.cat([F.linear(x, w) for w in weights], -1)


def _bf16(weights: Sequence[torch.Tensor]) -> Product:
    weight = torch.cat([w.detach() for w in weights]).bfloat16()
    return lambda x: F.linear(x.bfloat16(), weight).float()


def _onednn(weights: Sequence[torch.Tensor], precision: str) -> Product:
    """Each row comes out the same whatever others there are, but for a row alone (`gato.policy.batch.LEAST_ROWS`)."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    packed = torch.ops.mkldnn._reorder_linear_weight(torch.cat([w.detach() for w in weights]).to(dtype), FEW_ROWS)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, None, "none", [], "").float()


def _float16(weights: Sequence[torch.Tensor]) -> Product:
    packed = _pack(torch.ops.quantized.linear_prepack_fp16, torch.cat([w.detach() for w in weights]))
    return lambda x: torch.ops.quantized.linear_dynamic_fp16(x, packed)


def _int8(weights: Sequence[torch.Tensor]) -> Product:
    weight = torch.cat([w.detach() for w in weights])
    scales = weight.abs().amax(1).clamp(min=1e-12) / 127
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch announces that quantised tensors will go
        quantised = torch.quantize_per_channel(
            weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
        )
        packed = _pack(torch.ops.quantized.linear_prepack, quantised)
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed, False)


def _pack(prepack: Callable, weight: torch.Tensor):
    """Weights in FBGEMM's own order; which engine packs is a global switch of torch."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        return prepack(weight.contiguous(), None)
    finally:
        torch.backends.quantized.engine = engine
