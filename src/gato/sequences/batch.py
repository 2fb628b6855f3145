"""Batch: rectangles of tokens for the model, laid end to end.

A batch is a flat run of N tokens, cut into groups; a group is n segments of one length L (padding under 5 %), so that
attention is one small matrix product per group and never looks across segments: block-diagonal attention without a
mask. Everything else in the network is per token and does not see the groups.

    tokens   |---- 2 × 57 ----|-- 3 × 44 --|------ 1 × 256 ------|
    groups   (2, 57, 55)       (3, 44, 39)   (1, 256, 0)

The third number is where the first prediction is made: a network's last block needs queries only from there on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from gato.sequences.store import Store
from gato.tokens.patches import PatchTable, mean_index, sampled_index
from gato.tokens.timestep import IMAGE, TEXT


@dataclass(frozen=True)
class Segment:
    """Token rows of one store that attend to each other: an optional prompt, then the window."""

    store: int
    spans: tuple[tuple[int, int], ...]
    masked: int = 0  # of the first so many tokens no loss is taken (a prompt without loss)
    seed: int | None = None  # from which its patch positions are drawn, as in training; None for the evaluation means

    def __len__(self) -> int:
        return sum(end - begin for begin, end in self.spans)


@dataclass
class Batch:
    ids: torch.Tensor  # int64 (N,)
    positions: torch.Tensor  # int64 (N,): local position, or NO_POSITION or ACTION_POSITION
    blank: torch.Tensor | None  # bool (N,): action inputs hidden, so that all action tokens come from one pass
    image_rows: torch.Tensor  # int64 (I,) which tokens are patches
    image_index: torch.Tensor  # int64 (I,) which of `patches` each is
    image_places: torch.Tensor  # int64 (I, 2) row and column position
    patches: torch.Tensor  # uint8 (U, 768), every different patch once
    groups: tuple[tuple[int, int, int], ...]  # (segments, length, first query)
    queries: (
        torch.Tensor
    )  # int64 (M,) rows, counted over the groups' tokens from `first query` on, that predict a target
    targets: torch.Tensor  # int64 (M,) the ids to predict
    stores: torch.Tensor  # int64 (M,) which store each target is from
    kinds: torch.Tensor  # uint8 (M,) kind of each target
    num_tokens: int  # without padding
    observed: torch.Tensor | None = None  # bool (M,) targets that are values of an observation (the paper has none)

    def to(self, device: torch.device | str) -> Batch:
        if str(device) == "cpu":
            return self
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device, non_blocking=True) for k, v in values.items() if isinstance(v, torch.Tensor)}
        return Batch(**{**values, **moved})

    @property
    def padding(self) -> float:
        return 1.0 - self.num_tokens / max(1, len(self.ids))


def collate(
    segments: Sequence[Segment],
    stores: Sequence[Store],
    *,
    parallel_actions: bool = False,
    round_to: int = 1,
) -> Batch:
    """Segments → Batch. What a segment holds does not depend on which others are collated with it.

    The numbers of tokens, of tokens from the first queries on and of patches are made multiples of `round_to` with
    tokens and patches that nothing looks at: no two steps of a training have as many, and sizes that come back find a
    product's kernel made and memory that fits.
    """
    groups = _group(segments, stores)
    n = sum(len(members) * length for members, length in groups)
    ids, positions = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    kinds, patches = np.zeros(n, np.uint8), np.full(n, -1, np.int64)
    goal, graded, store_of = np.zeros(n, bool), np.ones(n, bool), np.zeros(n, np.int64)
    places = np.zeros((n, 2), np.int64)
    at, num_tokens = 0, 0
    tables: dict[int, int] = {}  # patch table → offset in one numbering of all patches
    table_list: list[PatchTable] = []
    num_patches = 0
    for members, length in groups:
        for segment in members:
            store = stores[segment.store]
            tokens, row = store.tokens, at
            key = id(tokens.table)
            if key not in tables:
                tables[key] = num_patches
                table_list.append(tokens.table)
                num_patches += len(tokens.table)
            rng = None if segment.seed is None else np.random.default_rng(segment.seed)
            for begin, end in segment.spans:
                to = row + end - begin
                ids[row:to], kinds[row:to] = tokens.ids[begin:end], tokens.kinds[begin:end]
                positions[row:to], goal[row:to] = tokens.positions[begin:end], tokens.targets[begin:end]
                if (tokens.kinds[begin:end] == IMAGE).any():
                    patches[row:to] = tokens.patches[begin:end] + tables[key]
                    boxes = tokens.boxes[begin:end]
                    places[row:to] = mean_index(boxes) if rng is None else sampled_index(boxes, rng)
                row = to
            graded[at : at + max(1, segment.masked)] = False  # nothing before the first predicts it
            store_of[at:row] = segment.store
            num_tokens += row - at
            at += length

    target, observed = goal & graded, (positions >= 0) | (kinds == TEXT)
    shapes, predicts, base, suffix = [], [], 0, 0
    for members, length in groups:
        block = target[base : base + len(members) * length].reshape(len(members), length)
        ahead = np.zeros_like(block)
        ahead[:, :-1] = block[:, 1:]  # token p predicts token p + 1 of its own segment
        columns = np.flatnonzero(ahead.any(axis=0))
        first = int(columns[0]) if len(columns) else length - 1
        shapes.append((len(members), length, first))
        r, c = np.nonzero(ahead)
        predicts.append((base + r * length + c, suffix + r * (length - first) + c - first))
        base += len(members) * length
        suffix += len(members) * (length - first)
    more = 0
    for count, length in _filling(base, suffix, round_to):
        shapes.append((count, length, length - 1))
        more += count * length
    ids, positions, goal, observed = (
        np.pad(values, (0, more), constant_values=blank)
        for values, blank in ((ids, 0), (positions, -1), (goal, False), (observed, False))
    )
    rows = np.concatenate([p[0] for p in predicts]) if predicts else np.zeros(0, np.int64)
    queries = np.concatenate([p[1] for p in predicts]) if predicts else np.zeros(0, np.int64)

    image_rows = np.flatnonzero(kinds == IMAGE)
    unique, index = np.unique(patches[image_rows], return_inverse=True)
    pixels = _rows(table_list, unique)
    pixels = np.pad(pixels, ((0, -len(pixels) % round_to), (0, 0)))
    return Batch(
        torch.from_numpy(ids), torch.from_numpy(positions),
        torch.from_numpy(goal & ~observed) if parallel_actions else None,
        torch.from_numpy(image_rows), torch.from_numpy(index.reshape(-1)), torch.from_numpy(places[image_rows]),
        torch.from_numpy(pixels), tuple(shapes), torch.from_numpy(queries),
        torch.from_numpy(ids[rows + 1]), torch.from_numpy(store_of[rows]), torch.from_numpy(kinds[rows + 1]), num_tokens,
        torch.from_numpy((positions[rows + 1] >= 0) & (kinds[rows + 1] != TEXT)),
    )  # fmt: skip


def _group(segments: Sequence[Segment], stores: Sequence[Store]) -> list[tuple[list[Segment], int]]:
    """Segments of one domain and nearly one length together: a new group begins where padding would pass a tenth."""
    order = sorted(segments, key=lambda s: (stores[s.store].domain, -len(s)))
    groups: list[tuple[list[Segment], int]] = []
    domain = None
    for segment in order:
        length = len(segment)
        here = stores[segment.store].domain
        if not groups or here != domain or length < groups[-1][1] - max(1, groups[-1][1] // 12):
            groups.append(([], length))
        groups[-1][0].append(segment)
        domain = here
    return groups


def _filling(tokens: int, queries: int, to: int) -> list[tuple[int, int]]:
    """Segments (count, length) with which both numbers are multiples of `to`: pairs, whose second token is a query, bring
    the two as far from a multiple as each other, lone tokens do the rest."""
    pairs = (queries - tokens) % to
    return [(count, length) for count, length in ((pairs, 2), (-(queries + pairs) % to, 1)) if count]


def _rows(tables: list, unique: np.ndarray) -> np.ndarray:
    """The patches numbered `unique` (ascending) over all tables, uint8 (U, 768)."""
    offsets = np.cumsum([0, *(len(table) for table in tables)])
    ends = np.searchsorted(unique, offsets)
    out = [np.zeros((0, 768), np.uint8)]
    for table, offset, begin, end in zip(tables, offsets[:-1], ends[:-1], ends[1:], strict=True):
        if begin < end:
            out.append(table.rows[unique[begin:end] - offset])
    return np.concatenate(out)
