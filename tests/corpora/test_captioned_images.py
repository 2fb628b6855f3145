"""Captioned images: right pixels, right caption, and no image can hurt."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gato.corpora import caption_spec
from gato.corpora.images import captioned_images
from gato.errors import DataError, UnknownNameError, UsageError

SPEC = caption_spec(32, 48)


@pytest.fixture
def folder(tmp_path):
    """Three pictures of one colour each, as RGB, grey with alpha, and without loss."""
    Image.new("RGB", (200, 100), (255, 0, 0)).save(tmp_path / "red.jpg", quality=95)
    Image.new("LA", (48, 32), (128, 255)).save(tmp_path / "grey.png")
    Image.fromarray(np.tile(np.array([0, 0, 255], np.uint8), (500, 20, 1))).save(tmp_path / "blue.webp", lossless=True)
    write_captions(tmp_path, [("red.jpg", "a red field"), ("grey.png", "fog"), ("blue.webp", "the sea")])
    return tmp_path


def write_captions(folder, pairs):
    lines = [json.dumps({"image": name, "caption": caption}) for name, caption in pairs]
    (folder / "captions.jsonl").write_text("\n".join(lines))


def read(folder, **options):
    return list(captioned_images(folder, size=(32, 48), **options))


def test_images_and_captions_stay_together_in_order(folder):
    episodes = [e.check(SPEC) for e in read(folder)]
    assert [e.observations["text"] for e in episodes] == [["a red field"], ["fog"], ["the sea"]]
    for episode, colour in zip(episodes, ((255, 0, 0), (128, 128, 128), (0, 0, 255)), strict=True):
        image = episode.observations["image"]
        assert image.shape == (1, 32, 48, 3) and image.dtype == np.uint8
        assert np.abs(image.astype(int) - colour).max() <= 3


@pytest.mark.parametrize("name, order", [("deep.png", "<u2"), ("deep.tif", "<u2"), ("deep.tif", ">u2")])
def test_sixteen_bits_become_eight(tmp_path, name, order):
    shades = np.repeat(np.linspace(0, 65535, 48).astype(order)[None], 32, 0)
    Image.fromarray(shades).save(tmp_path / name)
    with Image.open(tmp_path / name) as stored:
        assert stored.mode.startswith("I;16")
    write_captions(tmp_path, [(name, "from black to white")])
    [episode] = read(tmp_path)
    image = episode.check(SPEC).observations["image"][0]
    assert np.abs(image - np.linspace(0, 255, 48)[None, :, None]).max() <= 1


@pytest.mark.parametrize("name, kind", [("long.tif", np.int32), ("real.tif", np.float32), ("deep.pgm", np.uint16)])
def test_values_of_which_none_is_white_are_refused(tmp_path, name, kind):
    Image.fromarray(np.full((32, 48), 1000, kind)).save(tmp_path / name)
    write_captions(tmp_path, [(name, "fog")])
    with pytest.raises(DataError, match=rf"does not say what is white \[.* line 1: .*{name}\]") as said:
        read(tmp_path)
    assert "PNG" in said.value.fix


def test_photographs_are_turned_upright(tmp_path):
    picture = Image.new("RGB", (48, 32))
    picture.paste((255, 255, 255), (0, 0, 48, 16))  # white above, black below; the camera was held upside down
    exif = Image.Exif()
    exif[0x0112] = 3
    picture.save(tmp_path / "turned.jpg", exif=exif)
    write_captions(tmp_path, [("turned.jpg", "a horizon")])
    image = read(tmp_path)[0].observations["image"][0]
    assert image[:12].mean() < 10 and image[20:].mean() > 245


def test_splits_are_disjoint_and_complete(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    for i in range(1, 80):
        (tmp_path / f"{i}.png").write_bytes((tmp_path / "0.png").read_bytes())
    write_captions(tmp_path, [(f"{i}.png", f"number {i}") for i in range(80)])
    train, heldout = ([e.observations["text"][0] for e in read(tmp_path, split=s)] for s in ("train", "heldout"))
    assert not set(train) & set(heldout) and len(train) + len(heldout) == 80 and heldout


def png_header(width: int, height: int) -> bytes:
    """A valid PNG of a few bytes that claims a size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])  # beyond our limit, Pillow's warning, and Pillow's own limit
def test_decompression_bombs_are_refused_by_their_header(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    write_captions(tmp_path, [("bomb.png", "boom")])
    with pytest.raises(DataError, match=r"line 1: .*bomb\.png") as said:
        read(tmp_path)
    assert "claims" in said.value.what


def test_damaged_images_are_named_whatever_is_damaged(folder):
    rng = np.random.default_rng(0)
    for name in ("red.jpg", "grey.png", "blue.webp"):
        write_captions(folder, [(name, "damaged")])
        whole = (folder / name).read_bytes()
        for content in (b"", b"GIF89a", whole[:20], whole[: len(whole) // 2]):
            (folder / name).write_bytes(content)
            with pytest.raises(DataError, match=name):
                read(folder)
        for _ in range(60):  # flipped bits: an image or a named error, never anything else
            damaged = bytearray(whole)
            for place in rng.integers(len(whole), size=3):
                damaged[place] ^= 1 << int(rng.integers(8))
            (folder / name).write_bytes(damaged)
            try:
                assert read(folder)[0].check(SPEC)
            except DataError as error:
                assert name in error.where


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"image": "gone.png", "caption": "x"}', r"gone\.png"),
        ('{"image": "../secret.png", "caption": "x"}', "outside the folder"),
        ('{"image": "/etc/hostname", "caption": "x"}', "outside the folder"),
        ('{"image": "red.jpg"}', "line 1"),
        ('{"image": "red.jpg", "caption": "  "}', "line 1"),
        ('{"image": "red.jpg", "caption": "\\udc00"}', "not Unicode"),
        ("red.jpg, a red field", "line 1"),
    ],
)
def test_bad_lines_are_named(folder, line, said):
    (folder / "captions.jsonl").write_text(line)
    with pytest.raises(DataError, match=said):
        read(folder)


def test_bad_sizes_and_folders_are_named(folder):
    with pytest.raises(UsageError, match="take 96 × 64"):
        next(captioned_images(folder, size=(100, 60)))
    with pytest.raises(UnknownNameError, match=r"captions\.jsonl"):
        read(folder / "nowhere")
