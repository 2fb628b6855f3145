"""Makes traces of slow experts, for as long as it takes: any tasks, resumable, one saved row per finished episode.

    python benchmarks/make_traces.py 'dm-control-suite/*' --episodes 30 --state ~/traces
    python benchmarks/make_traces.py 'modular-rl/*' --episodes 10 --state ~/traces --seconds 3600
    python benchmarks/make_traces.py 'dm-control-suite/*' --episodes 30 --state ~/traces --publish traces

The files grow in the state folder, outside the checkout: `DOMAIN--NAME.parquet`, one per task; it may begin as a copy of
`traces`. Kill it whenever you like and start it again; what is finished stays, and the tasks take turns, an episode each,
so that all grow together. Tasks without an expert are passed over. A quarter of the episodes is clean from the task's own
starts or wide ones; the others carry noise of one of three levels, one of them with bursts of random actions, while the
expert's own choice stays the target. Where one wrong step ends a game there is less of it (`manner`). Every episode says
what it had, and how many core seconds it took.

`--publish FOLDER` copies the files whose tasks are complete (or all, with `--partial`) and writes `made.json` beside them:
per task the episodes, the core hours, the mean return and the size.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from gato.rollouts.collect import COVERAGE, COVERAGE_WIDE_SHARE
from gato.rollouts.loop import CLEAN, Noise
from gato.rollouts.tracing import collect_traces
from gato.worlds import Task, select
from gato.worlds.traces import Trace, read_traces, trace_path


def manner(task: Task) -> tuple[tuple[Noise, ...], float]:
    """(noise levels, share of wide starts). An Atari game takes minutes: its few are clean, and count as references too."""
    if task.domain.startswith("ale-atari"):
        return (CLEAN,), 0.0
    if task.domain == "procgen":
        return (CLEAN, Noise(0.05, burst=0.01, burst_steps=8)), 0.5
    return COVERAGE, COVERAGE_WIDE_SHARE


def told(task: Task, number: int, made: Trace | str) -> None:
    """A line per episode."""
    if isinstance(made, str):
        print(f"{task.id} {number}: dropped, {made}", flush=True)
        return
    how = [f"noise {noise}" for noise in [made.facts.get("noise")] if noise] + ["wide"] * bool(made.facts.get("wide"))
    print(
        f"{task.id} {number}: return {made.total_return:g}, {len(made)} steps, {made.seconds:.0f} s"
        f" ({', '.join(how) or 'clean'})",
        flush=True,
    )


def make(tasks: list[Task], episodes: int, state: Path, workers: int, seconds: float) -> None:
    """One more episode of every task that lacks any, again and again, until all have `episodes` or time is over."""
    ends = time.monotonic() + seconds
    for goal in range(1, episodes + 1):
        for task in tasks:
            left = ends - time.monotonic()
            if left <= 0:
                return
            noise, wide = manner(task)
            collect_traces([task], goal, state, workers, noise=noise, wide_share=wide, seconds=left, report=told)


def publish(tasks: list[Task], episodes: int, state: Path, folder: Path, partial: bool) -> dict[str, Any]:
    """Copy finished files; returns what made.json says of them."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "made.json"
    made = json.loads(record.read_text()) if record.is_file() else {}
    for task in tasks:
        source = trace_path(task.id, state)
        traces = read_traces(task.id, source) if source.is_file() else []
        if not traces or (len(traces) < episodes and not partial):
            continue
        shutil.copyfile(source, trace_path(task.id, folder))
        clean = [t.total_return for t in traces if not t.facts.get("noise") and not t.facts.get("wide")]
        made[task.id] = {
            "episodes": len(traces),
            "timesteps": sum(map(len, traces)),
            "core_hours": round(sum(t.seconds for t in traces) / 3600, 3),
            "mean_return": round(float(np.mean([t.total_return for t in traces])), 3),
            "clean_mean_return": round(float(np.mean(clean)), 3) if clean else None,
            "bytes": source.stat().st_size,
            "command": f"python benchmarks/make_traces.py '{task.id}' --episodes {len(traces)} --state STATE",
            "versions": dict(traces[0].versions),
        }
    record.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", help="task ids or globs, comma-separated")
    parser.add_argument("--episodes", type=int, default=30, metavar="N", help="episodes per task")
    parser.add_argument("--state", type=Path, required=True, help="folder where the files grow, outside the checkout")
    parser.add_argument("--workers", type=int, default=0, help="0: in this process")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="begin no episode after this")
    parser.add_argument("--publish", type=Path, metavar="FOLDER", help="copy what is complete, and make nothing")
    parser.add_argument("--partial", action="store_true", help="publish what is not complete too")
    args = parser.parse_args()
    tasks = [task for task in select(args.tasks) if task.make_expert is not None]
    if args.publish:
        made = publish(tasks, args.episodes, args.state, args.publish, args.partial)
        print(f"{len(made)} tasks, {sum(m['bytes'] for m in made.values()) / 1e6:.1f} MB in {args.publish}")
        return
    make(tasks, args.episodes, args.state, args.workers, args.seconds)


if __name__ == "__main__":
    main()
