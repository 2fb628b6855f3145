"""Readers: a corpus on disk becomes Episodes one by one, never more of it in memory than one record.

    for place, episode in reader.read():            # place: four integers, where to go on
        …
    for place, episode in reader.read(place):       # another process, another day: exactly what would have come next

A reader is given its files in a fixed order and draws nothing at random, so the same files give the same episodes. What
cannot be read is a DataError that names file and line; with `on_bad="skip"` it is left out and counted, and the rest
comes in the order in which it would have come.
"""

from __future__ import annotations

import abc
import functools
import gzip
import io
import json
import lzma
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from gato.corpora import Split, check_split
from gato.episodes import Episode, TaskSpec
from gato.errors import DataError, UnknownNameError, UsageError, nearest

OnBad = Literal["error", "skip"]
MAX_RECORD_BYTES = 1 << 23  # a longer line, text or JSON object is refused; memory is bounded by it
MAX_MEMBER_BYTES = 1 << 26  # the same for a picture in an archive
COMPLAINTS = 20  # so many messages are kept of what was skipped; all are counted
BATCH_ROWS = 64  # of Parquet, decoded at once
SKIP_FIX = "mend it, or leave such records out: on_bad='skip' (--on-bad skip)"


class Place(NamedTuple):
    """Where a reader stands: behind so much. All zero is the beginning."""

    file: int = 0  # of the reader's files
    at: int = 0  # inside the file, as its format counts: bytes, row groups, record batches or annotations
    row: int = 0  # rows of that group or batch; lines, where `at` counts bytes
    record: int = 0  # records of this file, which are named by this number


class Reader(abc.ABC):
    """Episodes of some files. `skipped` counts what `on_bad="skip"` left out, `complaints` holds the first messages."""

    task: str
    spec: TaskSpec

    def __init__(
        self,
        files: Sequence[Path],
        *,
        split: Split | None = None,
        on_bad: OnBad = "error",
        max_record_bytes: int = MAX_RECORD_BYTES,
    ):
        if split is not None:
            check_split(split)
        if on_bad not in get_args(OnBad):
            raise UsageError(f"on_bad={on_bad!r}", fix=nearest(on_bad, get_args(OnBad)) or "error or skip")
        self.files, self.split, self.on_bad = list(files), split, on_bad
        self.max_record_bytes = max_record_bytes
        self.skipped = 0
        self.complaints: list[str] = []

    def read(self, start: Place = Place()) -> Iterator[tuple[Place, Episode]]:
        """(place behind it, episode) from `start` on. Raises DataError, or counts, as `on_bad` says."""
        for n in range(start.file, len(self.files)):
            begin = start if n == start.file else Place(n)
            try:
                for after, record in self._records(n, begin):
                    try:
                        if isinstance(record, DataError):
                            raise record
                        episode = self._episode(n, record)
                    except DataError as error:
                        self._bad(error)
                        continue
                    if episode is not None:
                        yield after, episode
            except DataError as error:  # nothing more of this file can be read
                self._bad(error)

    def __iter__(self) -> Iterator[Episode]:
        return (episode for _, episode in self.read())

    def _bad(self, error: DataError) -> None:
        if self.on_bad == "error":
            if SKIP_FIX not in error.fix:  # only a reader can leave out what others also stumble over
                error.fix = f"{error.fix}; {SKIP_FIX}"
            raise error
        self.skipped += 1
        if len(self.complaints) < COMPLAINTS:
            self.complaints.append(f"{error.what} [{error.where}]")

    @abc.abstractmethod
    def _records(self, n: int, begin: Place) -> Iterator[tuple[Place, Any]]:
        """(place behind it, raw record or the DataError in its stead) of file `n` from `begin` on. Raises DataError where the
        rest of the file is lost."""

    @abc.abstractmethod
    def _episode(self, n: int, record: Any) -> Episode | None:
        """A raw record as an Episode; None where it belongs to the other split or is empty. Raises DataError."""


# -- files as streams of bytes ----------------------------------------------------------------------------------------

COMPRESSED = (".gz", ".zst", ".zip")


def open_bytes(file: Path, at: int = 0) -> BinaryIO:
    """The file's content, decompressed, from byte `at` on. Compressed files are read up to there, since they cannot be
    entered in the middle. Raises DataError for an archive of several files, and for one that Python cannot unpack."""
    stream: Any
    if file.suffix == ".gz":
        stream = gzip.GzipFile(file)
    elif file.suffix == ".zst":
        stream = io.BufferedReader(pa.input_stream(str(file), compression="zstd"), 1 << 18)
    elif file.suffix == ".zip":
        try:
            archive = zipfile.ZipFile(file)
            members = [m for m in archive.namelist() if not m.endswith("/")]
            if len(members) != 1:
                raise DataError(f"{len(members)} files in the archive, expected one", where=str(file), fix="unpack it")
            safe_name(members[0], str(file))
            stream = archive.open(members[0])
        except RuntimeError as error:  # a password is wanted; NotImplementedError, also one, for an unknown compression
            fix = f"unpack it, and take the archive away; {SKIP_FIX}"
            raise DataError(f"cannot be unpacked here: {error}", where=str(file), fix=fix) from error
    else:
        stream = file.open("rb")
        stream.seek(at)
        return stream
    while at:
        got = len(stream.read(min(at, 1 << 20)))
        if not got:
            break
        at -= got
    return stream


def lines(
    file: Path, begin: Place, limit: int = MAX_RECORD_BYTES, where: str = ""
) -> Iterator[tuple[Place, bytes | DataError]]:
    """(place behind it, line without its end) for every line that is not blank. `place.row` is the line's number, from 1.

    A line of more than `limit` bytes is never held; a DataError stands in its place.
    """
    _, at, row, record = begin
    where = where or str(file)
    with naming_read_errors(file), open_bytes(file, at) as stream:
        while line := stream.readline(limit + 1):
            at, row = at + len(line), row + 1
            long = len(line) > limit and not line.endswith(b"\n")
            while long and line and not line.endswith(b"\n"):
                line = stream.readline(1 << 20)
                at += len(line)
            if long:
                record += 1
                what = f"a line of more than {limit:,} bytes"
                error = DataError(what, where=f"{where} line {row}", fix="split it, or raise max_record_bytes")
                yield Place(begin.file, at, row, record), error
            elif line.strip():
                record += 1
                yield Place(begin.file, at, row, record), line.rstrip(b"\r\n")


def json_lines(file: Path, begin: Place = Place(), limit: int = MAX_RECORD_BYTES) -> Iterator[tuple[Place, Any]]:
    """(place behind it, object or DataError) for every line that is not blank."""
    for after, line in lines(file, begin, limit):
        yield after, line if isinstance(line, DataError) else parse_object(line, f"{file} line {after.row}")


def parse_object(text: bytes, where: str) -> dict[str, Any] | DataError:
    """A JSON object, or the DataError that says why it is none."""
    try:
        value = json.loads(text.decode("utf-8-sig"))  # bytes would be taken for UTF-16 where they look like it
    except (ValueError, RecursionError) as error:
        return DataError(f"not JSON: {error}", where=where, fix="one JSON object a line, UTF-8")
    return value if isinstance(value, dict) else DataError("not a JSON object", where=where, fix="one object a line")


def check_unicode(text: str, where: str) -> str:
    """JSON can spell half a surrogate pair, which no file and no tokenizer can hold: a DataError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"not Unicode: {error.reason} at character {error.start}", where=where, fix="drop it"
        ) from error
    return text


class naming_read_errors:
    """What a file, its compression or its format raises becomes a DataError that names the file."""

    def __init__(self, file: Path):
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        known = (OSError, EOFError, pa.ArrowException, zipfile.BadZipFile, lzma.LZMAError, gzip.zlib.error)  # type: ignore[attr-defined]
        if isinstance(error, FileNotFoundError):
            raise DataError("no such file", where=str(self._file), fix="check the path") from error
        if isinstance(error, known):
            raise DataError(
                f"damaged or cut short: {error}", where=str(self._file), fix="copy the file again"
            ) from error


# -- tables -----------------------------------------------------------------------------------------------------------


def parquet_rows(file: Path, begin: Place, columns: Sequence[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """(place behind it, row) of a Parquet file, a few rows in memory at a time. `at` counts row groups."""
    with naming_read_errors(file), pq.ParquetFile(file, pre_buffer=False) as parquet:
        _check_columns(columns, parquet.schema_arrow.names, file)
        record = begin.record
        for group in range(begin.at, parquet.num_row_groups):
            first, row = begin.row if group == begin.at else 0, 0
            last = parquet.metadata.row_group(group).num_rows
            for batch in parquet.iter_batches(BATCH_ROWS, [group], list(columns), use_threads=False):
                for values in batch.slice(max(0, first - row)).to_pylist() if row + len(batch) > first else ():
                    first, record = first + 1, record + 1
                    place = Place(begin.file, group, first, record)
                    yield place if first < last else Place(begin.file, group + 1, 0, record), values
                row += len(batch)


def arrow_rows(file: Path, begin: Place, columns: Sequence[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The same of an Arrow stream, as `datasets` saves it. `at` counts record batches; the file is mapped, not loaded."""
    with naming_read_errors(file), pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        _check_columns(columns, stream.schema.names, file)
        record = begin.record
        for number, batch in enumerate(stream):
            if number < begin.at:
                continue
            chosen = batch.select(list(columns))
            for row in range(begin.row if number == begin.at else 0, len(batch)):
                record += 1
                after = Place(begin.file, number, row + 1, record)
                values = chosen.slice(row, 1).to_pylist()[0]
                yield after if row + 1 < len(batch) else Place(begin.file, number + 1, 0, record), values


def _check_columns(wanted: Sequence[str], there: Sequence[str], file: Path) -> None:
    for name in wanted:
        if name not in there:
            raise DataError(
                f"no column {name!r}", where=str(file), fix=nearest(name, there) or f"there are {', '.join(there)}"
            )


# -- one big JSON object of arrays, as MS-COCO and VQA are distributed ------------------------------------------------

_SPACE, _BEHIND = re.compile(r"[ \t\r\n]*"), " \t\r\n,:]}"  # white space; what may stand behind a value
CHUNK = 1 << 20


def scan_json(file: Path, limit: int = MAX_RECORD_BYTES) -> Iterator[tuple[str, int, int, Any]]:
    """(key, first byte, byte behind it, value) for the top level of {"info": {…}, "images": [{…}, {…}], …}.

    An array gives one item per element, anything else one for itself, so that a file of any size passes through a window
    of a megabyte, or of twice `limit` where a record is that long. Bytes are taken for characters, which keeps the offsets true; texts must be read again from the file.
    """
    decode = json.JSONDecoder().raw_decode
    with file.open("rb") as stream:
        window, base, at = "", 0, 0  # `window` begins at byte `base`; `at` is inside it

        def wrong(what: str) -> DataError:
            return DataError(
                f"not the JSON that was expected: {what}", where=f"{file} byte {base + at}", fix="copy the file again"
            )

        def more() -> bool:
            nonlocal window, base, at
            chunk = stream.read(max(CHUNK, len(window) - at)).decode(
                "latin-1"
            )  # doubling, so that no byte is met often
            if chunk:
                window, base, at = window[at:] + chunk, base + at, 0
            return bool(chunk)

        def character() -> str:
            nonlocal at
            while True:
                at = _SPACE.match(window, at).end()  # type: ignore[union-attr]
                if at < len(window):
                    return window[at]
                if not more():
                    raise wrong("it ends too early")

        def value() -> tuple[int, int, Any]:
            nonlocal at
            character()
            while True:
                try:
                    found, end = decode(window, at)
                    if (end < len(window) and window[end] in _BEHIND) or not more():  # else a number may go on
                        break
                except RecursionError as error:
                    raise wrong("nested too deeply") from error
                except ValueError as error:
                    if len(window) - at > limit:
                        raise wrong(f"a record of more than {limit:,} bytes, or no JSON") from error
                    if not more():
                        raise wrong("it ends too early, or is no JSON") from error
            begin, at = base + at, end
            return begin, base + end, found

        def take(expected: str) -> str:
            nonlocal at
            got = character()
            if got not in expected:
                raise wrong(f"{got!r} where {' or '.join(expected)} should be")
            at += 1
            return got

        take("{")
        if character() == "}":
            return
        while True:
            _, _, key = value()
            take(":")
            if character() == "[":
                take("[")
                if character() == "]":
                    take("]")
                else:
                    while True:
                        yield (str(key), *value())
                        if take(",]") == "]":
                            break
            else:
                yield (str(key), *value())
            if take(",}") == "}":
                return


# -- names and files --------------------------------------------------------------------------------------------------


def safe_name(name: str, where: str) -> str:
    """A name inside an archive or a folder, unchanged. Raises DataError for one that leads out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise DataError(f"{name!r} lies outside the folder", where=where, fix="keep the files below the folder")
    return name


def inside(folder: Path, name: str, where: str) -> Path:
    """The file called `name` in `folder`, never one outside it, through links neither."""
    check_unicode(safe_name(name, where), where)
    file = Path(os.path.realpath(folder / name))  # Path.resolve raises RuntimeError where links go round in a circle
    if not file.is_relative_to(_real(folder)):
        raise DataError(f"{name!r} lies outside the folder", where=where, fix="keep the images below the folder")
    return file


@functools.lru_cache(64)
def _real(folder: Path) -> Path:
    return folder.resolve()


def find_files(path: Path, patterns: Sequence[str], what: str) -> list[Path]:
    """The file `path`, or those below it that match, in name order. Raises UnknownNameError where there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise UnknownNameError("no such file or folder", where=str(path), fix=near or "check the path")
    found = sorted({p for pattern in patterns for p in path.rglob(pattern) if p.is_file()})
    if not found:
        raise UnknownNameError(f"no {what}", where=str(path), fix=f"expected {', '.join(patterns)}")
    return found
