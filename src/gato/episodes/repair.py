"""What is wrong with a dataset, and what of it is whole: `gato data verify`, `gato data repair`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gato.episodes.columns import Entry, by_size, encode_chunk, read_index, row_bytes_of
from gato.episodes.manifest import MANIFEST, read_manifest, verify_file
from gato.episodes.spec import TaskSpec
from gato.episodes.store import READ_BYTES, Dataset, Part, pending_files
from gato.episodes.writer import DatasetWriter
from gato.errors import DatasetCorruptError, GatoError, OutputExistsError


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
    damaged = {name for name in dataset.parts if any(str(folder / name) in p for p in report.problems)}
    by_part: dict[str, list[int]] = {}
    for i, entry in enumerate(dataset.index):
        by_part.setdefault(entry.file, []).append(i)
    for name, indices in by_part.items():
        if name in damaged:
            continue
        dataset.parts[name].entry = None  # its hash is verified already
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
    place, part = dataset.folder / name, dataset.parts[name]
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
    for batch in by_size([dataset.index[i] for i in order], row_bytes_of(dataset.spec), READ_BYTES):
        for entry, episode in zip(batch, dataset.read(list(batch)), strict=True):
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
    damaged.folder, damaged.manifest = folder, manifest
    damaged.meta = json.loads((folder / "meta.json").read_bytes())
    damaged.task, damaged.spec = damaged.meta["task"], TaskSpec.from_json(damaged.meta["spec"])
    names = [name for name in manifest["files"] if name.startswith("data/")] + pending_files(
        folder, manifest["facts"]["folded"]
    )
    damaged.parts = {name: Part(folder, name, None) for name in names}
    done = Repaired(out)
    facts = {key: value for key, value in damaged.meta.items() if key not in ("schema", "task", "spec")}
    with DatasetWriter(out, damaged.task, damaged.spec, facts) as writer:
        for name in names:
            numbers, steps = _numbering(damaged.parts[name])
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
                    [episode] = damaged.read([entry])
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


def _numbering(part: Part) -> tuple[np.ndarray | None, np.ndarray]:
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
        return read_index(folder, name.replace("data/", "index/")), True
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
