"""The picture of an Atari step: of the last two screens the brighter, byte by byte, through a box filter.

Consoles draw some things in every other frame only, hence two (Mnih et al. 2015). In C (`screen.c`) this takes an eighth of the time
that Pillow's filter takes, which was half of what the emulator takes for the step itself; the result is the same to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from gato import compiled


def picture_of(screen: np.ndarray, before: np.ndarray, height: int) -> Callable[[], np.ndarray]:
    """What gives the present picture, uint8 (height, width / 2, 3), of two screens, uint8 (lines, width, 3), that others write to.

    At most 170 pixels wide.
    """
    lines, width = screen.shape[:2]
    into_picture, _ = _load()
    if into_picture is None:
        return functools.partial(by_pillow, screen, before, height)
    # Pillow's windows: as wide as the scale, about the middle of each row of the picture.
    scale = lines / height
    rows = np.array([int((y + 0.5) * scale - 0.5 * scale + 0.5) for y in range(height)] + [lines], np.int32)
    where = (screen.ctypes.data, before.ctypes.data, rows.ctypes.data, height, width // 2)

    def picture(held: tuple[np.ndarray, ...] = (screen, before, rows)) -> np.ndarray:
        made = np.empty((height, width // 2, 3), np.uint8)
        into_picture(*where, made.ctypes.data)
        return made

    return picture


def by_pillow(screen: np.ndarray, before: np.ndarray, height: int) -> np.ndarray:
    """The same without a compiler. Halving first is part of the box filter, and has a faster way of its own."""
    halved = Image.fromarray(np.maximum(screen, before)).reduce((2, 1))
    return np.array(halved.resize((screen.shape[1] // 2, height), Image.Resampling.BOX))


@functools.cache
def _load() -> tuple[Callable[..., None] | None, str]:
    import ctypes

    library, told = compiled.library("gato.worlds", "screen.c")
    if library is None:
        return None, told
    at, number = ctypes.c_void_p, ctypes.c_int
    library.gato_picture.restype, library.gato_picture.argtypes = None, (at, at, at, number, number, at)
    return library.gato_picture, told
