"""What there is, what works, and demonstrations: `gato demo`, `doctor`, `tasks`, `collect`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from gato.cli.checks import check_within, check_workers, device_named, print_table
from gato.errors import UsageError


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
        check_within("--episodes", self.episodes, 1)
        check_within("--workers", self.workers, 0)
        from gato.demo import run

        run(
            self.out,
            seconds=self.seconds,
            episodes=self.episodes,
            workers=self.workers,
            device=device_named(self.device),
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
        print_table(table)
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
        check_workers(self.workers, self.cluster)
        if self.deadline is not None:
            check_within("--deadline", self.deadline, 1)
        if self.cluster and self.traces:
            raise UsageError("traces are made on this machine", fix="leave out --traces or --cluster")
        check_within("--noise", self.noise, 0)
        check_within("--wide-share", self.wide_share, 0, 1)
        if self.max_steps is not None:
            check_within("--max-steps", self.max_steps, 1)
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
