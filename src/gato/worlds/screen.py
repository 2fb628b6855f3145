"""Screens made small: Pillow's box filter to the bit, first along the lines, to half the width, then across them.

Consoles draw some things in every other frame only, so a picture is of the last two screens: of each byte the larger (Mnih et
al. 2015). In C (`screen.c`) it takes an eighth of what it takes in Pillow, where it was half of what the emulator needs for the
whole step.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from gato import compiled


def small(screen: np.ndarray, before: np.ndarray, height: int) -> np.ndarray:
    """The picture, uint8 (height, width / 2, 3), of screens, uint8 (lines, width, 3), at most 170 wide; one screen is given twice."""
    into_picture, _ = load()
    if into_picture is None:
        return by_pillow(screen, before, height)
    lines, width = screen.shape[:2]
    screen, before = np.ascontiguousarray(screen), np.ascontiguousarray(before)
    picture = np.empty((height, width // 2, 3), np.uint8)
    rows = _rows(lines, height)
    into_picture(screen.ctypes.data, before.ctypes.data, rows.ctypes.data, height, width // 2, picture.ctypes.data)
    return picture


def by_pillow(screen: np.ndarray, before: np.ndarray, height: int) -> np.ndarray:
    """The same without a compiler. Two calls, for which of the two ways one call takes first depends on the shape."""
    halved = Image.fromarray(np.maximum(screen, before)).reduce((2, 1))
    return np.array(halved.resize((screen.shape[1] // 2, height), Image.Resampling.BOX))


@functools.cache
def _rows(lines: int, height: int) -> np.ndarray:
    """int32 (height + 1,): the first line of each row of the picture, and what is behind the last. Pillow's windows."""
    scale = lines / height
    return np.array([int((y + 0.5) * scale - 0.5 * scale + 0.5) for y in range(height)] + [lines], np.int32)


@functools.cache
def load() -> tuple[Callable[..., None] | None, str]:
    """(the compiled function, where it is), or (None, why there is none)."""
    library, told = compiled.library("gato.worlds", "screen.c")
    if library is None:
        return None, told
    at, number = ctypes.c_void_p, ctypes.c_int
    library.gato_picture.restype, library.gato_picture.argtypes = None, (at, at, at, number, number, at)
    return library.gato_picture, told
