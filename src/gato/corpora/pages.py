"""Interleaved pages, texts and images in the order of a web page, become Episodes of one timestep per image.

    Obelics   data/train-00000-of-01335.parquet   images: [address or null, …], texts: [text or null, …], aligned
    Mmc4      docs_no_face_shard_0_v2.jsonl[.zip] text_list: [sentence, …], image_info: [{image_name, matched_text_index}, …]
    Bild      00000.parquet                       Text with marks ###img###0###, Imgs: {mark: address}

These corpora hold addresses, not images; nothing is downloaded here. Images are looked for in a folder: MMC4's under
their `image_name`, the others under the MD5 of their address (`local_names`). Columns with the images themselves, as in
{"bytes": …}, are read as well. With `on_bad="skip"` a missing image is left out of its page, and counted; the page stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gato.corpora import page, page_spec, split_of
from gato.corpora.images import check_size, read_image
from gato.corpora.pairs import find_image, local_names
from gato.corpora.reading import SKIP_FIX, Place, Reader, check_unicode, find_files, json_lines, parquet_rows
from gato.episodes import Episode
from gato.errors import DataError

MAX_IMAGES = 64  # of a page; what follows the last of them goes with it


class Pages(Reader):
    """What all readers of pages share: the size of images and the folder they are in (default: images/ beside the file)."""

    def __init__(
        self,
        files: Sequence[Path],
        *,
        size: tuple[int, int],
        images: Path | None = None,
        task: str,
        between: str = "\n\n",
        **options: Any,
    ):
        super().__init__(files, **options)
        self.size, self.task, self._between, self._images = check_size(size), task, between, images
        self.spec = page_spec(*size)

    def _folders(self, file: Path) -> list[Path]:
        """Where the images of `file` may be."""
        if self._images is not None:
            return [self._images]
        return [f for f in (file.parent / "images", file.parent.parent / "images") if f.is_dir()]

    def _page(
        self, name: str, parts: Sequence[str | list[str] | bytes], folders: list[Path], where: str
    ) -> Episode | None:
        """A page of texts, images (a file's bytes) and images on disk (a list of names, any of which will do)."""
        if self.split is not None and split_of(name) != self.split:
            return None
        made: list[str | np.ndarray] = []
        images = 0
        for part in parts:
            if isinstance(part, str):
                if part.strip():
                    made.append(check_unicode(part.strip(), where))
                continue
            images += 1
            if images > MAX_IMAGES:
                continue
            try:
                file = part if isinstance(part, bytes) else find_image(folders, part, where)
                made.append(read_image(file, self.size, where))
            except DataError as error:
                self._bad(error)
        return page(self.task, made, self.size, {"document": name, "split": split_of(name)}, between=self._between)


class Obelics(Pages):
    """OBELICS, and what is laid out like it: `images` and `texts` of equal length, one of the two null at each place."""

    def __init__(self, path: str | Path, *, size: tuple[int, int], task: str = "pages/obelics", **options: Any):
        super().__init__(find_files(Path(path), ["*.parquet"], "Parquet files"), size=size, task=task, **options)

    def _records(self, n: int, begin: Place) -> Iterator[tuple[Place, Any]]:
        for after, row in parquet_rows(self.files[n], begin, ["images", "texts"]):
            yield after, (row, after.record - 1)

    def _episode(self, n: int, record: Any) -> Episode | None:
        row, number = record
        file = self.files[n]
        where = f"{file} record {number}"
        images, texts = row["images"], row["texts"]
        if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
            raise DataError("images and texts are not lists of one length", where=where, fix=SKIP_FIX)
        parts: list[str | list[str] | bytes] = []
        for image, text in zip(images, texts, strict=True):
            if isinstance(image, dict):  # as `datasets` stores an image: its bytes, or a path to it
                parts.append(image["bytes"] if image.get("bytes") else [str(image.get("path"))])
            elif isinstance(image, bytes):
                parts.append(image)
            elif image:
                parts.append(local_names(image))
            if isinstance(text, str):
                parts.append(text)
        return self._page(f"{file.name}#{number}", parts, self._folders(file), where)


class Mmc4(Pages):
    """MMC4: an image stands before the sentence that it is matched to. Sentences are joined by a space."""

    def __init__(self, path: str | Path, *, size: tuple[int, int], task: str = "pages/mmc4", **options: Any):
        files = find_files(Path(path), ["*.jsonl", "*.jsonl.zip", "*.jsonl.gz"], "shards of MMC4")
        super().__init__(files, size=size, task=task, between=" ", **options)

    def _records(self, n: int, begin: Place) -> Iterator[tuple[Place, Any]]:
        for after, row in json_lines(self.files[n], begin, self.max_record_bytes):
            yield after, row if isinstance(row, DataError) else (row, after)

    def _episode(self, n: int, record: Any) -> Episode | None:
        row, place = record
        file = self.files[n]
        where = f"{file} line {place.row}"
        try:
            texts = [str(text) for text in row["text_list"]]
            before: dict[int, list[str]] = {}
            for image in row["image_info"]:
                index = int(image["matched_text_index"])
                if not 0 <= index < len(texts):
                    raise ValueError(f"matched_text_index {index} of {len(texts)} sentences")
                before.setdefault(index, []).append(str(image["image_name"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # JSON can spell infinity
            raise DataError(f"not a page of MMC4: {error!r}", where=where, fix=SKIP_FIX) from error
        parts: list[str | list[str] | bytes] = []
        for i, text in enumerate(texts):
            parts += [[name] for name in before.get(i, ())]
            parts.append(text)
        # what the corpus's own script downloads for shard.jsonl lies in shard_images/
        shard = file.parent / f"{file.name.partition('.jsonl')[0]}_images"
        folders = [shard, *self._folders(file)] if self._images is None and shard.is_dir() else self._folders(file)
        return self._page(f"{file.name}#{place.record - 1}", parts, folders, where)


class Bild(Pages):
    """What the extraction of LAION's Big Interleaved Dataset writes: columns Text and Imgs.

    The project describes its interleaved form as still to come and published none, so this is the layout of the one file
    that its repository holds. Sound, film and frames are left out, since the network has no use for them.
    """

    _MARK = re.compile(r"(###[a-z]+###\d+###|###[a-z]+#\d+###)")

    def __init__(self, path: str | Path, *, size: tuple[int, int], task: str = "pages/bild", **options: Any):
        super().__init__(find_files(Path(path), ["*.parquet"], "Parquet files"), size=size, task=task, **options)

    def _records(self, n: int, begin: Place) -> Iterator[tuple[Place, Any]]:
        for after, row in parquet_rows(self.files[n], begin, ["Text", "Imgs"]):
            yield after, (row, after.record - 1)

    def _episode(self, n: int, record: Any) -> Episode | None:
        row, number = record
        file = self.files[n]
        where = f"{file} record {number}"
        try:
            addresses = json.loads(row["Imgs"])
            pieces = self._MARK.split(row["Text"])
            parts = [
                local_names(addresses[piece]) if piece.startswith("###img#") else piece
                for piece in pieces
                if piece.startswith("###img#") or not self._MARK.fullmatch(piece)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a page: {error!r}", where=where, fix=SKIP_FIX) from error
        return self._page(f"{file.name}#{number}", parts, self._folders(file), where)
