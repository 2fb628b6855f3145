"""Learning: `gato tokenizer train`, `train`, `finetune`, `improve`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from gato.cli.checks import check_some, check_within, device_named
from gato.errors import DatasetMissingError, UsageError


@dataclass
class TokenizerTrain:
    """A SentencePiece model of your own, lossless on any text: of text files, folders of them, or folders of datasets."""

    files: Positional[tuple[Path, ...]]
    out: Path = Path("tokenizer.model")
    size: int = 32000

    def run(self) -> None:
        check_some(self.files, "a text file", "gato tokenizer train FILES")
        from gato.corpora.text import text_files
        from gato.episodes.store import find_datasets
        from gato.tokens.text import TextTokenizer
        from gato.training.start import texts_of

        def texts() -> Iterator[str]:
            for path in self.files:
                try:
                    datasets = find_datasets([path]) if path.is_dir() else []
                except DatasetMissingError:
                    datasets = []
                yield from texts_of(datasets)
                if not datasets:
                    yield from (e.observations["text"][0] for e in text_files([path], "text/files"))

        tokenizer = TextTokenizer.train(texts(), self.size)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(self.out)
        print(f"{tokenizer} → {self.out}")


@dataclass
class Train:
    """Train a recipe (a name shipped with the package, or your Python file) on datasets; or go on with --resume."""

    recipe: Positional[str | None] = None
    data: tuple[Path, ...] = ()
    out: Path | None = None
    tokenizer: Path | None = None
    """A tokenizer.model; one is learned from the texts of the data if not given."""
    size: str | None = None
    steps: int | None = None
    seconds: float | None = None
    set: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    """field=value; model.field=value reaches into the network."""
    resume: Path | None = None
    bundle: bool = False
    """With --resume: no more steps, but the bundle of the run's last checkpoint, in DIR/bundle-step-N. The run can go on."""
    device: str = "auto"
    processes: int = 0
    """On a CPU: how many share each batch; 0 for one per core."""
    evaluate: str = ""
    """Globs, comma-separated: tasks of the data to be played now and then, and at the end; the bundle with the best mean percent
    of expert is kept. A run that goes on is evaluated as it began, if nothing else is said."""
    evaluate_every: int | None = None
    """Steps between two such evaluations; 1,000 if not given."""
    evaluate_episodes: int | None = None
    """Of each task; 10 if not given."""
    track: Literal["wandb", "trackio"] | None = None
    """A tracker to send the log to, where it is installed; log.jsonl and TensorBoard's events are always written."""
    profile: bool = False
    """Write where the time of a few steps goes: profile.json for a trace viewer, profile.txt."""

    def run(self) -> None:
        check_within("--processes", self.processes, 0)
        numbers = {"every": self.evaluate_every, "episodes": self.evaluate_episodes}
        evaluate: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
        for name, number in evaluate.items():
            check_within(f"--evaluate-{name}", number, 1)
        if evaluate and not self.evaluate and self.resume is None:
            raise UsageError(f"--evaluate-{next(iter(evaluate))} goes with --evaluate", fix="--evaluate GLOB")
        if self.steps is not None:
            check_within("--steps", self.steps, 1)
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UsageError(f"--seconds {self.seconds}", fix="a number above 0")
        if self.resume is not None:
            decided = ("recipe", "data", "out", "tokenizer", "size", "steps", "seconds", "set")
            if given := [name for name in decided if getattr(self, name)]:
                raise UsageError(
                    f"a run goes on as it began: {', '.join(given)} cannot change", where=str(self.resume),
                    fix="gato train --resume DIR; for other settings gato finetune from its bundle (--resume DIR --bundle makes one)",
                )  # fmt: skip
        elif self.bundle:
            raise UsageError("a bundle of which run?", fix="gato train --resume DIR --bundle")
        device = device_named(self.device)  # before anything is written
        from gato.evaluation.evaluate import mean_percent
        from gato.training.start import bundle_so_far, resume_run, start_run
        from gato.worlds import select

        if self.evaluate:
            select(self.evaluate)  # says so where there is no such task at all
            evaluate["tasks"] = self.evaluate
        watching: dict[str, Any] = {
            "track": self.track, "profile": self.profile, "evaluate": evaluate, "scoring": mean_percent,
        }  # fmt: skip
        if self.resume is not None and self.bundle:
            bundle = bundle_so_far(self.resume)
        elif self.resume is not None:
            bundle = resume_run(self.resume, device, self.processes, **watching)
        else:
            if self.recipe is None or self.out is None or not self.data:
                raise UsageError(
                    "a recipe, --data and --out are needed",
                    fix="gato train RECIPE --data DIR --out DIR, or gato train --resume DIR",
                )
            words = list(self.set)
            for name in ("size", "steps", "seconds"):
                if getattr(self, name) is not None:
                    words.append(f"{name}={json.dumps(getattr(self, name))}")
            bundle = start_run(
                self.recipe, words, list(self.data), self.out, self.tokenizer, device, self.processes, **watching
            )
        if os.environ.get("RANK", "0") == "0":
            print(f"bundle: {bundle}")


@dataclass
class Finetune:
    """Go on training a bundle on demonstrations of other tasks; with --demonstrations, the paper's few-shot protocol."""

    bundle: Positional[Path]
    recipe: Positional[str] = "finetune"
    tasks: str = ""
    """Globs, comma-separated: which of the datasets."""
    data: tuple[Path, ...] = ()
    out: Path | None = None
    set: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    """field=value of the recipe; model.field=value reaches into the network (dropout)."""
    demonstrations: tuple[int, ...] = ()
    """Few-shot: sizes of the nested subsets, say 1 10 100. The task must be held out of the bundle's training."""
    series: int = 3
    """Few-shot: how many draws of the demonstrations."""
    scratch: bool = True
    """Few-shot: beside the bundle, a network that starts from nothing."""
    episodes: int = 10
    every: int = 100
    workers: int = 2
    device: str = "auto"
    processes: int = 0

    def run(self) -> None:
        for name, least in (("series", 1), ("episodes", 1), ("every", 1), ("workers", 0), ("processes", 0)):
            check_within(f"--{name}", getattr(self, name), least)
        if not self.tasks or not self.data or self.out is None:
            raise UsageError(
                "--tasks, --data and --out are needed", fix="gato finetune BUNDLE --tasks GLOB --data DIR --out DIR"
            )
        for size in self.demonstrations:
            check_within("--demonstrations", size, 1)
        if self.demonstrations and self.processes > 1:
            raise UsageError("--demonstrations trains in one process", fix="leave --processes out")
        device = device_named(self.device)
        from gato.policy import load
        from gato.training.start import datasets_of, finetune_recipe, finetune_run

        bundle = load(self.bundle, device).bundle
        folders = datasets_of(self.tasks, list(self.data))
        if not self.demonstrations:
            made = finetune_run(bundle, self.recipe, list(self.set), folders, self.out, device, self.processes)
            print(f"bundle: {made}")
            return
        from gato.evaluation.few_shot import draw, few_shot
        from gato.worlds import find

        recipe = finetune_recipe(bundle, self.recipe, list(self.set))
        for dataset in _one_of_each(folders):
            out = self.out if len(folders) == 1 else self.out / dataset.task
            starts = {"pretrained": bundle, **({"scratch": None} if self.scratch else {})}
            record = few_shot(
                starts, find(dataset.task), dataset, recipe, list(self.demonstrations), self.series, out,
                episodes=self.episodes, every=self.every, workers=self.workers, device=device,
            )  # fmt: skip
            print(f"picture: {draw(record, out / 'few_shot.png')}")


def _one_of_each(folders: Sequence[Path]) -> list[Any]:
    """The datasets in these folders, each of a task of its own. Raises UsageError naming two of the same."""
    from gato.episodes.store import Dataset

    found: dict[str, Any] = {}
    for dataset in map(Dataset.open, folders):
        if (other := found.setdefault(dataset.task, dataset)) is not dataset:
            raise UsageError(
                f"two datasets of {dataset.task}", where=f"{other.folder}, {dataset.folder}",
                fix="name the one to be used with --data",
            )  # fmt: skip
    return list(found.values())


@dataclass
class Improve:
    """Rounds of acting, keeping what went best and training on it: can the agent pass its expert?"""

    bundle: Positional[Path]
    tasks: str = ""
    """Globs, comma-separated: which of the datasets' tasks, one after another."""
    data: tuple[Path, ...] = ()
    """Folders of demonstrations: the expert's, or those of a random policy."""
    out: Path | None = None
    rounds: int = 5
    episodes: int = 100
    """Played in each round."""
    keep: float = 0.2
    """The share that a round trains on: of all episodes so far, demonstrations included, the best by their return; with --by
    steps, of the timesteps most like each, how many may have gone better."""
    by: Literal["episodes", "steps"] = "episodes"
    """What is kept: whole episodes, or the round's timesteps that went better than those most like them."""
    explore: float = 0.0
    """The share of actions that are drawn at random (for continuous ones, noise in half-ranges): in a third of the episodes
    none, in a third half of it."""
    discount: float = 0.98
    """Of what follows a timestep, with --by steps."""
    judged: int = 50
    """Evaluation episodes after each round."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    """field=value of the recipe, which is the bundle's own at a constant rate, 300 steps a round (--by steps: 50)."""
    workers: int = 2
    device: str = "auto"

    def run(self) -> None:
        for name, least in (("rounds", 1), ("episodes", 1), ("judged", 2), ("workers", 0)):
            check_within(f"--{name}", getattr(self, name), least)
        check_within("--keep", self.keep, 0.001, 1)
        check_within("--explore", self.explore, 0, 1)
        check_within("--discount", self.discount, 0, 1)
        if not self.tasks or not self.data or self.out is None:
            raise UsageError(
                "--tasks, --data and --out are needed", fix="gato improve BUNDLE --tasks TASK --data DIR --out DIR"
            )
        device = device_named(self.device)
        from gato.evaluation.improve import draw, improve, own_recipe
        from gato.policy import load
        from gato.training.start import datasets_of
        from gato.worlds import find

        bundle = load(self.bundle, device).bundle
        recipe = own_recipe(bundle, self.by).override(list(self.set))
        records = []
        for dataset in _one_of_each(datasets_of(self.tasks, list(self.data))):
            records.append(
                improve(
                    bundle, find(dataset.task), dataset, recipe, self.out / dataset.task, rounds=self.rounds,
                    episodes=self.episodes, keep=self.keep, by=self.by, explore=self.explore, discount=self.discount,
                    judged=self.judged, workers=self.workers, device=device,
                )
            )  # fmt: skip
        print(f"picture: {draw(records, self.out / 'improve.png')}")
