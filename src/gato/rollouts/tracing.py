"""Experts become traces: what `collect` does, kept as seeds, actions and proof instead of observations.

    collect_traces(select("dm-control-suite/walker-walk"), 30, "traces")   # tops up, episode by episode

One file per task, `DOMAIN--NAME.parquet`, written anew (beside, then renamed) after every finished episode, so that a
kill costs the episode in progress. Numbers, seeds, noise levels and wide starts are those of `collect`: an episode is the
same whichever of the two records it. What a trace holds, and what it is held to, is in `gato.worlds.traces`.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gato.episodes import Episode
from gato.episodes.manifest import lock_file
from gato.errors import DatasetCorruptError, EpisodeError, ExpertError, GatoError, UsageError
from gato.rollouts.collect import Collected, NumberedUnit, _policy, _unit, _Watched, need_experts
from gato.rollouts.loop import CLEAN, BatchPolicy, LocalSlot, Noise, episode_seed, rollout
from gato.rollouts.pool import Beat, WorkerPool
from gato.worlds import MakeExpert, Task
from gato.worlds.traces import Trace, failed_in, read_traces, record, trace_path, write_traces

Made = list[tuple[int, Trace | str]]  # number, and the trace or why there is none
Report = Callable[[Task, int, Trace | str], None]


def collect_traces(
    tasks: Sequence[Task],
    episodes: int,
    out: Path | str,
    workers: int = 1,
    policy: str | MakeExpert = "expert",
    noise: Noise | Sequence[Noise] | None = None,
    wide_share: float = 0.0,
    max_steps: int | None = None,
    seconds: float | None = None,
    report: Report | None = None,
    deadline: float = 300.0,
) -> list[Collected]:
    """Top every task's trace file in `out` up to `episodes`. `workers` 0 plays in this process.

    The other arguments are those of `collect`; `report` is told of every episode. An episode that its expert cannot play,
    or that does not come true when it is played again, is noted in the file, and the next number takes its place.

    Raises OutputExistsError (somebody is writing a task's file), WorldCrashError, ExpertError (an expert that nearly always
    fails), DiskFullError. What was finished stays.
    """
    if episodes < 1:
        raise UsageError(f"{episodes} episodes", fix="pass at least 1")
    if policy == "expert":
        need_experts(tasks)
    levels = (CLEAN,) if noise is None else (noise,) if isinstance(noise, Noise) else tuple(noise)
    settings = functools.partial(_unit, levels=levels, wide_share=wide_share, max_steps=max_steps)
    play = functools.partial(trace_chunk, _policy(policy)[1])
    ends = float("inf") if seconds is None else time.monotonic() + seconds
    done = []
    with WorkerPool(workers, deadline) as pool:
        for task in tasks:
            with lock_file(trace_path(task.id, Path(out))):
                job = _TraceJob(task, Path(out), episodes, settings)
                done.append(job.result)
                if time.monotonic() > ends:
                    continue
                units = job.units()
                for _, made in pool.map_units(units, play, give_up=_give_up) if units else ():
                    for number, trace in made:
                        job.receive(number, trace)
                        if report is not None:
                            report(task, number, trace)
                    if time.monotonic() > ends:
                        units.clear()  # what has begun is finished and kept
                    else:
                        units += [job.next_unit() for _, trace in made if isinstance(trace, str)]
    return done


class _TraceJob:
    """One task's file being topped up."""

    def __init__(self, task: Task, out: Path, episodes: int, settings: Callable[..., NumberedUnit]):
        self.task, self.wanted, self._settings = task, episodes, settings
        self.path = trace_path(task.id, out)
        self._traces: list[Trace] = read_traces(task.id, self.path) if self.path.is_file() else []
        self._failed = failed_in(self.path) if self.path.is_file() else {}
        held = {trace.seed for trace in self._traces}
        self._numbers = (n for n in itertools.count() if n not in self._failed and episode_seed(task.id, n) not in held)
        self.result = Collected(task.id, self.path, held=len(self._traces))

    def units(self) -> list[NumberedUnit]:
        return [self.next_unit() for _ in range(self.wanted - len(self._traces))]

    def next_unit(self) -> NumberedUnit:
        return self._settings(self.task.id, next(self._numbers))

    def receive(self, number: int, made: Trace | str) -> None:
        if isinstance(made, str):
            self._failed[number] = made
        else:
            self._traces.append(made)
            self.result.added += 1
            self.result.timesteps += len(made)
            self.result.seconds += made.seconds
        write_traces(self.path, self.task.id, self._traces, self._failed)
        if isinstance(made, str):
            self.result.fail(number, made)


def _give_up(unit: Any, error: GatoError) -> Made:
    return [(unit.number, f"{error.code}: {error.what}")]


def trace_chunk(make_policy: Callable[[], BatchPolicy], units: list[NumberedUnit], slot: LocalSlot, beat: Beat) -> Made:
    """Play the units one after another and trace what came of them; in a worker."""
    policy, made = _Watched(make_policy(), beat), Made()
    for unit in units:
        began = time.process_time()
        try:
            [episode] = rollout([unit], [slot], policy)
            made.append((unit.number, _traced(episode, slot, time.process_time() - began)))
        except (ExpertError, EpisodeError, DatasetCorruptError) as error:
            made.append((unit.number, f"{error.code}: {error.what}"))
    return made


def _traced(episode: Episode, slot: LocalSlot, seconds: float) -> Trace:
    assert slot.env is not None
    return record(episode, slot.env, round(seconds, 2))
