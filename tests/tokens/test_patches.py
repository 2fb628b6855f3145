"""The paper's worked example (80 wide, 64 high) and the ends of the intervals."""

import numpy as np

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
    assert patches.cut(np.zeros((2, 40, 25, 4), np.uint8)).shape == (
        2,
        2 * 2,
        16,
        16,
        3,
    )  # nearest multiples, halves to even


def test_table_holds_every_different_patch_once():
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
    index = rng.integers(0, 7, (5, 9))
    table = patches.PatchTable()
    rows = np.concatenate([table.add(tiles[index[:2]]), table.add(tiles[index[2:]])])
    assert len(table) == len(np.unique(index))
    assert np.array_equal(table.rows[rows].reshape(5, 9, 16, 16, 3), tiles[index])
