"""Figures 9 and 10: what a task never seen is learned from few demonstrations, by what came before and by size.

    python benchmarks/transfer.py --data DATA --tokenizer tokenizer.model --state STATE --seconds 3000   # a piece; goes on
    python benchmarks/transfer.py --state STATE --report                     # results/transfer.json, the figures

Four tasks are held out: two from state, one from pictures, one grid world; with each, whatever is the same skill in another form (other
physics, sizes, senses, a sparse reward). Networks are pretrained on everything else (`all`), on the held-out task's own domain alone
(`domain`), on no control data (`language`), or not at all (`scratch`), for the same number of steps, and fine-tuned on 1, 10 and
100 demonstrations, three series each, as `gato finetune --demonstrations` does it; `gently` is `all` at a tenth of the rate. `all` and
`scratch` in two sizes. Before any fine-tuning `all` and `domain` play the task as they are: zero-shot, with no prompt and no name of the task.

Pieces end after --seconds, between two runs.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from gato.episodes import Dataset, find_datasets
from gato.episodes.manifest import write_file_atomically
from gato.episodes.store import dataset_folder
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.few_shot import few_shot
from gato.evaluation.scores import expert_normalised, write_whole
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent, load
from gato.recipes.generalist import DOCUMENTS
from gato.rollouts.pool import WorkerPool
from gato.training.start import finetune_recipe, resume_run, start_run
from gato.worlds import find

ROOT = Path(__file__).parents[1]
HELD_OUT = ("dm-control-suite/cartpole-swingup", "meta-world/door-open", "miniworld/one-room", "babyai/go-to-local")
# Not learned at all: they, and the same skills in other forms.
FAMILIES = ("*/cartpole-swingup*", "meta-world/door-open", "miniworld/one-room*", "babyai/go-to-local*")
SIZES = {"small": (2, 128, 4), "large": (3, 256, 8)}  # blocks, width, heads
STARTS = ("all", "domain", "language", "scratch", "gently")
COUNTS, SERIES, EPISODES, ZERO_SHOT = (1, 10, 100), 3, 10, 20
COLOURS = ("#2a78c8", "#c8772a", "#3a9a5c", "#8a5ac8", "#888888")
ZERO = 0.25  # where no demonstration stands on a logarithmic axis
FINE = ["steps=240", "slots=4", "prompt_share=0", 'window_timesteps={"*": 1}', "learning_rate=0.001"]
GENTLY = [*FINE, "learning_rate=0.0001"]
EVERY = 40  # steps between two evaluations of a run


def domain_of(task: str) -> str:
    return task.split("/", 1)[0]


def networks() -> list[tuple[str, str]]:
    """(what came before, size) of every pretraining: `domain-…` once per domain."""
    return [
        ("all", "small"), ("language", "small"), *((f"domain-{domain_of(t)}", "small") for t in HELD_OUT), ("all", "large"),
    ]  # fmt: skip


def pretrain(kind: str, size: str, args: argparse.Namespace) -> Path:
    """The bundle; a run that was interrupted goes on."""
    run = args.state / f"{kind}-{size}"
    if (run / "recipe.json").exists():
        return resume_run(run, "cpu", args.processes)
    blocks, width, heads = SIZES[size]
    words = [
        f"steps={args.steps}", f"hold_out={json.dumps(FAMILIES)}", "model.task_token=false", f"model.layer_width={width}",
        f"model.num_transformer_blocks={blocks}", f"model.num_attention_heads={heads}",
        f"model.feedforward_hidden_size={4 * width}",
    ]  # fmt: skip

    def wanted(task: str) -> bool:
        domain = domain_of(task)
        return kind == "all" or (domain in DOCUMENTS if kind == "language" else f"domain-{domain}" == kind)

    data = [folder for folder in find_datasets([args.data]) if wanted(Dataset.open(folder).task)]
    return start_run("generalist", words, data, run, args.tokenizer, "cpu", args.processes)


def zero_shot(bundle: Bundle, task: str, spec: Any, file: Path) -> None:
    if file.exists():
        return
    tasks = {**bundle.tasks, task: TaskCard(spec, 1)}
    with WorkerPool(1) as pool:
        scores, _ = evaluate_task(
            Agent(Bundle(bundle.config, bundle.model, bundle.tokenizer, tasks, bundle.acting)),
            find(task),
            ZERO_SHOT,
            pool,
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(file, json.dumps(scores.episodes).encode())


def learn(args: argparse.Namespace) -> None:
    """What --only names of it: `pretrain/NAME-SIZE` and `tune/SIZE/TASK`. Nothing is begun after --seconds."""
    ends = time.monotonic() + args.seconds
    for kind, size in networks():
        if fnmatchcase(f"pretrain/{kind}-{size}", args.only):
            if time.monotonic() > ends:
                return
            pretrain(kind, size, args)
    for size in SIZES:
        for task in HELD_OUT:
            if fnmatchcase(f"tune/{size}/{task}", args.only):
                tune(task, size, args, ends)


def tune(task: str, size: str, args: argparse.Namespace, ends: float) -> None:
    """All starts on all numbers of demonstrations of one task; before it the two that play it as they are."""
    dataset = Dataset.open(dataset_folder(args.data, task))
    kinds = (
        {"all": "all", "domain": f"domain-{domain_of(task)}", "language": "language"}
        if size == "small"
        else {"all": "all"}
    )
    starts = {name: load(args.state / f"{kind}-{size}").bundle for name, kind in kinds.items()}
    for name in ("all", "domain"):
        if name in starts:
            file = args.state / "zero" / f"{task.replace('/', '--')}-{name}-{size}.json"
            zero_shot(starts[name], task, dataset.spec, file)
    arms = [(name, start, FINE) for name, start in {**starts, "scratch": None}.items()]
    if size == "small":
        arms.append(("gently", starts["all"], GENTLY))
    for count in [c for c in COUNTS if c <= len(dataset)]:
        for name, start, words in arms:
            if time.monotonic() > ends:
                return
            recipe = finetune_recipe(starts["all"], "finetune", words)
            out = args.state / "runs" / size / task.replace("/", "--") / f"{name}-{count}"
            few_shot(
                {name: start}, find(task), dataset, recipe, [count], SERIES, out, episodes=EPISODES, every=EVERY, workers=1,
                like=starts["all"],
            )  # fmt: skip


def report(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {
        "protocol": {
            "held_out": FAMILIES,
            "pretraining": {},
            "fine_tuning": FINE,
            "gently": GENTLY,
            "episodes": EPISODES,
            "every": EVERY,
            "zero_shot_episodes": ZERO_SHOT,
        },
        "tasks": [],
    }
    for kind, size in networks():
        if (args.state / f"{kind}-{size}" / "bundle").exists():
            card = load(args.state / f"{kind}-{size}").bundle.card
            found["protocol"]["pretraining"][f"{kind}-{size}"] = {
                k: card[k] for k in ("parameters", "steps", "tokens", "seconds")
            }
    for task in HELD_OUT:
        means = {k: r.mean for k, r in find(task).references.items()}
        entry: dict[str, Any] = {"task": task, **means, "runs": [], "zero_shot": {}}
        name = task.replace("/", "--")
        for file in sorted((args.state / "zero").glob(f"{name}-*.json")):
            mean = float(np.mean(json.loads(file.read_text())))
            entry["zero_shot"][file.stem.removeprefix(name + "-")] = expert_normalised(
                mean, means.get("random"), means.get("expert")
            )
        for file in sorted((args.state / "runs").glob(f"*/{name}/*/few_shot.json")):
            size = file.parts[-4]
            entry["runs"] += [{"size": size, **run} for run in json.loads(file.read_text())["runs"]]
        found["tasks"].append(entry)
    write_whole(ROOT / "results/transfer.json", json.dumps(found, indent=1) + "\n")
    draw(found, {start: (start, "small") for start in STARTS}, ROOT / "docs/images/transfer.png")
    if any(r["size"] == "large" for entry in found["tasks"] for r in entry["runs"]):
        sizes = {f"{start}, {size}": (start, size) for start in ("all", "scratch") for size in SIZES}
        draw(found, sizes, ROOT / "docs/images/transfer-size.png")
    return found


def table(found: dict[str, Any], size: str) -> str:
    """Markdown: a row per task and start, percent of expert as the mean over the series."""
    rows = [f"| task | start | as it is | {' | '.join(map(str, COUNTS))} |", "| --- " * (3 + len(COUNTS)) + "|"]
    for entry in found["tasks"]:
        for start in dict.fromkeys(r["start"] for r in entry["runs"] if r["size"] == size):
            zero = entry["zero_shot"].get(f"{start}-{size}")
            cells = [f"{zero:.0f}" if zero is not None else "–"]
            for count in COUNTS:
                mine = _series(entry, start, size, count)
                cells.append(f"{np.mean(mine):.0f} ({min(mine):.0f} to {max(mine):.0f})" if mine else "–")
            rows.append(f"| `{entry['task']}` | {start} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def draw(found: dict[str, Any], lines: dict[str, tuple[str, str]], file: Path) -> None:
    """A panel per task: percent of expert over demonstrations, with none where it was played as it is. `lines`: what each
    line's label stands for, (start, size)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.7), dpi=150, layout="constrained")
    for ax, entry in zip(figure.subplots(1, len(HELD_OUT), sharey=True), found["tasks"], strict=True):
        for colour, (label, (start, size)) in zip(COLOURS, lines.items(), strict=False):
            points = {}
            if (zero := entry["zero_shot"].get(f"{'all' if start == 'gently' else start}-{size}")) is not None:
                points[ZERO] = zero
            for count in COUNTS:
                if mine := _series(entry, start, size, count):
                    points[count] = np.mean(mine)
            ax.plot(
                list(points), list(points.values()), color=colour, linewidth=1.5, marker="o", markersize=3, label=label
            )
        ax.axhline(100, color="#999999", linewidth=0.8, linestyle="--")
        ax.set(xscale="log", xlabel="demonstrations")
        ax.set_xticks([ZERO, *COUNTS], ["0", *map(str, COUNTS)])
        ax.minorticks_off()
        ax.set_title(entry["task"], loc="left", fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("% of expert")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_file_atomically(file, stream.getvalue())


def _series(entry: dict[str, Any], start: str, size: str, count: int) -> list[float]:
    wanted = (start, size, count)
    return [r["expert_normalised"] for r in entry["runs"] if (r["start"], r["size"], r["demonstrations"]) == wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="demonstrations, at least 100 of each held-out task, and corpora")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--state", type=Path, required=True, help="a folder outside the checkout")
    parser.add_argument("--steps", type=int, default=3000, help="of each pretraining")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after this")
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument(
        "--only",
        default="*",
        help="a glob: pretrain/all-small, tune/small/babyai/go-to-local; so parts go side by side",
    )
    parser.add_argument("--report", action="store_true", help="only write what is there")
    args = parser.parse_args()
    if not args.report:
        learn(args)
    found = report(args)
    for size in SIZES:
        print(f"\n{size}\n\n{table(found, size)}")


if __name__ == "__main__":
    main()
