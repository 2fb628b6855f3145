"""What acting and training spend their time in, in C: new tokens through all blocks, and attention over the segments of a batch.

Of a decision of A action tokens, one pass brings an observation, some tens of tokens to each slot, and A - 1 passes bring a single
one. The library's product of one row reads memory at about half the speed at which memory can be read; of twenty rows it is good, but
what stands between the products costs as much again, and a small network has little else. Here a pass is one call.

Of a step of training a small network, a third is attention: segments of some tens of tokens in dozens of lengths, each group of one
length a dozen calls of the library for each block, there and back. Here a block's attention is one call in either direction,
with everything of a head of a segment in the nearest cache.

`native.c` is compiled when it is first needed (`gato.compiled`); where that cannot be, everything goes the library's way.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gato import compiled
from gato.model.cache import RingCache

if TYPE_CHECKING:
    from gato.model.transformer import Gato

WORTH_THREADS = 4_000_000  # multiplications; fewer are done sooner than a second thread wakes up
LONGEST = 640  # tokens of a segment; attention over longer ones is as fast by the library, in bfloat16


class _Block(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            "norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias", "inward", "out", "hidden", "down", "content_bias",
            "distance_bias",
        )
    ]  # fmt: skip


class _Sizes(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "blocks", "width", "heads", "hidden", "half", "tokens", "rows", "most", "ring", "reach", "wanted", "threads",
            "layer_apart", "slot_apart",
        )),
        ("eps", ctypes.c_float),
    ]  # fmt: skip


class Blocks:
    """The blocks of a model, weights at "float32" or "float16". `Blocks.of` makes them, or none."""

    def __init__(self, model: Gato, half: bool, library: ctypes.CDLL):
        config = model.config
        self._half, self._library, self._config = half, library, config
        self._columns = int(library.gato_columns())
        self._eps = float(model.blocks[0].norm1.eps)  # type: ignore[union-attr, arg-type]
        self._held: list[torch.Tensor] = []  # what the pointers point at
        self._blocks = (_Block * len(model.blocks))(*(self._block(block) for block in model.blocks))
        self._weights = sum(t.numel() for t in self._held)
        self._scratch = threading.local()  # sessions of several threads share a decoder

    @classmethod
    def of(cls, model: Gato, precision: str) -> Blocks | None:
        """None where the precision, the device or this machine is not one that the C knows."""
        weight, half = next(model.parameters()), precision == "float16"
        if precision not in ("float32", "float16") or weight.device.type != "cpu" or weight.dtype != torch.float32:
            return None
        library, _ = load()
        return None if library is None or (half and not library.gato_half()) else cls(model, half, library)

    def _block(self, block: Any) -> _Block:
        a, f = block.attention, block.feedforward
        kept = [
            t.detach().contiguous()
            for t in (block.norm1.weight, block.norm1.bias, block.norm2.weight, block.norm2.bias)
        ]
        inward = torch.cat([a.query.detach(), a.key.detach(), a.value.detach()])
        kept += [self._panels(w) for w in (inward, a.out.detach(), f.hidden.detach(), f.out.detach())]
        if a.kind == "xl":
            kept += [t.detach().contiguous() for t in (a.content_bias, a.distance_bias)]
        self._held += kept
        return _Block(*(t.data_ptr() for t in kept))

    def _panels(self, weight: torch.Tensor) -> torch.Tensor:
        """(outputs, inputs) → (panels, inputs, columns), outputs filled up with zeros to whole panels."""
        outputs, inputs = weight.shape
        whole = F.pad(weight, (0, 0, 0, -outputs % self._columns)).view(-1, self._columns, inputs).transpose(1, 2)
        return whole.to(torch.float16 if self._half else torch.float32).contiguous()

    def __call__(
        self,
        x: torch.Tensor,
        cache: RingCache,
        rows: Rows,
        turn: tuple[torch.Tensor, torch.Tensor] | None,
        relative: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """x (T, D), from what the first block gets to what the last one gives, (wanted, D), of the tokens that are. They have just
        taken their entries; keys and values are written there.

        `turn`: cosines and signed sines (T, d) of their positions, for a network whose positions rotate. `relative`: for one
        whose positions are relative, what each block makes of distances, (H, reach, d).
        """
        c, tokens = self._config, len(x)
        sizes = _Sizes(
            len(self._blocks), c.layer_width, c.num_attention_heads, c.feedforward_hidden_size, self._half, tokens,
            len(rows.slots), int((rows.starts[1:] - rows.starts[:-1]).max()), cache.position.shape[1],
            relative[0].shape[1] if relative else 0, len(rows.wanted),
            torch.get_num_threads() if tokens * self._weights >= WORTH_THREADS else 1,
            cache.keys.stride(0), cache.keys.stride(1), self._eps,
        )  # fmt: skip
        room = int(self._library.gato_scratch(ctypes.byref(sizes)))
        scratch = getattr(self._scratch, "floats", None)
        if scratch is None or len(scratch) < room:
            scratch = self._scratch.floats = torch.empty(room)
        out = torch.empty(len(rows.wanted), c.layer_width)
        tables = (ctypes.c_void_p * len(relative))(*(t.data_ptr() for t in relative)) if relative else None
        self._library.gato_pass(
            ctypes.byref(sizes), self._blocks, _at(x), *map(_at, (rows.starts, rows.slots, rows.entries, rows.positions, rows.times)),
            *map(_at, (cache.keys, cache.values, cache.position, cache.time, cache.band, cache.span)), *map(_at, turn or (None, None)),
            tables, _at(rows.wanted), _at(scratch), _at(out),
        )  # fmt: skip
        return out

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """hidden (…, D), rows (ids, D) of the table → (…, ids)."""
        hidden, rows = hidden.contiguous(), rows.contiguous()
        out = torch.empty(*hidden.shape[:-1], len(rows))
        many = hidden.numel() // rows.shape[1]
        threads = torch.get_num_threads() if many * rows.numel() >= WORTH_THREADS // 8 else 1
        self._library.gato_logits(_at(rows), *rows.shape, _at(hidden), many, _at(out), threads)
        return out


_FIRST = np.zeros(1, np.int64)


@dataclass
class Rows:
    """T new tokens of R rows, one row's after another's; int64 all."""

    slots: np.ndarray  # (R,)
    starts: np.ndarray  # (R + 1,) of each row's tokens
    entries: np.ndarray  # (T,) of the ring
    positions: np.ndarray  # (T,) since the slot was cleared
    times: np.ndarray  # (T,) timesteps
    wanted: np.ndarray  # (wanted,) tokens whose hidden states are asked for, in order
    columns: int  # of what is handed out, for every row
    places: np.ndarray  # where in (R × columns) a hidden state belongs …
    each: np.ndarray  # … and which of the wanted it is

    @classmethod
    def of(
        cls, slots: torch.Tensor, valid: torch.Tensor, times: torch.Tensor, positions: torch.Tensor, entries: torch.Tensor,
        wanted: torch.Tensor | None,
    ) -> Rows:  # fmt: skip
        """As `Decoder` is given them, (R, n) padded right."""
        there = valid.numpy()
        if there.size == 1 and there.all():
            entry, position, time = (t.numpy().ravel() for t in (entries, positions, times))
            return cls(np.ascontiguousarray(slots), np.arange(2), entry, position, time, _FIRST, 1, _FIRST, _FIRST)
        lengths = there.sum(1)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        if wanted is None:
            places, each = np.flatnonzero(there), np.arange(starts[-1])
            asked = each
        else:
            places = np.flatnonzero(wanted.numpy() < lengths[:, None])
            asked, each = np.unique((starts[:-1, None] + wanted.numpy()).ravel()[places], return_inverse=True)
        columns = there.shape[1] if wanted is None else wanted.shape[1]
        entry, position, time = (t.numpy()[there] for t in (entries, positions, times))
        return cls(np.ascontiguousarray(slots), starts, entry, position, time, asked, columns, places, each)


class _Batch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("segments", "heads", "size", "longest", "in16", "threads", "room")),
        ("scale", ctypes.c_float),
    ]  # fmt: skip


class Attention(torch.autograd.Function):
    """Every segment of a batch attending causally to itself: qkv (N, 3, H, d), float32 or bfloat16, to (queries, H, d). Inside all is
    float32. `turn`: cosines and signed sines (longest, d) of positions that rotate."""

    @staticmethod
    def fits(qkv: torch.Tensor) -> bool:
        """Whether there is C for it: on a CPU, float32 or bfloat16, heads of whole vectors. For segments up to `LONGEST`."""
        known = qkv.device.type == "cpu" and qkv.dtype in (torch.float32, torch.bfloat16) and qkv.shape[-1] % 16 == 0
        return known and load()[0] is not None

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, qkv: torch.Tensor, groups: tuple[tuple[int, int, int], ...], last: bool, turn: tuple[torch.Tensor, torch.Tensor] | None
    ) -> torch.Tensor:  # fmt: skip
        library = _loaded()
        qkv = qkv.contiguous()
        (_, _, heads, size), segments = qkv.shape, _segments(groups, last)
        longest = max(length for _, length, _ in groups)
        batch = _Batch(
            len(segments), heads, size, longest, qkv.dtype == torch.bfloat16, torch.get_num_threads(), 0, size**-0.5
        )
        batch.room = library.gato_attention_room(ctypes.byref(batch))
        queries = int((segments[:, 1] - segments[:, 2]).sum())
        out, sums = qkv.new_empty(queries, heads, size), torch.empty(queries, heads)
        scratch = torch.empty(batch.threads * batch.room)
        library.gato_attention(
            ctypes.byref(batch), *map(_at, (segments, qkv, *(turn or (None, None)), out, sums, scratch))
        )
        ctx.save_for_backward(qkv, sums)
        ctx.others = batch, segments, turn
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor):  # type: ignore[override]
        library = _loaded()
        qkv, sums = ctx.saved_tensors
        batch, segments, turn = ctx.others
        back, scratch, grad = torch.empty_like(qkv), torch.empty(batch.threads * batch.room), grad.contiguous()
        library.gato_attention_back(
            ctypes.byref(batch), *map(_at, (segments, qkv, *(turn or (None, None)), sums, grad, back, scratch))
        )
        return back, None, None, None


def _loaded() -> ctypes.CDLL:
    library, why = load()
    assert library is not None, why
    return library


@functools.lru_cache(maxsize=4)
def _segments(groups: tuple[tuple[int, int, int], ...], last: bool) -> np.ndarray:
    """(segments, 4): where each begins, its length, its first query and where the output of that goes."""
    counts = np.array([n for n, _, _ in groups])
    lengths = np.repeat([length for _, length, _ in groups], counts)
    firsts = np.repeat([first if last else 0 for _, _, first in groups], counts)
    starts, outs = (np.cumsum(each) - each for each in (lengths, lengths - firsts))
    return np.ascontiguousarray(np.stack([starts, lengths, firsts, outs], axis=1), dtype=np.int64)


def _at(t: torch.Tensor | np.ndarray | None) -> int | None:
    return None if t is None else t.data_ptr() if isinstance(t, torch.Tensor) else t.ctypes.data


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """(the compiled library, where it is), or (None, why there is none)."""
    library, told = compiled.library("gato.model", "native.c")
    if library is None:
        return None, told
    library.gato_pass.restype = library.gato_logits.restype = None
    library.gato_pass.argtypes = (ctypes.c_void_p,) * 20
    at, number = ctypes.c_void_p, ctypes.c_int
    library.gato_logits.argtypes = (at, number, number, at, number, at, number)
    library.gato_scratch.restype = library.gato_attention_room.restype = ctypes.c_int64
    library.gato_attention.restype = library.gato_attention_back.restype = None
    library.gato_attention.argtypes, library.gato_attention_back.argtypes = (at,) * 8, (at,) * 9
    return library, told
