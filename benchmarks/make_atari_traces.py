"""Records the traces of the slow Atari planner that the package brings along, and their reference scores.

    python benchmarks/make_atari_traces.py boxing=12 freeway=8 breakout=6 pong=6
    python benchmarks/make_atari_traces.py --references          # writes references/ale-atari.json from the traces

One process; every finished episode is written at once, and running again goes on where it stopped. One episode in eight
is clean (no noise, the task's own start): these are the expert's reference score. The others begin from wide starts
and execute some random actions, while the planner's own choices are kept as targets.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import resources
from pathlib import Path

import numpy as np

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
from gato.worlds import find
from gato.worlds.traces import installed_versions, read_traces, record, trace_path, write_traces

NOISE = Noise(scale=0.05, burst=0.01, burst_steps=6)
CLEAN_EVERY = 8
RANDOM_EPISODES = 20
EXPERT_EPISODES = 5


def unit(task_id: str, index: int) -> Unit:
    """Episode `index` of a task's traces."""
    clean = index % CLEAN_EVERY == 0
    return Unit(task_id, episode_seed(task_id, index), noise=CLEAN if clean else NOISE, wide=not clean)


def top_up(game: str, episodes: int, folder: Path | None) -> None:
    """Records traces until there are `episodes` of them."""
    task_id = f"ale-atari/{game}"
    path = trace_path(task_id, folder)
    traces = read_traces(task_id, path) if path.is_file() else []
    slot = LocalSlot()
    for index in range(len(traces), episodes):
        began = time.perf_counter()
        (episode,) = rollout([unit(task_id, index)], [slot], ExpertPolicy(name="lookahead"))
        traces.append(record(episode, slot.env))
        write_traces(path, task_id, traces)
        seconds = time.perf_counter() - began
        kind = "noisy" if episode.executed is not None else "clean"
        print(
            f"{task_id} {index}: {kind}, return {episode.total_return:g}, {len(episode)} steps, {seconds:.0f} s,"
            f" {path.stat().st_size / 1e3:.0f} kB",
            flush=True,
        )
    slot.close()


def references(file: Path) -> None:
    """Random play and the clean planner for every game with traces. What this version has measured is kept.

    The planner's clean traces count; where there are fewer than `EXPERT_EPISODES`, more are played.
    """
    measured = json.loads(file.read_text()) if file.is_file() else {}
    for path in sorted(trace_path("ale-atari/boxing").parent.glob("ale-atari--*.parquet")):
        task_id = path.stem.replace("--", "/")
        versions, known = installed_versions(find(task_id)), measured.get(task_id, {})
        clean = [t.total_return for t in read_traces(task_id) if t.executed is None and not t.facts.get("wide")]
        began, missing = time.perf_counter(), max(0, EXPERT_EPISODES - len(clean))
        clean += _returns(task_id, missing, ExpertPolicy(name="lookahead"))
        seconds = (time.perf_counter() - began) / missing if missing else known.get("seconds_per_episode", 0.0)
        if known.get("versions") == versions and "random" in known:
            random = known["random"]
        else:
            random = _summary(_returns(task_id, RANDOM_EPISODES, RandomPolicy()))
        measured[task_id] = {
            "random": random,
            "expert": _summary(clean),
            "score": "return",
            "versions": versions,
            "seconds_per_episode": round(seconds, 2),
        }
        print(task_id, json.dumps(measured[task_id]), flush=True)
        file.write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")


def _returns(task_id: str, episodes: int, policy: BatchPolicy) -> list[float]:
    """Returns of new clean episodes, on evaluation seeds."""
    slot = LocalSlot()
    units = [Unit(task_id, episode_seed(task_id, i, "evaluation")) for i in range(episodes)]
    returns = [episode.total_return for episode in rollout(units, [slot], policy)]
    slot.close()
    return returns


def _summary(returns: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(returns)), "std": float(np.std(returns)), "episodes": len(returns)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("games", nargs="*", metavar="GAME=EPISODES")
    parser.add_argument("--folder", type=Path, help="where to write the traces (default: into the package)")
    parser.add_argument("--references", action="store_true")
    arguments = parser.parse_args()
    for game, _, episodes in (item.partition("=") for item in arguments.games):
        top_up(game, int(episodes), arguments.folder)
    if arguments.references:
        references(Path(str(resources.files("gato.worlds") / "references" / "ale-atari.json")))


if __name__ == "__main__":
    main()
