"""How the demo's score grows with the tokens it is trained on: its recipe, bounded by tokens, each run with its own schedule.

    python benchmarks/demo_curve.py runs/demo --state STATE [--tokens 1 2 4 8 16]       in millions; resumes
    python benchmarks/demo_curve.py --draw

The first argument is a folder of `gato demo`: its demonstrations and its tokenizer are used. A run is trained with two
processes and judged as the demo is, 20 episodes a task, captions and text too. About 35 seconds per million tokens and three
minutes of playing a run, on two cores. Writes results/demo_curve.json and docs/images/demo-curve.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from gato.demo import PLANS, evaluate_all
from gato.episodes.manifest import write_file_atomically
from gato.errors import UsageError
from gato.recipes.demo import recipe as demo
from gato.training.recipe import Recipe
from gato.training.start import resume_run, start_run

RECORD, FIGURE = Path("results/demo_curve.json"), Path("docs/images/demo-curve.png")
NAMES = {
    "babyai": "BabyAI", "meta-world": "Meta-World", "dm-control-suite": "DM Control", "sokoban": "Sokoban", "ale-atari": "Atari"
}  # fmt: skip


def point(source: Path, millions: float, state: Path, processes: int) -> dict[str, Any]:
    """One training, played: what the report needs of its results.json. Raises UsageError where it was of another recipe."""
    out = state / f"{millions:g}M"
    train = out / "train"
    if out.exists():
        check(train / "recipe.json")
    if not (out / "results.json").exists():
        if (train / "recipe.json").exists():
            resume_run(train, "cpu", processes)
        else:
            train.mkdir(parents=True, exist_ok=True)
            (state / "tokens").mkdir(exist_ok=True)
            (train / "tokens").symlink_to((state / "tokens").resolve())  # the same tables for all runs
            steps = round(millions * 1e6 / (demo.slots * demo.slot_tokens))
            tokenizer = source / "tokenizer" / "tokenizer.model"
            start_run("demo", [f"steps={steps}", "seconds=null"], [source / "data"], train, tokenizer, "cpu", processes)
        evaluate_all(PLANS, out, 20, 2, {})
    found = json.loads((out / "results.json").read_text())
    return {
        "tokens": found["protocol"]["training_tokens"], "training_seconds": found["protocol"]["training_seconds"],
        "aggregates": {k: found["aggregates"][k] for k in ("mean_of_domain_means", "intervals", "domains")},
        "tasks": {t["id"]: {"percent": t["expert_normalised"], "interval": t["interval"]} for t in found["tasks"]},
        "captions_exact": found["language"]["caption_exact"], "bits_per_byte": found["language"]["bits_per_byte"],
        "trigram_bits_per_byte": found["language"]["trigram_bits_per_byte"], "protocol": found["protocol"],
    }  # fmt: skip


def check(file: Path) -> None:
    """Whether a point that was begun is of the demo's recipe as it is now; its length and its tokenizer's size are its own."""
    begun = Recipe.from_json(json.loads(file.read_text())) if file.exists() else None
    if begun is not None:
        size = {"vocabulary_size": demo.model["vocabulary_size"]}
        begun = begun.replace(steps=demo.steps, seconds=demo.seconds, model={**begun.model, **size})
    if begun != demo:
        raise UsageError(
            "this point is of another recipe", where=str(file), fix="another --state, or remove this point"
        )


def draw(record: dict[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    rows = record["points"]
    tokens = [row["tokens"] / 1e6 for row in rows]
    figure = Figure(figsize=(7.2, 3.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    low, high = zip(*(row["aggregates"]["intervals"]["mean_of_domain_means"] for row in rows), strict=True)
    left.fill_between(tokens, low, high, color="#0d6e8c", alpha=0.15, linewidth=0)
    left.plot(
        tokens,
        [row["aggregates"]["mean_of_domain_means"] for row in rows],
        "o-",
        color="#0d6e8c",
        label="mean of domains",
    )
    for (domain, name), color in zip(
        NAMES.items(), ("#b5651d", "#7a7a7a", "#6a51a3", "#2e8b57", "#c0392b"), strict=True
    ):
        left.plot(
            tokens, [row["aggregates"]["domains"][domain] for row in rows], "-", color=color, linewidth=1, label=name
        )
    left.axhline(80, color="#bbbbbb", linewidth=0.8, linestyle="--")
    left.set(xscale="log", xlabel="million tokens", ylabel="% of expert", ylim=(-5, 105))
    right.plot(
        tokens, [100 * row["captions_exact"] for row in rows], "o-", color="#0d6e8c", label="captions exactly right, %"
    )
    right.set(xscale="log", xlabel="million tokens", ylim=(0, 100))
    right.set_ylabel("%", fontsize=8)
    other = right.twinx()
    other.set_ylabel("bits per byte", fontsize=8)
    other.plot(tokens, [row["bits_per_byte"] for row in rows], "s-", color="#b5651d", label="text, bits per byte")
    other.axhline(rows[0]["trigram_bits_per_byte"], color="#b5651d", linewidth=0.8, linestyle="--", label="trigram")
    lines = [line for ax in (right, other) for line in ax.get_lines()]
    right.legend(lines, [str(line.get_label()) for line in lines], frameon=False, fontsize=7, loc="upper right")
    left.legend(frameon=False, fontsize=7, ncols=2)
    for ax in (left, right, other):
        ax.set_xticks(tokens, [f"{t:.0f}" for t in tokens])
        ax.minorticks_off()
        ax.spines["top"].set_visible(False)
        ax.tick_params(labelsize=8)
    figure.savefig(file, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="?")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--tokens", type=float, nargs="+", default=[1, 2, 4, 8, 16], metavar="MILLIONS")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--draw", action="store_true", help="only the figure, from what --out holds")
    args = parser.parse_args()
    if not args.draw:
        if not (args.demo and args.state):
            parser.error("a folder of `gato demo`, and --state")
        torch.set_num_threads(1)
        points = []
        for millions in sorted(args.tokens):
            points.append(point(args.demo, millions, args.state, args.processes))
            print(
                f"{points[-1]['tokens']:,} tokens: {points[-1]['aggregates']['mean_of_domain_means']:.1f} %", flush=True
            )
            record = {"what": (__doc__ or "").split("\n", 1)[0], "recipe": demo.to_json(), "points": points}
            write_file_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())
    draw(json.loads(args.out.read_text()), args.figure)


if __name__ == "__main__":
    main()
