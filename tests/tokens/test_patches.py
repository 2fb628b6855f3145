"""The paper's worked example (80 wide, 64 high) and the ends of the intervals."""

import numpy as np
import pytest

from gato.tokens import patches


def test_worked_example():
    boxes = patches.boxes(64, 80)
    assert boxes.shape == (20, 4)
    assert sorted({*boxes[:, 0], *boxes[:, 1]}) == [0, 32, 64, 96, 128]
    assert sorted({*boxes[:, 2], *boxes[:, 3]}) == [0, 26, 51, 77, 102, 128]
    row1_column2 = boxes[1 * 5 + 2]
    assert row1_column2.tolist() == [32, 64, 51, 77]
    assert patches.mean_index(row1_column2).tolist() == [48, 64]
    assert patches.mean_index(boxes[1]).tolist() == [16, 38]  # (26 + 51) / 2 = 38.5, half to even


def test_sampling_is_half_open():
    box = np.tile(np.array([96, 128, 102, 128]), (20_000, 1))
    drawn = patches.sampled_index(box, np.random.default_rng(0))
    assert drawn.min(0).tolist() == [96, 102] and drawn.max(0).tolist() == [127, 127]


def test_raster_order_and_channels():
    image = np.zeros((1, 32, 48, 3), np.uint8)
    for r in range(2):
        for c in range(3):
            image[0, r * 16 : r * 16 + 16, c * 16 : c * 16 + 16] = r * 3 + c
    assert patches.cut(image)[0, :, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert patches.cut(image[..., :1]).shape == (1, 6, 16, 16, 3)
    odd = patches.cut(np.zeros((2, 40, 25, 3), np.uint8))  # nearest multiples, halves to even
    assert odd.shape == (2, 2 * 2, 16, 16, 3)
    assert patches.cut(np.zeros((0, 40, 25, 3), np.uint8)).shape == (0, 4, 16, 16, 3)


def test_four_channels_are_four_grey_frames():
    """What a frame stack gives; as colour and alpha the newest frame would be lost."""
    stack = np.arange(2 * 4, dtype=np.uint8).reshape(2, 1, 1, 4) * np.ones((2, 16, 32, 4), np.uint8)
    cut = patches.cut(stack)
    assert cut.shape == (8, 2, 16, 16, 3)
    assert cut[:, 1, 5, 5].tolist() == [[i] * 3 for i in range(8)]


def test_table_holds_every_different_patch_once():
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
    index = rng.integers(0, 7, (5, 9))
    table = patches.PatchTable()
    rows = np.concatenate([table.add(tiles[index[:2]]), table.add(tiles[index[2:]])])
    assert len(table) == len(np.unique(index))
    assert np.array_equal(table.rows[rows].reshape(5, 9, 16, 16, 3), tiles[index])


def test_rows_and_columns_of_the_worked_example():
    boxes = patches.boxes(64, 80).reshape(4, 5, 4)
    for r in range(4):
        assert (boxes[r, :, 0] == 32 * r).all() and (boxes[r, :, 1] == 32 * r + 32).all()
    for c, (low, high) in enumerate([(0, 26), (26, 51), (51, 77), (77, 102), (102, 128)]):
        assert (boxes[:, c, 2] == low).all() and (boxes[:, c, 3] == high).all()
    assert patches.mean_index(boxes[0, :, :])[:, 1].tolist() == [13, 38, 64, 90, 115]  # 38.5 → 38, 89.5 → 90


@pytest.mark.parametrize("height, width", [(16, 16), (64, 80), (128, 128), (210, 160), (4096, 32)])
def test_every_drawn_position_is_inside_its_patch(height, width):
    boxes = patches.boxes(height, width)
    rng = np.random.default_rng(0)
    drawn = np.stack([patches.sampled_index(boxes, rng) for _ in range(400)])
    low, high = boxes[:, 0::2].astype(int), boxes[:, 1::2].astype(int)
    assert (drawn >= np.minimum(low, 127)).all() and drawn.max() <= 127
    wide = high > low
    assert (drawn < high)[:, wide].all()
    if height <= 256:  # at most eight positions a patch: each of them is met
        for patch in range(len(boxes)):
            for side in range(2):
                assert set(drawn[:, patch, side]) == set(range(low[patch, side], high[patch, side])) or (
                    high[patch, side] - low[patch, side] > 40
                )
    mean = patches.mean_index(boxes)
    assert mean.min() >= 0 and mean.max() <= 127


def test_odd_sizes_keep_the_picture():
    """A left half black and a right half white stay so, whatever the size was."""
    image = np.zeros((1, 37, 50, 3), np.uint8)
    image[:, :, 25:] = 255
    cut = patches.cut(image)
    assert cut.shape == (1, 2 * 3, 16, 16, 3) == (1, np.prod(patches.grid(37, 50)), 16, 16, 3)
    left, middle, right = cut[0, 0], cut[0, 1], cut[0, 2]
    assert left.max() == 0 and right.min() == 255
    assert middle[:, :6].max() < 16 and middle[:, 10:].min() > 240


def test_two_patches_with_one_hash_are_told_apart():
    """A collision made on purpose: two words changed so that the multipliers cancel."""
    table = patches.PatchTable()
    m = table._multiplier
    mixed = np.zeros(96, np.uint64)
    mixed[0], mixed[1] = m[1], (~m[0]) + np.uint64(1)  # m[1]·m[0] - m[0]·m[1] = 0
    words = mixed.copy()
    for _ in range(3):  # undo x ^ (x >> 29)
        words = mixed ^ (words >> np.uint64(29))
    other = words.view(np.uint8).reshape(1, 16, 16, 3)
    blank = np.zeros_like(other)
    assert table._hash(other.reshape(1, -1)) == table._hash(blank.reshape(1, -1))
    for group in ([blank, other], [np.concatenate([other, blank])]):
        table = patches.PatchTable()
        rows = np.concatenate([table.add(patch) for patch in group])
        assert np.array_equal(table.rows[rows], np.concatenate(group).reshape(2, -1))
        assert table.add(blank) != table.add(other) and len(table) == len(table.rows)
