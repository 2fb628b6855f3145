"""Captioned images: a folder of pictures and a file of captions become Episodes.

photos/cat.jpg
photos/captions.jsonl     {"image": "cat.jpg", "caption": "a cat asleep on a piano"}
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gato.corpora import Split, captioned, check_split, split_of
from gato.corpora.reading import check_unicode, inside, json_lines
from gato.episodes import Episode
from gato.errors import DataError, UnknownNameError, UsageError

PATCH = 16  # pixels; an image is whole patches (paper section 2.1)
MAX_PIXELS = 50_000_000  # a file that claims more is refused before anything is decoded
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF")


def captioned_images(
    folder: str | Path,
    captions: str | Path = "captions.jsonl",
    size: tuple[int, int] = (96, 96),
    task: str = "captions/images",
    split: Split | None = None,
) -> Iterator[Episode]:
    """One Episode per line of the captions file, in its order, every image resized to `size` (height, width) in pixels.

    Raises UsageError for a size that is not whole patches, UnknownNameError for a missing folder or captions file,
    DataError (file, line) for a caption that is not text and for an image that is missing, damaged, too large, or
    outside the folder.
    """
    if split is not None:
        check_split(split)
    check_size(size)
    folder = Path(folder)
    listing = folder / captions
    if not listing.is_file():
        raise UnknownNameError(
            "no captions file", where=str(listing), fix='write lines {"image": path, "caption": text}'
        )
    for place, record in json_lines(listing):
        if isinstance(record, DataError):
            raise record
        where = f"{listing} line {place.row}"
        name, caption = record.get("image"), record.get("caption")
        if not isinstance(name, str) or not isinstance(caption, str) or not caption.strip():
            raise DataError(
                "a record without an image and a caption", where=where, fix='{"image": path, "caption": text}'
            )
        check_unicode(caption, where)
        if split is None or split_of(name) == split:
            image = read_image(inside(folder, name, where), size, where)
            yield captioned(task, image, caption, {"document": name, "split": split_of(name)})


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels, unchanged. Raises UsageError for what is not whole patches."""
    if any(side < PATCH or side % PATCH for side in size):
        nearest = " × ".join(str(max(PATCH, round(side / PATCH) * PATCH)) for side in size)
        raise UsageError(
            f"images of {size[0]} × {size[1]} pixels are not whole patches of {PATCH}", fix=f"take {nearest}"
        )
    return size


def image_tokens(size: tuple[int, int]) -> int:
    """What an image of this size costs: one token per patch."""
    return (size[0] // PATCH) * (size[1] // PATCH)


def fitting_size(images: int, window_tokens: int, text_tokens: int) -> tuple[int, int]:
    """The largest square of whole patches of which `images` fit into a window, each beside a text of `text_tokens`.

    Five in 1,024 tokens beside 36 each: 12 × 12 patches, 192 × 192 pixels. Raises UsageError where none fits.
    """
    patches = int(np.sqrt(max(0, window_tokens // images - text_tokens)))
    if not patches:
        raise UsageError(
            f"{images} images with texts of {text_tokens} tokens do not fit into a window of {window_tokens}",
            fix="fewer pairs (or frames), or a larger window_tokens",
        )
    return PATCH * patches, PATCH * patches


def read_image(file: Path | bytes, size: tuple[int, int], where: str = "") -> np.ndarray:
    """uint8 (height, width, 3), upright and resized whole (nothing is cut off, so proportions may change).

    `file` may be a file's content. Raises DataError for what is no image, is cut short, holds 32-bit values, or claims
    more than 50 million pixels (known from its header, before anything is decoded).
    """
    place = where if isinstance(file, bytes) else f"{where}: {file}" if where else str(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit, below, is stricter
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise _too_large(f"{picture.width:,} × {picture.height:,} pixels", place)
                if picture.mode in ("I", "F"):
                    what = f"an image of Pillow's mode {picture.mode}, which does not say what is white"
                    raise DataError(what, where=place, fix="save it as PNG, with 8 or 16 bits")
                picture.draft("RGB", (2 * size[1], 2 * size[0]))  # JPEGs decode at a fraction of their size
                ImageOps.exif_transpose(picture, in_place=True)  # in place, since most are upright and need no copy
                return np.asarray(_rgb(picture).resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0))
    except FileNotFoundError as error:
        raise DataError("no such image", where=place, fix="check the path") from error
    except Image.DecompressionBombError as error:
        raise _too_large("more pixels than any picture", place) from error
    except DataError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise DataError(
            f"not a readable image: {error}", where=place, fix="a PNG or JPEG that other programs show"
        ) from error


def _rgb(picture: Image.Image) -> Image.Image:
    """In three times eight bits. Pillow itself cuts 16-bit greys off at 255, so that nearly all of them are white."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _too_large(claim: str, place: str) -> DataError:
    return DataError(
        f"the image claims {claim}; at most {MAX_PIXELS:,} are read", where=place, fix="make it smaller first"
    )
