"""How much faster a trace is played again than it was made: experts that think, beside the replay of what they did.

    python benchmarks/replay.py                                           writes results/replay.json
    python benchmarks/replay.py 'modular-rl/hopper-*' --steps 200 --state replay.state.json
    python benchmarks/replay.py 'dm-control-suite/*' --traces ~/traces    of traces that are there already

Per task one expert episode is played and traced, then replayed `--rounds` times in the same environment into whole episodes, each
proved against the trace. Both are core seconds of this process (all threads), so that a busy machine matters little. With `--traces`
what is replayed is the first trace of the task's file, and what making it cost is what the file says, measured when it was
made.

Goal, where making took over 10 seconds and nothing is rendered: replaying is at least 20 times faster. With `--state` every
task is written there as it is done and not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.rollouts import ExpertPolicy, LocalSlot, Unit, episode_seed, rollout
from gato.worlds import Task, select
from gato.worlds.traces import Trace, read_traces, record, replay, trace_path

TASKS = (  # a planner of every kind that renders nothing
    "dm-control-suite/walker-walk,dm-control-suite/finger-turn-hard,modular-rl/hopper-2,modular-rl/walker-1-0,"
    "gym-mujoco/pusher-v5,classic-control/acrobot-v1,dm-manipulation-playground/place-brick-features,"
    "rgb-stacking/triplet-1-state"
)
GOAL, WORTH_SECONDS = 20.0, 10.0


def make(task: Task, slot: LocalSlot, steps: int | None) -> tuple[Trace, float, float]:
    """(trace, core seconds, seconds by the clock) of one expert episode."""
    unit = Unit(task.id, episode_seed(task.id, 0), max_steps=steps)
    cpu, clock = time.process_time(), time.perf_counter()
    (episode,) = rollout([unit], [slot], ExpertPolicy())
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    assert slot.env is not None
    return record(episode, slot.env, cpu), cpu, clock


def measure(task: Task, folder: Path | None, steps: int | None, rounds: int) -> dict[str, Any]:
    """One row. Raises TraceError if the trace does not come true."""
    slot = LocalSlot()
    try:
        if folder is None:
            trace, made, by_clock = make(task, slot, steps)
            row: dict[str, Any] = {"task": task.id, "made": "now", "make_wall_seconds": round(by_clock, 3)}
        else:
            trace = read_traces(task.id, trace_path(task.id, folder))[0]
            made, row = trace.seconds, {"task": task.id, "made": "before, as its file says"}
        env = slot.env or task.make()
        spent = []
        for _ in range(rounds):
            begun = time.process_time()
            episode = replay(task.id, trace, env)
            spent.append(time.process_time() - begun)
        assert len(episode) == len(trace)
        if env is not slot.env:
            env.close()
    finally:
        slot.close()
    seconds = float(np.median(spent))
    rendered = any(leaf.kind == "image" for leaf in task.spec.observation.values())
    row |= {
        "expert": task.expert_name,
        "steps": len(trace),
        "return": round(trace.total_return, 3),
        "make_seconds": round(made, 5),
        "replay_seconds": round(seconds, 5),
        "times": round(made / seconds, 1),
        "came_true": "within the tolerances" if episode.info.get("replay") else "to the bit",
        "rendered": rendered,
        "versions": dict(trace.versions),
    }
    if made > WORTH_SECONDS and not rendered:
        row |= {"goal": GOAL, "reached": row["times"] >= GOAL}
    return row


def summary(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    judged = [row for row in rows if "reached" in row]
    return {
        "tasks": len(rows),
        "judged": len(judged),
        "reached": sum(row["reached"] for row in judged),
        "least_times": min((row["times"] for row in judged), default=None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="?", default=TASKS, help="task ids or globs, comma-separated")
    parser.add_argument("--steps", type=int, help="end the expert's episode after so many")
    parser.add_argument("--rounds", type=int, default=3, help="replays of each trace")
    parser.add_argument("--traces", type=Path, metavar="FOLDER", help="replay the traces of this folder, making none")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep finished tasks here, and go on from it")
    parser.add_argument("--out", type=Path, default=Path("results/replay.json"))
    args = parser.parse_args()
    done: dict[str, Any] = json.loads(args.state.read_text()) if args.state and args.state.exists() else {}
    for task in select(args.tasks):
        able = task.installed and task.make_expert is not None and task.deterministic
        if args.traces and not trace_path(task.id, args.traces).is_file():
            able = False
        if able and task.id not in done:
            done[task.id] = measure(task, args.traces, args.steps, args.rounds)
            print({k: v for k, v in done[task.id].items() if k != "versions"}, flush=True)
            if args.state:
                beside = args.state.with_suffix(f".{os.getpid()}.tmp")
                beside.write_text(json.dumps(done, indent=1) + "\n")
                os.replace(beside, args.state)
    rows = list(done.values())
    args.out.parent.mkdir(exist_ok=True)
    about = {"protocol": __doc__, "processor": processor(), "load": os.getloadavg()[0], "summary": summary(rows)}
    args.out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
