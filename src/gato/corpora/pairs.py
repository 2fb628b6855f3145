"""Image–text pairs in the layouts they are distributed in become captioned Episodes.

    CocoCaptions          annotations/captions_train2014.json beside train2014/*.jpg
    ConceptualCaptions    Train_GCC-training.tsv (caption, address) or cc12m.tsv (address, caption), images on disk
    TarPairs              00000.tar, 00001.tar, … of key.jpg, key.txt, key.json, as img2dataset writes them: LAION, DataComp

`in_fives(reader.read())` joins every five pairs to one Episode, as the paper does.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gato.corpora import caption_spec, captioned, joined, split_of
from gato.corpora.images import check_size, read_image
from gato.corpora.reading import (
    MAX_MEMBER_BYTES,
    SKIP_FIX,
    Place,
    Reader,
    check_unicode,
    find_files,
    inside,
    lines,
    naming_read_errors,
    safe_name,
    scan_json,
)
from gato.episodes import Episode
from gato.errors import DataError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


def in_fives(episodes: Iterable[tuple[Place, Episode]], pairs: int = 5) -> Iterator[tuple[Place, Episode]]:
    """Every `pairs` Episodes as one; the last may have fewer. A place is behind whole groups, so it holds no remainder."""
    group: list[Episode] = []
    after = Place()
    for after, episode in episodes:
        group.append(episode)
        if len(group) == pairs:
            yield after, joined(group)
            group = []
    if group:
        yield after, joined(group)


class Pairs(Reader):
    """What all readers of pairs share: the size of images, in pixels, and how a pair becomes an Episode."""

    def __init__(self, files: Sequence[Path], *, size: tuple[int, int], task: str, **options: Any):
        super().__init__(files, **options)
        self.size, self.task = check_size(size), task
        self.spec = caption_spec(*size)

    def _pair(self, name: str, image: Path | bytes, caption: Any, where: str) -> Episode | None:
        if self.split is not None and split_of(name) != self.split:
            return None  # before anything is decoded
        if not isinstance(caption, str) or not caption.strip():
            raise DataError("an image without a caption", where=where, fix=SKIP_FIX)
        pixels = read_image(image, self.size, where)
        info = {"document": name, "split": split_of(name)}
        return captioned(self.task, pixels, check_unicode(caption.strip(), where), info)


# -- MS-COCO ----------------------------------------------------------------------------------------------------------


class JsonTable:
    """The records of one array of a big JSON file, found by number or by id, each read from the file when asked for.

    Memory: 32 bytes a record. One without an id that is a whole number within ±2⁶³ is a DataError where it is read.
    """

    def __init__(self, file: Path, field: str, limit: int):
        """`field` holds the id; at most `limit` bytes are read of a record."""
        self.file, self._field, self._limit = file, field, limit
        self._seen, self._unnumbered = (array("q"), array("q")), array("q")  # ids and places; which have no id

    @classmethod
    def scan(cls, file: Path, wanted: dict[str, str], limit: int) -> tuple[dict[str, JsonTable], dict[str, Any]]:
        """({array: table}, everything else at the top level). `wanted` maps array names to their id field."""
        tables = {key: cls(file, field, limit) for key, field in wanted.items()}
        rest: dict[str, Any] = {}
        for key, begin, end, value in scan_json(file, limit):
            if key in tables:
                tables[key]._add(begin, end, value)
            elif not isinstance(value, dict | list):
                rest[key] = value
        for table in tables.values():
            table._sort()
        return tables, rest

    def _add(self, begin: int, end: int, value: Any) -> None:
        ids, places = self._seen
        number = value.get(self._field) if isinstance(value, dict) else None
        if not isinstance(number, int) or not -(2**63) <= number < 2**63:
            self._unnumbered.append(len(ids))
            number = 0
        ids.append(number)
        places.extend((begin, end))

    def _sort(self) -> None:
        ids, places = (np.array(part, np.int64) for part in self._seen)
        self._places = places.reshape(-1, 2)  # the first byte of a record and the one behind it
        order = np.argsort(ids, kind="stable")
        self._order = order[~np.isin(order, np.array(self._unnumbered, np.int64))]
        self._ids = ids[self._order]
        del self._seen

    def __len__(self) -> int:
        return len(self._places)

    def record(self, stream: BinaryIO, n: int) -> dict[str, Any]:
        """Record `n` in the file's order. Raises DataError for one that is too long, has no id, or is no UTF-8."""
        begin, end = self._places[n].tolist()
        if n in self._unnumbered:
            what = f"a record without a number {self._field!r} within ±2⁶³"
            raise DataError(what, where=f"{self.file} byte {begin}", fix=f"number it; {SKIP_FIX}")
        if end - begin > self._limit:
            what = f"a record of more than {self._limit:,} bytes"
            raise DataError(what, where=f"{self.file} byte {begin}", fix=f"raise max_record_bytes; {SKIP_FIX}")
        stream.seek(begin)
        try:
            return json.loads(stream.read(end - begin))
        except ValueError as error:  # the scan took bytes for characters, so wrong ones are met only here
            raise DataError(f"not UTF-8: {error}", where=f"{self.file} byte {begin}", fix=SKIP_FIX) from error

    def find(self, stream: BinaryIO, number: int) -> dict[str, Any] | None:
        """The record with this id, or None."""
        at = int(np.searchsorted(self._ids, number))
        return self.record(stream, int(self._order[at])) if at < len(self._ids) and self._ids[at] == number else None


class CocoCaptions(Pairs):
    """One Episode per annotation of captions_*.json, in the file's order; all captions of an image are in one split.

    `path` is such a file, or a folder with annotations/ in it. Images are looked for in `images`, and beside the
    annotations as MS-COCO unpacks them (train2014/…).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int],
        images: Path | None = None,
        task: str = "captions/ms-coco",
        **options: Any,
    ):
        files = find_files(Path(path), ["captions_*.json"], "annotations of captions")
        super().__init__(files, size=size, task=task, **options)
        self._images = images

    def _records(self, n: int, begin: Place) -> Iterator[tuple[Place, Any]]:
        file = self.files[n]
        with naming_read_errors(file), file.open("rb") as stream:
            keys = {"images": "id", "annotations": "image_id"}
            tables, _ = JsonTable.scan(file, keys, self.max_record_bytes)
            folders = image_folders(self._images, file, file.stem.rsplit("_", 1)[-1])
            for number in range(begin.at, len(tables["annotations"])):
                after = Place(n, number + 1, 0, number + 1)
                where = f"{file} annotation {number}"
                try:
                    said = tables["annotations"].record(stream, number)
                    shown = tables["images"].find(stream, said["image_id"])
                    if shown is None:
                        what = f"image_id {said['image_id']} is not among the images"
                        raise DataError(what, where=where, fix=SKIP_FIX)
                    yield after, (str(shown.get("file_name")), said.get("caption"), folders, where)
                except DataError as error:
                    yield after, error

    def _episode(self, n: int, record: Any) -> Episode | None:
        name, caption, folders, where = record
        return self._pair(name, find_image(folders, [name], where), caption, where)


def image_folders(images: Path | None, file: Path, subset: str) -> list[Path]:
    """Where the images of an annotation file may be: `images`, or <subset>/ beside the file's folder, or in it."""
    roots = [images] if images is not None else [file.parent.parent, file.parent]
    return [folder for root in roots for folder in (root / subset, root / "images" / subset, root) if folder.is_dir()]


def find_image(folders: Sequence[Path], names: Sequence[str], where: str) -> Path:
    """The first of these names that is a file in one of the folders. Raises DataError."""
    for folder in folders:
        for name in names:
            file = inside(folder, name, where)
            if os.path.isfile(file):  # False for a name too long for a file, where Path.is_file raises
                return file
    looked = ", ".join(map(str, folders)) or "no folder"
    raise DataError(f"no image {names[0]!r} in {looked}", where=where, fix=f"--images DIR names it; {SKIP_FIX}")


# -- Conceptual Captions ----------------------------------------------------------------------------------------------


class ConceptualCaptions(Pairs):
    """One Episode per line of the tables of Conceptual Captions (3M: caption, address; 12M: address, caption).

    The tables hold addresses; nothing is downloaded here. An image is looked for in `images` (default: the table's folder,
    and training/ or validation/ in it) under its name where the column holds one, else under the names that `local_names`
    gives to an address.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int],
        images: Path | None = None,
        task: str = "captions/conceptual-captions",
        **options: Any,
    ):
        super().__init__(find_files(Path(path), ["*.tsv"], "table of captions"), size=size, task=task, **options)
        self._images = images

    def _records(self, n: int, begin: Place) -> Iterator[tuple[Place, Any]]:
        file = self.files[n]
        root = self._images or file.parent
        folders = [root, *(root / name for name in ("training", "validation") if (root / name).is_dir())]
        for after, line in lines(file, begin, self.max_record_bytes):
            where = f"{file} line {after.row}"
            yield after, line if isinstance(line, DataError) else (line, after.record - 1, folders, where)

    def _episode(self, n: int, record: Any) -> Episode | None:
        line, number, folders, where = record
        try:
            first, second = line.decode().split("\t")
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 text ({error.reason})", where=where, fix=SKIP_FIX) from error
        except ValueError as error:
            raise DataError("not two columns with a tab between them", where=where, fix=SKIP_FIX) from error
        caption, address = (second, first) if _is_address(first) else (first, second)
        if self.split is not None and split_of(address) != self.split:
            return None
        return self._pair(address, find_image(folders, local_names(address, number), where), caption, where)


def local_names(address: str, number: int | None = None) -> list[str]:
    """Names under which the image at an address is looked for: the MD5 of the address, with any suffix or none, and what
    the usual downloader of Conceptual Captions makes, <line>_<CRC-32 of the address>. A name on disk is itself."""
    if not _is_address(address):
        return [address]
    digest = md5(address.encode(), usedforsecurity=False).hexdigest()
    own = [] if number is None else [f"{number}_{zlib.crc32(address.encode())}"]
    return [*(f"{digest}.{suffix}" for suffix in IMAGE_SUFFIXES), digest, *own]


def _is_address(text: str) -> bool:
    return re.match(r"https?://", text, re.IGNORECASE) is not None


# -- tar shards -------------------------------------------------------------------------------------------------------

BLOCK = 512  # tar is made of blocks of so many bytes


class TarPairs(Pairs):
    """One Episode per key of webdataset shards: key.jpg (.jpeg, .png, .webp) and key.txt, or `caption` in key.json.

    Files of one key follow each other, as webdataset wants them. Others (.npy, .cls, …) are passed over. Nothing is
    unpacked; a place is a byte offset, so going on costs one seek. Compressed shards are not read: unpack them first.
    """

    def __init__(self, path: str | Path, *, size: tuple[int, int], task: str = "captions/pairs", **options: Any):
        super().__init__(find_files(Path(path), ["*.tar"], "tar shards"), size=size, task=task, **options)

    def _records(self, n: int, begin: Place) -> Iterator[tuple[Place, Any]]:
        file, record, at = self.files[n], begin.record, begin.at
        held: dict[str, Any] = {}
        key: str | None = None
        with naming_read_errors(file), file.open("rb") as stream:
            try:
                for member in tar_members(stream, file, at):
                    name, suffix = split_key(member.name)
                    if key is not None and name != key:
                        record += 1
                        yield Place(n, member.at, 0, record), (key, held)
                        held = {}
                    key, at = name, member.after
                    if member.wrong is not None:
                        held["wrong"] = member.wrong
                    elif suffix in (*IMAGE_SUFFIXES, "txt", "json"):
                        limit = MAX_MEMBER_BYTES if suffix in IMAGE_SUFFIXES else self.max_record_bytes
                        held["image" if suffix in IMAGE_SUFFIXES else suffix] = member.read(stream, file, limit)
            except DataError:  # the shard ends here; the key before the damage may be whole, and is not lost
                if "image" in held and ("txt" in held or "json" in held):
                    yield Place(n, at, 0, record + 1), (key, held)
                raise
            if key is not None:
                yield Place(n + 1), (key, held)

    def _episode(self, n: int, record: Any) -> Episode | None:
        key, held = record
        where = f"{self.files[n]} {key}"
        for value in held.values():
            if isinstance(value, DataError):
                raise value
        name = f"{self.files[n].name}/{key}"
        if self.split is not None and split_of(name) != self.split:
            return None
        if "image" not in held:
            raise DataError("a key without an image", where=where, fix=SKIP_FIX)
        try:
            caption = held["txt"].decode() if "txt" in held else json.loads(held.get("json", b"{}")).get("caption")
        except (ValueError, AttributeError, RecursionError) as error:
            raise DataError(f"no readable caption: {error}", where=where, fix=SKIP_FIX) from error
        return self._pair(name, held["image"], caption, where)


def split_key(name: str) -> tuple[str, str]:
    """webdataset's rule: the key ends at the first dot of the file's own name. "a/b.seg.png" → ("a/b", "seg.png")."""
    folder, slash, own = name.rpartition("/")
    base, _, suffix = own.partition(".")
    return f"{folder}{slash}{base}", suffix.lower()


class Member(NamedTuple):
    """One file of a tar archive: its headers begin at byte `at`, what follows it at `after`."""

    name: str
    at: int
    content: int
    size: int
    after: int
    wrong: DataError | None = None

    def read(self, stream: BinaryIO, file: Path, limit: int) -> bytes | DataError:
        if self.size > limit:
            what = f"{self.name!r} has {self.size:,} bytes; at most {limit:,} are read"
            return DataError(what, where=f"{file} byte {self.at}", fix=SKIP_FIX)
        stream.seek(self.content)
        return stream.read(self.size)


def tar_members(stream: BinaryIO, file: Path, at: int = 0) -> Iterator[Member]:
    """Every file of a tar archive from byte `at` on. Raises DataError where it is damaged or cut short.

    Only the parsing of one header is `tarfile`'s: its archives take one that is cut between two files for a whole one,
    keep every header in memory, and do not say where to go on.
    """
    size = stream.seek(0, 2)
    first, long_name = at, ""
    while True:
        stream.seek(at)
        header = stream.read(BLOCK)
        place, again = f"{file} byte {at}", f"copy the archive again; {SKIP_FIX}"
        if header == bytes(BLOCK):
            return  # the end mark
        if len(header) < BLOCK:
            raise DataError("a tar archive without its end mark: cut short", where=place, fix=again)
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise DataError(f"not a tar header: {error}", where=place, fix=again) from error
        content = at + BLOCK
        at = content + -(-info.size // BLOCK) * BLOCK
        if info.size < 0 or content + info.size > size:
            raise DataError(f"{info.name!r} is cut short", where=place, fix=again)
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):  # headers that name the file behind them
            if info.size > BLOCK << 10:
                raise DataError("a name of over half a megabyte", where=place, fix=again)
            told = stream.read(info.size)
            found = _pax_path(told) if info.type == tarfile.XHDTYPE else told.rstrip(b"\0")
            long_name = found.decode("utf-8", "replace") or long_name
            continue
        name = long_name or info.name
        if info.type not in (tarfile.DIRTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            yield Member(name, first, content, info.size, at, _wrong(name, info, place))
            long_name = ""
        if info.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            first, long_name = at, ""


def _wrong(name: str, info: tarfile.TarInfo, place: str) -> DataError | None:
    """Why a member is not to be read: it leads out of the archive, or is no file."""
    try:
        safe_name(name, place)
    except DataError as error:
        return error
    return None if info.isreg() else DataError(f"{name!r} is a link or a device", where=place, fix=SKIP_FIX)


def _pax_path(records: bytes) -> bytes:
    """`path` of a header of "30 path=…\\n" records; empty where it has none."""
    while records:
        length = records.partition(b" ")[0]
        if not length.isdigit() or not 0 < int(length) <= len(records):
            return b""
        key, _, value = records[: int(length)][len(length) + 1 :].rstrip(b"\n").partition(b"=")
        if key == b"path":
            return value
        records = records[int(length) :]
    return b""
