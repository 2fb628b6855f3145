"""The network: decoder-only, pre-norm, GEGLU, tied embeddings (paper section 2.3, appendix C.1). A pure function.

    B segments of a group, L their length, H heads, d head width, D = H·d, N all tokens of the batch, V vocabulary

Global order comes from `position`: "xl", Transformer-XL's relative attention, the reading that matches the published
parameter counts, or "rope". Both depend on distances alone, so keys and values can be cached for ever. "learned" is a
table of absolute positions, for comparison: it ends where the context does.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gato.model import native
from gato.model.config import GatoConfig
from gato.model.embed import Embedding
from gato.sequences.batch import Batch

Groups = tuple[tuple[int, int, int], ...]
CPU = torch.device("cpu")


class Gato(nn.Module):
    """`forward` for training: logits where targets are. For acting see `gato.model.decoder`."""

    def __init__(self, config: GatoConfig):
        super().__init__()
        self.config = config
        self.embed = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_transformer_blocks))
        self.norm = nn.LayerNorm(config.layer_width)
        self.reset()

    def reset(self) -> None:
        """Normal(0, 0.02); the two maps that write into the residual stream are scaled down by its depth."""
        depth = math.sqrt(2 * self.config.num_transformer_blocks)
        for name, p in self.named_parameters():
            if p.ndim == 2 and name.startswith("blocks.") and not name.endswith("_bias"):
                nn.init.normal_(p, std=0.02 if self.config.layer_width >= 512 else p.shape[1] ** -0.5)
                if name.endswith((".attention.out", ".feedforward.out")):
                    p.data.div_(depth)
        self.embed.reset()

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits (M, V) of the rows that predict a target."""
        table = self.embed.vocabulary()
        x = self.embed(batch, table)
        if self.config.dropout_rate:
            x = F.dropout(x, self.config.dropout_rate, self.training)
        for i, block in enumerate(self.blocks):
            x = block(x, batch.groups, last=i == len(self.blocks) - 1)
        return F.linear(self.norm(x[batch.queries]), table)

    def hidden_states(self, batch: Batch) -> torch.Tensor:
        """The normed last layer at every token, (N, D)."""
        x = self.embed(batch, self.embed.vocabulary())
        for block in self.blocks:
            x = block(x, batch.groups, last=False)
        return self.norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.embed.vocabulary())


class Block(nn.Module):
    recompute = False  # in the backward pass, instead of keeping what lies between input and output

    def __init__(self, config: GatoConfig):
        super().__init__()
        self.config = config
        self.norm1, self.attention = nn.LayerNorm(config.layer_width), Attention(config)
        self.norm2, self.feedforward = nn.LayerNorm(config.layer_width), FeedForward(config)

    def forward(self, x: torch.Tensor, groups: Groups, last: bool) -> torch.Tensor:
        """(N, D) → (N, D), or, for the last block, only the rows from each group's first query on."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._forward, x, groups, last, use_reentrant=False)
        return self._forward(x, groups, last)

    def _forward(self, x: torch.Tensor, groups: Groups, last: bool) -> torch.Tensor:
        attended = self.attention(self.norm1(x), groups, last)
        if last:
            x = torch.cat([g[:, s:].reshape(-1, x.shape[-1]) for g, s in _split(x, groups)])
            groups = tuple((n, length - s, 0) for n, length, s in groups)
        x = x + self._drop(attended, groups)
        return x + self._drop(self.feedforward(self.norm2(x)), groups)

    def _drop(self, y: torch.Tensor, groups: Groups) -> torch.Tensor:
        """Dropout, and stochastic depth: a sub-layer is left out, segment by segment, with probability p."""
        if not self.training:
            return y
        if self.config.dropout_rate:
            y = F.dropout(y, self.config.dropout_rate)
        p = self.config.stochastic_depth
        if p:
            keep = [(torch.rand(n, 1, device=y.device) >= p).expand(n, length).reshape(-1) for n, length, _ in groups]
            y = y * (torch.cat(keep)[:, None] / (1 - p)).to(y.dtype)
        return y


class FeedForward(nn.Module):
    """GEGLU: the listed hidden size is before the gate."""

    def __init__(self, config: GatoConfig):
        super().__init__()
        self.hidden = nn.Parameter(torch.empty(config.feedforward_hidden_size, config.layer_width))
        self.out = nn.Parameter(torch.empty(config.layer_width, config.feedforward_hidden_size // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = F.linear(x, self.hidden).chunk(2, dim=-1)
        return F.linear(F.gelu(gate, approximate="tanh") * value, self.out)


class Attention(nn.Module):
    def __init__(self, config: GatoConfig):
        super().__init__()
        d = config.layer_width
        self.heads, self.size, self.kind = config.num_attention_heads, config.key_value_size, config.position
        self.query, self.key, self.value = (nn.Parameter(torch.empty(d, d)) for _ in range(3))
        self.out = nn.Parameter(torch.empty(d, d))
        if self.kind == "xl":
            self.relative = nn.Parameter(torch.empty(d, d))
            self.content_bias = nn.Parameter(torch.zeros(self.heads, self.size))  # u of Transformer-XL
            self.distance_bias = nn.Parameter(torch.zeros(self.heads, self.size))  # v

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) → (…, 3, H, d)."""
        weight = torch.cat([self.query, self.key, self.value])
        return F.linear(x, weight).unflatten(-1, (3, self.heads, self.size))

    def forward(self, x: torch.Tensor, groups: Groups, last: bool = False) -> torch.Tensor:
        """(N, D) → (N, D), each segment of each group attending causally to itself; see Block.forward for `last`."""
        qkv = self._project(x)
        in_c = self.kind != "xl" and native.Attention.fits(qkv)
        runs = [(c, tuple(run)) for c, run in itertools.groupby(groups, lambda g: in_c and g[1] <= native.LONGEST)]
        parts = qkv.split([sum(n * length for n, length, _ in run) for _, run in runs])
        attended = [
            (self._in_c if c else self._by_group)(p, run, last) for p, (c, run) in zip(parts, runs, strict=True)
        ]
        joined = attended[0] if len(runs) == 1 else torch.cat(attended)  # short groups may come in float32
        return F.linear(joined if self.out.dtype == torch.float32 else joined.to(self.out.dtype), self.out)

    def _in_c(self, qkv: torch.Tensor, groups: Groups, last: bool) -> torch.Tensor:
        """(N, 3, H, d) → (queries, D)."""
        turn = _turn_to(max(length for _, length, _ in groups), self.size) if self.kind == "rope" else None
        return native.Attention.apply(qkv, groups, last, turn).flatten(1)

    def _by_group(self, qkv: torch.Tensor, groups: Groups, last: bool) -> torch.Tensor:
        """The same by the library."""
        if widened := qkv.dtype == torch.bfloat16 and any(_is_short(length, qkv) for _, length, _ in groups):
            qkv = qkv.float()
        qk, values = qkv.split([2, 1], dim=1)  # splitting, whose backward is one concatenation, not a sum of slices
        if self.kind == "rope":
            qk = _Rotation.apply(qk, *_turns(groups, self.size, qk.dtype, qk.device))
        outputs = []
        for (g, s), (v, _) in zip(_split(qk, groups), _split(values, groups), strict=True):
            if widened and not _is_short(g.shape[1], g):
                g, v = g.bfloat16(), v.bfloat16()
            first = s if last else 0
            q, k, v = (part.transpose(1, 2) for part in (*g.unbind(2), v.squeeze(2)))  # (B, H, L, d)
            q = q[:, :, first:]
            outputs.append(self._attend(q, k, v, first).transpose(1, 2).reshape(-1, self.heads * self.size))
        return torch.cat(outputs)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int) -> torch.Tensor:
        """Queries at positions first … L - 1 over keys 0 … L - 1, turned where positions are. (B, H, L - first, d)."""
        length, on_cpu = k.shape[2], q.device.type == "cpu"
        farther = self._distances(length, q).flip(1) if self.kind == "xl" else None  # the farthest first
        outputs = []
        cuts = [first, *range((first // QUERIES + 1) * QUERIES, length, QUERIES), length] if on_cpu else [first, length]
        with torch.autocast(q.device.type, enabled=False):
            for begin, end in itertools.pairwise(cuts):
                mine = q[:, :, begin - first : end - first]
                bias = _causal(begin, end, q.dtype, q.device)
                if farther is not None:
                    scores = (mine + self.distance_bias[:, None].to(q.dtype)) @ farther[:, length - end :].mT
                    bias = _by_distance(scores) * self.size**-0.5 + bias
                    mine = mine + self.content_bias[:, None].to(q.dtype)
                attend = _two_products if on_cpu else F.scaled_dot_product_attention
                outputs.append(attend(mine, k[:, :, :end], v[:, :, :end], bias, scale=self.size**-0.5))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)

    def weights(self, x: torch.Tensor, row: int) -> torch.Tensor:
        """How much token `row` of one segment (L, D) attends to each token up to itself: (H, row + 1), sums of 1."""
        qk = self._project(x[: row + 1])[:, :2]
        if self.kind == "rope":
            qk = _Rotation.apply(qk, *_turns(((1, row + 1, 0),), self.size, qk.dtype, qk.device))
        q, k = qk[None].permute(2, 0, 3, 1, 4).unbind(0)  # (1, H, row + 1, d)
        each = torch.eye(row + 1, dtype=x.dtype, device=x.device)
        # Attending to values that are unit vectors, a head's width of them at a time, gives the weights themselves.
        parts = [F.pad(part, (0, self.size - part.shape[1])).expand_as(k) for part in each.split(self.size, dim=1)]
        seen = [self._attend(q[:, :, row:], k, part, row)[0, :, 0] for part in parts]
        return torch.cat(seen, dim=1)[:, : row + 1]

    def _distances(self, length: int, like: torch.Tensor) -> torch.Tensor:
        """W_r applied to the sinusoids of distances 0 … length - 1, (H, length, d)."""
        sinusoids = _sinusoids(length, self.heads * self.size, like.device).to(like.dtype)
        keys = F.linear(sinusoids, self.relative.to(like.dtype)).to(like.dtype)  # autocast has a dtype of its own
        return keys.view(length, self.heads, self.size).transpose(0, 1)


QUERIES = 256  # that many at a time on a CPU: keys that all of them precede are not touched


def _two_products(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Attention on a CPU, where the fused one's backward pass is slower."""
    shape = q.shape
    bias = bias.expand(q.shape[0], q.shape[1], -1, -1).flatten(0, 1)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    return torch.bmm(torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale).softmax(-1), v).view(shape)


def _by_distance(scores: torch.Tensor) -> torch.Tensor:
    """(…, n, L) of each of the last n of L queries by distance, farthest first → by key; what a query precedes is
    anything. Row i moves left by n - 1 - i: one column of padding, read as rows one shorter (Dai et al. 2019, appendix B)."""
    n, length = scores.shape[-2:]
    return F.pad(scores, (1, 0)).flatten(-2)[..., n:].unflatten(-1, (n, length))


@functools.lru_cache(maxsize=512)
def _causal(begin: int, end: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """0 where query begin … end - 1 may see key 0 … end - 1, -inf where it comes before it; (end - begin, end)."""
    with torch.inference_mode(False):
        at = torch.arange(end, device=device)
        return torch.zeros(end - begin, end, dtype=dtype, device=device).masked_fill_(at[begin:, None] < at, -torch.inf)


def _split(x: torch.Tensor, groups: Groups) -> Iterator[tuple[torch.Tensor, int]]:
    """(N, …) → for each group its (B, L, …) and the first query. One split, so that its backward is one concatenation."""
    parts = x.split([n * length for n, length, _ in groups])
    for part, (n, length, first) in zip(parts, groups, strict=True):
        yield part.unflatten(0, (n, length)), first


def _is_short(length: int, like: torch.Tensor) -> bool:
    """Whether attention over so few is computed in float32: short groups come in a hundred shapes, and on a CPU the library
    compiles a bfloat16 kernel for each."""
    return like.device.type == "cpu" and length % 128 > 0 and length < 512


class _Rotation(torch.autograd.Function):
    """Rotary embedding (Su et al. 2021), halves rotated against each other, of all tokens of a batch at once."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([b, a], dim=-1), sin)


@functools.lru_cache(maxsize=4)
def _turns(groups: Groups, width: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, cos) and (-sin, sin) of every token of a batch, each (N, 1, 1, d). All blocks ask for the same."""
    with torch.inference_mode(False):
        longest = max(length for _, length, _ in groups)
        cos, sin = _turn_to(longest, width, dtype, device)
        each = ([t[:length].repeat(n, 1) for n, length, _ in groups] for t in (cos, sin))
        turned = [torch.cat(parts)[:, None, None] for parts in each]
    return turned[0], turned[1]


def _angles(positions: torch.Tensor, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    half = width // 2
    inverse = 10000.0 ** (-torch.arange(half, device=positions.device, dtype=torch.float64) / half)
    angle = positions[..., None] * inverse  # float64: an episode of 10,000 steps has positions of six digits
    return angle.cos().to(dtype), angle.sin().to(dtype)


@functools.lru_cache(maxsize=512)
def _turn_to(
    length: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device = CPU
) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, cos) and (-sin, sin) of positions 0 … length - 1, (length, d); batches come in few lengths."""
    with torch.inference_mode(False):
        cos, sin = _angles(torch.arange(length, device=device), width, dtype)
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def _sinusoids(length: int, width: int, device) -> torch.Tensor:
    """Sines and cosines of distances 0 … length - 1, float64 (length, width) (Dai et al. 2019)."""
    return _sinusoid_table(1 << (length - 1).bit_length(), width, device)[:length]


@functools.lru_cache(maxsize=8)
def _sinusoid_table(length: int, width: int, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        inverse = 10000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float64) / width)
        angle = torch.arange(length, device=device, dtype=torch.float64)[:, None] * inverse
        return torch.cat([angle.sin(), angle.cos()], dim=-1)
