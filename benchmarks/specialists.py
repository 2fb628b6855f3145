"""Specialists: the generalist's network trained on one domain alone, with as many tokens of it as the generalist had.

    python benchmarks/specialists.py --data DATA --tokenizer tokenizer.model --state STATE      # resumes; results/specialists.json

Data, tokenizer and size are those of the bundle whose scores are in results/generalist.json, and a domain's tokens are its
weight's share of all that the bundle was trained on. The tasks, the episodes' seeds and their number are those by which the
bundle was scored, so the two columns differ in one thing: whether everything else was learned along.
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

from gato.episodes import Dataset, find_datasets
from gato.episodes.manifest import write_file_atomically
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.scores import expert_normalised, interval, resampled_means
from gato.policy import load
from gato.recipes.generalist import recipe as generalist
from gato.rollouts.pool import WorkerPool
from gato.training.start import resume_run, start_run
from gato.worlds import find

DOMAINS = ("sokoban", "dm-manipulation-playground", "gymnasium-robotics", "classic-control", "procgen")
GENERALIST = Path(__file__).parents[1] / "results/generalist.json"


def learn(domain: str, tokens: int, folders: list[Path], args: argparse.Namespace) -> Path:
    """The bundle of one specialist."""
    run = args.state / domain
    if (run / "recipe.json").exists():
        return resume_run(run, "cpu", args.processes)
    steps = max(1, tokens // (generalist.slots * generalist.slot_tokens))
    words = [
        f"weights={json.dumps({domain: 1})}",
        f"steps={steps}",
        "final_ratio=0.02",
        "warmup=0.02",
        "validation_share=0",
    ]
    return start_run("generalist", words, folders, run, args.tokenizer, "cpu", args.processes)


def play(bundle: Path, episodes: dict[str, int], file: Path) -> dict[str, list[float]]:
    """Scores of every episode, per task."""
    scores = json.loads(file.read_text()) if file.exists() else {}
    agent = load(bundle)
    for name in (n for n in episodes if n not in scores):
        with WorkerPool(0) as pool:
            scores[name] = evaluate_task(agent, find(name), episodes[name], pool)[0].episodes
        write_file_atomically(file, json.dumps(scores).encode())
    return scores


def mean(scores: dict[str, list[float]]) -> tuple[float, list[float]]:
    """Percent of expert as the mean over tasks, and its 95 % interval over episodes."""
    rows = []
    for name, mine in scores.items():
        references = [find(name).references[k].mean for k in ("random", "expert")]
        rows.append([expert_normalised(s, *references) for s in mine])
    return float(np.mean([np.mean(row) for row in rows])), interval(resampled_means(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--domains", nargs="*", default=list(DOMAINS))
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/specialists.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.state.mkdir(parents=True, exist_ok=True)
    record = json.loads(GENERALIST.read_text())
    all_tokens = record["protocol"]["training_tokens"]
    folders: dict[str, list[Path]] = {}
    for folder in find_datasets(args.data):
        folders.setdefault(Dataset.open(folder).task.split("/", 1)[0], []).append(folder)
    there = sum(weight for domain, weight in generalist.weights.items() if domain in folders)
    rows = {}
    for domain in args.domains:
        theirs = {t["id"]: t["episode_scores"] for t in record["tasks"] if t["domain"] == domain}
        theirs = {name: s for name, s in theirs.items() if {"random", "expert"} <= set(find(name).references)}
        tokens = round(all_tokens * generalist.weights[domain] / there)
        bundle = learn(domain, tokens, folders[domain], args)
        ours = play(bundle, {name: len(s) for name, s in theirs.items()}, args.state / f"{domain}.json")
        row: dict[str, Any] = {"tasks": len(theirs), "tokens": tokens}
        row["specialist"], row["specialist_interval"] = mean(ours)
        row["generalist"], row["generalist_interval"] = mean(theirs)
        row["by_task"] = {name: {"specialist": ours[name], "generalist": s} for name, s in theirs.items()}
        rows[domain] = row
        print(domain, {k: v for k, v in row.items() if k != "by_task"}, flush=True)
    whole = {
        "protocol": {
            "what": __doc__.split("\n", 1)[0], "recipe": "generalist, one domain", "unit": "percent of expert",
            "interval": "95 %, bootstrap over episodes; one training each", "seeds": record["protocol"]["seeds"],
            "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        },
        "domains": rows,
    }  # fmt: skip
    write_file_atomically(args.out, (json.dumps(whole, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
