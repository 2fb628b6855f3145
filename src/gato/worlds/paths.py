"""Shortest ways over a grid of free cells, for experts that know where everything is."""

from __future__ import annotations

import functools

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

NO_WAY = np.float32(np.inf)


def walking_distance(free: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Distance in cells from each cell to the nearest goal, float32; infinite where there is no way.

    `free` and `goals` are boolean (rows, columns). A step goes to one of eight neighbours, never through a corner.
    """
    if not goals.any():
        return np.full(free.shape, NO_WAY)
    return _distance(np.ascontiguousarray(free | goals).tobytes(), np.ascontiguousarray(goals).tobytes(), free.shape)


@functools.lru_cache(maxsize=64)
def _distance(free_bytes: bytes, goal_bytes: bytes, shape: tuple[int, int]) -> np.ndarray:
    free, goals = (np.frombuffer(b, bool).reshape(shape) for b in (free_bytes, goal_bytes))
    rows, columns = shape
    number = np.arange(free.size).reshape(shape)
    sources, targets, lengths = [], [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, rows - down), slice(max(0, -right), columns - max(0, right)))
        there = (slice(down, rows), slice(max(0, right), columns + min(0, right)))
        passable = free[here] & free[there]
        if down and right:
            passable &= free[here[0], there[1]] & free[there[0], here[1]]
        sources.append(number[here][passable])
        targets.append(number[there][passable])
        lengths.append(np.full(int(passable.sum()), np.hypot(down, right)))
    edges = coo_matrix((np.concatenate(lengths), (np.concatenate(sources), np.concatenate(targets))), (free.size,) * 2)
    found = dijkstra(edges.tocsr(), directed=False, indices=np.flatnonzero(goals), min_only=True)
    return found.reshape(shape).astype(np.float32)


def waypoint(free: np.ndarray, field: np.ndarray, cell: tuple[int, int], look: int = 40) -> tuple[int, int]:
    """The furthest cell on the shortest way from `cell` that can be gone to in a straight line; `cell` itself at the goal.

    `field` is what `walking_distance` gave for `free`. `look` limits how many cells of the way are considered.
    """
    way, at = [cell], cell
    rows, columns = free.shape
    for _ in range(look):
        row, column = at
        around = [
            (row + down, column + right)
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if (down or right) and 0 <= row + down < rows and 0 <= column + right < columns
        ]
        best = min(around, key=lambda c: field[c])
        if not field[best] < field[at]:
            break
        way.append(best)
        at = best
    for far in reversed(way):
        if in_sight(free, cell, far):
            return far
    return way[min(1, len(way) - 1)]


def in_sight(free: np.ndarray, one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether the straight line between two cells passes through free cells only."""
    steps = 2 * max(abs(one[0] - other[0]), abs(one[1] - other[1]), 1)
    along = np.linspace(0.0, 1.0, steps + 1)[1:]
    rows = np.rint(one[0] + along * (other[0] - one[0])).astype(int)
    columns = np.rint(one[1] + along * (other[1] - one[1])).astype(int)
    return bool(free[rows, columns].all())
