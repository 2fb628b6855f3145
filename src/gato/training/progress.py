"""What a run shows: a bar with loss, rate and time left on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gato.training.loop import Report
from gato.training.plan import Plan

PLAIN_EVERY_SECONDS = 30.0


class TrainingBar:
    """A `watch` for `train`. With a plan, what the first steps took stands beside what it estimated."""

    def __init__(self, plan: Plan | None = None) -> None:
        self._plan = plan
        self._console = Console(stderr=True)
        self._plain = not self._console.is_terminal
        columns = (TextColumn("train"), BarColumn(), TextColumn("{task.percentage:>3.0f} %  {task.description}"))
        self._bar = Progress(*columns, console=self._console, disable=self._plain)
        self._id = self._bar.add_task("", total=1.0)
        self._said = 0.0

    def __enter__(self) -> TrainingBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self._bar.__exit__(*exc)

    def __call__(self, report: Report) -> None:
        r = report.record
        if self._plan is not None:
            self._console.print(
                f"memory: estimated {self._plan.bytes / 2**30:.2f} GiB, measured {r['memory_gb']:.2f} GiB"
            )
            self._plan = None
        left = r["elapsed_seconds"] * (1 - report.progress) / max(report.progress, 1e-9)
        line = f"step {r['step']}  loss {r['loss']:.3f}  {r['tokens_per_second']:,.0f} tokens/s  {_clock(left)} left"
        self._bar.update(self._id, completed=report.progress, description=line)
        if self._plain and (time.monotonic() - self._said > PLAIN_EVERY_SECONDS or report.progress >= 1):
            self._console.print(f"train {report.progress:4.0%}  {line}")
            self._said = time.monotonic()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
