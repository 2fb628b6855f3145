"""Other people's recordings become datasets, and ours theirs: Minari (both ways), LeRobot v3 and JAT (in).

    for done in import_recordings("lerobot", "~/pusht", "data", task="lerobot/pusht"): ...
    export_minari("data/babyai/go-to-local", "minari")

A layout is read by a `Recordings`: it knows the spec, how many episodes there are, and yields them by number. What is
read must be whole: a file that is missing, a row that is damaged, a frame that is not there, is a DataError naming file
and row, and with `on_bad="skip"` an episode left out, counted, and noted in the dataset with the reason.

An import goes on where it stopped. Until it is through, its folder is called NAME.tmp-import, which nothing takes for a
dataset; the same call again finishes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gato.episodes.columns import encode_chunk
from gato.episodes.episode import Episode
from gato.episodes.exchange.leaves import Matching, match
from gato.episodes.manifest import MANIFEST, TEMPORARY, fsync_folder
from gato.episodes.spec import TaskSpec
from gato.episodes.store import Dataset, dataset_folder
from gato.episodes.writer import DatasetWriter
from gato.errors import DataError, UnknownNameError, UsageError, nearest

HELD_OUT_PERCENT = 8  # as of the corpora
CHUNK_EPISODES, CHUNK_BYTES = 256, 1 << 24  # made durable together
SHARD_CHUNKS = 32  # compacted together


@dataclass(frozen=True)
class Choices:
    """What the files leave open."""

    size: tuple[int, int] | None = None  # of images, (height, width) in pixels; None: as recorded, or as large as fits
    action_bounds: tuple[float, float] | None = None  # of continuous actions; None: [-1, 1], or what the data reach
    target: str = "expert_action"  # Minari: the info that holds what an expert would have done
    split: str = ""  # train, heldout or all; JAT's are its files, and train if not said; the others' drawn, and all

    def __post_init__(self) -> None:
        if self.split not in ("", "train", "heldout", "all"):
            raise UsageError(f"no split {self.split!r}", fix="train, heldout or all")
        if self.size is not None and min(self.size) < 16:
            raise UsageError(f"images of {self.size[0]} × {self.size[1]} pixels", fix="at least 16 a side")
        if self.action_bounds is not None and not self.action_bounds[0] < self.action_bounds[1]:
            raise UsageError(f"action bounds {self.action_bounds}", fix="the lower one first")


class Recordings(Protocol):
    """Episodes in somebody's layout."""

    spec: TaskSpec
    task: str  # their own name for it, as a task id
    described: str  # in words: what decides the episodes, beside the files

    def __len__(self) -> int: ...

    def read(self, numbers: Iterable[int]) -> Iterator[tuple[int, Episode | DataError]]:
        """Episodes of these numbers, ascending; one that cannot be read is its error."""
        ...

    def place(self, number: int) -> str:
        """File and row (or episode) of one of them."""
        ...


def _minari(path: Path, choices: Choices) -> Recordings:
    from gato.episodes.exchange.minari import MinariRecordings

    return MinariRecordings(path, choices.target, choices.action_bounds)


def _lerobot(path: Path, choices: Choices) -> Recordings:
    from gato.episodes.exchange.lerobot import LeRobotRecordings

    return LeRobotRecordings(path, choices.size, choices.action_bounds)


def _jat(path: Path, choices: Choices) -> Recordings:
    from gato.episodes.exchange.jat import JatRecordings

    return JatRecordings(path, choices.size, choices.action_bounds, choices.split or "train")


LAYOUTS: dict[str, Callable[[Path, Choices], Recordings]] = {"minari": _minari, "lerobot": _lerobot, "jat": _jat}


def detect(path: Path | str) -> str:
    """The name of the layout that a folder (or file) is in. Raises DataError."""
    path = Path(path)
    if not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise DataError("no such file or folder", where=str(path), fix=near or "name the folder that was downloaded")
    if (path / "meta" / "info.json").is_file():
        return "lerobot"
    if (path / "data" / "metadata.json").is_file() or (path / "metadata.json").is_file():
        return "minari"
    from gato.episodes.exchange.jat import looks_like_jat

    if looks_like_jat(path):
        return "jat"
    raise DataError(
        "no recordings in a known layout", where=str(path),
        fix="name the folder that holds meta/info.json (LeRobot v3), data/metadata.json (Minari), or JAT's parquet files",
    )  # fmt: skip


def open_recordings(layout: str, path: Path | str, choices: Choices = Choices()) -> Recordings:
    """Raises UnknownNameError for a layout that is not known, DataError for files that are not in it."""
    if layout not in LAYOUTS:
        raise UnknownNameError(f"no layout {layout!r}", fix=nearest(layout, LAYOUTS) or f"one of {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](Path(path), choices)


@dataclass
class Imported:
    """How far an import is: episodes in the dataset, those added by this call, what was left out since the first, and the first messages."""

    folder: Path
    task: str
    episodes: int = 0
    added: int = 0
    skipped: int = 0
    complaints: list[str] = field(default_factory=list)


def import_recordings(
    layout: str,
    path: Path | str,
    out: Path | str,
    choices: Choices = Choices(),
    *,
    task: str = "",
    spec: TaskSpec | None = None,
    limit: int | None = None,
    on_bad: str = "error",
) -> Iterator[Imported]:
    """Write recordings as the dataset out/<domain>/<name>, reporting after every chunk and at the end.

    `spec`: of one of our worlds, to which the recorded leaves are matched by name, or else by kind and shape, so that an
    agent trained on them can act there. `limit`: the first so many. What was left out by an earlier call is tried again.
    Raises OutputExistsError where the folder holds something else, DataError (file, row) for what cannot be read, SpecError where the leaves do not match.
    """
    recordings = open_recordings(layout, path, choices)
    task = _checked(task or recordings.task)
    matching = match(recordings.spec, spec, task) if spec is not None else Matching.identity(recordings.spec)
    folder = dataset_folder(out, task)
    work = folder if (folder / MANIFEST).exists() else folder.with_name(f"{folder.name}{TEMPORARY}import")
    drawn = "" if layout == "jat" or choices.split in ("", "all") else choices.split  # JAT's are told by their files
    said = [f"{layout} {recordings.task}", recordings.described, f"{drawn} split" if drawn else ""]
    facts = {"source": ", ".join(filter(None, said)), "layout": layout}
    wanted = [n for n in range(len(recordings)) if not drawn or drawn == _split_of(recordings.task, n)][:limit]
    if not wanted:
        what = f"none of {len(recordings)} episodes is in the split {drawn}" if drawn else "no episode"
        raise DataError(what, where=str(path), fix="--split all, or more recordings")
    with _writing(work, task, matching.spec, facts) as writer:
        todo = [n for n in wanted if n not in writer.numbers]
        state = Imported(folder, task, len(writer.numbers), 0, len(writer.failed.keys() - set(todo)))
        waiting: dict[int, Episode] = {}
        failed: dict[int, str] = {}
        held, chunks = 0, 0

        def flush() -> None:
            nonlocal held, chunks
            numbers = list(waiting)
            writer.add_chunk(encode_chunk(matching.spec, list(waiting.values()), numbers, failed), numbers, failed)
            state.episodes, state.added = state.episodes + len(numbers), state.added + len(numbers)
            waiting.clear()
            failed.clear()
            held, chunks = 0, chunks + 1
            if chunks % SHARD_CHUNKS == 0:
                writer.compact()

        for number, found in recordings.read(todo):
            try:
                if isinstance(found, DataError):
                    raise found
                found.task, found.info = task, {"source": facts["source"], **found.info}
                waiting[number] = matching.apply(found).check(matching.spec, recordings.place(number))
            except DataError as error:
                if on_bad != "skip":
                    if waiting:
                        flush()
                    raise
                why = f"{error.code}: {error.what} [{error.where}]"
                if writer.failed.get(number) != why:
                    failed[number] = why
                state.skipped += 1
                state.complaints.append(f"{error.where}: {error.what}")
                continue
            held += _bytes(waiting[number])
            if len(waiting) >= CHUNK_EPISODES or held >= CHUNK_BYTES:
                flush()
                yield state
        if waiting or failed:
            flush()
    if not state.episodes:
        raise DataError("not one episode could be read", where=str(path), fix="; ".join(state.complaints[:3]))
    if work != folder:
        os.rename(work, folder)  # the dataset is there, whole
        fsync_folder(folder.parent)
    yield state


def export_minari(
    dataset: Path | str, out: Path | str, name: str = "", progress: Callable[[int], None] | None = None
) -> Path:
    """Write a dataset of ours as the Minari dataset out/<name>; returns its folder. See `minari.write_minari`."""
    from gato.episodes.exchange.minari import write_minari

    return write_minari(Dataset.open(dataset), Path(out), name, progress)


@contextlib.contextmanager
def _writing(work: Path, task: str, spec: TaskSpec, facts: Mapping[str, Any]) -> Iterator[DatasetWriter]:
    """A writer, whose work folder is gone if no episode came into it: mended recordings may have another spec."""
    writer = None
    try:
        with DatasetWriter(work, task, spec, facts) as writer:
            yield writer
    finally:
        if writer is not None and not writer.numbers and TEMPORARY in work.name:
            shutil.rmtree(work)


def _checked(task: str) -> str:
    domain, _, name = task.partition("/")
    if not domain or not name:
        raise UsageError(f"{task!r} is no task id", fix="--task DOMAIN/NAME, such as lab/pour")
    return task


def _split_of(name: str, number: int) -> str:
    """train or heldout, by a hash: it stays what it is when episodes are added."""
    drawn = int.from_bytes(hashlib.sha256(f"{name}\0{number}".encode()).digest()[:8], "big")
    return "heldout" if drawn < HELD_OUT_PERCENT / 100 * 2**64 else "train"


def _bytes(episode: Episode) -> int:
    leaves: Mapping[str, Any] = {**episode.observations, **episode.actions}
    return sum(sum(map(len, v)) if isinstance(v, list) else v.nbytes for v in leaves.values())
