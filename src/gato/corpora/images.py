"""Captioned images: a folder of pictures and a file of captions become Episodes.

photos/cat.jpg
photos/captions.jsonl     {"image": "cat.jpg", "caption": "a cat asleep on a piano"}
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gato.corpora import Split, captioned, check_split, split_of
from gato.corpora.text import check_unicode, json_lines
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
    if any(side < PATCH or side % PATCH for side in size):
        nearest = " × ".join(str(max(PATCH, round(side / PATCH) * PATCH)) for side in size)
        raise UsageError(
            f"images of {size[0]} × {size[1]} pixels are not whole patches of {PATCH}", fix=f"take {nearest}"
        )
    folder = Path(folder)
    listing = folder / captions
    if not listing.is_file():
        raise UnknownNameError(
            "no captions file", where=str(listing), fix='write lines {"image": path, "caption": text}'
        )
    for n, record in json_lines(listing):
        where = f"{listing} line {n}"
        name, caption = record.get("image"), record.get("caption")
        if not isinstance(name, str) or not isinstance(caption, str) or not caption.strip():
            raise DataError(
                "a record without an image and a caption", where=where, fix='{"image": path, "caption": text}'
            )
        check_unicode(caption, where)
        if split is None or split_of(name) == split:
            image = read_image(_inside(folder, name, where), size, where)
            yield captioned(task, image, caption, {"document": name, "split": split_of(name)})


def read_image(file: Path, size: tuple[int, int], where: str = "") -> np.ndarray:
    """uint8 (height, width, 3), upright and resized whole (nothing is cut off, so proportions may change).

    Raises DataError for what is no image, is cut short, or claims more than 50 million pixels (known from its header,
    before anything is decoded).
    """
    place = f"{where}: {file}" if where else str(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit, below, is stricter
            with Image.open(file, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise _too_large(f"{picture.width:,} × {picture.height:,} pixels", place)
                picture.draft("RGB", (2 * size[1], 2 * size[0]))  # JPEGs decode at a fraction of their size
                upright = ImageOps.exif_transpose(picture).convert("RGB")
                return np.asarray(upright.resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0))
    except FileNotFoundError as error:
        raise DataError("no such image", where=place, fix="mend or drop this line") from error
    except Image.DecompressionBombError as error:
        raise _too_large("more pixels than any picture", place) from error
    except DataError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise DataError(f"not a readable image: {error}", where=place, fix="mend or drop this line") from error


def _too_large(claim: str, place: str) -> DataError:
    return DataError(
        f"the image claims {claim}; at most {MAX_PIXELS:,} are read", where=place, fix="make it smaller first"
    )


def _inside(folder: Path, name: str, where: str) -> Path:
    """The file called `name` in `folder`, never one outside it."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise DataError(f"{name!r} lies outside the folder", where=where, fix="keep the images below the folder")
    return file
