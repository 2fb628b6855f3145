"""Text in the formats people have becomes documents, one Episode each.

    .txt .md .rst              the whole file; a long one in parts, cut at line ends
    .jsonl .json.gz .zst .zip  one object a line: {"text": …} (The Pile: 00.jsonl.zst; C4: c4-train.00000-of-01024.json.gz)
    .parquet                   a column `text` (FineWeb: sample/10BT/000_00000.parquet)
    .arrow                     the same, as `datasets.Dataset.save_to_disk` writes it

Each may be compressed (.gz, .zst; .zip around a single file). A document is named after its file and number, and the
name decides its split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gato.corpora import TEXT_SPEC, document, split_of
from gato.corpora.reading import (
    COMPRESSED,
    Place,
    Reader,
    arrow_rows,
    check_unicode,
    json_lines,
    naming_read_errors,
    open_bytes,
    parquet_rows,
)
from gato.episodes import Episode
from gato.errors import DataError, UnknownNameError

PLAIN = (".txt", ".md", ".rst")
OBJECTS = (".jsonl", ".ndjson")
TABLES = (".parquet", ".arrow")
SUFFIXES = (*PLAIN, *OBJECTS, ".json.gz", ".json.zst", *TABLES)  # found in folders; a plain .json there is settings
PART_BYTES = 1 << 20  # a longer plain file becomes several documents, so that memory stays bounded


class Documents(Reader):
    """Every document of the files and folders `paths`, in name order."""

    spec = TEXT_SPEC

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        task: str = "text/files",
        column: str = "text",
        part_bytes: int = PART_BYTES,
        **options: Any,
    ):
        """`column` is the field of an object or table that holds the text; `options` are those of `Reader`.

        Raises UnknownNameError for a path that is not there, or a folder without such files.
        """
        found = list(_files(paths))
        super().__init__([file for file, _ in found], **options)
        self.task, self._column, self._part_bytes = task, column, part_bytes
        self._names = [name for _, name in found]

    def _records(self, n: int, begin: Place) -> Iterator[tuple[Place, Any]]:
        """Text, or a raw value, with its number and where it stands."""
        file = self.files[n]
        kind = _kind(file)
        if kind not in (*OBJECTS, *TABLES, ".json"):
            yield from self._parts(file, begin)
            return
        if kind in TABLES:
            rows = (parquet_rows if kind == ".parquet" else arrow_rows)(file, begin, [self._column])
        else:
            rows = json_lines(file, begin, self.max_record_bytes)
        for after, row in rows:
            if isinstance(row, DataError):
                yield after, row
            else:
                place = f"{file} line {after.row}" if kind not in TABLES else f"{file} record {after.record}"
                yield after, (row.get(self._column), after.record - 1, place)

    def _parts(self, file: Path, begin: Place) -> Iterator[tuple[Place, Any]]:
        """A plain file in parts that end with a line, or where a line is too long, with a character."""
        at, record, held = begin.at, begin.record, b""
        with naming_read_errors(file), open_bytes(file, at) as stream:
            while chunk := held + stream.read(self._part_bytes - len(held)):
                part = chunk
                if len(chunk) == self._part_bytes:
                    end = chunk.rfind(b"\n") + 1
                    part = chunk[: end or _whole_characters(chunk)]
                held = chunk[len(part) :]
                bom = 3 if not at and part.startswith(b"\xef\xbb\xbf") else 0
                at, record = at + len(part), record + 1
                yield Place(begin.file, at, 0, record), (part[bom:], record - 1, str(file))

    def _episode(self, n: int, record: Any) -> Episode | None:
        text, number, where = record
        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError as error:
                name = self.files[n].name
                raise DataError(
                    f"not UTF-8 text ({error.reason})", where=where, fix=f"iconv -f latin1 -t utf-8 {name} converts it"
                ) from error
        if not isinstance(text, str):
            raise DataError(
                f'a record without a "{self._column}" string', where=where,
                fix=f'{{"{self._column}": "…"}} on every line, or name another column',
            )  # fmt: skip
        if len(text) > self.max_record_bytes:
            raise DataError(f"a text of {len(text):,} characters", where=where, fix="raise max_record_bytes")
        check_unicode(text, where)
        name = f"{self._names[n]}#{number}"
        if not text.strip() or (self.split is not None and split_of(name) != self.split):
            return None
        return document(self.task, text, {"document": name, "split": split_of(name)})


def _files(paths: Iterable[str | Path]) -> Iterator[tuple[Path, str]]:
    """Each file with its name below the path it was found in, so that moving a folder moves nothing between splits."""
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and _known(p))
            if not found:
                raise UnknownNameError(
                    f"no {', '.join(SUFFIXES)} files", where=str(path), fix="name a folder with text in it"
                )
            yield from ((file, file.relative_to(path).as_posix()) for file in found)
        elif path.is_file():
            yield path, path.name
        else:
            raise UnknownNameError("no such file or folder", where=str(path), fix="check the path")


def _known(file: Path) -> bool:
    """Whether a file found in a folder is text; `datasets` keeps its caches (cache-….arrow) beside the data."""
    name = file.name.lower()
    plain = name.removesuffix(file.suffix.lower()) if file.suffix.lower() in COMPRESSED else name
    return not (name.startswith(("cache-", ".")) and name.endswith(".arrow")) and (
        name.endswith(SUFFIXES) or plain.endswith((*PLAIN, *OBJECTS))
    )


def _kind(file: Path) -> str:
    """The suffix without a compression's."""
    suffixes = [s.lower() for s in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _whole_characters(chunk: bytes) -> int:
    """How many bytes of UTF-8 are whole characters; all, where it is no UTF-8 (which is found out later)."""
    for back in range(1, min(4, len(chunk)) + 1):
        lead = chunk[-back]
        if lead >= 0xC0:
            need = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return len(chunk) - back if need > back and back < len(chunk) else len(chunk)
        if lead < 0x80:
            break
    return len(chunk)
