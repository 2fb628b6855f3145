"""Figure 8: does a larger network learn more from the same data? Three sizes × tokens, on held-out loss and on score.

    python benchmarks/scaling.py --data DATA --tokenizer tokenizer.model --state STATE       # under an hour of a core; resumes
    python benchmarks/scaling.py --state STATE --report                                      # results/scaling.json, the figure

Every size trains on the same batches (recipe `generalist`, same seed, one window after another), at a constant learning
rate, so that a point on the way is as good as a run that ends there. At each of the points the loss on episodes that
were set aside is measured, on the same windows for all sizes, and at the last of them the score of closed-loop episodes.

The fit is L(N, D) = E + A / N^a + B / D^b (Hoffmann et al. 2022, equation 2), N parameters without tables, D tokens, in log
space with a Huber loss, from many starts; its interval comes from leaving out each size and each point in turn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato.episodes.manifest import write_file_atomically

SIZES = {"small": (2, 96, 3), "middle": (3, 160, 5), "large": (4, 256, 8)}  # blocks, width, heads
POINTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
TASKS = (
    "babyai/go-to-local", "babyai/pickup-loc", "meta-world/reach", "meta-world/button-press", "meta-world/door-open",
    "sokoban/7x7-1-box", "classic-control/cartpole-v1", "miniworld/hallway",
)  # fmt: skip
KEEP_SECONDS = 10.0  # of the processor: how often what a training has cost is written down
PAPER = {"79M": 79e6, "364M": 364e6, "1.18B": 1.18e9}


def recipe_of(name: str, tokens: int) -> Any:
    from gato.recipes.generalist import recipe

    blocks, width, heads = SIZES[name]
    model = {
        **recipe.model, "num_transformer_blocks": blocks, "layer_width": width, "num_attention_heads": heads,
        "feedforward_hidden_size": 4 * width,
    }  # fmt: skip
    steps = tokens // (recipe.slots * recipe.slot_tokens)
    return recipe.replace(
        name=f"scaling-{name}", model=model, steps=steps, final_ratio=1.0, validation_share=0.08, save_every_seconds=60
    )


def held_out_loss(model: Any, mixture: Any, batches: int) -> dict[str, float]:
    """Nats per target, by domain and over all domains alike."""
    from gato.training.loss import token_losses

    total: dict[str, list[float]] = {}
    with torch.inference_mode():
        for step in range(batches):
            batch = mixture.batch(step)
            losses = token_losses(model(batch), batch.targets, batch.kinds, model.config.vocabulary.continuous, 0.0)
            for k in batch.stores.unique().tolist():
                mine = losses[batch.stores == k]
                at = total.setdefault(mixture.stores[k].domain, [0.0, 0.0])
                at[0] += float(mine.sum())
                at[1] += len(mine)
    by_domain = {domain: s / n for domain, (s, n) in sorted(total.items())}
    return {"mean": float(np.mean(list(by_domain.values()))), **by_domain}


def learn(name: str, args: argparse.Namespace) -> None:
    """Train one size, measuring on the way; what is measured already is kept, and so is what a killed training cost."""
    from gato.tokens.text import TextTokenizer
    from gato.training.data import make_mixture, shelve, tokenise
    from gato.training.loop import train

    recipe = recipe_of(name, args.tokens)
    tokenizer = TextTokenizer.load(args.tokenizer)
    train_on, aside = (
        shelve(args.data, recipe.config(), tokenizer, recipe, args.state / "tokens", validation=v)
        for v in (False, True)
    )
    tokenise([*train_on, *aside])
    validation = make_mixture(aside, recipe.replace(seed=1))
    steps = {max(1, round(recipe.steps * p)) for p in POINTS}
    file = args.state / f"{name}.json"
    record = json.loads(file.read_text()) if file.exists() else {"points": {}, "seconds": 0.0}
    since = time.process_time()

    def keep() -> None:
        nonlocal since
        now = time.process_time()
        record["seconds"], since = record["seconds"] + now - since, now
        write_file_atomically(file, json.dumps(record, indent=1).encode())

    def visit(model: Any, state: Any) -> None:
        if state.step in steps and str(state.step) not in record["points"]:
            model.eval()
            record["points"][str(state.step)] = {
                "tokens": state.tokens,
                **held_out_loss(model, validation, args.batches),
            }
            model.train()
            body = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("embed."))
            record.update(parameters=body, all_parameters=model.num_parameters)
            keep()
        elif time.process_time() - since > KEEP_SECONDS:
            keep()

    out = args.state / name
    if not (out / "bundle" / "MANIFEST.json").exists():
        train(recipe, train_on, tokenizer, out, resume=(out / "recipe.json").exists(), visit=visit)
        keep()
    if "score" not in record:
        record["score"] = play(out / "bundle", args.episodes)
        write_file_atomically(file, json.dumps(record, indent=1).encode())


def play(bundle: Path, episodes: int) -> dict[str, Any]:
    """Expert-normalised scores, closed loop: of every task, their mean and its 95 % interval over episodes."""
    from gato.evaluation.evaluate import evaluate_task
    from gato.evaluation.scores import expert_normalised, interval, resampled_means
    from gato.policy import load
    from gato.rollouts.pool import WorkerPool
    from gato.worlds import find

    agent = load(bundle)
    out = {}
    with WorkerPool(1) as pool:
        for task in (find(t) for t in TASKS if t in agent.tasks):
            found, _ = evaluate_task(agent, task, episodes, pool)
            means = [task.references[k].mean for k in ("random", "expert")]
            out[task.id] = [expert_normalised(score, *means) for score in found.episodes]
    return {
        "mean": float(np.mean([np.mean(mine) for mine in out.values()])),
        "interval": interval(resampled_means(out.values())),
        "episodes": out,
    }


def fit(points: list[tuple[float, float, float]]) -> dict[str, float]:
    """(N, D, loss) → E, A, B, a, b."""
    from scipy.optimize import minimize

    n, d, loss = (np.log(np.array(column)) for column in zip(*points, strict=True))

    def objective(x: np.ndarray) -> float:
        predicted = np.logaddexp(np.logaddexp(x[0] - x[3] * n, x[1] - x[4] * d), x[2])
        error = np.abs(predicted - loss)
        return float(np.where(error < 1e-3, 0.5 * error**2, 1e-3 * (error - 5e-4)).sum())

    starts = itertools.product((0.0, 5.0, 10.0), (0.0, 5.0, 10.0), (-1.0, 0.0), (0.2, 0.6), (0.2, 0.6))
    bounds = [(-10, 25), (-10, 25), (-5, 2), (0.01, 2), (0.01, 2)]
    best = min((minimize(objective, s, method="L-BFGS-B", bounds=bounds) for s in starts), key=lambda r: r.fun)
    a_, b_, e_, a, b = best.x
    return {"E": float(np.exp(e_)), "A": float(np.exp(a_)), "B": float(np.exp(b_)), "a": float(a), "b": float(b)}


def report(args: argparse.Namespace) -> dict[str, Any]:
    records = {name: json.loads((args.state / f"{name}.json").read_text()) for name in SIZES}
    rows = [
        (name, r["parameters"], p["tokens"], p["mean"]) for name, r in records.items() for p in r["points"].values()
    ]
    law = fit([row[1:] for row in rows])
    left = [fit([row[1:] for k, row in enumerate(rows) if k != out]) for out in range(len(rows))]
    left += [fit([row[1:] for row in rows if row[0] != name]) for name in SIZES]
    data = max(row[2] for row in rows)
    record = {
        "protocol": {
            "what": __doc__.split("\n", 1)[0], "recipe": "generalist", "sizes": {k: list(v) for k, v in SIZES.items()},
            "held_out": "8 % of each dataset's episodes; mean over domains of nats per target",
            "score": f"{args.episodes} episodes on each of {len(TASKS)} tasks, mean expert-normalised score",
            "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "core_hours": round(sum(r["seconds"] for r in records.values()) / 3600, 2),
        },
        "sizes": records,
        "law": {**law, "a_range": _range(left, "a"), "b_range": _range(left, "b")},
        "predicted_at_equal_data": {
            name: law["E"] + law["A"] / n ** law["a"] + law["B"] / data ** law["b"] for name, n in PAPER.items()
        },
    }  # fmt: skip
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    draw(records, law, args.figure)
    return record


def _range(fits: list[dict[str, float]], name: str) -> list[float]:
    return [min(f[name] for f in fits), max(f[name] for f in fits)]


def draw(records: dict[str, Any], law: dict[str, float], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=150, layout="constrained")
    loss, score = figure.subplots(1, 2)
    for colour, (name, r) in zip(("#4c78a8", "#f58518", "#54a24b"), records.items(), strict=True):
        points = sorted((p["tokens"], p["mean"]) for p in r["points"].values())
        label = f"{name}, {r['parameters'] / 1e6:.2g} M"
        loss.plot(*zip(*points, strict=True), "o", color=colour, markersize=4, label=label)
        d = np.geomspace(points[0][0], points[-1][0], 50)
        loss.plot(d, law["E"] + law["A"] / r["parameters"] ** law["a"] + law["B"] / d ** law["b"], color=colour)
        mean, (low, high) = r["score"]["mean"], r["score"]["interval"]
        score.errorbar(r["parameters"], mean, [[mean - low], [high - mean]], fmt="o", color=colour, capsize=3)
    tokens = sorted({p["tokens"] for r in records.values() for p in r["points"].values()})
    loss.set(xscale="log", xlabel="tokens", ylabel="held-out loss, nats per target")
    loss.minorticks_off()
    loss.set_xticks(tokens, [f"{n / 1e6:.2g} M" for n in tokens])
    score.set(xscale="log", xlabel="parameters without tables", ylabel="% of expert", ylim=(0, 100))
    sizes = [r["parameters"] for r in records.values()]
    score.minorticks_off()
    score.set_xticks(sizes, [f"{n / 1e6:.2g} M" for n in sizes])
    loss.legend(frameon=False, fontsize=8)
    for axes in (loss, score):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=6_000_000, help="per size")
    parser.add_argument("--batches", type=int, default=20, help="of held-out windows, per point")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--report", action="store_true", help="fit and draw what is there")
    parser.add_argument("--out", type=Path, default=Path("results/scaling.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/images/scaling.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.state.mkdir(parents=True, exist_ok=True)
    for name in [] if args.report else args.sizes:
        learn(name, args)
    if args.report or all((args.state / f"{name}.json").exists() for name in SIZES):
        print(json.dumps(report(args), indent=1))


if __name__ == "__main__":
    main()
