"""Adding to a dataset: each episode durable when it is added, small files folded into large ones. How it is kept: `store.py`."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from gato.episodes.columns import (
    HASH_DIGITS,
    Entry,
    by_size,
    encode_chunk,
    encode_index,
    parquet_writer,
    row_bytes_of,
    schema_of,
    to_table,
    write_groups,
)
from gato.episodes.episode import Episode, facts_as_json
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
    write_file_atomically,
    write_manifest,
)
from gato.episodes.spec import TaskSpec, check_actions
from gato.episodes.store import SCHEMA, Dataset
from gato.errors import GatoError, OutputExistsError

SHARD_BYTES = 2**26


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
        pending = [name for name in held.parts if name.startswith("pending/")]
        if not pending:
            return
        files = dict(held.manifest["files"])
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
        row_bytes = row_bytes_of(self.spec)
        with parquet_writer(sink, schema_of(self.spec, executed)) as writer:
            for batch in by_size(chosen, row_bytes):
                table = to_table(self.spec, held.read(list(batch)), [e.number for e in batch], executed)
                write_groups(writer, table, [e.steps for e in batch], row_bytes)
                for e in batch:
                    moved.append(replace(e, row=row))
                    row += e.steps
        return sink.getvalue(), encode_index(moved)

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
