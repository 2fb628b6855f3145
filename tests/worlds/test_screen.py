"""Screens made small, in C and without a compiler, beside Pillow's own filter."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gato.worlds import screen


@pytest.fixture(params=[True, False], ids=["C", "Pillow"], autouse=True)
def in_c(request, monkeypatch):
    if request.param and screen.load()[0] is None:
        pytest.skip(screen.load()[1])
    if not request.param:
        monkeypatch.setattr(screen, "load", lambda: (None, "not wanted"))


@pytest.mark.parametrize("lines", [210, 250, 120])  # two kinds of console, and Doom
def test_it_is_pillows_box_filter_of_the_brighter_of_two(lines):
    rng = np.random.default_rng(lines)
    for top in (256, 2, 5):
        a, b = rng.integers(0, top, (2, lines, 160, 3), np.uint8)
        for before in (a, b, b[::-1]):
            halved = Image.fromarray(np.maximum(a, before)).resize((80, lines), Image.Resampling.BOX)
            expected = halved.resize((80, 64), Image.Resampling.BOX)
            assert np.array_equal(screen.small(a, before, 64), np.array(expected))


@pytest.mark.parametrize("lines", [210, 250])
def test_numbers_of_colours_make_the_same_picture_as_the_colours(lines):
    rng = np.random.default_rng(lines)
    colours, palette = rng.integers(0, 256, (256, 3), np.uint8), screen.Palette()
    for stripes in (1, 2, 5):  # a line is often like the one above it
        a, b = rng.integers(0, 128, (2, -(-lines // stripes), 160), np.uint8).repeat(stripes, 1)[:, :lines] * 2
        b[: lines // 2] = a[: lines // 2]
        palette.learn(a, colours[a])
        palette.learn(b, colours[b])
        assert np.array_equal(palette.shown(a), colours[a])
        for screens in ((a, b), (b, a), (a, a)):
            expected = screen.by_pillow(*(colours[one] for one in screens), 64)
            assert np.array_equal(palette.small(*screens, 64), expected)


def test_a_palette_knows_what_it_was_shown():
    before = np.full((210, 160), 4, np.uint8)
    palette = screen.Palette()
    palette.learn(before, np.full((210, 160, 3), 9, np.uint8))
    assert palette.knows(before, before)
    for line, column in ((0, 0), (209, 159), (100, 80)):
        now = before.copy()
        now[line, column] = 6
        assert not palette.knows(now, before)
    palette.learn(now, np.full((210, 160, 3), 9, np.uint8))
    assert palette.knows(now, before)
    now[0] = 4
    now[1] = 6
    assert palette.knows(now, before)
