"""Episodes on disk: a dataset is a folder of Parquet files, one row per timestep.

    meta.json             schema version, task id, specs, source agent, simulator versions, reference scores
    data/000000.parquet   timesteps: observation:<path>…, action:<path>…, [executed:<path>…], reward, episode, step
    index/000000.parquet  one row per episode of that shard: number, seed, source, steps, return, success, row, info
    pending/*.parquet     episodes finished since the last compaction, index included
    MANIFEST.json         size and SHA-256 of every file above it; written last

A row group holds whole short episodes, or at most 64 timesteps of a long one, so a window reads one or two groups.
Numbers are fixed-size lists, frames fixed-size binary, text strings; zstd, with a checksum in every page.

Nothing finished is lost or doubled, whenever the writer is killed:

* an episode is durable once its pending file is renamed into place; the file's name holds the hash of its content;
* compaction writes new shards, then one new manifest (the commit point), which lists the shards *and* the pending files
  folded into them; only then are those deleted. Readers ignore folded files and shards that no manifest lists.

Every episode has a `number` (for collected ones its place in the task's seeds); the dataset is ordered by it, so that
datasets collected by one worker or by eight are the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gato.episodes.episode import Episode, Leaves, facts_as_json
from gato.episodes.manifest import (
    LOCK,
    MANIFEST,
    TEMPORARY,
    lock_folder,
    make_folder,
    naming_disk_errors,
    read_manifest,
    remove_leftovers,
    sha256_of,
    sha256_of_file,
    verify_file,
    write_file_atomically,
    write_manifest,
)
from gato.episodes.spec import Spec, Specs, TaskSpec, check_actions
from gato.errors import DataError, DatasetCorruptError, DatasetMissingError, GatoError, OutputExistsError, nearest

SCHEMA = 1
GROUP_STEPS = 64  # at most this many timesteps of a long episode in a row group
GROUP_BYTES = 2**18  # short episodes share a row group up to this size, uncompressed
SHARD_BYTES = 2**26
READ_BYTES = 2**26  # most that is decoded at once when reading in bulk
HASH_DIGITS = 32  # of the content's SHA-256 in a pending file's name
REMEDY = "gato data verify shows the extent; restore the file, or gato data repair DIR --out DIR keeps what is whole"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the index. `total_return` is the sum of rewards; `file` and `row` say where the timesteps begin."""

    number: int
    seed: int | None
    source: str
    steps: int
    total_return: float
    success: bool | None
    info: dict[str, Any]
    executed: bool = False
    file: str = ""
    row: int = 0


# -- one leaf as a column ---------------------------------------------------------------------------------------------


def _arrow_type(spec: Spec) -> pa.DataType:
    if spec.kind == "text":
        return pa.string()
    if spec.kind == "image":
        return pa.binary(spec.size)
    value = pa.uint8() if spec.dtype == "bool" else pa.from_numpy_dtype(np.dtype(spec.dtype))
    return value if spec.shape == () else pa.list_(pa.field("element", value, nullable=False), spec.size)


def _encode(spec: Spec, values: np.ndarray | list[str]) -> pa.Array:
    """(T, *shape) or T strings → a column of T rows."""
    kind = _arrow_type(spec)
    if spec.kind == "text":
        return pa.array(values, kind)
    array = np.ascontiguousarray(values)
    if spec.kind == "image":
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(array), [None, pa.py_buffer(array)])
    flat = pa.array(array.ravel().view(np.uint8) if array.dtype == np.bool_ else array.ravel())
    return flat if spec.shape == () else pa.FixedSizeListArray.from_arrays(flat, type=kind)


def _decode(spec: Spec, column: pa.ChunkedArray) -> np.ndarray | list[str]:
    """The inverse of `_encode`; arrays may be views of Arrow's read-only memory."""
    if spec.kind == "text":
        return column.to_pylist()
    array = column.combine_chunks()
    steps = len(array)
    if spec.kind == "image":
        frames = array.buffers()[1] if steps else b""
        flat = np.frombuffer(frames, np.uint8, steps * spec.size, array.offset * spec.size)
    else:
        flat = (array if spec.shape == () else array.flatten()).to_numpy()
        flat = flat.view(np.bool_) if spec.dtype == "bool" else flat
    return flat.reshape(steps, *spec.shape)


def _row_bytes(spec: TaskSpec) -> int:
    """Rough size of a timestep, uncompressed."""

    def leaf(s: Spec) -> int:
        return 100 if s.kind == "text" else s.size * np.dtype(s.dtype).itemsize

    return 16 + sum(leaf(s) for side in (spec.observation, spec.action, spec.action) for s in side.values())


def _fields(spec: TaskSpec, executed: bool) -> list[tuple[str, str, Specs]]:
    """(Episode field, column prefix, specs) of each side that is stored."""
    sides = [("observations", "observation", spec.observation), ("actions", "action", spec.action)]
    return sides + [("executed", "executed", spec.action)] * executed


def _stored(specs: Specs) -> Iterator[tuple[str, Spec]]:
    return ((path, s) for path, s in specs.items() if s.kind == "text" or s.size)  # an empty leaf needs no column


def _schema(spec: TaskSpec, executed: bool) -> pa.Schema:
    columns = [
        pa.field(f"{prefix}:{path}", _arrow_type(s), nullable=False)
        for _, prefix, specs in _fields(spec, executed)
        for path, s in _stored(specs)
    ]
    numbers = [("reward", pa.float32()), ("episode", pa.int64()), ("step", pa.int32())]
    return pa.schema(columns + [pa.field(name, kind, nullable=False) for name, kind in numbers])


def _to_table(spec: TaskSpec, episodes: Sequence[Episode], numbers: Sequence[int], executed: bool) -> pa.Table:
    """All timesteps of some episodes. With `executed`, the actions of those without stand for both."""
    schema = _schema(spec, executed)
    if not episodes:
        return schema.empty_table()
    columns = []
    for name, _, specs in _fields(spec, executed):
        sides = [e.actions if name == "executed" and e.executed is None else getattr(e, name) for e in episodes]
        for path, s in _stored(specs):
            leaves = [side[path] for side in sides]
            columns.append(_encode(s, list(chain(*leaves)) if s.kind == "text" else np.concatenate(leaves)))
    lengths = [len(e) for e in episodes]
    columns.append(pa.array(np.concatenate([e.rewards for e in episodes])))
    columns.append(pa.array(np.repeat(np.asarray(numbers, np.int64), lengths)))
    columns.append(pa.array(np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])))
    return pa.Table.from_arrays(columns, schema=schema)


def _row_groups(steps: Iterable[int], row_bytes: int) -> Iterator[int]:
    """Lengths of the row groups for episodes of these lengths."""
    together = max(GROUP_STEPS, GROUP_BYTES // row_bytes)
    held = 0
    for length in steps:
        if held and (length > GROUP_STEPS or held + length > together):
            yield held
            held = 0
        if length > GROUP_STEPS:
            yield from [GROUP_STEPS] * (length // GROUP_STEPS)
            if length % GROUP_STEPS:
                yield length % GROUP_STEPS
        else:
            held += length
    if held:
        yield held


def _parquet_writer(sink: pa.BufferOutputStream, schema: pa.Schema) -> pq.ParquetWriter:
    texts = [f.name for f in schema if f.type == pa.string()]
    return pq.ParquetWriter(
        sink, schema, compression="zstd", write_page_checksum=True, use_dictionary=texts, write_statistics=False
    )


def _write_groups(writer: pq.ParquetWriter, table: pa.Table, steps: Iterable[int], row_bytes: int) -> None:
    start = 0
    for rows in _row_groups(steps, row_bytes):
        writer.write_table(table.slice(start, rows), row_group_size=rows)
        start += rows
    assert start == table.num_rows


# -- pending files ----------------------------------------------------------------------------------------------------


def encode_chunk(
    spec: TaskSpec, episodes: Sequence[Episode], numbers: Sequence[int], failed: Mapping[int, str] | None = None
) -> bytes:
    """Some checked episodes as the bytes of one pending file; `failed` maps numbers to why no episode came of them."""
    order = np.argsort(numbers, kind="stable")
    episodes, numbers = [episodes[i] for i in order], [int(numbers[i]) for i in order]
    records, row = [], 0
    for number, episode in zip(numbers, episodes, strict=True):
        info = dict(episode.info)
        records.append(
            [number, info.pop("seed", None), info.pop("source", ""), len(episode), episode.total_return,
             info.pop("success", None), info, episode.executed is not None, row]
        )  # fmt: skip
        row += len(episode)
    table = _to_table(spec, episodes, numbers, any(e.executed is not None for e in episodes))
    facts = {"gato:index": facts_as_json(records), "gato:failed": facts_as_json(dict(failed or {}))}
    sink = pa.BufferOutputStream()
    with _parquet_writer(sink, table.schema.with_metadata(facts)) as writer:
        _write_groups(writer, table.replace_schema_metadata(facts), map(len, episodes), _row_bytes(spec))
    return sink.getvalue().to_pybytes()


def _read_chunk(folder: Path, name: str) -> tuple[list[Entry], dict[int, str]]:
    """Index and failures of one pending file, its hash verified."""
    path = folder / name
    if sha256_of_file(path)[:HASH_DIGITS] != path.stem.rsplit("-", 1)[-1]:
        raise DatasetCorruptError("changed since it was written (SHA-256 differs)", where=str(path), fix=REMEDY)
    metadata = pq.read_schema(path).metadata
    entries = [Entry(*r[:-1], name, r[-1]) for r in json.loads(metadata[b"gato:index"])]  # type: ignore[call-arg]
    return entries, {int(k): v for k, v in json.loads(metadata[b"gato:failed"]).items()}


# -- index shards -----------------------------------------------------------------------------------------------------


def _encode_index(entries: Sequence[Entry]) -> pa.Buffer:
    columns = {
        "number": pa.array([e.number for e in entries], pa.int64()),
        "seed": pa.array([e.seed for e in entries], pa.int64()),
        "source": pa.array([e.source for e in entries], pa.string()),
        "steps": pa.array([e.steps for e in entries], pa.int64()),
        "return": pa.array([e.total_return for e in entries], pa.float64()),
        "success": pa.array([e.success for e in entries], pa.bool_()),
        "info": pa.array([facts_as_json(e.info) for e in entries], pa.string()),
        "executed": pa.array([e.executed for e in entries], pa.bool_()),
        "row": pa.array([e.row for e in entries], pa.int64()),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _read_index(folder: Path, name: str) -> list[Entry]:
    columns = pq.read_table(folder / name, page_checksum_verification=True, use_threads=False).to_pydict().values()
    infos: dict[str, dict[str, Any]] = {}  # most episodes of a dataset have the same few

    def info(text: str) -> dict[str, Any]:
        if text not in infos:
            infos[text] = json.loads(text)
        return dict(infos[text])

    file = name.replace("index/", "data/")
    return [Entry(*r[:6], info(r[6]), r[7], file, r[8]) for r in zip(*columns, strict=True)]  # type: ignore[call-arg]


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """One Parquet file of timesteps, verified when first opened."""

    folder: Path
    name: str
    entry: Mapping[str, Any] | None  # size and hash; None for a pending file, verified already
    lock: threading.Lock = field(default_factory=threading.Lock)
    file: pq.ParquetFile | None = None
    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))  # first row of each group, and the end

    def read(self, groups: list[int]) -> pa.Table:
        self.open()
        assert self.file is not None
        with self.lock:
            try:
                return self.file.read_row_groups(groups, use_threads=False)
            except (OSError, pa.ArrowException) as error:
                raise DatasetCorruptError(
                    f"cannot be decoded: {error}", where=str(self.folder / self.name), fix=REMEDY
                ) from error

    def open(self) -> None:
        with self.lock:
            if self.file is not None:
                return
            path = self.folder / self.name
            if self.entry is not None:
                verify_file(self.folder, self.name, self.entry, DatasetCorruptError)
            try:
                file = pq.ParquetFile(path, page_checksum_verification=True)
                groups = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
            except (OSError, pa.ArrowException) as error:
                raise DatasetCorruptError(f"cannot be opened: {error}", where=str(path), fix=REMEDY) from error
            self.starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)]).astype(np.int64)
            self.file = file


class Dataset:
    """A dataset for reading: `len(ds)`, `ds[i]`, `ds.window(i, start, stop)`, `ds.episodes(indices)`, `for e in ds`.

    The manifest, meta.json and the index are verified on opening, each data file when it is first read.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        for attempt in range(10):  # a writer may fold pending files away between two of our looks
            try:
                self._load()
                break
            except (FileNotFoundError, DatasetCorruptError) as error:
                if attempt == 9 or not _manifest_changed(self.folder, self._manifest):
                    if isinstance(error, FileNotFoundError):
                        raise DatasetCorruptError(
                            "the file is missing", where=str(error.filename), fix=REMEDY
                        ) from None
                    raise

    @classmethod
    def open(cls, folder: Path | str) -> Dataset:
        """Raises DatasetMissingError without a manifest, DatasetCorruptError naming a damaged file."""
        return cls(folder)

    def _load(self) -> None:
        try:
            self._read_contents()
        except GatoError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            raise DatasetCorruptError(
                f"its hashes are right, but this is not a dataset: {error}", where=str(self.folder), fix=REMEDY
            ) from error

    def _read_contents(self) -> None:
        self._manifest: dict[str, Any] = {}
        self._manifest = manifest = read_manifest(self.folder, "dataset")
        files, facts = manifest["files"], manifest["facts"]
        for name, entry in files.items():
            if name.startswith("index/"):
                verify_file(self.folder, name, entry, DatasetCorruptError)
        self.meta = _read_meta(self.folder, manifest)
        self.task: str = self.meta["task"]
        self.spec = TaskSpec.from_json(self.meta["spec"])
        self.failed: dict[int, str] = {int(k): v for k, v in facts["failed"].items()}
        self._parts = {
            name: _Part(self.folder, name, entry) for name, entry in files.items() if name.startswith("data/")
        }
        entries = [e for name in files if name.startswith("index/") for e in _read_index(self.folder, name)]
        for name in _pending(self.folder, facts["folded"]):
            chunk, failed = _read_chunk(self.folder, name)
            self._parts[name] = _Part(self.folder, name, None)
            self.failed |= failed
            entries += chunk
        self.index: list[Entry] = sorted({e.number: e for e in reversed(entries)}.values(), key=lambda e: e.number)
        for entry in self.index:
            self.failed.pop(entry.number, None)  # it was mended, and read after all

    @property
    def identity(self) -> str:
        """A hash of the content: of every file that the manifest lists, and of what is not folded into them yet."""
        return sha256_of(facts_as_json([self._manifest["files"], sorted(self._parts)]).encode())

    @property
    def lengths(self) -> np.ndarray:
        """Timesteps of each episode, int64 (len(ds),)."""
        return np.array([e.steps for e in self.index], np.int64)

    @property
    def returns(self) -> np.ndarray:
        """Return of each episode, float64 (len(ds),)."""
        return np.array([e.total_return for e in self.index], np.float64)

    @property
    def num_timesteps(self) -> int:
        return int(self.lengths.sum())

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Dataset({self.task}, {len(self)} episodes, {self.num_timesteps:,} timesteps, {self.folder})"

    def __reduce__(self):  # worker processes open their own
        return type(self), (self.folder,)

    def __getitem__(self, i: int) -> Episode:
        return self.episodes([range(len(self))[i]])[0]

    def __iter__(self) -> Iterator[Episode]:
        """Every episode in order, a bounded amount of them in memory at a time."""
        row_bytes, batch, held = _row_bytes(self.spec), [], 0
        for i, entry in enumerate(self.index):
            batch.append(i)
            held += entry.steps * row_bytes
            if held > READ_BYTES:
                yield from self.episodes(batch)
                batch, held = [], 0
        yield from self.episodes(batch)

    def window(self, i: int, start: int, stop: int) -> Episode:
        """Timesteps start…stop of episode i, reading only the row groups they lie in."""
        entry = self.index[i]
        start, stop, _ = slice(start, stop).indices(entry.steps)
        return self._read([replace(entry, row=entry.row + start, steps=max(0, stop - start))])[0]

    def episodes(self, indices: Iterable[int] | None = None) -> list[Episode]:
        """Many episodes at once, in the order asked for (default: all)."""
        return self._read([self.index[i] for i in (range(len(self)) if indices is None else indices)])

    def _read(self, entries: list[Entry]) -> list[Episode]:
        out: list[Episode | None] = [None] * len(entries)
        by_file: dict[str, list[int]] = {}
        for position, entry in enumerate(entries):
            by_file.setdefault(entry.file, []).append(position)
        for name, positions in by_file.items():
            if name not in self._parts or not (self.folder / name).exists():
                self._follow(entries)
                return self._read(entries)
            for position, episode in self._read_part(self._parts[name], entries, positions):
                out[position] = episode
        return out  # type: ignore[return-value]

    def _follow(self, entries: list[Entry]) -> None:
        """A writer has moved some of these entries into other files since this dataset was opened: find them all there, for
        after this `index` says where they are, not where they were."""
        fresh = Dataset(self.folder)
        place = {e.number: e for e in fresh.index}
        old = {e.number: e for e in self.index}
        for position, entry in enumerate(entries):
            if entry.file in fresh._parts and (self.folder / entry.file).exists():
                continue
            new = place.get(entry.number)
            if new is None or new.file == entry.file:
                raise DatasetCorruptError("the file is missing", where=str(self.folder / entry.file), fix=REMEDY)
            entries[position] = replace(entry, file=new.file, row=new.row + entry.row - old[entry.number].row)
        self.index = [place.get(e.number, e) for e in self.index]
        self._parts = fresh._parts

    def _read_part(self, part: _Part, entries: list[Entry], positions: list[int]) -> Iterator[tuple[int, Episode]]:
        part.open()
        rows = READ_BYTES // _row_bytes(self.spec)
        batch: list[int] = []
        held = 0
        for position in sorted(positions, key=lambda p: entries[p].row):
            if batch and held + entries[position].steps > rows:
                yield from self._read_batch(part, entries, batch)
                batch, held = [], 0
            batch.append(position)
            held += entries[position].steps
        if batch:
            yield from self._read_batch(part, entries, batch)

    def _read_batch(self, part: _Part, entries: list[Entry], batch: list[int]) -> Iterator[tuple[int, Episode]]:
        chosen = [entries[p] for p in batch]
        first = np.searchsorted(part.starts, [e.row for e in chosen], "right") - 1
        last = np.searchsorted(part.starts, [e.row + e.steps for e in chosen], "left")
        if last.max() >= len(part.starts):
            raise DatasetCorruptError(
                "fewer timesteps than the index says", where=str(self.folder / part.name), fix=REMEDY
            )
        groups = np.unique(np.concatenate([np.arange(a, max(b, a)) for a, b in zip(first, last, strict=True)]))
        table = part.read(groups.tolist())
        # First row of each group in the table that was read, minus the same in the file: what to add to a file row.
        shift = np.concatenate([[0], np.cumsum(np.diff(part.starts)[groups])])[:-1] - part.starts[groups]
        starts = [
            e.row + int(shift[np.searchsorted(groups, g)]) if e.steps else 0 for e, g in zip(chosen, first, strict=True)
        ]
        sides = {
            name: {path: _decode(s, table[f"{prefix}:{path}"]) for path, s in _stored(specs)}
            for name, prefix, specs in _fields(self.spec, any(e.executed for e in chosen))
        }
        rewards = table["reward"].to_numpy()
        for position, entry, start in zip(batch, chosen, starts, strict=True):
            stop = start + entry.steps

            def cut(name: str, specs: Specs, start: int = start, stop: int = stop) -> Leaves:
                columns = sides[name]
                return {
                    path: (columns[path][start:stop] if s.kind == "text" else columns[path][start:stop].copy())
                    if path in columns
                    else np.zeros((stop - start, *s.shape), s.dtype)
                    for path, s in specs.items()
                }

            info = {"seed": entry.seed, "source": entry.source, **entry.info}
            if entry.success is not None:
                info["success"] = entry.success
            yield (
                position,
                Episode(
                    self.task,
                    cut("observations", self.spec.observation),
                    cut("actions", self.spec.action),
                    rewards[start:stop].copy(),
                    cut("executed", self.spec.action) if entry.executed else None,
                    info,
                ),
            )


def _read_meta(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    verify_file(folder, "meta.json", manifest["files"]["meta.json"], DatasetCorruptError)
    meta = json.loads((folder / "meta.json").read_bytes())
    if not isinstance(meta, dict) or not {"schema", "task", "spec"} <= set(meta):
        raise DatasetCorruptError(
            "meta.json without schema, task or spec: no dataset's", where=str(folder), fix="collect or import it again"
        )
    if meta["schema"] > SCHEMA:
        raise DataError(
            f"a dataset of schema {meta['schema']}, this version reads {SCHEMA}",
            where=str(folder), fix="upgrade gato-agent",
        )  # fmt: skip
    return meta


def read_spec(folder: Path | str) -> TaskSpec:
    """That of a dataset, without its index. Raises what `Dataset` does."""
    folder = Path(folder)
    return TaskSpec.from_json(_read_meta(folder, read_manifest(folder, "dataset"))["spec"])


def _pending(folder: Path, folded: Iterable[str]) -> list[str]:
    gone = set(folded)
    names = sorted(f"pending/{p.name}" for p in (folder / "pending").glob("*.parquet"))
    return [name for name in names if name not in gone]


def _manifest_changed(folder: Path, manifest: Mapping[str, Any]) -> bool:
    try:
        return bool(manifest) and read_manifest(folder, "dataset") != manifest
    except GatoError:
        return False


# -- writing ----------------------------------------------------------------------------------------------------------


class DatasetWriter:
    """Adds episodes to a dataset, making it if needed; each is durable when `add` returns. A context manager.

    `facts` goes into meta.json of a new dataset: source, simulators, references, …. Raises OutputExistsError when the
    folder holds another task, spec or source, something that is no dataset, or another process that writes into it;
    SpecError for actions that no agent could be taught.
    """

    def __init__(self, folder: Path | str, task_id: str, spec: TaskSpec, facts: Mapping[str, Any] | None = None):
        check_actions(spec, task_id)
        self.folder, self.task, self.spec = Path(folder), task_id, spec
        self._lock = lock_folder(self.folder)
        self._lock.__enter__()
        try:
            self._new = not (self.folder / MANIFEST).exists()
            if self._new:
                self._create(dict(facts or {}))
            self._clean()
            self._check_same(dict(facts or {}))
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def _create(self, facts: dict[str, Any]) -> None:
        ours = {"meta.json", "data", "index", "pending", LOCK}
        foreign = [p.name for p in self.folder.iterdir() if p.name not in ours and TEMPORARY not in p.name]
        held = [p for room in ("data", "index", "pending") for p in (self.folder / room).glob("*.parquet")]
        if foreign or held:
            raise OutputExistsError(
                f"the folder holds something that is not a dataset: {(foreign or [str(held[0])])[0]}",
                where=str(self.folder), fix="choose another folder",
            )  # fmt: skip
        for room in ("data", "index", "pending"):
            make_folder(self.folder / room)
        meta = {"schema": SCHEMA, "task": self.task, "spec": self.spec.to_json(), **facts}
        entry = write_file_atomically(
            self.folder / "meta.json", (json.dumps(json.loads(facts_as_json(meta)), indent=1) + "\n").encode()
        )
        write_manifest(
            self.folder, "dataset", {"meta.json": entry}, {"episodes": 0, "timesteps": 0, "folded": [], "failed": {}}
        )

    def _clean(self) -> None:
        """Remove what a killed writer left: temporary files, shards no manifest lists, pending files already folded."""
        manifest = read_manifest(self.folder, "dataset")
        folded = set(manifest["facts"]["folded"])
        for room in ("data", "index", "pending"):
            make_folder(self.folder / room)
            with naming_disk_errors(self.folder / room):
                remove_leftovers(self.folder / room)
                for path in (self.folder / room).glob("*.parquet"):
                    name = f"{room}/{path.name}"
                    if name in folded if room == "pending" else name not in manifest["files"]:
                        path.unlink()
        with naming_disk_errors(self.folder):
            remove_leftovers(self.folder)

    def _check_same(self, facts: Mapping[str, Any]) -> None:
        held = Dataset(self.folder)
        if (held.task, held.spec) != (self.task, self.spec):
            what = f"task {held.task}" if held.task != self.task else f"{held.task} with another spec"
            raise OutputExistsError(
                f"the folder holds {what}, not {self.task}", where=str(self.folder), fix="choose another folder"
            )
        if "source" in facts and held.meta.get("source") != facts["source"]:
            raise OutputExistsError(
                f"the folder holds episodes by {held.meta.get('source')!r}, not by {facts['source']!r}",
                where=str(self.folder), fix="choose another folder",
            )  # fmt: skip
        self.numbers = {e.number for e in held.index}  # of the episodes that are there
        self.failed = dict(held.failed)  # number → why

    def add(self, episode: Episode, number: int | None = None) -> int:
        """Check and write one episode; durable on return. Returns its number (default: the next free one)."""
        episode.check(self.spec, f"{self.task} episode {number if number is not None else ''}".strip())
        number = max((*self.numbers, *self.failed), default=-1) + 1 if number is None else number
        self.add_chunk(encode_chunk(self.spec, [episode], [number]), [number])
        return number

    def add_chunk(self, chunk: bytes, numbers: Iterable[int], failed: Mapping[int, str] | None = None) -> None:
        """Write what `encode_chunk` made of checked episodes with these numbers; durable on return."""
        twice = self.numbers.intersection(numbers := list(numbers))
        assert not twice, f"episode {min(twice)} is there already"
        name = f"{secrets.token_hex(6)}-{sha256_of(chunk)[:HASH_DIGITS]}.parquet"
        write_file_atomically(self.folder / "pending" / name, chunk)
        self.numbers.update(numbers)
        self.failed |= dict(failed or {})
        for number in numbers:
            self.failed.pop(number, None)

    def compact(self) -> None:
        """Fold the pending files (and a last shard that is still small) into shards of about 64 MB."""
        held = Dataset(self.folder)
        pending = [name for name in held._parts if name.startswith("pending/")]
        if not pending:
            return
        files = dict(held._manifest["files"])
        shards = sorted(name for name in files if name.startswith("data/"))
        fold = list(pending)
        if shards and files[shards[-1]]["bytes"] < SHARD_BYTES // 2:
            fold.insert(0, shards[-1])
        entries: dict[str, list[Entry]] = {name: [] for name in fold}
        for entry in held.index:
            if entry.file in entries:
                entries[entry.file].append(entry)
        fold.sort(key=lambda name: min((e.number for e in entries[name]), default=0))
        next_shard = int(Path(shards[-1]).stem) + 1 if shards else 0
        for batch in _batches(fold, {name: (self.folder / name).stat().st_size for name in fold}):
            chosen = [e for name in batch for e in entries[name]]
            if not chosen:
                continue
            name = f"{next_shard:06d}.parquet"
            data, index = self._merge(held, batch, entries)
            files[f"data/{name}"] = write_file_atomically(self.folder / "data" / name, data)
            files[f"index/{name}"] = write_file_atomically(self.folder / "index" / name, index)
            next_shard += 1
        for name in set(fold) - set(pending):
            del files[name], files[name.replace("data/", "index/")]
        facts = {
            "episodes": len(held), "timesteps": held.num_timesteps, "folded": pending,
            "failed": {str(k): v for k, v in sorted(held.failed.items())},
        }  # fmt: skip
        write_manifest(self.folder, "dataset", files, facts)  # the commit point
        self._clean()

    def _merge(
        self, held: Dataset, names: list[str], entries: Mapping[str, list[Entry]]
    ) -> tuple[pa.Buffer, pa.Buffer]:
        """Several files of timesteps as the bytes of one shard and of its index, a few megabytes at a time."""
        chosen = [e for name in names for e in entries[name]]
        executed = any(e.executed for e in chosen)
        sink, moved, row = pa.BufferOutputStream(), [], 0
        row_bytes = _row_bytes(self.spec)
        with _parquet_writer(sink, _schema(self.spec, executed)) as writer:
            for batch in _by_size(chosen, row_bytes):
                table = _to_table(self.spec, held._read(list(batch)), [e.number for e in batch], executed)
                _write_groups(writer, table, [e.steps for e in batch], row_bytes)
                for e in batch:
                    moved.append(replace(e, row=row))
                    row += e.steps
        return sink.getvalue(), _encode_index(moved)

    def close(self, compact: bool = True) -> None:
        """Compact and release the folder. Without `compact` the pending files stay, as durable as before."""
        try:
            if compact:
                self.compact()
        finally:
            self._lock.__exit__(None, None, None)

    def withdraw(self) -> None:
        """Close, and take the dataset back if this writer made it and nothing came: no folder of no episodes is left."""
        if not self._new or self.numbers or self.failed:
            return self.close()
        try:
            shutil.rmtree(self.folder)
            with contextlib.suppress(OSError):  # of other tasks, or not ours
                self.folder.parent.rmdir()
        finally:
            self._lock.__exit__(None, None, None)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        self.close(compact=kind is None or not issubclass(kind, GatoError))  # a full disk cannot be compacted


def _batches(names: list[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for name in names:
        if batch and held + sizes[name] > SHARD_BYTES:
            yield batch
            batch, held = [], 0
        batch.append(name)
        held += sizes[name]
    if batch:
        yield batch


def _by_size(entries: Iterable[Entry], row_bytes: int, limit: int = 2**24) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    held = 0
    for entry in entries:
        batch.append(entry)
        held += entry.steps * row_bytes
        if held >= limit:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def dataset_folder(out: Path | str, task_id: str) -> Path:
    """out/<domain>/<name>; further slashes (and what a file system dislikes) in a name become dashes."""
    domain, name = task_id.split("/", 1)
    return Path(out) / domain / name.replace("/", "-").replace(":", "-")


# -- looking around ---------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What `verify` found. `problems` are whole messages, each naming a file or an episode."""

    folder: Path
    task: str = ""
    episodes: int = 0
    timesteps: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(folder: Path | str, contents: bool = True) -> Report:
    """Check everything: every hash, every page, every episode against the spec, the index against the timesteps.

    Without `contents`, the hashes alone: that the bytes are those that were written, several times as fast. Raises DatasetMissingError or DatasetCorruptError only where nothing at all can be read; the rest is in the report.
    """
    folder = Path(folder)
    report = Report(folder)
    manifest = read_manifest(folder, "dataset")
    for name, entry in manifest["files"].items():
        try:
            verify_file(folder, name, entry, DatasetCorruptError)
            report.bytes += entry["bytes"]
        except DatasetCorruptError as error:
            report.problems.append(f"{error.where}: {error.what}")
    try:
        dataset = Dataset(folder)
    except DatasetCorruptError as error:
        if not report.problems:
            report.problems.append(f"{error.where}: {error.what}")
        return report
    report.task = dataset.task
    damaged = {name for name in dataset._parts if any(str(folder / name) in p for p in report.problems)}
    by_part: dict[str, list[int]] = {}
    for i, entry in enumerate(dataset.index):
        by_part.setdefault(entry.file, []).append(i)
    for name, indices in by_part.items():
        if name in damaged:
            continue
        dataset._parts[name].entry = None  # its hash is verified already
        if name.startswith("pending/"):
            report.bytes += (folder / name).stat().st_size
        try:
            problems = list(_verify_part(dataset, name, indices)) if contents else []
        except GatoError as error:
            problems = [f"{error.where}: {error.what}"]
        report.problems += problems
        if not problems:
            report.episodes += len(indices)
            report.timesteps += sum(dataset.index[i].steps for i in indices)
    return report


def _verify_part(dataset: Dataset, name: str, indices: list[int]) -> Iterator[str]:
    place, part = dataset.folder / name, dataset._parts[name]
    part.open()
    assert part.file is not None
    order = sorted(indices, key=lambda i: dataset.index[i].row)
    rows = part.file.read(columns=["episode", "step"], use_threads=False)
    steps = [dataset.index[i].steps for i in order]
    expected = np.repeat([dataset.index[i].number for i in order], steps)
    counted = np.concatenate([np.arange(s) for s in steps])
    if not (np.array_equal(rows["episode"].to_numpy(), expected) and np.array_equal(rows["step"].to_numpy(), counted)):
        yield f"{place}: the timesteps are not those of the index"
        return
    for batch in _by_size([dataset.index[i] for i in order], _row_bytes(dataset.spec), READ_BYTES):
        for entry, episode in zip(batch, dataset._read(list(batch)), strict=True):
            try:
                episode.check(dataset.spec, f"{place} episode {entry.number}")
            except GatoError as error:
                yield f"{error.where}: {error.what}"
                continue
            if not np.isclose(episode.total_return, entry.total_return, rtol=1e-6, atol=1e-6):
                said = f"return {episode.total_return}, the index says {entry.total_return}"
                yield f"{place} episode {entry.number}: {said}"


@dataclass
class Repaired:
    """What `repair` could save. `lost` maps episode numbers to why; `unlisted` are episodes whose index entry is gone:
    their timesteps are whole, their seed, source and other facts are not known any more."""

    folder: Path
    kept: int = 0
    lost: dict[int, str] = field(default_factory=dict)
    unlisted: list[int] = field(default_factory=list)


def repair(folder: Path | str, out: Path | str) -> Repaired:
    """Every episode of a damaged dataset that is still whole, as the new dataset `out`; `folder` is not touched.

    An episode is whole if every page of it has its checksum, its rows are numbered as they should be, and it obeys the spec
    and the index. Lost ones are noted in `out` with the reason. Raises DatasetCorruptError where the manifest or meta.json
    is damaged, since nothing says then what the columns mean; OutputExistsError.
    """
    folder, out = Path(folder), Path(out)
    if (out / MANIFEST).exists():
        raise OutputExistsError("a dataset is there already", where=str(out), fix="choose another folder")
    manifest = read_manifest(folder, "dataset")
    verify_file(folder, "meta.json", manifest["files"]["meta.json"], DatasetCorruptError)
    damaged = Dataset.__new__(Dataset)
    damaged.folder, damaged._manifest = folder, manifest
    damaged.meta = json.loads((folder / "meta.json").read_bytes())
    damaged.task, damaged.spec = damaged.meta["task"], TaskSpec.from_json(damaged.meta["spec"])
    names = [name for name in manifest["files"] if name.startswith("data/")] + _pending(
        folder, manifest["facts"]["folded"]
    )
    damaged._parts = {name: _Part(folder, name, None) for name in names}
    done = Repaired(out)
    facts = {key: value for key, value in damaged.meta.items() if key not in ("schema", "task", "spec")}
    with DatasetWriter(out, damaged.task, damaged.spec, facts) as writer:
        for name in names:
            numbers, steps = _numbering(damaged._parts[name])
            entries, listed = _entries_of(folder, name, numbers)
            for entry in entries:
                try:
                    rows = slice(entry.row, entry.row + entry.steps)
                    if numbers is None:
                        raise DatasetCorruptError("the file is missing or cannot be opened", where=str(folder / name))
                    if not (
                        np.array_equal(numbers[rows], np.full(entry.steps, entry.number))
                        and np.array_equal(steps[rows], np.arange(entry.steps))
                    ):
                        raise DatasetCorruptError("timesteps are missing or out of place", where=str(folder / name))
                    [episode] = damaged._read([entry])
                    episode.check(damaged.spec, f"{folder / name} episode {entry.number}")
                    if listed and not np.isclose(episode.total_return, entry.total_return, rtol=1e-6, atol=1e-6):
                        raise DatasetCorruptError("the return is not that of the index", where=str(folder / name))
                except GatoError as error:
                    done.lost[entry.number] = f"{error.code}: {error.what} [{error.where}]"
                    continue
                if entry.number not in writer.numbers:
                    writer.add(episode, entry.number)
                    done.kept += 1
                    done.unlisted += [] if listed else [entry.number]
        known = {int(k): v for k, v in manifest["facts"]["failed"].items()}
        lost = {n: why for n, why in {**known, **done.lost}.items() if n not in writer.numbers}
        if lost:
            writer.add_chunk(encode_chunk(damaged.spec, [], [], lost), [], lost)
    return done


def _numbering(part: _Part) -> tuple[np.ndarray | None, np.ndarray]:
    """Columns `episode` and `step` of a file that may be damaged: -1 where they cannot be read; None where nothing can."""
    try:
        part.open()
    except (GatoError, OSError):
        return None, np.zeros(0, np.int64)
    assert part.file is not None
    numbers, steps = (np.full(int(part.starts[-1]), -1, np.int64) for _ in range(2))
    for group in range(part.file.num_row_groups):
        try:
            read = part.file.read_row_group(group, columns=["episode", "step"], use_threads=False)
        except (OSError, pa.ArrowException):
            continue
        rows = slice(int(part.starts[group]), int(part.starts[group + 1]))
        numbers[rows], steps[rows] = read["episode"].to_numpy(), read["step"].to_numpy()
    return numbers, steps


def _entries_of(folder: Path, name: str, numbers: np.ndarray | None) -> tuple[list[Entry], bool]:
    """The index of one file, and whether it is the index's own word: else it is made again from the rows."""
    try:
        if name.startswith("pending/"):
            metadata = pq.read_schema(folder / name).metadata
            return [Entry(*r[:-1], name, r[-1]) for r in json.loads(metadata[b"gato:index"])], True  # type: ignore[call-arg]
        return _read_index(folder, name.replace("data/", "index/")), True
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        if numbers is None:
            return [], False
    starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]]) if len(numbers) else np.zeros(0, np.int64)
    ends = np.r_[starts[1:], len(numbers)]
    executed = "executed:" in "".join(pq.read_schema(folder / name).names)
    return [
        Entry(int(numbers[a]), None, "", int(b - a), 0.0, None, {"index_lost": True}, executed, name, int(a))
        for a, b in zip(starts, ends, strict=True)
        if numbers[a] >= 0
    ], False


def find_datasets(paths: Path | str | Iterable[Path | str]) -> list[Path]:
    """Every dataset at or below the paths, sorted; the prompts inside a bundle are none. Raises DatasetMissingError (nearest
    names) if there is none."""
    wanted = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: dict[Path, None] = {}

    def is_dataset(folder: Path) -> bool:
        return (folder / "meta.json").exists() and (folder / "data").is_dir()

    for path in map(Path, wanted):
        if not path.is_dir():
            beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
            raise DatasetMissingError(
                "not a folder" if path.exists() else "no such folder", where=str(path),
                fix=nearest(path.name, beside) or "gato collect TASK --out DIR makes one",
            )  # fmt: skip
        inside = []
        for folder, below, files in os.walk(path):
            if MANIFEST in files and is_dataset(Path(folder)):
                inside.append(Path(folder))
            elif MANIFEST in files:  # of a bundle or a checkpoint: what is in it is its own
                below.clear()
            below[:] = [name for name in below if TEMPORARY not in name]
        if not inside:
            raise DatasetMissingError(
                "there is no dataset here", where=str(path), fix="gato collect TASK --out DIR makes one"
            )
        found.update(dict.fromkeys(sorted(inside)))
    return list(found)
