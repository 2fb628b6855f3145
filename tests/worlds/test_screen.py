"""Screens made small, in C and without a compiler, beside Pillow's own filter."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gato.worlds import screen


@pytest.mark.parametrize("in_c", [True, False])
@pytest.mark.parametrize("lines", [210, 250, 120])  # two kinds of console, and Doom
def test_it_is_pillows_box_filter_of_the_brighter_of_two(lines, in_c, monkeypatch):
    if in_c and screen.load()[0] is None:
        pytest.skip(screen.load()[1])
    if not in_c:
        monkeypatch.setattr(screen, "load", lambda: (None, "not wanted"))
    rng = np.random.default_rng(lines)
    for top in (256, 2, 5):
        a, b = rng.integers(0, top, (2, lines, 160, 3), np.uint8)
        for before in (a, b, b[::-1]):
            halved = Image.fromarray(np.maximum(a, before)).resize((80, lines), Image.Resampling.BOX)
            expected = halved.resize((80, 64), Image.Resampling.BOX)
            assert np.array_equal(screen.small(a, before, 64), np.array(expected))
