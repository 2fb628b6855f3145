"""Screens made small: Pillow's box filter to the bit, first along the lines, to half the width, then across them.

Consoles draw some things in every other frame only, so a picture is of the last two screens: of each byte the larger (Mnih et
al. 2015). In C (`screen.c`) it takes a tenth of what it takes in Pillow, where it was half of what the emulator needs for the
whole step. An emulator's own screen has numbers of colours, a third of the bytes, which it hands out in a microsecond where the
colours take it twenty: `Palette` learns what they mean.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from PIL import Image

from gato import compiled


def small(screen: np.ndarray, before: np.ndarray, height: int) -> np.ndarray:
    """The picture, uint8 (height, width / 2, 3), of screens, uint8 (lines, width, 3), at most 256 wide; one screen is given twice."""
    library, _ = load()
    if library is None:
        return by_pillow(screen, before, height)
    screen, before = np.ascontiguousarray(screen), np.ascontiguousarray(before)
    lines, width = screen.shape[:2]
    picture, rows = np.empty((height, width // 2, 3), np.uint8), _rows(lines, height)
    library.gato_picture(_at(screen), _at(before), _at(rows), height, width // 2, _at(picture))
    return picture


class Palette:
    """Colours by their numbers, as far as they were shown: `colours`, uint8 (256, 4), red, green, blue and 255 where known."""

    def __init__(self) -> None:
        self.colours = np.zeros((256, 4), np.uint8)

    def knows(self, screen: np.ndarray, like: np.ndarray) -> bool:
        """Whether it has all colours of a screen, uint8 (lines, width); it has all those of `like`, which is compared first."""
        library, _ = load()
        if library is None:
            return bool(self.colours[screen, 3].all())
        return bool(library.gato_known(_at(screen), _at(like), _at(self.colours), *screen.shape))

    def learn(self, screen: np.ndarray, shown: np.ndarray) -> None:
        """That a screen of numbers, uint8 (lines, width), is seen as `shown`, uint8 (lines, width, 3)."""
        self.colours[screen, :3], self.colours[screen, 3] = shown, 255

    def shown(self, screen: np.ndarray) -> np.ndarray:
        """uint8 (lines, width, 3)."""
        return self.colours[screen, :3]

    def small(self, screen: np.ndarray, before: np.ndarray, height: int) -> np.ndarray:
        """`small` of two screens of numbers, uint8 (lines, width), whose colours it knows."""
        library, _ = load()
        if library is None:
            return by_pillow(self.shown(screen), self.shown(before), height)
        lines, width = screen.shape
        picture, rows = np.empty((height, width // 2, 3), np.uint8), _rows(lines, height)
        library.gato_picture_by_palette(
            _at(screen), _at(before), _at(self.colours), _at(rows), height, width // 2, _at(picture)
        )
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


def _at(array: np.ndarray) -> int:
    """Its address; a third of what `array.ctypes.data` takes. Raises TypeError where it is not in one piece or may not be written."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array.data))


@functools.cache
def load() -> tuple[Any, str]:
    """(the compiled library, where it is), or (None, why there is none)."""
    library, told = compiled.library("gato.worlds", "screen.c")
    if library is not None:
        at, number = ctypes.c_void_p, ctypes.c_int
        library.gato_picture.argtypes = (at, at, at, number, number, at)
        library.gato_picture_by_palette.argtypes = (at, at, at, at, number, number, at)
        library.gato_known.argtypes = (at, at, at, number, number)
        library.gato_picture.restype = library.gato_picture_by_palette.restype = None
    return library, told
