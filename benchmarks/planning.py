"""What looking ahead gains: the plain policy and the planning one (`gato play --plan N`) on the same starts.

    python benchmarks/planning.py BUNDLE --episodes 20      # writes results/planning.json

Both play the first episodes of the evaluation's seeds, side by side in one process, with the bundle's own way of acting.
The mean has a 95 % interval by bootstrap over episodes, and so has the difference, episode by episode. Beside the scores
stand the steps that were imagined for each step that was taken, and the seconds, which are of this machine as it was.

What --out holds of other tasks than --tasks stays, if it was measured like this: same agent, episodes and versions.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gato
from gato.evaluation.scores import interval, resampled_means
from gato.policy.planning import Planning
from gato.rollouts import LocalSlot, Unit, episode_seed, rollout
from gato.worlds import find

# Twenty steps reach the end of most of these episodes.
TASKS: dict[str, Planning] = {
    "sokoban/7x7-1-box": Planning(16, steps=20, follow=4, drawn=20),
    "babyai/go-to-local": Planning(16, steps=20, follow=4, drawn=20),
    "babyai/pickup-loc": Planning(16, steps=20, follow=4, drawn=20),
}
RESAMPLES = 10_000


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("bundle", type=Path)
    words.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    words.add_argument("--episodes", type=int, default=20)
    words.add_argument("--out", type=Path, default=Path("results/planning.json"))
    said = words.parse_args()
    torch.set_num_threads(1)
    agent = gato.load(said.bundle)
    facts = {
        "command": f"python benchmarks/planning.py BUNDLE --episodes {said.episodes}",
        "agent": str(agent), "acting": agent.bundle.acting, "torch_threads": 1,
        "machine": platform.machine(), "python": sys.version.split()[0], "torch": torch.__version__,
        "interval": f"95 %, bootstrap over episodes, {RESAMPLES:,} resamples, seed 0",
    }  # fmt: skip
    rows = {name: row for name, row in kept(said.out, facts).items() if name not in said.tasks}
    for task in said.tasks:
        rows[task] = compare(agent, task, TASKS[task], said.episodes)
        print(json.dumps({k: v for k, v in rows[task].items() if k != "scores"}), flush=True)
        record = {**facts, "tasks": [rows[name] for name in TASKS if name in rows]}
        said.out.parent.mkdir(parents=True, exist_ok=True)
        said.out.write_text(json.dumps(record, indent=1) + "\n")


def kept(file: Path, facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of a record, if these facts are its own; else none, and a word to stderr on what differs."""
    held = json.loads(file.read_text()) if file.exists() else {"tasks": []}
    other = [name for name, value in facts.items() if held.get(name) != json.loads(json.dumps(value))]
    if held["tasks"] and other:
        print(f"{file} was measured otherwise ({', '.join(other)}): none of its rows is kept", file=sys.stderr)
    return {} if other else {row["task"]: row for row in held["tasks"]}


def compare(agent: gato.Agent, task_id: str, planning: Planning, episodes: int) -> dict[str, Any]:
    """Both ways on the same seeds."""
    units = [Unit(task_id, episode_seed(task_id, i, "evaluation")) for i in range(episodes)]
    plain = played(task_id, units, agent.policy(task_id, episodes))
    planner = agent.planner(task_id, episodes, planning)
    planned = played(task_id, units, planner)
    references = find(task_id).references
    return {
        "task": task_id, "score": find(task_id).score, "episodes": episodes, "planning": asdict(planning),
        **{name: references[name].mean for name in ("random", "expert") if name in references},
        "plain": summary(plain["scores"]) | {k: plain[k] for k in ("steps", "seconds")},
        "planned": summary(planned["scores"]) | {k: planned[k] for k in ("steps", "seconds")},
        "gain": summary(planned["scores"] - plain["scores"]),
        "imagined_per_step": round(planner.imagined_steps / planned["steps"], 1),
        "scores": {"plain": plain["scores"].round(4).tolist(), "planned": planned["scores"].round(4).tolist()},
    }  # fmt: skip


def played(task_id: str, units: list[Unit], policy: Any) -> dict[str, Any]:
    """Scores in the order of the units."""
    slots = [LocalSlot() for _ in units]
    began, found, steps = time.perf_counter(), {}, 0
    for episode in rollout(units, slots, policy):
        by_success = find(task_id).score == "success"
        found[episode.info["seed"]] = float(bool(episode.success)) if by_success else episode.total_return
        steps += len(episode)
    for slot in slots:
        slot.close()
    seconds = round(time.perf_counter() - began, 1)
    return {"scores": np.array([found[u.seed] for u in units]), "steps": steps, "seconds": seconds}


def summary(values: np.ndarray) -> dict[str, Any]:
    """Mean and its 95 % interval."""
    return {
        "mean": round(float(values.mean()), 4),
        "interval": [round(end, 4) for end in interval(resampled_means([values], RESAMPLES))],
    }


if __name__ == "__main__":
    main()
