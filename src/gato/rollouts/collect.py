"""Tasks become datasets: experts (or random play) in worker processes, topped up to the number asked for.

Episode i of a task has the seed `episode_seed(task, i)`; whether it starts wide and how much noise is mixed into its
actions is drawn from that seed. So the dataset depends on the arguments alone, not on the number of workers, on their
speed, or on how often the collector was killed and started again. An episode that its expert cannot play is noted with
its reason, and the next index takes its place.

Workers send home what they have finished about three times a second, and each such chunk is durable when it arrives: a
kill costs that much work, and the episodes in progress.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np

from gato.episodes import Episode, check_values, flatten
from gato.episodes.columns import encode_chunk
from gato.episodes.manifest import MANIFEST
from gato.episodes.store import Dataset, dataset_folder
from gato.episodes.writer import DatasetWriter
from gato.errors import (
    DatasetCorruptError,
    DatasetMissingError,
    EpisodeError,
    ExpertError,
    GatoError,
    ObservationError,
    UnknownNameError,
    UsageError,
    WorldCrashError,
    nearest,
)
from gato.rollouts.loop import (
    CLEAN,
    BatchPolicy,
    ExpertPolicy,
    LocalSlot,
    Noise,
    RandomPolicy,
    Unit,
    episode_seed,
    rollout,
)
from gato.rollouts.pool import Beat, Play, WorkerPool
from gato.worlds import MakeExpert, Task, find, senses
from gato.worlds.gym import load_expert

MAX_CRASHES = 3  # seeds on which a world crashes again and again, before the task is given up
MAX_FAILED_SHARE = 0.8  # of the first FAILED_TRIAL episodes and more: an expert that fails this often is broken
FAILED_TRIAL = 50

# Levels of disturbance that teach the way back; a quarter of the episodes is clean.
COVERAGE = (CLEAN, Noise(0.1), Noise(0.25), Noise(0.05, burst=0.01, burst_steps=8))
COVERAGE_WIDE_SHARE = 0.5


@dataclass
class Collected:
    """What one call of `collect` did to one task's dataset."""

    task: str
    folder: Path
    held: int = 0  # episodes there before
    added: int = 0
    failed: int = 0
    timesteps: int = 0  # added
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)  # why episodes failed, and how often

    @property
    def episodes(self) -> int:
        return self.held + self.added

    def fail(self, number: int, reason: str, may_fail: bool = False) -> None:
        """Note that episode `number` came to nothing. Raises WorldCrashError for a world that crashes again and again and,
        unless it `may_fail`, ExpertError for an expert that nearly always does, EpisodeError for a world of which hardly any
        episode can be recorded."""
        self.failed += 1
        kind = reason.partition(" [")[0]  # of one kind, that of the first place stands for all
        reason = next((said for said in self.reasons if said.partition(" [")[0] == kind), reason)
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        crashes = sum(count for said, count in self.reasons.items() if said.startswith(WorldCrashError.code))
        where = f"{self.task} seed {episode_seed(self.task, number)}"
        if crashes >= MAX_CRASHES:
            raise WorldCrashError(f"{crashes} episodes crashed: {reason}", where=where, fix="mend the world")
        tried = self.added + self.failed
        if not may_fail and tried >= FAILED_TRIAL and self.failed > MAX_FAILED_SHARE * tried:
            often = max(self.reasons, key=lambda reason: self.reasons[reason])
            if not often.startswith(ExpertError.code):
                raise EpisodeError(
                    f"{self.failed} of {tried} episodes cannot be recorded, mostly so: {often}",
                    where=where, fix="mend the environment",
                )  # fmt: skip
            raise ExpertError(
                f"the expert failed in {self.failed} of {tried} episodes, mostly so: {often}",
                where=where, fix="choose another task, or another expert with --policy module:function",
            )  # fmt: skip


def collect(
    tasks: Sequence[Task],
    episodes: int,
    out: Path | str,
    workers: int | None = 2,
    policy: str | MakeExpert = "expert",
    noise: Noise | Sequence[Noise] | None = None,
    wide_share: float = 0.0,
    max_steps: int | None = None,
    seconds: float | None = None,
    progress: bool = True,
    from_traces: bool | Sequence[Path | str] = False,
    deadline: float = 60.0,
    cluster: str | None = None,
) -> list[Collected]:
    """Top every task's dataset at out/<domain>/<name> up to `episodes`; a complete one costs nothing.

    policy: "expert" (the task's own), "random", "module:function" or a function like `Task.make_expert` (or another callable).
    noise: mixed into the executed actions; of several, each episode draws one (put CLEAN among them for clean ones).
    wide_share: the share of episodes that start wide. max_steps: cut recordings here. seconds: stop after this long,
    over all tasks, keeping what is there. from_traces: replay traces instead of running the expert: those of these
    files and folders, or, if True, the package's where there are any. A trace that does not come true is dropped, and
    counted and named among the reasons. cluster: play on this Ray cluster ("auto" or HOST:PORT, see `cluster.Cluster`), on
    `workers` of its CPUs (None: all). The episodes are the same.

    Raises UsageError (arguments that cannot be, an expert that no worker process can be told of), OutputExistsError (the
    folder holds another task, spec or policy, or somebody is writing there), WorldCrashError, ExpertError (an expert that
    nearly always fails), EpisodeError (a world that nearly always gives what cannot be recorded, a NaN for instance),
    DiskFullError. What was finished stays.
    """
    if episodes < 1:
        raise UsageError(f"{episodes} episodes", fix="pass at least 1")
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps={max_steps}", fix="at least 1, or None for whole episodes")
    if not 0 <= wide_share <= 1:
        raise UsageError(f"wide_share={wide_share}", fix="a share from 0 to 1")
    source, make_policy = _policy(policy)
    levels = (noise,) if isinstance(noise, Noise) else tuple(noise or ()) or (CLEAN,)
    settings = functools.partial(_unit, levels=levels, wide_share=wide_share, max_steps=max_steps)
    files = _trace_files(tasks, from_traces)
    if source == "expert":
        need_experts([task for task in tasks if task.id not in files])
    jobs = [
        _Job(task, dataset_folder(out, task.id), episodes, source, settings, files.get(task.id, ())) for task in tasks
    ]
    todo = [job for job in jobs if not job.is_complete()]
    if todo and workers != 0 and cluster is None:
        _check_sendable(make_policy, source)
    with contextlib.ExitStack() as stack:
        pool: Any = None
        if cluster is not None and todo:  # before anything is written
            from gato.rollouts.cluster import Cluster

            pool = stack.enter_context(Cluster(cluster, workers, deadline))
        waiting = {job.task.id: stack.enter_context(job) for job in todo}
        if waiting:
            units = sum(len(job.units) for job in waiting.values())
            shown = stack.enter_context(_Progress(progress, units))
            if pool is None:
                pool = stack.enter_context(WorkerPool(min(2 if workers is None else workers, units), deadline))
            play = functools.partial(play_chunk, make_policy)
            _play_all(waiting, functools.partial(pool.map_units, give_up=_give_up), play, seconds, shown)
    return [job.result for job in jobs]


def _play_all(
    jobs: Mapping[str, _Job], map_units: Callable[..., Any], play: Play, seconds: float | None, shown: _Progress
) -> None:
    """Play the units of all tasks in one stream, so that no worker waits for the slow end of a task."""
    units: list[Unit] = [unit for job in jobs.values() for unit in job.units]
    ends = math.inf if seconds is None else time.monotonic() + seconds
    for chunk, result in map_units(units, play):
        job = jobs[chunk[0].task]
        units += job.receive(result)
        shown.advance(job, len(result.numbers), len(result.failed))
        if job.done:
            job.close()
            shown.finished(job)
        if time.monotonic() > ends:
            units.clear()  # what has begun is finished and kept


class _Job:
    """One task being topped up: its writer, what is still to be played, what came of it. A context manager."""

    def __init__(
        self,
        task: Task,
        folder: Path,
        episodes: int,
        source: str,
        settings: Callable[..., Unit],
        traces: tuple[str, ...],
    ):
        self.task, self.folder, self.wanted = task, folder, episodes
        self.available = len(_traces(task.id, traces)) if traces else 0  # 0: the expert plays, without end
        self.source = source
        self._settings = functools.partial(settings, task.id, traces=traces)
        self._writer: DatasetWriter | None = None
        self.result = Collected(task.id, folder)

    def is_complete(self) -> bool:
        """Whether there is nothing to do; asked without importing a simulator."""
        if not (self.folder / MANIFEST).exists():
            return False
        held = Dataset(self.folder)
        self.result.held = len(held)
        return (held.task, held.meta.get("source")) == (self.task.id, self.source) and len(held) >= self._target

    @property
    def _target(self) -> int:
        return min(self.wanted, self.available) if self.available else self.wanted

    def __enter__(self) -> _Job:
        self._writer = writer = DatasetWriter(self.folder, self.task.id, self.task.spec, _facts(self.task, self.source))
        self.result.held = len(writer.numbers)
        past = {*writer.numbers, *writer.failed}
        numbers = range(self.available) if self.available else itertools.count()
        self._open = (number for number in numbers if number not in past)
        self.units = [
            self._settings(n) for n in itertools.islice(self._open, max(0, self._target - len(writer.numbers)))
        ]
        self._began = time.monotonic()
        return self

    def receive(self, chunk: Chunk) -> list[Unit]:
        """Write what was played. Returns what to play in place of what failed."""
        assert self._writer is not None
        self._writer.add_chunk(chunk.data, chunk.numbers, chunk.failed)
        result = self.result
        result.added += len(chunk.numbers)
        result.timesteps += chunk.timesteps
        result.seconds = time.monotonic() - self._began
        for number, reason in chunk.failed.items():
            result.fail(number, reason, may_fail=self.available > 0)
        return [self._settings(number) for number in itertools.islice(self._open, len(chunk.failed))]

    @property
    def done(self) -> bool:
        return self.result.episodes >= self._target or self.result.episodes + self.result.failed >= self.available > 0

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __exit__(self, *error: Any) -> None:
        if self._writer is None:
            return
        if self._writer.numbers or self._writer.failed:
            self._writer.__exit__(*error)
        else:
            self._writer.withdraw()


@dataclass(frozen=True)
class NumberedUnit(Unit):
    """A unit with its place in the task's seeds. `traces`: replay the trace of that number in these files."""

    number: int = 0
    traces: tuple[str, ...] = ()


def _unit(
    task_id: str,
    number: int,
    *,
    levels: Sequence[Noise],
    wide_share: float,
    max_steps: int | None,
    traces: tuple[str, ...] = (),
) -> NumberedUnit:
    """Episode `number`: everything about it follows from its seed."""
    seed = episode_seed(task_id, number, "train")
    rng = np.random.default_rng([seed, 0x5E77])  # a stream of its own
    wide = bool(rng.random() < wide_share)
    noise = levels[int(rng.integers(len(levels)))]
    return NumberedUnit(task_id, seed, noise, wide, max_steps, number, traces)


def _give_up(unit: Unit, error: GatoError) -> Chunk:
    assert isinstance(unit, NumberedUnit)
    failed = {unit.number: f"{error.code}: {error.what}"}
    return Chunk(encode_chunk(find(unit.task).spec, [], [], failed), [], 0, failed)


def _facts(task: Task, source: str) -> dict[str, Any]:
    """What meta.json says beside the task and its spec."""
    distributions = importlib.metadata.packages_distributions()
    modules = {"gato": "gato-agent", "gymnasium": "gymnasium"}
    modules |= {m: distributions[m.split(".")[0]][0] for m in task.requires if m.split(".")[0] in distributions}
    return {
        "source": source,
        "simulators": {name: importlib.metadata.version(name) for name in sorted(set(modules.values()))},
        "references": {kind: asdict(reference) for kind, reference in task.references.items()},
    }


def _trace_files(tasks: Sequence[Task], wanted: bool | Sequence[Path | str]) -> dict[str, tuple[str, ...]]:
    """{task: files of its traces, or of its world's in another sense}. DatasetMissingError where files were named that hold
    none of a task; of the package's, which bring few, a task may have none."""
    from gato.worlds import traces

    if wanted is False:
        return {}
    found = traces.find_files([traces.PACKAGE] if wanted is True else wanted)
    sources = {task.id: next((sense for sense in senses(task.id) if sense in found), None) for task in tasks}
    if wanted is not True and (absent := [task for task, source in sources.items() if source is None]):
        raise DatasetMissingError(
            f"no traces of {', '.join(absent)}", where=", ".join(map(str, wanted)),
            fix=f"these are there: {', '.join(sorted(found))}",
        )  # fmt: skip
    return {task: tuple(map(str, found[source])) for task, source in sources.items() if source is not None}


def need_experts(tasks: Sequence[Task]) -> None:
    """Raises UnknownNameError naming every task that has none, before anything is written."""
    if without := [task.id for task in tasks if task.make_expert is None]:
        raise UnknownNameError(
            "these have no expert" if len(without) > 1 else f"{without[0]} has no expert", where=", ".join(without),
            fix="leave them out, or --policy module:function, or --policy random",
        )  # fmt: skip


def _policy(policy: str | MakeExpert) -> tuple[str, Callable[[], BatchPolicy]]:
    """Its name in the dataset, and what makes it in a worker."""
    if callable(policy):
        named: Any = policy
        while isinstance(named, functools.partial):
            named = named.func
        named = named if hasattr(named, "__qualname__") else type(named)
        name = f"{named.__module__}:{named.__qualname__}"
        return name, functools.partial(ExpertPolicy, policy, name)
    policy = str(policy)
    if policy == "expert":
        return "expert", ExpertPolicy
    if policy == "random":
        return "random", RandomPolicy
    if ":" in policy:
        return policy, functools.partial(ExpertPolicy, load_expert(policy), policy)
    raise UnknownNameError(
        f"no policy {policy!r}", fix=nearest(policy, ["expert", "random"]) or "expert, random, or module:function"
    )


def _check_sendable(make_policy: Callable[[], BatchPolicy], source: str) -> None:
    """Raises UsageError for an expert that a worker process cannot be told of, before anything is written."""
    try:
        ForkingPickler.dumps(make_policy)
    except Exception as error:  # of many kinds: a lambda, an open file, …
        raise UsageError(
            f"this expert cannot be sent to a worker process: {error}",
            where=source,
            fix="a function at the top of a module, or workers=0",
        ) from error


# -- inside a worker --------------------------------------------------------------------------------------------------


@dataclass
class Chunk:
    """Some finished episodes on their way home: the bytes of one pending file, and what the collector wants to know."""

    data: bytes
    numbers: list[int]
    timesteps: int
    failed: dict[int, str]


class _Watched:
    """A policy that says after every step that it lives, and whose crashes and impossible actions are its own, not the
    world's."""

    def __init__(self, policy: BatchPolicy, beat: Beat):
        self._policy, self._beat, self.name = policy, beat, policy.name

    def begin(self, index: int, unit: Unit, slot: Any) -> None:
        self._beat()
        self._guard(unit, lambda: self._policy.begin(index, unit, slot))
        self._unit, self._specs = unit, find(unit.task).spec.action

    def act(self, observations: Mapping[int, Any], infos: Mapping[int, Mapping[str, Any]]) -> Mapping[int, Any]:
        self._beat()
        actions = self._guard(self._unit, lambda: self._policy.act(observations, infos))
        for action in actions.values():
            self._guard(self._unit, functools.partial(self._check, action))
        return actions

    def _check(self, action: Any) -> None:
        where = f"{self._unit.task} seed {self._unit.seed}"
        flat = dict(flatten(action, "action"))
        for path, spec in self._specs.items():  # as many values in another shape are what is meant
            if path in flat and np.size(flat[path]) == spec.size:
                flat[path] = np.reshape(flat[path], spec.shape)
        try:
            check_values(self._specs, flat, where)
        except ObservationError as error:
            raise ExpertError(f"the expert's action: {error.what}", where=error.where, fix=error.fix) from error

    def _guard(self, unit: Unit, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except GatoError:
            raise
        except Exception as error:
            what = f"the expert failed: {type(error).__name__}: {error}"
            raise ExpertError(what, where=f"{unit.task} seed {unit.seed}") from error


def play_chunk(make_policy: Callable[[], BatchPolicy], units: list[NumberedUnit], slot: LocalSlot, beat: Beat) -> Chunk:
    """Play the units one after another, and encode what came of them."""
    policy = _Watched(make_policy(), beat)
    played: list[tuple[int, Episode]] = []
    failed: dict[int, str] = {}
    for unit in units:
        try:
            [episode] = [_replay(unit, slot, beat)] if unit.traces else rollout([unit], [slot], policy)
            played.append((unit.number, episode))
        except ExpertError as error:
            failed[unit.number] = f"{error.code}: {error.what}"
        except (EpisodeError, DatasetCorruptError) as error:  # a NaN from the world; a trace that does not come true
            failed[unit.number] = f"{error.code}: {error.what} [{error.where}]"
    numbers, episodes = [number for number, _ in played], [episode for _, episode in played]
    data = encode_chunk(find(units[0].task).spec, episodes, numbers, failed)
    return Chunk(data, numbers, sum(map(len, episodes)), failed)


def _replay(unit: NumberedUnit, slot: LocalSlot, beat: Beat) -> Episode:
    from gato.worlds import traces

    beat()
    return traces.replay(unit.task, _traces(unit.task, unit.traces)[unit.number], slot.environment(unit.task))


@functools.cache
def _traces(task_id: str, files: tuple[str, ...]) -> list[Any]:
    from gato.worlds import traces

    return [trace for file in files for trace in traces.read_traces(task_id, Path(file))]


# -- what the user sees -----------------------------------------------------------------------------------------------


class _Progress:
    """A bar with rate and time left on a terminal, a line now and then elsewhere. Always on standard error."""

    LINE_SECONDS = 10.0

    def __init__(self, wanted: bool, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False)
        self._wanted, self._total, self._done, self._failed = wanted, total, 0, 0
        self._began = self._said = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(), console=self._console, disable=not (wanted and self._console.is_terminal),
        )  # fmt: skip
        self._line = self._bar.add_task("collecting", total=total, rate="")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, job: _Job, added: int, failed: int) -> None:
        self._done, self._failed = self._done + added, self._failed + failed
        elapsed = time.monotonic() - self._began
        rate = f"{self._done / elapsed:.1f} episodes/s" + (f", {self._failed} failed" if self._failed else "")
        self._bar.update(self._line, completed=self._done, description=job.task.id, rate=rate)
        if self._wanted and not self._console.is_terminal and time.monotonic() - self._said > self.LINE_SECONDS:
            self._said = time.monotonic()
            left = elapsed / max(self._done, 1) * (self._total - self._done)
            self._console.print(f"{job.task.id}: {self._done} of {self._total} episodes, {rate}, {left:.0f} s left")

    def finished(self, job: _Job) -> None:
        if self._wanted:
            r = job.result
            failed = f", {r.failed} failed" if r.failed else ""
            self._console.print(
                f"{r.task}: {r.episodes} episodes (+{r.added}, {r.timesteps:,} timesteps{failed}) in {r.folder}"
            )
