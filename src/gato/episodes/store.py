"""Episodes on disk: a dataset is a folder of Parquet files, one row per timestep.

    meta.json             schema version, task id, specs, source agent, simulator versions, reference scores
    data/000000.parquet   timesteps: observation:<path>…, action:<path>…, [executed:<path>…], reward, episode, step
    index/000000.parquet  one row per episode of that shard: number, seed, source, steps, return, success, row, info
    pending/*.parquet     episodes finished since the last compaction, index included
    MANIFEST.json         size and SHA-256 of every file above it; written last

How a timestep becomes a row is in `columns.py`, how rows are added in `writer.py`, what is checked and saved in `repair.py`.

Nothing finished is lost or doubled, whenever the writer is killed:

* an episode is durable once its pending file is renamed into place; the file's name holds the hash of its content;
* compaction writes new shards, then one new manifest (the commit point), which lists the shards *and* the pending files
  folded into them; only then are those deleted. Readers ignore folded files and shards that no manifest lists.

Every episode has a `number` (for collected ones its place in the task's seeds); the dataset is ordered by it, so that
datasets collected by one worker or by eight are the same.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gato.episodes.columns import REMEDY, Entry, decode, fields_of, read_chunk, read_index, row_bytes_of, stored
from gato.episodes.episode import Episode, Leaves, facts_as_json
from gato.episodes.manifest import MANIFEST, TEMPORARY, read_manifest, sha256_of, verify_file
from gato.episodes.spec import Specs, TaskSpec
from gato.errors import DataError, DatasetCorruptError, DatasetMissingError, GatoError, nearest

SCHEMA = 1
READ_BYTES = 2**26  # most that is decoded at once when reading in bulk


@dataclass
class Part:
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

    The manifest, meta.json and the index are verified on opening, each data file when it is first read. `index` holds an
    `Entry` per episode, `parts` the files of timesteps by name, `failed` why an episode is not there, by its number.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        for attempt in range(10):  # a writer may fold pending files away between two of our looks
            try:
                self._load()
                break
            except (FileNotFoundError, DatasetCorruptError) as error:
                if attempt == 9 or not _manifest_changed(self.folder, self.manifest):
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
        self.manifest: dict[str, Any] = {}
        self.manifest = manifest = read_manifest(self.folder, "dataset")
        files, facts = manifest["files"], manifest["facts"]
        for name, entry in files.items():
            if name.startswith("index/"):
                verify_file(self.folder, name, entry, DatasetCorruptError)
        self.meta = _read_meta(self.folder, manifest)
        self.task: str = self.meta["task"]
        self.spec = TaskSpec.from_json(self.meta["spec"])
        self.failed: dict[int, str] = {int(k): v for k, v in facts["failed"].items()}
        self.parts = {name: Part(self.folder, name, entry) for name, entry in files.items() if name.startswith("data/")}
        entries = [e for name in files if name.startswith("index/") for e in read_index(self.folder, name)]
        for name in pending_files(self.folder, facts["folded"]):
            chunk, failed = read_chunk(self.folder, name)
            self.parts[name] = Part(self.folder, name, None)
            self.failed |= failed
            entries += chunk
        self.index: list[Entry] = sorted({e.number: e for e in reversed(entries)}.values(), key=lambda e: e.number)
        for entry in self.index:
            self.failed.pop(entry.number, None)  # it was mended, and read after all

    @property
    def identity(self) -> str:
        """A hash of the content: of every file that the manifest lists, and of what is not folded into them yet."""
        return sha256_of(facts_as_json([self.manifest["files"], sorted(self.parts)]).encode())

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
        row_bytes, batch, held = row_bytes_of(self.spec), [], 0
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
        return self.read([replace(entry, row=entry.row + start, steps=max(0, stop - start))])[0]

    def episodes(self, indices: Iterable[int] | None = None) -> list[Episode]:
        """Many episodes at once, in the order asked for (default: all)."""
        return self.read([self.index[i] for i in (range(len(self)) if indices is None else indices)])

    def read(self, entries: list[Entry]) -> list[Episode]:
        """The timesteps that these entries say, which need not be whole episodes, in their order."""
        out: list[Episode | None] = [None] * len(entries)
        by_file: dict[str, list[int]] = {}
        for position, entry in enumerate(entries):
            by_file.setdefault(entry.file, []).append(position)
        for name, positions in by_file.items():
            if name not in self.parts or not (self.folder / name).exists():
                self._follow(entries)
                return self.read(entries)
            for position, episode in self._read_part(self.parts[name], entries, positions):
                out[position] = episode
        return out  # type: ignore[return-value]

    def _follow(self, entries: list[Entry]) -> None:
        """A writer has moved some of these entries into other files since this dataset was opened: find them all there, for
        after this `index` says where they are, not where they were."""
        fresh = Dataset(self.folder)
        place = {e.number: e for e in fresh.index}
        old = {e.number: e for e in self.index}
        for position, entry in enumerate(entries):
            if entry.file in fresh.parts and (self.folder / entry.file).exists():
                continue
            new = place.get(entry.number)
            if new is None or new.file == entry.file:
                raise DatasetCorruptError("the file is missing", where=str(self.folder / entry.file), fix=REMEDY)
            entries[position] = replace(entry, file=new.file, row=new.row + entry.row - old[entry.number].row)
        self.index = [place.get(e.number, e) for e in self.index]
        self.parts = fresh.parts

    def _read_part(self, part: Part, entries: list[Entry], positions: list[int]) -> Iterator[tuple[int, Episode]]:
        part.open()
        rows = READ_BYTES // row_bytes_of(self.spec)
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

    def _read_batch(self, part: Part, entries: list[Entry], batch: list[int]) -> Iterator[tuple[int, Episode]]:
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
            name: {path: decode(s, table[f"{prefix}:{path}"]) for path, s in stored(specs)}
            for name, prefix, specs in fields_of(self.spec, any(e.executed for e in chosen))
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


def pending_files(folder: Path, folded: Iterable[str]) -> list[str]:
    gone = set(folded)
    names = sorted(f"pending/{p.name}" for p in (folder / "pending").glob("*.parquet"))
    return [name for name in names if name not in gone]


def _manifest_changed(folder: Path, manifest: Mapping[str, Any]) -> bool:
    try:
        return bool(manifest) and read_manifest(folder, "dataset") != manifest
    except GatoError:
        return False


# -- where datasets are -----------------------------------------------------------------------------------------------


def dataset_folder(out: Path | str, task_id: str) -> Path:
    """out/<domain>/<name>; further slashes (and what a file system dislikes) in a name become dashes."""
    domain, name = task_id.split("/", 1)
    return Path(out) / domain / name.replace("/", "-").replace(":", "-")


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
