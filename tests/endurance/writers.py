"""Everything that writes, on a disk that fills up; and collectors that are killed."""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from damage import content
from figures import Failure, Figure, digest_of, emptied, forked, make_tokenizer
from runs import Place, kill_within, prepare

from gato.errors import DiskFullError

# -- a full disk ------------------------------------------------------------------------------------------------------


def write_file(place: Place, out: Path, second: bool) -> None:
    from gato.episodes.manifest import write_file_atomically

    write_file_atomically(out / "file", bytes(5000) if not second else os.urandom(9000))


def write_checkpoint(place: Place, out: Path, second: bool) -> None:
    from gato.model import Gato
    from gato.training.checkpoint import State, save_checkpoint
    from gato.training.optimizer import make_optimizers

    model = Gato(place.recipe.config())
    save_checkpoint(out, model, make_optimizers(model, place.recipe), State(2 if second else 1), keep_last=2)


def write_bundle(place: Place, out: Path, second: bool) -> None:
    from gato.model import Gato
    from gato.model.bundle import Bundle

    config = place.recipe.config()
    Bundle(config, Gato(config), place.text).save(out / ("second" if second else "first"))


def write_episodes(place: Place, out: Path, second: bool) -> None:
    from gato.rollouts.collect import collect
    from gato.worlds import find

    collect([find("dummy/count")], 8 if second else 4, out, workers=0, progress=False)


def write_corpus(place: Place, out: Path, second: bool) -> None:
    from gato.corpora.layouts import Preparation, import_corpus

    how = Preparation(size=(32, 48), split="all")
    list(import_corpus("coco", place.folder / "raw", out, how, limit=None if second else 4))


def write_tokenizer(place: Place, out: Path, second: bool) -> None:
    if second:
        place.text.save(out / "tokenizer.model")


def write_run(place: Place, out: Path, second: bool) -> None:
    from gato.training import train

    train(place.recipe, place.stores, place.text, out / ("second" if second else "first"))


WRITERS: dict[str, Callable[[Place, Path, bool], None]] = {
    "file": write_file, "checkpoint": write_checkpoint, "bundle": write_bundle, "episodes": write_episodes,
    "corpus": write_corpus, "tokenizer": write_tokenizer, "run": write_run,
}  # fmt: skip


@dataclass
class Sized:
    place: Place
    largest: dict[str, int]  # bytes of the largest file that each writer adds


def prepare_disk(folder: Path) -> Sized:
    place = prepare(folder, steps=3)
    largest = {}
    for name, write in WRITERS.items():
        out = emptied(folder / "sizes")

        def both(write: Callable[[Place, Path, bool], None] = write, out: Path = out) -> str:
            write(place, out, False)
            before = set(digest_of(out).items())
            write(place, out, True)
            new = dict(set(digest_of(out).items()) - before)
            return str(max((out / name).stat().st_size for name in new))

        code, said = forked(both)
        assert code == 0 and said[0] == "+", (name, said)
        largest[name] = int(said[1:])
    return Sized(place, largest)


def fill_disk(sized: Sized, i: int, rng: random.Random) -> str:
    """No file may grow beyond so many bytes (the kernel's own limit): a DiskFullError with a path, and what was there is."""
    name = list(WRITERS)[i % len(WRITERS)]
    limit = rng.randrange(sized.largest[name])
    out = emptied(sized.place.folder / "out")
    code, said = forked(lambda: WRITERS[name](sized.place, out, False) or "")
    if said != "+":
        raise Failure(f"{name}, before the disk was full: {said}")
    before = what_is_there(name, out)

    def write() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            WRITERS[name](sized.place, out, True)
        except DiskFullError as error:
            return f"named: {error.where}"
        return "no error"

    code, said = forked(write)
    if not said.startswith("+named: /"):
        raise Failure(f"{name} with {limit} of {sized.largest[name]} bytes: {said} ({code})")
    after = what_is_there(name, out)
    if any(after.get(k) != v for k, v in before.items()):
        raise Failure(f"{name}: {[k for k, v in before.items() if after.get(k) != v]} did not stay")
    return name


def what_is_there(name: str, out: Path) -> dict[str, str]:
    from gato.episodes.repair import verify
    from gato.episodes.store import Dataset, find_datasets

    if name not in ("episodes", "corpus"):
        return digest_of(out, but=("tensorboard", "log.jsonl") if name == "run" else ())
    found = {}
    for folder in find_datasets([out]):
        report = verify(folder)
        if not report.ok:
            raise Failure(f"{folder} is damaged: {report.problems[:2]}")
        dataset = Dataset.open(folder)
        for entry, episode in zip(dataset.index, dataset, strict=True):
            found[f"{folder.name}/{entry.number}"] = f"{episode.info} {episode.rewards.tolist()}"
    return found


# -- collectors -------------------------------------------------------------------------------------------------------

EPISODES = 12


@dataclass
class Collecting:
    folder: Path
    whole: str
    seconds: float


def prepare_collector(folder: Path) -> Collecting:
    make_tokenizer(folder)
    began = time.monotonic()
    _code, said = forked(lambda: collect_once(folder / "whole", None))
    assert said == "+", said
    return Collecting(folder, content(folder / "whole" / "dummy" / "count"), time.monotonic() - began)


def collect_once(out: Path, told: Path | None, workers: int = 0) -> str:
    from gato.episodes.writer import DatasetWriter
    from gato.rollouts.collect import collect
    from gato.worlds import find

    if told is not None:  # what is finished is written down once the writer has said so
        file = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        add = DatasetWriter.add_chunk

        def add_chunk(self: Any, chunk: Any, numbers: Any, *rest: Any) -> None:
            numbers = list(numbers)
            add(self, chunk, numbers, *rest)
            os.write(file, "".join(f"{n}\n" for n in numbers).encode())

        DatasetWriter.add_chunk = add_chunk  # type: ignore[method-assign, assignment]
    collect([find("dummy/count")], EPISODES, out, workers=workers, progress=False)
    return ""


def kill_collector(place: Collecting, i: int, rng: random.Random) -> str:
    """Kill -9 at one or two random moments: what was finished is there, once; then topped up, it is the undisturbed set."""
    from gato.episodes.store import Dataset

    out, told = emptied(place.folder / "data"), place.folder / "told"
    told.unlink(missing_ok=True)
    folder, kills = out / "dummy" / "count", rng.randint(1, 2)
    workers = 2 if i % 5 == 0 else 0

    def anew() -> None:
        emptied(out)
        told.unlink(missing_ok=True)

    for _ in range(kills):
        seconds = rng.uniform(0, place.seconds * (4 if workers else 1))
        kill_within(lambda: collect_once(out, told, workers), seconds, anew)
        finished = {int(n) for n in told.read_text().split()} if told.exists() else set()
        there = [e.number for e in Dataset.open(folder).index] if (folder / "MANIFEST.json").exists() else []
        if len(set(there)) != len(there) or not finished <= set(there):
            raise Failure(f"finished {sorted(finished)}, there {sorted(there)}")
    code, said = forked(lambda: collect_once(out, told, workers))
    if said != "+":
        raise Failure(f"not topped up: {said} ({code})")
    if [e.number for e in Dataset.open(folder).index] != list(range(EPISODES)):
        raise Failure("not these episodes")
    if content(folder) != place.whole:
        raise Failure("other episodes than an undisturbed collector's")
    return f"{kills} kills, {workers} workers"


FIGURES = [
    Figure("disk-full", 70, prepare_disk, fill_disk, "a full disk at every writer: DiskFullError, what was there is intact"),
    Figure("kills-collector", 100, prepare_collector, kill_collector, "kill -9 of a collector: no finished episode lost or doubled"),
]  # fmt: skip
