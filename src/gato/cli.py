"""The command line: words become calls. `gato VERB …`, one dataclass per verb, every room imported only when it is needed.

Exit codes: 2 usage, 3 data, 4 checkpoint, 5 environment, 6 resources. An error says what, where and what to do next;
tracebacks appear with `--debug` alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from gato.errors import (
    DatasetMissingError,
    GatoError,
    OutputExistsError,
    UnknownNameError,
    UsageError,
    known_instead,
    nearest,
)


@dataclass
class Demo:
    """The main job on a small scale: collect, train, evaluate, report. Offline."""

    out: Path = Path("runs/demo")
    seconds: float | None = None
    """Training time; the recipe's own (nine minutes) if not given."""
    episodes: int = 20
    """Evaluation episodes per task."""
    workers: int = 2
    device: str = "auto"
    tasks: tuple[str, ...] = ()
    """Only these of the demo's tasks."""

    def run(self) -> None:
        _within("--episodes", self.episodes, 1)
        _within("--workers", self.workers, 0)
        from gato.demo import run

        run(
            self.out,
            seconds=self.seconds,
            episodes=self.episodes,
            workers=self.workers,
            device=_device(self.device),
            tasks=self.tasks or None,
        )


@dataclass
class Doctor:
    """What is installed, and whether it works: versions, simulators, a rendered frame, two steps of training."""

    json: bool = False
    sizes: bool = False
    """Parameters of every named size, counted without allocating them."""
    paper: bool = False
    """The paper, sentence by sentence: where it is in the code, and which test holds it there."""

    def run(self) -> None:
        if self.paper:
            from gato.paper import as_json, as_text

            print(as_json() if self.json else as_text())
            return
        from gato.doctor import examine, sizes

        if self.sizes:
            found = sizes()
            print(
                json.dumps(found, indent=1)
                if self.json
                else "\n".join(f"{k:12} {v['parameters']:>13,}" for k, v in found.items())
            )
            return
        found = examine()
        if self.json:
            print(json.dumps(found, indent=1))
            return
        for name, line in found.items():
            print(f"{name:24} {line}")


@dataclass
class Tasks:
    """Every control task: domain, installed?, score, expert and reference scores."""

    pattern: Positional[str] = "*"
    json: bool = False
    spec: bool = False
    """Observations and actions too, of the tasks that are installed (each is made once)."""

    def run(self) -> None:
        from gato.worlds import select

        chosen = select(self.pattern)
        if self.json:
            print(json.dumps([_task_record(t, self.spec) for t in chosen], indent=1))
            return
        if self.spec:
            for t in chosen:
                print(t.id if t.installed else f"{t.id}: {t.pip_line}")
                for part in ("observation", "action") if t.installed else ():
                    for path, leaf in getattr(t.spec, part).items():
                        print(f"  {part:11} {path}: {_leaf(leaf)}")
            return
        from rich.table import Column, Table

        table = Table(Column("task", no_wrap=True), "installed", "score", "random", "expert", "by")
        for t in chosen:
            random, expert = (t.references.get(k) for k in ("random", "expert"))
            numbers = [f"{r.mean:.4g}" if r else "–" for r in (random, expert)]
            table.add_row(t.id, "yes" if t.installed else t.pip_line, t.score, *numbers, t.expert_name or "–")
        _print_table(table)
        print(f"{len(chosen)} tasks in {len({t.domain for t in chosen})} domains")


def _task_record(task: Any, spec: bool) -> dict[str, Any]:
    references = {k: vars(v) for k, v in task.references.items()}
    record = {
        "id": task.id, "domain": task.domain, "extra": task.extra, "installed": task.installed, "install": task.pip_line,
        "score": task.score, "expert_name": task.expert_name, "max_steps": task.max_steps, "references": references,
        "notes": task.notes, "same_world": task.same_world,
    }  # fmt: skip
    return {**record, "spec": task.spec.to_json() if task.installed else None} if spec else record


def _leaf(spec: Any) -> str:
    """`continuous float32 (3,) in -1 … 1`."""
    low, high = (f"{f(b):g}" if b else "" for f, b in ((min, spec.low), (max, spec.high)))
    return f"{spec.kind} {spec.dtype} {spec.shape}" + (f" in {low} … {high}" if low and high else "")


@dataclass
class Collect:
    """Demonstrations of every task that matches, topped up to N episodes each. Nothing finished is ever lost."""

    pattern: Positional[str] = ""
    """Task ids or globs; with trace files, what they hold if left out."""
    out: Path = Path("data")
    episodes: int = 100
    workers: int | None = None
    """2 if not given; on a cluster, one for each of its CPUs."""
    cluster: str | None = None
    """Play on a Ray cluster: auto, or HOST:PORT of its head. The episodes are the same."""
    policy: str = "expert"
    """expert, random, or module:function."""
    noise: float = 0.0
    """Executed actions get this much noise; the recorded target stays the expert's choice."""
    wide_share: float = 0.0
    """Share of episodes that start beyond the task's own start states."""
    coverage: bool = False
    """Clean and noisy episodes, bursts of random actions and wide starts, drawn per episode, in place of the two above."""
    max_steps: int | None = None
    traces: bool = False
    """Write traces (seed, actions, proof: OUT/DOMAIN--NAME.parquet) instead of whole episodes."""
    from_traces: tuple[Path, ...] | None = None
    """Replay traces instead of running experts: of these files and folders, or the package's if none is named."""
    deadline: float | None = None
    """Seconds without a step after which a world or its expert is given up (60; 300 for traces)."""

    def run(self) -> None:
        _workers(self.workers, self.cluster)
        if self.deadline is not None:
            _within("--deadline", self.deadline, 1)
        if self.cluster and self.traces:
            raise UsageError("traces are made on this machine", fix="leave out --traces or --cluster")
        _within("--noise", self.noise, 0)
        _within("--wide-share", self.wide_share, 0, 1)
        if self.max_steps is not None:
            _within("--max-steps", self.max_steps, 1)
        from gato.rollouts import Noise
        from gato.rollouts.collect import COVERAGE, COVERAGE_WIDE_SHARE, collect
        from gato.worlds import select

        if self.traces and self.from_traces is not None:
            raise UsageError("traces are made by experts", fix="either --traces or --from-traces")
        if not self.pattern and not self.from_traces:
            raise UsageError("no task named", fix="gato collect PATTERN; gato tasks lists them")
        pattern = self.pattern
        if not pattern:
            from gato.worlds.traces import find_files

            pattern = ",".join(find_files(self.from_traces or ()))
        noise: Any = Noise(self.noise) if self.noise else None
        wide_share = self.wide_share
        if self.coverage:
            noise, wide_share = COVERAGE, COVERAGE_WIDE_SHARE
        tasks = select(pattern)
        if self.policy == "expert" and self.from_traces is None and set(pattern) & set("*?["):
            without = [task.id for task in tasks if task.make_expert is None]
            if without and len(without) < len(tasks):  # a wildcard means those that can be had, a name means itself
                print(f"left out, for want of an expert: {', '.join(without)}", file=sys.stderr)
                tasks = [task for task in tasks if task.make_expert is not None]
        arguments = (
            tasks,
            self.episodes,
            self.out,
            self.workers if self.cluster or self.workers is not None else 2,
            self.policy,
            noise,
            wide_share,
            self.max_steps,
        )
        if self.traces:
            from gato.rollouts.tracing import collect_traces

            done = collect_traces(*arguments, deadline=self.deadline or 300.0)  # type: ignore[arg-type]
        else:
            replayed = self.from_traces if self.from_traces else self.from_traces is not None
            done = collect(*arguments, from_traces=replayed, cluster=self.cluster, deadline=self.deadline or 60.0)
        for result in done:
            print(
                f"{result.task}: {result.episodes:,} episodes (+{result.added:,}), {result.failed:,} dropped → {result.folder}"
            )
            for reason, times in result.reasons.items():
                print(f"    {times:,} times {reason}" if times > 1 else f"    {reason}")


@dataclass
class DataLs:
    """Your own Table 1: tasks, episodes, timesteps, tokens, share of the tokens."""

    paths: Positional[tuple[Path, ...]]
    paper: bool = False
    """By domain, beside the paper's tasks, episodes, tokens and sample weights."""
    json: bool = False

    def run(self) -> None:
        _some(self.paths, "a dataset folder", "gato data ls DIR")
        from gato.episodes.table import beside_the_paper, table

        rows = table(list(self.paths), tokens=_count_tokens)
        for row in rows:
            if row["problem"]:
                print(f"{row['task']}: {row['problem']} [{row['folder']}]", file=sys.stderr)
        total = sum(r["tokens"] or 0 for r in rows) or 1
        for row in rows:
            row["sample_weight"] = (row["tokens"] or 0) / total
        if self.paper:
            from gato.recipes.paper import TABLE_1

            rows = beside_the_paper(rows, TABLE_1)
        if self.json:
            print(json.dumps(rows, indent=1, default=str))
            return
        from rich.table import Column, Table

        if self.paper:
            from gato.evaluation.charts import short

            names = ("tasks", "episodes", "tokens")
            shown = Table(Column("ours / the paper's", no_wrap=True), *names, "weight")
            for r in rows:
                pairs = [f"{short(r[name])} / {short(r[f'paper_{name}'])}" for name in names]
                shown.add_row(r["domain"], *pairs, f"{r['paper_weight']:.2f} %")
            _print_table(shown)
            return
        numbers = ("episodes", "timesteps", "tokens", "share", "return")
        shown = Table(
            Column("task", overflow="fold"), *(Column(name, justify="right", no_wrap=True) for name in numbers)
        )
        for r in rows:
            mean = r.get("mean_return")
            shown.add_row(
                r["task"], *(f"{r[name]:,}" if r[name] else "–" for name in ("episodes", "timesteps", "tokens")),
                f"{r['sample_weight']:.1%}", f"{mean:.3g}" if mean is not None else "–",
            )  # fmt: skip
        _print_table(shown)


def _print_table(table: Any) -> None:
    """As wide as the terminal, or, into a file or a pipe, as the table."""
    from rich.console import Console

    console = Console(markup=False)  # what stands in brackets is said, not a style: pip install "gato-agent[babyai]"
    if not console.is_terminal:
        console.width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    console.print(table)


def _count_tokens(dataset: Any) -> int:
    """Tokens of a dataset; texts are counted as a token for every four bytes, as no tokenizer is fixed here."""
    from gato.tokens import TimestepCodec, Vocabulary

    codec = TimestepCodec(dataset.spec, Vocabulary(), None, task=dataset.task)
    texts = [path for path, spec in dataset.spec.observation.items() if spec.kind == "text"]
    total = codec.fixed_tokens * dataset.num_timesteps
    if texts:
        for episode in dataset:
            if not codec.acts and "marks" in episode.observations:  # a page's timesteps without an image
                total -= codec.fixed_tokens * int((episode.observations["marks"][:, 0] == 0).sum())
            total += sum(len(text.encode()) // 4 for path in texts for text in episode.observations[path])
    return total


@dataclass
class DataShow:
    """The tokens of one timestep, from the arrays that are trained on, and a picture of them."""

    path: Positional[Path]
    episode: int = 0
    step: int = 0
    tokenizer: Path | None = None
    """A tokenizer.model, needed where the task has texts."""
    picture: Path | None = None

    def run(self) -> None:
        if self.picture:
            _suffix("--picture", self.picture, ".png", ".jpg", ".webp")
        from gato.episodes.store import Dataset
        from gato.tokens import TimestepCodec, Vocabulary
        from gato.tokens.show import describe, draw
        from gato.tokens.text import TextTokenizer

        dataset = Dataset.open(self.path)
        if not 0 <= self.episode < len(dataset):
            raise UsageError(
                f"no episode {self.episode}", where=str(self.path), fix=f"--episode 0 … {len(dataset) - 1}"
            )
        if self.tokenizer is None and any(s.kind == "text" for s in dataset.spec.observation.values()):
            raise UsageError(
                "this task has texts, and their tokens depend on the tokenizer",
                where=str(self.path),
                fix="--tokenizer RUN/tokenizer.model",
            )
        text = TextTokenizer.load(self.tokenizer) if self.tokenizer else None
        codec = TimestepCodec(dataset.spec, Vocabulary(text.size if text else 32000), text, task=dataset.task)
        episode = dataset[self.episode]
        if not 0 <= self.step < len(episode):
            raise UsageError(f"no step {self.step}", where=str(self.path), fix=f"--step 0 … {len(episode) - 1}")
        tokens = codec.encode(episode)
        print(f"{episode}\n")
        print(describe(codec, tokens, self.step))
        if self.picture:
            draw(codec, tokens, self.step, self.picture)
            print(f"picture: {self.picture}")


@dataclass
class DataVerify:
    """Every hash and every episode of the datasets; exit code 3 if anything is wrong."""

    paths: Positional[tuple[Path, ...]]
    contents: bool = True
    """--no-contents: the hashes alone (are the bytes those that were written?), several times as fast."""
    json: bool = False

    def run(self) -> None:
        _some(self.paths, "a dataset folder", "gato data verify DIR")
        from gato.episodes.store import find_datasets, verify

        bad = 0
        for path in find_datasets(list(self.paths)):
            report = verify(path, self.contents)
            bad += not report.ok
            if self.json:
                print(
                    json.dumps(
                        {
                            "path": str(path),
                            "ok": report.ok,
                            "episodes": report.episodes,
                            "problems": [str(p) for p in report.problems],
                        }
                    )
                )
            else:
                print(
                    f"{'ok ' if report.ok else 'BAD'} {path}: {report.episodes:,} episodes, {report.timesteps:,} timesteps"
                )
                for problem in report.problems:
                    print(f"    {problem}")
        if bad:
            raise SystemExit(3)


@dataclass
class DataRepair:
    """What is still whole of a damaged dataset, as a new one; the old one is not touched."""

    dataset: Positional[Path]
    out: Path

    def run(self) -> None:
        from gato.episodes.store import repair

        done = repair(self.dataset, self.out)
        print(f"{done.kept:,} episodes kept, {len(done.lost):,} lost → {self.out}")
        for number, reason in done.lost.items():
            print(f"    episode {number}: {reason}")
        if done.unlisted:
            print(f"    of {len(done.unlisted):,} the index was lost: their seeds and sources are not known")


@dataclass
class DataImport:
    """Recordings (Minari, LeRobot v3, JAT) or a corpus (The Pile, MS-COCO, LAION, VQAv2, OBELICS, films, …), as people
    distribute them, become a dataset to train on."""

    layout: Positional[str]
    """Of recordings: minari, lerobot, jat, or auto to look which; of corpora: text, pile, c4, fineweb, datasets, coco,
    conceptual-captions, webdataset, laion, datacomp, vqav2, ok-vqa, obelics, mmc4, bild or clips."""
    path: Positional[Path]
    out: Path
    task: str = ""
    """domain/name; the layout's own if not given."""
    images: Path | None = None
    """Where the images are, if not beside the files that speak of them."""
    size: tuple[int, int] | None = None
    """Height and width of images in pixels; as large as fits the window if not given."""
    pairs: int = 5
    """Image-text pairs in an episode."""
    frames: int = 8
    """Of a clip."""
    stride: int = 4
    """Film frames from one of a clip's to the next."""
    window_tokens: int = 1024
    split: str = ""
    """train, heldout or all; if not given, all of Minari's and LeRobot's, train of everything else."""
    column: str = "text"
    """Of objects and tables: where the text is."""
    on_bad: str = "error"
    """error, or skip: leave out what cannot be read, and count it."""
    max_record_bytes: int = 8_388_608
    limit: int | None = None
    """At most so many episodes."""
    world: bool = False
    """Recordings: the task is one of our worlds; take its names, types and bounds, so that an agent can act there."""
    action_bounds: tuple[float, float] | None = None
    """Recordings: of continuous actions; -1 and 1, or what the data reach, if not given."""
    target: str = "expert_action"
    """Minari: the info that holds what an expert would have done; without it the actions themselves are learned."""
    json: bool = False

    def run(self) -> None:
        if self.limit is not None:
            _within("--limit", self.limit, 1)
        if self.on_bad not in ("error", "skip"):
            raise UsageError(f"--on-bad {self.on_bad}", fix="error or skip")
        from gato.episodes import exchange

        if self.layout in (*exchange.LAYOUTS, "auto"):
            self._shown(self._recordings(exchange.detect(self.path) if self.layout == "auto" else self.layout))
        else:
            self._shown(self._corpus())

    def _recordings(self, layout: str) -> Any:
        from gato.episodes.exchange import Choices, import_recordings

        spec = None
        if self.world:
            if not self.task:
                raise UsageError("--world needs the world's name", fix="--task DOMAIN/NAME; gato tasks lists them")
            from gato.worlds import find

            spec = find(self.task).spec
        choices = Choices(self.size, self.action_bounds, self.target, self.split)
        return import_recordings(
            layout, self.path, self.out, choices, task=self.task, spec=spec, limit=self.limit, on_bad=self.on_bad
        )

    def _corpus(self) -> Any:
        from gato.corpora.layouts import Preparation, find_layout, import_corpus

        if self.world or self.action_bounds is not None:
            raise UsageError("a corpus has no actions", where=self.layout, fix="leave out --world and --action-bounds")
        layout = find_layout(self.layout)
        how = Preparation(
            self.size, self.pairs, self.frames, self.stride, self.window_tokens, split=self.split or "train", column=self.column,
            on_bad=self.on_bad, max_record_bytes=self.max_record_bytes,  # type: ignore[arg-type]
        )  # fmt: skip
        if not self.json:
            print(f"{layout.name}: {how.cost(layout)}")
        return import_corpus(
            self.layout, self.path, self.out, how, task=self.task, images=self.images, limit=self.limit
        )

    def _shown(self, found: Any) -> None:
        for done in found:
            if not self.json and sys.stderr.isatty():
                print(f"\r{done.episodes:,} episodes, {done.skipped:,} skipped", end="", file=sys.stderr)
        if self.json:
            print(json.dumps({**vars(done), "folder": str(done.folder)}))
            return
        print(f"{done.task}: {done.episodes:,} episodes (+{done.added:,}), {done.skipped:,} skipped → {done.folder}")
        for complaint in done.complaints:
            print(f"  skipped: {complaint}", file=sys.stderr)


@dataclass
class DataGenerate:
    """Corpora made from our own worlds, true by construction: captions, questions, dialogues, pages, clips, and text."""

    corpora: Positional[tuple[str, ...]] = ()
    """Names, say captions/rooms questions/rooms; all are listed if none is given."""
    out: Path = Path("data")
    episodes: int = 20_000
    """Of each; one that is there is topped up. Text has as much as there is."""
    split: Literal["train", "heldout"] = "train"
    seed: int = 0
    blank: bool = False
    """Of questions/rooms: black pictures, for a network that learns the questions alone."""

    def run(self) -> None:
        _within("--episodes", self.episodes, 1)
        _within("--seed", self.seed, 0)
        from gato.scenes import CORPORA, generate

        if not self.corpora:
            print("\n".join(CORPORA))
            return
        for name in self.corpora:
            (folder,) = generate(
                self.out, [name], split=self.split, scenes=self.episodes, seed=self.seed, blank=self.blank
            )
            from gato.episodes.store import Dataset

            print(f"{name}: {len(Dataset.open(folder)):,} episodes → {folder}")


@dataclass
class DataExport:
    """A dataset in somebody else's layout."""

    dataset: Positional[Path]
    out: Path
    layout: Literal["minari"] = "minari"
    name: str = ""
    """Minari's name, NAMESPACE/NAME-v0; the task's own, and v0, if not given."""

    def run(self) -> None:
        from gato.episodes.exchange import export_minari

        shown = sys.stderr.isatty()
        folder = export_minari(
            self.dataset, self.out, self.name,
            lambda n: print(f"\r{n:,} episodes", end="", file=sys.stderr) if shown else None,
        )  # fmt: skip
        print(f"{folder}\nMINARI_DATASETS_PATH={self.out.resolve()} lets minari.load_dataset find it")


@dataclass
class TokenizerTrain:
    """A SentencePiece model of your own, lossless on any text: of text files, folders of them, or folders of datasets."""

    files: Positional[tuple[Path, ...]]
    out: Path = Path("tokenizer.model")
    size: int = 32000

    def run(self) -> None:
        _some(self.files, "a text file", "gato tokenizer train FILES")
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
        _within("--processes", self.processes, 0)
        numbers = {"every": self.evaluate_every, "episodes": self.evaluate_episodes}
        evaluate: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
        for name, number in evaluate.items():
            _within(f"--evaluate-{name}", number, 1)
        if evaluate and not self.evaluate and self.resume is None:
            raise UsageError(f"--evaluate-{next(iter(evaluate))} goes with --evaluate", fix="--evaluate GLOB")
        if self.steps is not None:
            _within("--steps", self.steps, 1)
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
        device = _device(self.device)  # before anything is written
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
            _within(f"--{name}", getattr(self, name), least)
        if not self.tasks or not self.data or self.out is None:
            raise UsageError(
                "--tasks, --data and --out are needed", fix="gato finetune BUNDLE --tasks GLOB --data DIR --out DIR"
            )
        for size in self.demonstrations:
            _within("--demonstrations", size, 1)
        if self.demonstrations and self.processes > 1:
            raise UsageError("--demonstrations trains in one process", fix="leave --processes out")
        device = _device(self.device)
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
            _within(f"--{name}", getattr(self, name), least)
        _within("--keep", self.keep, 0.001, 1)
        _within("--explore", self.explore, 0, 1)
        _within("--discount", self.discount, 0, 1)
        if not self.tasks or not self.data or self.out is None:
            raise UsageError(
                "--tasks, --data and --out are needed", fix="gato improve BUNDLE --tasks TASK --data DIR --out DIR"
            )
        device = _device(self.device)
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


@dataclass
class Evaluate:
    """Expert-normalised scores of a bundle: results.json, report.html and films in --out. Interrupted, it goes on."""

    bundle: Positional[Path | None] = None
    """The generalist that comes with the package if not given."""
    policy: Literal["retrieve"] | None = None
    """In place of a bundle, a baseline: retrieve replays the action of the most similar observation in --data."""
    data: tuple[Path, ...] = ()
    """Folders of demonstrations: those to retrieve from, or, with --teacher-forced, held-out ones; of each of these the
    first --episodes. With --language alone: corpora to be scored on, of each the first 1,000 episodes."""
    tasks: str = ""
    """Globs, comma-separated; all control tasks the bundle (or the data) knows if not given."""
    out: Path = Path("runs/evaluation")
    episodes: int = 50
    workers: int | None = None
    """2 if not given; on a cluster, as many as its CPUs allow."""
    cluster: str | None = None
    """Play on a Ray cluster, a task at a time: auto, or HOST:PORT of its head. The scores are the same."""
    seed: int = 0
    film: bool = True
    acting: Annotated[tuple[str, ...], tyro.conf.arg(name="acting")] = ()
    """How to act: discrete=greedy, continuous=mean, temperature=0.5, top_k=4, memory=xl; the bundle's own if not given."""
    shown: tuple[Path, ...] = ()
    """Folders of demonstrations that stay in sight, for a bundle trained with `similar_timesteps`: their tasks, also those that
    it was never trained on, are played reading the timesteps that are most like the present one."""
    plan: int = 0
    """Look ahead on saved states of the worlds, as `gato play --plan` does; such worlds run in this process."""
    plan_steps: int = 20
    plan_follow: int = 4
    imagined: bool = False
    """With --plan: try things out on what the network foretells, not on the world."""
    language: bool = False
    """Language too: captions, replies and text of the generated corpora, held out, that the bundle was trained on, and of your
    own in --data (imported, or written by yourself); also in language.json."""
    scenes: int = 300
    """With --language: how many held-out scenes, questions, dialogues and clips."""
    teacher_forced: bool = False
    """The errors of its actions on the demonstrations in --data too, beside the scores of its own play."""
    overwrite: bool = False
    """Replace the results that are in --out."""
    device: str = "auto"
    json: bool = False

    def run(self) -> None:
        _within("--episodes", self.episodes, 1)
        _workers(self.workers, self.cluster)
        _within("--seed", self.seed, 0)
        from gato.evaluation.begun import check_free

        planning = _planning(self.plan, self.plan_steps, self.plan_follow, self.imagined)
        if (self.out / "MANIFEST.json").exists():
            raise OutputExistsError("this folder holds a dataset or a bundle", where=str(self.out), fix="another --out")
        if self.out.exists() and not self.out.is_dir():
            raise OutputExistsError("this is not a folder", where=str(self.out), fix="another --out")
        check_free(self.out, self.overwrite)
        if self.teacher_forced and self.policy:
            raise UsageError("--teacher-forced is about a bundle", where="--policy", fix="leave one of the two out")
        _within("--scenes", self.scenes, 1)
        wants, takes = self.teacher_forced or self.policy, self.teacher_forced or self.policy or self.language
        if (wants and not self.data) or (self.data and not takes):
            raise UsageError(
                "--data goes with --teacher-forced, with --language or with --policy retrieve",
                fix="gato collect TASK --out DIR makes demonstrations; then --teacher-forced --data DIR",
            )
        from gato.evaluation.evaluate import evaluate
        from gato.evaluation.report import write_report

        agent = self._agent()
        known, unplayed = self._chosen(agent)
        demonstrations = None
        if self.teacher_forced:
            chosen = [*(task.id for task in known), *unplayed]
            demonstrations = _demonstrations(agent, chosen, self.data, self.episodes)
        elif unplayed:
            if not known:
                raise UsageError(
                    f"there is no world to play {', '.join(unplayed)} in", where=self._whose,
                    fix="--teacher-forced --data DIR tells the errors of its actions on held-out demonstrations",
                )  # fmt: skip
            print(f"not played, since there is no world of theirs: {', '.join(unplayed)}", file=sys.stderr)
        language = None
        if self.language:
            language = _language(
                agent,
                self.out,
                self._whose,
                () if self.teacher_forced else self.data,
                self.scenes,
            )
        record = evaluate(
            agent,
            known,
            self.episodes,
            self.out,
            workers=self.workers,
            seed=self.seed,
            film=self.film,
            language=language,
            demonstrations=demonstrations,
            planning=planning,
            cluster=self.cluster,
            overwrite=self.overwrite,
        )
        report = write_report(self.out)
        if self.json:
            forced = {t["id"]: t["teacher_forced"] for t in record["tasks"] if "teacher_forced" in t}
            forced |= record.get("open_loop", {})
            print(json.dumps({**record["aggregates"], **({"teacher_forced": forced} if forced else {})}, indent=1))
        else:
            if demonstrations:
                _print_open_loop(record["tasks"], record.get("open_loop", {}))
            facts = record["protocol"]
            print(
                f"{facts['environment_steps']:,} environment steps, "
                f"{facts['environment_steps_per_second']:,.0f} per second"
            )
            mean = record["aggregates"]["mean_of_domain_means"]
            said = "no task with reference scores" if mean is None else f"{mean:.1f} % of expert (mean of domain means)"
            print(f"{said}; report: {report}")

    @property
    def _whose(self) -> str:
        """Where what is evaluated comes from, for errors."""
        return ", ".join(map(str, self.data)) if self.policy else str(self.bundle or "the generalist")

    def _chosen(self, agent: Any) -> tuple[list[Any], list[str]]:
        """The tasks to be played, and the ids of those that have no world to be played in."""
        from fnmatch import fnmatchcase

        from gato.policy.agent import installed, without_world
        from gato.worlds import find, select

        nowhere = without_world(agent)
        if not self.tasks:
            played = [t for t in agent.tasks if t not in nowhere] if self.policy else installed(agent)
            return [find(t) for t in played], nowhere
        patterns = [pattern.strip() for pattern in self.tasks.split(",")]
        for pattern in patterns:
            if not any(fnmatchcase(t, pattern) for t in agent.tasks):
                select(pattern)  # says so where there is no such task at all
        asked = [t for t in agent.tasks if any(fnmatchcase(t, pattern) for pattern in patterns)]
        if not asked:
            raise UnknownNameError(
                f"no demonstrations of {self.tasks}" if self.policy else f"this bundle was not trained on {self.tasks}",
                where=self._whose,
                fix=known_instead(self.tasks, agent.tasks),
            )
        return [find(t) for t in asked if t not in nowhere], [t for t in asked if t in nowhere]

    def _agent(self) -> Any:
        """The bundle's agent, or the demonstrations in its place."""
        if self.policy:
            if self.bundle or self.language or self.acting:
                raise UsageError(
                    f"--policy {self.policy} goes without a bundle, --language and --acting",
                    fix=f"gato evaluate --policy {self.policy} --data DIR --out DIR",
                )
            _some(self.data, "a folder of demonstrations", f"gato evaluate --policy {self.policy} --data DIR --out DIR")
            from gato.rollouts.retrieve import Retrieval

            return Retrieval.open(self.data)
        from gato.policy import load
        from gato.policy.acting import check_rank

        agent = load(self.bundle, _device(self.device))
        agent.bundle.acting |= _acting(self.acting, agent.bundle.acting)
        check_rank(agent.bundle.acting, agent.bundle, agent.tasks)
        if self.shown:
            if self.cluster:
                raise UsageError("--shown and --cluster", fix="one of the two: what is shown does not travel")
            from gato.episodes.store import Dataset, find_datasets

            agent = agent.shown([Dataset.open(folder) for folder in find_datasets(list(self.shown))])
        return agent


def _demonstrations(agent: Any, tasks: list[str], paths: tuple[Path, ...], most: int) -> dict[str, list[Any]]:
    """At most so many episodes of each of the tasks that has a dataset there."""
    from gato.episodes.store import Dataset, find_datasets
    from gato.errors import DataError
    from gato.sequences.returns import tell, world_spec

    found: dict[str, list[Any]] = {}
    for folder in find_datasets(list(paths)):
        dataset = Dataset.open(folder)
        if dataset.task not in tasks:
            continue
        spec = agent.bundle.tasks[dataset.task].spec
        if dataset.spec != world_spec(spec):
            raise DataError(
                "this dataset's observations or actions are not those the bundle was trained on",
                where=str(folder), fix=f"gato collect {dataset.task} --out another folder",
            )  # fmt: skip
        held = found.setdefault(dataset.task, [])
        first, returns = dataset.episodes(range(min(len(dataset), most - len(held)))), dataset.returns
        held += (tell(episode, spec, returns) for episode in first)
    found = {task: episodes for task, episodes in found.items() if episodes}
    if not found:
        raise UsageError(
            "no demonstrations of the tasks that are evaluated",
            where=", ".join(map(str, paths)), fix=f"gato collect {tasks[0]} --out DIR; or gato data import, of recordings",
        )  # fmt: skip
    return found


def _print_open_loop(tasks: list[dict[str, Any]], unplayed: Mapping[str, Any]) -> None:
    """Per task: the errors of single actions on demonstrations, beside what the agent's own play is worth."""
    from rich.table import Column, Table

    from gato.evaluation.open_loop import as_text

    shown = Table(Column("task", no_wrap=True), "actions on demonstrations", "its own play", "% of expert")
    for task in tasks:
        percent = task["expert_normalised"]
        shown.add_row(
            task["id"], as_text(task["teacher_forced"]) if "teacher_forced" in task else "–",
            f"{task['measure']} {task['score']:.3g}", f"{percent:.1f}" if percent is not None else "–",
        )  # fmt: skip
    for task_id, errors in unplayed.items():
        shown.add_row(task_id, as_text(errors), "no world", "–")
    _print_table(shown)


def _language(agent: Any, out: Path, where: str, data: tuple[Path, ...], count: int) -> dict[str, Any]:
    """Scores on the held-out part of the corpora that the package makes itself, and on the corpora in `data`; also written to
    `out`/language.json."""
    from gato.episodes.manifest import write_file_atomically
    from gato.evaluation.telling import held_out, of_data, tell

    own = held_out(agent, count)
    if not own and not data:
        raise UsageError(
            "this bundle was not trained on corpora that the package makes", where=where,
            fix="leave out --language, or name corpora of yours with --data",
        )  # fmt: skip
    found = tell(agent, own, out / "media", of_data(data) if data else None)
    out.mkdir(parents=True, exist_ok=True)
    write_file_atomically(out / "language.json", json.dumps(found, indent=1, ensure_ascii=False).encode())
    return found


@dataclass
class Play:
    """Watch the agent play: a window where there is a screen, else a film. `gato play [BUNDLE] TASK`."""

    words: Positional[tuple[str, ...]]
    """The task, or a bundle and a task; without a bundle, the generalist that comes with the package."""
    video: Path | None = None
    """A film in place of the window: .mp4 (with the extra `video`), .webp, .gif or .png."""
    episodes: int = 1
    seed: int = 0
    """Number of the first episode."""
    max_steps: int = 1000
    fps: float = 15.0
    plan: int = 0
    """Look ahead: try so many continuations on saved states of the world, with the policy as prior, and begin the best."""
    plan_steps: int = 20
    """How far."""
    plan_follow: int = 4
    """Steps taken before looking ahead again."""
    imagined: bool = False
    """Try things out on what the network foretells, not on the world; for bundles that were trained to (docs/playing.md)."""
    acting: Annotated[tuple[str, ...], tyro.conf.arg(name="acting")] = ()
    """How to act: see `gato evaluate --help`."""
    device: str = "auto"

    def run(self) -> None:
        for flag in ("episodes", "max_steps"):
            _within(f"--{flag.replace('_', '-')}", getattr(self, flag), 1)
        _within("--seed", self.seed, 0)
        _within("--fps", self.fps, 1, 120)
        planning = _planning(self.plan, self.plan_steps, self.plan_follow, self.imagined)
        if len(self.words) not in (1, 2):
            raise UsageError("a task is needed", fix="gato play [BUNDLE] TASK; gato tasks lists tasks")
        bundle, task_id = (self.words[0] if len(self.words) == 2 else None), self.words[-1]
        if self.video:
            _suffix("--video", self.video, ".webp", ".mp4", ".gif", ".png")
        from gato.evaluation.animation import Film
        from gato.evaluation.screen import Screen
        from gato.evaluation.watching import Moment, watch
        from gato.evaluation.window import Window, has_screen
        from gato.policy import load
        from gato.rollouts import episode_seed
        from gato.worlds import find

        window = Window(f"gato play {task_id}", self.fps) if self.video is None and has_screen() else None
        film = Film(self.video or Path("episode.webp"), fps=self.fps) if window is None else None
        agent, task = load(bundle, _device(self.device)), find(task_id)
        acting = _acting(self.acting, agent.bundle.acting)
        agent.bundle.codec(task.id)
        policy = agent.planner(task.id, 1, planning, **acting) if planning else agent.policy(task.id, 1, **acting)
        screen = Screen(task, f"{self.plan} continuations of {self.plan_steps} steps" if planning else "")

        def show(moment: Moment) -> None:
            frame = screen.draw(moment)
            if window is not None:
                window.show(frame, moment.done)
            if film is not None:
                film.add(frame, 1 + (moment.done and moment.episode + 1 < self.episodes) * round(self.fps))

        seeds = [episode_seed(task.id, self.seed + i, "evaluation") for i in range(self.episodes)]
        with film or contextlib.closing(window):  # type: ignore[type-var]
            seen = watch(agent, task, policy, seeds, show, self.max_steps)
        for i, episode in enumerate(seen):
            ended = {True: ", solved", False: ", not solved", None: ""}[episode.success]
            print(f"episode {self.seed + i}: return {episode.total_return:.4g} in {len(episode):,} steps{ended}")
        if film is not None:
            print(f"{film.frames} frames → {film.file}")


def _planning(continuations: int, steps: int, follow: int, imagined: bool) -> Any:
    """`--plan N` and its companions; None for 0."""
    _within("--plan", continuations, 0)
    if not continuations:
        return None
    _within("--plan-steps", steps, 1)
    _within("--plan-follow", follow, 1)
    from gato.policy.planning import Planning

    return Planning(continuations, steps, follow, drawn=steps, imagined=imagined)


@dataclass
class Chat:
    """Talk to the agent: one reply to a text, or a conversation. `/image FILE`, `/new`, `/system TEXT` and `/quit` are for the latter.

    A bundle that was not trained on dialogues goes on with the text instead. `gato chat [BUNDLE] [TEXT]`.
    """

    words: Positional[tuple[str, ...]] = ()
    """What to reply to; a conversation, line by line, if left out. Before it a bundle; the generalist if there is none."""
    system: str = ""
    """What stands before the dialogue."""
    image: Path | None = None
    """A picture, a film or a folder of frames to talk about."""
    jobs: Path | None = None
    """A JSONL file of {"text", and if you like "image", "system"}, each a dialogue of its own."""
    out: Path | None = None
    """With --jobs: JSONL, a line for every reply; what is there already is not done again."""
    max_tokens: int = 64
    temperature: float = 0.7
    seed: int = 0
    device: str = "auto"

    def run(self) -> None:
        _within("--max-tokens", self.max_tokens, 1)
        _within("--temperature", self.temperature, 0)
        _within("--seed", self.seed, 0)
        bundle, words = _bundle_first(self.words)
        if len(words) > 1:
            raise UsageError(f"{len(words)} texts", fix='gato chat [BUNDLE] ["TEXT"]: a text is one word, in quotes')
        text = words[0] if words else None
        if self.jobs is not None and text is not None:
            raise UsageError("a text and a file of jobs", fix="one of the two")
        if self.out is not None and self.jobs is None:
            raise UsageError("--out goes with --jobs", fix="--jobs FILE.jsonl")
        from gato.policy import load

        agent = load(bundle, _device(self.device))
        if self.jobs is not None:
            _skilled(agent.talks or agent.talks_about_pictures or agent.answers_questions, "dialogues or texts", bundle)
            self._batch(agent)
            return
        talk = agent.conversation(self.system, self.image)
        if text is not None:
            self._say(talk, text)
            return
        shown = sys.stdin.isatty()
        if shown:
            print("/image FILE shows a picture, /new forgets, /system TEXT begins anew with it, /quit ends")
        while True:
            try:
                line = input("> " if shown else "").strip()
            except EOFError:
                return
            word, _, rest = line.partition(" ")
            try:
                if word in ("/quit", "/exit"):
                    return
                if word == "/image":
                    agent.look(rest.strip()) if rest.strip() else None  # what cannot be read is said now
                    talk.show(Path(rest.strip()) if rest.strip() else None)
                elif word == "/new":
                    talk = agent.conversation(self.system, talk.image)
                elif word == "/system":
                    self.system = rest.strip()
                    talk = agent.conversation(self.system, talk.image)
                elif word.startswith("/"):
                    raise UsageError(f"no command {word}", fix=nearest(word, ("/image", "/new", "/system", "/quit")))
                elif line:
                    self._say(talk, line)
            except GatoError as error:
                if not shown:
                    raise
                print(f"error[{error.code}] {error.what}", file=sys.stderr)

    def _say(self, talk: Any, text: str) -> None:
        begun = not talk.is_dialogue  # what goes on with a text is shown as it is
        for piece in talk.say(text, self.max_tokens, self.temperature, self.seed):
            print(piece if begun else piece.lstrip(" "), end="", flush=True)
            begun = begun or bool(piece.strip())
        print()

    def _batch(self, agent: Any) -> None:
        assert self.jobs is not None
        from gato.corpora.dialogues import Turn
        from gato.policy.jobs import path_of, read_jobs

        beside = self.jobs.parent

        def work(part: Any) -> Any:
            return [
                {"reply": agent.chat(
                    job["text"], self.max_tokens, self.temperature, self.seed,
                    history=[Turn("system", system)] if (system := job.get("system", self.system)) else [],
                    image=path_of(job, beside) if job.get("image") else self.image,
                )} for job in part
            ]  # fmt: skip

        _run_jobs(read_jobs(self.jobs, ["text"]), work, self.out, 1, lambda r: f"{r['text']}\n  {r['reply']}")


@dataclass
class Caption:
    """What is in these pictures, films, folders, or the images that a .jsonl lists. `gato caption [BUNDLE] IMAGES`."""

    words: Positional[tuple[str, ...]]
    """The images. Before them a bundle; the generalist if there is none."""
    clips: bool = False
    """Each folder is one clip: its pictures are the frames, in the order of their names."""
    out: Path | None = None
    """JSONL, a line for every caption as soon as it is there; what is there already is not done again."""
    max_tokens: int = 48
    batch: int = 32
    """So many at once."""
    json: bool = False
    device: str = "auto"

    def run(self) -> None:
        bundle, words = _bundle_first(self.words)
        images = tuple(map(Path, words))
        _some(images, "a picture", "gato caption [BUNDLE] PICTURES")
        _within("--max-tokens", self.max_tokens, 1)
        _within("--batch", self.batch, 1)
        jobs, beside = _image_jobs(images, self.clips, ["image"])
        from gato.policy import load
        from gato.policy.jobs import path_of

        agent = load(bundle, _device(self.device))
        _skilled(agent.captions_pictures or agent.captions_clips, "captions", bundle)

        def work(part: Any) -> Any:
            return [{"caption": c} for c in agent.captions([path_of(job, beside) for job in part], self.max_tokens)]

        _run_jobs(jobs, work, self.out, self.batch, lambda r: f"{r['image']}: {r['caption']}", self.json)


@dataclass
class Answer:
    """The reply to a question about a picture, or about every picture of a folder, or to those that a .jsonl lists.
    `gato answer [BUNDLE] IMAGE [QUESTION]`.
    """

    words: Positional[tuple[str, ...]]
    """A picture, a film (its last picture), a folder, or a .jsonl of {"image", "question"}; and the question. Before them a
    bundle; the generalist if there is none."""
    clips: bool = False
    """A folder is one clip: the question is about its last picture."""
    out: Path | None = None
    """JSONL, a line for every reply as soon as it is there; what is there already is not done again."""
    max_tokens: int = 16
    batch: int = 32
    """So many at once."""
    json: bool = False
    device: str = "auto"

    def run(self) -> None:
        _within("--max-tokens", self.max_tokens, 1)
        _within("--batch", self.batch, 1)
        bundle, words = _bundle_first(self.words)
        if len(words) not in (1, 2):
            raise UsageError("a picture and a question are needed", fix='gato answer [BUNDLE] IMAGE "what is red?"')
        image, question = Path(words[0]), words[1] if len(words) == 2 else None
        listed = image.suffix == ".jsonl"
        if not listed and question is None:
            raise UsageError("a question is needed", fix='gato answer [BUNDLE] IMAGE "what is red?"')
        jobs, beside = _image_jobs((image,), self.clips, ["image"] if question else ["image", "question"])
        jobs = [j if isinstance(j, GatoError) else {**j, "question": j.get("question") or question} for j in jobs]
        from gato.policy import load
        from gato.policy.jobs import path_of

        agent = load(bundle, _device(self.device))
        _skilled(agent.answers_questions, "questions", bundle)

        def work(part: Any) -> Any:
            shown, asked = [path_of(job, beside) for job in part], [job["question"] for job in part]
            return [{"reply": reply} for reply in agent.answers(shown, asked, self.max_tokens)]

        alone = len(jobs) == 1 and not listed and not image.is_dir()
        line: Callable[[Any], str] = (lambda r: r["reply"]) if alone else (lambda r: f"{r['image']}: {r['reply']}")
        if alone and self.json and self.out is None:
            print(json.dumps({"question": question, **work(jobs)[0]}))
        else:
            _run_jobs(jobs, work, self.out, self.batch, line, self.json)


def _skilled(known: bool, what: str, bundle: str | None) -> None:
    """Raises UnknownNameError before the first of many jobs, where none could be done."""
    if not known:
        raise UnknownNameError(
            f"this bundle was not trained on {what}", where=bundle or "the generalist", fix=f"a recipe with a {what} dataset"
        )  # fmt: skip


def _bundle_first(words: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The bundle that the words may begin with, and the rest. What looks like a folder's path, and is none, was to be one."""
    from gato.policy.shipped import names_bundle

    def meant(word: str) -> bool:
        return "/" in word and not any(c.isspace() for c in word) and not Path(word).suffix and not os.path.exists(word)

    first = words[0] if words and (names_bundle(words[0]) or meant(words[0])) else None
    return first, words[first is not None :]


def _image_jobs(paths: tuple[Path, ...], clips: bool, needed: list[str]) -> tuple[list[dict[str, Any]], Path | None]:
    """A job for every picture, and the folder in which relative ones may be: that of the .jsonl, where one lists them."""
    if len(paths) == 1 and paths[0].suffix == ".jsonl":
        from gato.policy.jobs import read_jobs

        return read_jobs(paths[0], needed), paths[0].parent
    from gato.policy.sight import shown_in

    return [{"image": str(path)} for path in shown_in(list(paths), clips=clips)], None


def _run_jobs(
    jobs: list[dict[str, Any]], work: Any, out: Path | None, size: int, line: Callable[[Any], str], as_json: bool = False
) -> None:  # fmt: skip
    """Many at a time with a bar on a terminal; lines into `out`, or printed. Exit code 3 where some could not be read."""
    from gato.policy.jobs import run_jobs

    said: list[Any] = []

    def say(record: Any) -> None:
        if out is None and not as_json:
            print(line(record), flush=True)
        said.append(record)

    with _bar(len(jobs), out is not None) as advance:
        outcome = run_jobs(jobs, work, out, size=size, tell=advance, say=say)
    if as_json:
        print(json.dumps(said, indent=1, ensure_ascii=False))
    elif out is not None:
        print(f"{outcome.done:,} done, {outcome.before:,} were there → {out}")
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    if outcome.problems:
        raise SystemExit(3)


@contextlib.contextmanager
def _bar(total: int, on: bool) -> Iterator[Callable[[int], None]]:
    """A bar with time left on a terminal; elsewhere, or for what prints its lines, nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (on and console.is_terminal)) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


@dataclass
class Serve:
    """A policy server, and a page to watch the agent, on this machine."""

    bundle: Positional[Path | None] = None
    """The generalist that comes with the package if not given."""
    host: str = "127.0.0.1"
    """Any other address needs a token."""
    port: int = 8000
    """0 takes a free one."""
    token: str | None = None
    """What every request must carry; better given as GATO_TOKEN, since others can read command lines."""
    sessions: int = 64
    """How many may act at once."""
    live: int = 2
    """How many worlds may be watched at once, each in a process of its own."""
    idle_seconds: float = 600.0
    """After which an unused session is forgotten."""
    device: str = "auto"

    def run(self) -> None:
        _within("--port", self.port, 0, 65535)
        _within("--sessions", self.sessions, 1)
        _within("--live", self.live, 0)
        _within("--idle-seconds", self.idle_seconds, 1)
        from gato.serving.run import check_address, serve

        token = self.token or os.environ.get("GATO_TOKEN") or None
        check_address(self.host, token)  # before the bundle is read
        from gato.policy import load
        from gato.serving.limits import Limits

        agent = load(self.bundle, _device(self.device))
        limits = Limits(sessions=self.sessions, live=self.live, idle_seconds=self.idle_seconds)
        serve(agent, self.host, self.port, token, limits, lambda url: print(f"{agent}\nserving: {url}", flush=True))


@dataclass
class ReportAgain:
    """The report of a run, made again from its results."""

    run_folder: Positional[Path]

    def run(self) -> None:
        from gato.evaluation.report import write_report

        print(f"report: {write_report(self.run_folder)}")


VERBS: dict[str, Any] = {
    "demo": Demo, "doctor": Doctor, "tasks": Tasks, "collect": Collect,
    "data": {
        "ls": DataLs, "show": DataShow, "verify": DataVerify, "repair": DataRepair, "import": DataImport, "export": DataExport,
        "generate": DataGenerate,
    },
    "tokenizer": {"train": TokenizerTrain},
    "train": Train, "finetune": Finetune, "improve": Improve, "evaluate": Evaluate, "play": Play, "chat": Chat, "caption": Caption, "answer": Answer,
    "serve": Serve, "report": ReportAgain,
}  # fmt: skip


def _acting(words: tuple[str, ...], own: Mapping[str, Any]) -> dict[str, Any]:
    """`name=value` words as ways of acting, checked. Raises UsageError."""
    from gato.policy.acting import check_acting

    said: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not name=value", fix="--acting discrete=greedy temperature=0.5")
        try:
            said[name] = json.loads(text)
        except ValueError:
            said[name] = text
    return check_acting({**own, **said}) if said else {}


def _device(name: str) -> str:
    """auto, cpu, cuda or cuda:N, checked before anything is written. Raises UsageError."""
    if name == "cpu":
        return name
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    kind, _, number = name.partition(":")
    if kind != "cuda" or (":" in name and not number.isdecimal()):
        raise UsageError(f"no device {name!r}", fix="--device auto, cpu, cuda or cuda:N")
    if int(number or 0) >= count:
        raise UsageError(f"no device {name!r}: this PyTorch sees {count} CUDA devices", fix="--device cpu")
    return name


def _within(flag: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises UsageError for a number out of range (NaN and infinity are always)."""
    if not (low <= value <= high and math.isfinite(value)):
        raise UsageError(f"{flag} {value}", fix=f"at least {low}" if high == math.inf else f"between {low} and {high}")


def _workers(workers: int | None, cluster: str | None) -> None:
    if workers is not None:
        _within("--workers", workers, 1 if cluster else 0)


def _some(given: tuple[Path, ...], noun: str, line: str) -> None:
    """Raises UsageError for an empty list: nothing checked must not read as nothing wrong."""
    if not given:
        raise UsageError(f"{noun} is needed", fix=line)


def _suffix(flag: str, path: Path, *known: str) -> None:
    if path.suffix.lower() not in known:
        raise UsageError(f"{flag} {path}: the ending says the format", fix=f"a name that ends in {' or '.join(known)}")


def main(words: list[str] | None = None) -> None:
    """Entry point of `gato`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="replace")  # what an ASCII terminal cannot show is a ? there, and no error
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # waiting threads must not starve whatever else the machine does
    try:
        sys.exit(_dispatch(words))
    except GatoError as error:
        if debug:
            raise
        print(
            f"error[{error.code}] {error.what}" + (f"\n  where: {error.where}" if error.where else ""), file=sys.stderr
        )
        if error.fix:
            print(f"  next:  {error.fix}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        print(
            f"error[unexpected] {type(error).__name__}: {error}\n  next:  run the same line with --debug",
            file=sys.stderr,
        )
        sys.exit(1)


def _dispatch(words: list[str]) -> int:
    verbs: dict[str, Any] = VERBS
    said: list[str] = []
    while True:
        if not words or words[0] in ("-h", "--help"):
            print(_usage(said, verbs))
            return 0 if words else 2
        if words[0] == "--version":
            from gato import __version__

            print(f"gato {__version__}")
            return 0
        word, *words = words
        if word not in verbs:
            raise UsageError(
                f"no verb {' '.join([*said, word])!r}",
                fix=nearest(word, verbs) or f"gato {' '.join([*said, '--help'])}",
            )
        said.append(word)
        chosen: Callable[..., Any] | dict[str, Any] = verbs[word]
        if not isinstance(chosen, dict):
            tyro.cli(
                chosen, args=_together(words, ("--set", "--data", "--acting", "--shown")), prog=f"gato {' '.join(said)}"
            ).run()
            return 0
        verbs = chosen


def _together(words: list[str], flags: tuple[str, ...]) -> list[str]:
    """`--set a --set b` means `--set a b`; the parser alone would forget the first."""
    kept: list[str] = []
    values: dict[str, list[str]] = {}
    into = kept
    for word in words:
        if word in flags:
            into = values.setdefault(word, [])
        elif word.startswith("--"):
            into = kept
            kept.append(word)
        else:
            into.append(word)
    return [*kept, *(w for flag, found in values.items() for w in (flag, *found))]


def _usage(said: list[str], verbs: dict[str, Any]) -> str:
    lines = [f"usage: gato {' '.join([*said, 'VERB …'])}", ""]
    for name, verb in verbs.items():
        text = " · ".join(verb) if isinstance(verb, dict) else (verb.__doc__ or "").split("\n")[0]
        lines.append(f"  {name:10} {text}")
    return "\n".join([*lines, "", "gato VERB --help explains one; --debug anywhere shows tracebacks."])
