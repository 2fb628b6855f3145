"""What demonstrations beyond the expert's own path are worth: the same network from clean ones and from covering ones.

    python benchmarks/coverage.py --state STATE      # about an hour of a core; resumes; results/coverage.json and its picture

Six tasks of three domains. `clean` is what `gato collect` records: the expert from the task's own starts. `covering` is what
`gato collect --coverage` records: noise and bursts of random actions on what is executed, the expert's own choice as the target,
half of the starts wide. The number of timesteps is equal (the longer recordings give fewer episodes), as are recipe, tokens
and evaluation; per seed one network learns all six tasks. The gain is in percent of expert, its interval from resampling the seeds,
and the episodes of every seed within each task.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato.demo import tokenizer_in
from gato.episodes import Dataset
from gato.episodes.manifest import write_file_atomically
from gato.episodes.store import dataset_folder
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.scores import expert_normalised
from gato.policy import load
from gato.recipes.demo import recipe as demo
from gato.rollouts.collect import COVERAGE, COVERAGE_WIDE_SHARE, collect
from gato.rollouts.pool import WorkerPool
from gato.training.start import resume_run, start_run
from gato.worlds import find

TIMESTEPS = {  # of demonstrations, per task: few, as they are where experts are slow
    "babyai/go-to-local": 2000,
    "babyai/open": 2000,
    "meta-world/door-open": 4000,
    "meta-world/pick-place": 4000,
    "dm-control-suite/reacher-easy": 10_000,
    "dm-control-suite/cartpole-swingup": 10_000,
}
KINDS: dict[str, dict[str, Any]] = {"clean": {}, "covering": {"noise": COVERAGE, "wide_share": COVERAGE_WIDE_SHARE}}


def demonstrate(kind: str, state: Path) -> list[dict[str, Any]]:
    """Datasets of about equal length: episodes are added until it is reached."""
    rows = []
    for name, timesteps in TIMESTEPS.items():
        task, out = find(name), state / "data" / kind
        episodes, done = 0, 0
        while done < timesteps:
            episodes += max(1, int((timesteps - done) / (done / episodes if episodes else task.max_steps)))
            [held] = collect([task], episodes, out, workers=0, progress=False, **KINDS[kind])
            episodes, done = held.episodes, Dataset.open(dataset_folder(out, name)).num_timesteps
        rows.append({"task": name, "kind": kind, "episodes": episodes, "timesteps": done})
    return rows


def learn(kind: str, seed: int, args: argparse.Namespace) -> Path:
    """The bundle of one run."""
    run = args.state / f"{kind}-{seed}"
    if (run / "recipe.json").exists():
        return resume_run(run, "cpu", 0)
    weights = json.dumps(dict.fromkeys(TIMESTEPS, 1.0))
    words = [
        f"weights={weights}", 'window_timesteps={"*": 1}', f"steps={args.tokens // (demo.slots * demo.slot_tokens)}", "seconds=null", f"seed={seed}",
        "validation_share=0", "continuous=sample",
    ]  # fmt: skip
    data = [dataset_folder(args.state / "data" / kind, name) for name in TIMESTEPS]
    return start_run("demo", words, data, run, tokenizer_in(args.state, 1024), "cpu", 0)


def play(bundle: Path, episodes: int, file: Path) -> dict[str, list[float]]:
    """Percent of expert of every episode, per task."""
    scores = json.loads(file.read_text()) if file.exists() else {}
    agent = load(bundle)
    with WorkerPool(0) as pool:
        for task in (find(name) for name in TIMESTEPS if name not in scores):
            found, _ = evaluate_task(agent, task, episodes, pool)
            means = [task.references[k].mean for k in ("random", "expert")]
            scores[task.id] = [expert_normalised(score, *means) for score in found.episodes]
            write_file_atomically(file, json.dumps(scores).encode())
    return scores


def gain(clean: np.ndarray, covering: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Two (tasks, seeds, episodes) → means, difference and its 95 % interval."""

    def again(scores: np.ndarray) -> float:
        _, seeds, episodes = scores.shape
        drawn = scores[:, rng.integers(seeds, size=seeds)]  # a seed is one network, for all tasks
        return float(np.take_along_axis(drawn, rng.integers(episodes, size=drawn.shape), axis=2).mean())

    differences = [again(covering) - again(clean) for _ in range(4000)]
    low, high = np.percentile(differences, [2.5, 97.5])
    return {
        "clean": float(clean.mean()), "covering": float(covering.mean()), "gain": float(covering.mean() - clean.mean()),
        "low": float(low), "high": float(high),
    }  # fmt: skip


def draw(table: dict[str, dict[str, float]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.8), dpi=150, layout="constrained")
    ax = figure.subplots()
    for y, row in enumerate(table.values()):
        ax.plot([row["clean"], row["covering"]], [y, y], color="#bbbbbb", linewidth=2, zorder=1)
        ax.plot(row["clean"], y, "o", color="#999999", label="clean" if y == 0 else None)
        ax.plot(row["covering"], y, "o", color="#0d6e8c", label="covering" if y == 0 else None)
        told = f"{row['gain']:+.0f} ({row['low']:+.0f} to {row['high']:+.0f})".replace("-", "−")
        ax.text(103, y, told, fontsize=8, va="center", clip_on=False)
    ax.set(
        yticks=range(len(table)),
        yticklabels=list(table),
        xlim=(0, 100),
        xlabel="% of expert",
        ylim=(len(table) - 0.5, -0.5),
    )
    ax.tick_params(labelsize=8)
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=2)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    figure.savefig(file, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1_500_000, help="per run")
    parser.add_argument("--episodes", type=int, default=30, help="played per task and seed")
    parser.add_argument("--out", type=Path, default=Path("results/coverage.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/images/coverage.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.state.mkdir(parents=True, exist_ok=True)
    demonstrations = [row for kind in KINDS for row in demonstrate(kind, args.state)]
    scores: dict[str, list[dict[str, list[float]]]] = {kind: [] for kind in KINDS}
    for seed in range(args.seeds):
        for kind in KINDS:
            scores[kind].append(play(learn(kind, seed, args), args.episodes, args.state / f"{kind}-{seed}.json"))
    rng = np.random.default_rng(0)
    clean, covering = (np.array([[run[name] for run in scores[kind]] for name in TIMESTEPS]) for kind in KINDS)
    table = {name: gain(clean[[k]], covering[[k]], rng) for k, name in enumerate(TIMESTEPS)}
    whole = gain(clean, covering, rng)
    record = {
        "protocol": {
            "what": __doc__.split("\n", 1)[0], "recipe": "demo, windows of one timestep, all actions sampled",
            "tokens": args.tokens, "seeds": args.seeds, "episodes": args.episodes, "unit": "percent of expert",
            "interval": "95 %, bootstrap over seeds, and over episodes within each task", "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
        "demonstrations": demonstrations, "tasks": table, "all": whole,
    }  # fmt: skip
    write_file_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())
    draw(table, args.figure)
    print(json.dumps({**table, "all": whole}, indent=1))


if __name__ == "__main__":
    main()
