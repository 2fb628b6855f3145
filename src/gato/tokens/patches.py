"""Images: 16×16 patches in raster order, and the interval of rows and columns that each one covers (appendix C.3).

An 80 wide × 64 high image has 5 columns × 4 rows = 20 patches; row bounds quantise to 0, 32, 64, 96, 128 and column
bounds to 0, 26, 51, 77, 102, 128. In training the index is drawn from the half-open interval; in evaluation it is the
mean, rounded half to even: patch (row 1, column 2) has rows [32, 64) → 48, columns [51, 77) → 64.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

PATCH = 16
DISCRETIZE_DEPTH = 128


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches after the image is resized to the nearest multiple of 16 (at least one)."""
    return max(1, round(height / PATCH)), max(1, round(width / PATCH))


def frames(images: np.ndarray) -> np.ndarray:
    """uint8 (T, height, width, C) → (T or 4T, height, width, 3). One channel is grey, and repeated; four are four grey frames, the
    stack that emulators are usually wrapped to give."""
    t, height, width, channels = images.shape
    if channels == 4:
        images = np.moveaxis(images, -1, 1).reshape(t * channels, height, width, 1)
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def cut(images: np.ndarray) -> np.ndarray:
    """uint8 (T, height, width, C) → (frames, rows · columns, 16, 16, 3)."""
    images = frames(images)
    t, height, width, _ = images.shape
    rows, columns = grid(height, width)
    if (height, width) != (rows * PATCH, columns * PATCH):
        size = (columns * PATCH, rows * PATCH)
        whole = np.empty((t, rows * PATCH, columns * PATCH, 3), np.uint8)
        for number, frame in enumerate(images):
            whole[number] = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
        images = whole
    patches = images.reshape(t, rows, PATCH, columns, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(patches).reshape(t, rows * columns, PATCH, PATCH, 3)


def boxes(height: int, width: int) -> np.ndarray:
    """Quantised intervals of each patch, uint8 (patches, 4): row from, row to, column from, column to."""
    rows, columns = grid(height, width)
    row = np.rint(np.arange(rows + 1) / rows * DISCRETIZE_DEPTH).astype(np.uint8)
    column = np.rint(np.arange(columns + 1) / columns * DISCRETIZE_DEPTH).astype(np.uint8)
    r, c = (index.ravel() for index in np.indices((rows, columns)))
    return np.stack([row[r], row[r + 1], column[c], column[c + 1]], axis=1)


def mean_index(box: np.ndarray) -> np.ndarray:
    """Evaluation positions (…, 2) of boxes (…, 4): the interval's mean, rounded half to even, at most 127."""
    box = np.asarray(box, np.float64)
    mean = np.stack([(box[..., 0] + box[..., 1]) / 2, (box[..., 2] + box[..., 3]) / 2], axis=-1)
    return np.minimum(np.rint(mean), DISCRETIZE_DEPTH - 1).astype(np.int64)


def sampled_index(box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Training positions (…, 2): uniform over the half-open interval, at most 127."""
    box = np.asarray(box, np.int64)
    low, high = box[..., 0::2], np.maximum(box[..., 1::2], box[..., 0::2] + 1)
    return np.minimum(rng.integers(low, high), DISCRETIZE_DEPTH - 1)


class PatchTable:
    """Every different patch once: uint8 (U, 768). Simulators repeat themselves (a Sokoban room knows seven patches),
    and an embedding depends on the patch alone, so both memory and work are per different patch."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._multiplier = self._draw_multiplier()
        self._index: dict[int, int] = {}  # hash → row
        self._size = 0
        self._chunks: list[np.ndarray] = []
        self._rows = np.zeros((0, PATCH * PATCH * 3), np.uint8)

    @classmethod
    def of(cls, rows: np.ndarray) -> PatchTable:
        """A table that is complete: uint8 (U, 768), as they were in another."""
        table = cls()
        table._rows, table._size = rows, len(rows)
        return table

    def clear(self) -> None:
        """Begin again at row 0."""
        self._index, self._size, self._chunks = {}, 0, []
        self._rows = np.zeros((0, PATCH * PATCH * 3), np.uint8)

    def __len__(self) -> int:
        return self._size

    def add(self, patches: np.ndarray) -> np.ndarray:
        """uint8 (…, 16, 16, 3) → int32 (…) rows of the table."""
        shape = patches.shape[:-3]
        flat = np.ascontiguousarray(patches).reshape(-1, PATCH * PATCH * 3)
        index = self._find(flat)
        while not np.array_equal(self.rows[index], flat):  # two different patches with one 64-bit hash: hash anew
            self._multiplier = self._draw_multiplier()
            self._index = {value: row for row, value in enumerate(self._hash(self.rows).tolist())}
            index = self._find(flat)
        return index.reshape(shape)

    def _find(self, flat: np.ndarray) -> np.ndarray:
        """Rows of patches (n, 768), by hash; new ones are appended. int32 (n,)"""
        unique, first, inverse = np.unique(self._hash(flat), return_index=True, return_inverse=True)
        rows = np.empty(len(unique), np.int32)
        for k, value in enumerate(unique.tolist()):
            row = self._index.get(value)
            if row is None:
                row = self._index[value] = self._size
                self._chunks.append(flat[first[k]].copy())
                self._size += 1
            rows[k] = row
        return rows[inverse]

    def _hash(self, flat: np.ndarray) -> np.ndarray:
        words = flat.view(np.uint64)
        return ((words ^ (words >> np.uint64(29))) * self._multiplier).sum(axis=1, dtype=np.uint64)

    def _draw_multiplier(self) -> np.ndarray:
        return self._rng.integers(1, 2**63, PATCH * PATCH * 3 // 8, dtype=np.uint64) | np.uint64(1)

    @property
    def rows(self) -> np.ndarray:
        if self._chunks:
            self._rows = np.concatenate([self._rows, np.stack(self._chunks)])
            self._chunks = []
        return self._rows
