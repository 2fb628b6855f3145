"""Reference scores: what random play and each task's expert reach, merged into `src/gato/worlds/references/`.

    python benchmarks/references.py 'babyai/*' --random 20 --expert 20

    {"babyai/go-to-local": {"random": {"mean": 0.21, "std": 0.33, "episodes": 20}, "expert": {…}, "expert_failures": 0,
                            "score": "return", "seconds_per_episode": 0.01, "versions": {"minigrid": "3.2.0"}}, …}

The score of an episode is its return, or 1 and 0 for success, as the task names it. Experts play clean: no noise, the
task's own starts. Seeds belong to the evaluation split but lie far above the indices that an evaluation uses. An
episode that the expert could not play (ExpertError) is dropped and counted in `expert_failures`.
`seconds_per_episode` is the expert's mean wall-clock time, simulator included. Tasks are written as they are measured,
so that an interrupted run keeps what it has.

    python benchmarks/references.py 'procgen/*' --random 20 --demonstrations DATA

Where the expert is slow and its demonstrations are at hand, it need not play again: those of its episodes in DATA that are
clean (`gato collect` without --noise and --coverage) are what it would be measured by, but for their seeds, which are those of
training. DATA is a folder of datasets or of traces. Fewer than eight of them are no measurement.

A task that is another one seen otherwise (`Task.same_world`: pixels, sentences, more of the state) has the scores of that one, and
is not measured. `--missing` passes over what has its scores already, so that a killed run is started again as it was.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import gato.worlds
from gato.episodes import Dataset, Episode
from gato.episodes.store import dataset_folder
from gato.errors import ExpertError
from gato.rollouts import ExpertPolicy, LocalSlot, RandomPolicy, Unit, episode_seed, rollout
from gato.worlds import Task
from gato.worlds.traces import read_traces, trace_path

FIRST_INDEX = 1_000_000  # evaluation counts its episodes from 0
FEWEST = 8  # clean demonstrations that make a reference score
FOLDER = Path(gato.worlds.__file__).parent / "references"


def score_of(task: Task, episode: Episode) -> float:
    return float(bool(episode.success)) if task.score == "success" else episode.total_return


def measure(task: Task, policy: Any, episodes: int, slot: LocalSlot, seconds: float) -> Iterator[float | None]:
    """The score of each episode, None where the expert failed. Begins no episode after `seconds` in all."""
    begun = time.monotonic()
    for index in range(episodes):
        if time.monotonic() - begun > seconds:
            return
        unit = Unit(task.id, episode_seed(task.id, FIRST_INDEX + index, "evaluation"))
        try:
            (episode,) = rollout([unit], [slot], policy)
            yield score_of(task, episode)
        except ExpertError as error:
            print(f"  {task.id} seed {unit.seed}: {error.what}")
            yield None


def clean_play(task: Task, data: Path) -> tuple[list[float], list[float]]:
    """Of the expert's episodes in DATA without noise and from the task's own starts, scores and seconds; those only of traces."""
    folder, file = dataset_folder(data, task.id), trace_path(task.id, data)
    episodes = list(Dataset.open(folder)) if folder.is_dir() else []
    traces = [t for t in read_traces(task.id, file) if clean(t.facts)] if file.is_file() else []
    scores = [score_of(task, e) for e in episodes if clean(e.info)]
    scores += [float(t.facts["success"]) if task.score == "success" else t.total_return for t in traces]
    return scores, [t.seconds for t in traces]


def clean(info: Mapping[str, Any]) -> bool:
    return info["source"] == "expert" and not info.get("noise") and not info.get("wide")


def summary(scores: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation, number of episodes."""
    std = float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
    return {"mean": round(float(np.mean(scores)), 6), "std": round(std, 6), "episodes": len(scores)}


def versions(task: Task) -> dict[str, str]:
    """Versions of the distributions behind the modules that the task needs."""
    owners = importlib.metadata.packages_distributions()
    names = {name for module in task.requires for name in owners.get(module.partition(".")[0], [])}
    return {name.lower(): importlib.metadata.version(name) for name in sorted(names)}


def measure_task(
    task: Task, num_random: int, num_expert: int, seconds_per_episode: float, demonstrations: Path | None
) -> dict[str, Any]:
    """The task's record; what was not asked for is absent."""
    record: dict[str, Any] = {"score": task.score, "versions": versions(task)}
    slot = LocalSlot()
    try:
        if num_random:
            scores = list(measure(task, RandomPolicy(), num_random, slot, seconds_per_episode * num_random))
            record["random"] = summary([s for s in scores if s is not None])
        if num_expert and demonstrations:
            returns, seconds = clean_play(task, demonstrations)
            if len(returns) >= FEWEST:
                record["expert"] = summary(returns)
            if len(seconds) >= FEWEST:
                record["seconds_per_episode"] = round(float(np.mean(seconds)), 4)
        elif num_expert and task.make_expert is not None:
            begun = time.monotonic()
            scores = list(measure(task, ExpertPolicy(), num_expert, slot, seconds_per_episode * num_expert))
            record["seconds_per_episode"] = round((time.monotonic() - begun) / len(scores), 4)
            record["expert_failures"] = sum(s is None for s in scores)
            if played := [s for s in scores if s is not None]:
                record["expert"] = summary(played)
    finally:
        slot.close()
    return record


def known_of(task: Task, folder: Path) -> dict[str, Any]:
    file = folder / f"{task.domain}.json"
    return json.loads(file.read_text()).get(task.id, {}) if file.exists() else {}


def merge(task: Task, record: dict[str, Any], folder: Path) -> None:
    """Write the task's record beside the others of its domain: a new file, then a rename. Older halves are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{task.domain}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    if "seconds_per_episode" in record:  # a new measurement in which every episode failed leaves no expert score
        known.get(task.id, {}).pop("expert", None)
    known[task.id] = known.get(task.id, {}) | record
    beside = file.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    os.replace(beside, file)


def line(task: Task, record: dict[str, Any]) -> str:
    def show(key):
        return f"{record[key]['mean']:9.3f} ± {record[key]['std']:<8.3f}" if key in record else f"{'–':>20} "

    failures, seconds = record.get("expert_failures", "–"), record.get("seconds_per_episode", "–")
    return f"{task.id:44} {show('random')} {show('expert')} {failures!s:>8} {seconds!s:>9}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", help="task ids or globs, comma-separated")
    parser.add_argument("--random", type=int, default=20, metavar="N", help="random episodes per task")
    parser.add_argument("--expert", type=int, default=20, metavar="N", help="expert episodes per task")
    parser.add_argument(
        "--seconds-per-episode", type=float, default=float("inf"), metavar="S",
        help="stop a task's measurement after S × N seconds with the episodes it has by then",
    )  # fmt: skip
    parser.add_argument(
        "--demonstrations", type=Path, metavar="DATA", help="take the expert's score from what it played there"
    )
    parser.add_argument("--missing", action="store_true", help="only what has no score yet")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of <domain>.json (default: the package's own)")
    args = parser.parse_args()
    print(f"{'task':44} {'random':>20}  {'expert':>20} {'failures':>8} {'s/episode':>9}")
    for task in gato.worlds.select(args.tasks):
        if task.same_world:
            print(f"{task.id:44} as {task.same_world}")
            continue
        known = known_of(task, args.out) if args.missing else {}
        random, expert = (0 if kind in known else getattr(args, kind) for kind in ("random", "expert"))
        if not random and not (expert and task.make_expert):
            continue
        record = measure_task(task, random, expert, args.seconds_per_episode, args.demonstrations)
        merge(task, record, args.out)
        print(line(task, record), flush=True)


if __name__ == "__main__":
    main()
