"""What a person shows: a picture or a clip in any of the forms people have, as the arrays the network was trained on.

"cat.png", a PIL image, uint8 (height, width, 3)                              a picture
"pour.mp4", a folder of frames, (frames, height, width, 3), a list of pictures    a clip
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gato.corpora.clips import SUFFIXES as FILMS
from gato.corpora.clips import evenly, sample_film
from gato.corpora.images import read_image
from gato.errors import DataError, UnknownNameError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".ppm", ".tif", ".tiff")


def is_clip(shown: Any) -> bool:
    """Whether this is several pictures: a film, a folder, a list, or an array of rank 4."""
    if isinstance(shown, str | Path):
        return os.path.isdir(shown) or Path(shown).suffix.lower() in FILMS
    return isinstance(shown, list | tuple) or (isinstance(shown, np.ndarray) and shown.ndim == 4)


def picture(shown: Any, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3); of a clip its last picture."""
    if is_clip(shown):
        return clip(shown, 2, height, width)[-1]
    if isinstance(shown, str | Path):
        return read_image(Path(shown), (height, width))
    image = shown if isinstance(shown, Image.Image) else _image(np.asarray(shown))
    image = image.convert("RGB")
    return np.asarray(
        image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
    )


def _image(pixels: np.ndarray) -> Image.Image:
    channels = pixels.shape[-1] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or not pixels.size:
        said = f"an array of {pixels.dtype} {pixels.shape} is no picture"
        raise DataError(said, fix="uint8 (height, width, 3), a PIL image, or a file")
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and channels == 1 else pixels)


def clip(shown: Any, frames: int, height: int, width: int) -> np.ndarray:
    """uint8 (frames, height, width, 3), from all over the clip; a picture stands still. Raises DataError for none."""
    if not is_clip(shown):
        return np.repeat(picture(shown, height, width)[None], frames, axis=0)
    if isinstance(shown, str | Path) and not os.path.isdir(shown):
        return sample_film(Path(shown), frames, (height, width))
    parts: Any = frames_in(Path(shown)) if isinstance(shown, str | Path) else shown
    if not len(parts):
        raise DataError("a clip without pictures", fix="at least one")
    chosen = evenly(np.arange(len(parts)), frames)
    return np.stack([picture(parts[i], height, width) for i in chosen])


def frames_in(folder: Path) -> list[Path]:
    """The pictures of a folder, in name order (9.png before 10.png). Raises DataError where there are none."""
    found = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES]
    if not found:
        raise DataError("no pictures in this folder", where=str(folder), fix=f"files that end in {', '.join(PICTURES)}")
    return sorted(found, key=lambda file: [int(p) if p.isdigit() else p for p in _split_numbers(file.name)])


def _split_numbers(name: str) -> list[str]:
    out = [""]
    for character in name:
        if character.isdigit() != (out[-1] or character)[-1].isdigit():
            out.append("")
        out[-1] += character
    return out if not out[0].isdigit() else ["", *out]  # names and numbers alternate, so that they compare


def shown_in(paths: list[Path], *, clips: bool = False) -> Iterator[Path]:
    """Files that are named, and of folders every picture and film below them, in name order; with `clips` a folder is one
    clip. Raises UnknownNameError for what is not there, DataError for a folder without any."""
    for path in paths:
        if not os.path.exists(path):  # not Path.exists, which raises for a name that is too long
            raise UnknownNameError("no such file or folder", where=str(path), fix="check the path")
        if not path.is_dir() or clips:
            yield path
            continue
        found = sorted(f for f in path.rglob("*") if f.is_file() and f.suffix.lower() in (*PICTURES, *FILMS))
        if not found:
            raise DataError("no pictures or films below this folder", where=str(path), fix="another folder")
        yield from found
