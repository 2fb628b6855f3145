"""Does a chosen context replace fine-tuning? Tasks never trained on, from a few demonstrations in sight (docs/beyond.md).

    python benchmarks/in_context.py --data DATA --state STATE            # about an hour and a half of two cores; resumes
    python benchmarks/in_context.py --state STATE --report              # results/in_context.json, the figure
    python benchmarks/beyond.py --page                                  # docs/beyond.md

Two networks of the demo's size learn from the same datasets in the same number of steps, all but the held-out tasks:

similar    each timestep behind the K demonstrated timesteps that are most like it, of other episodes (`similar_timesteps`)
prompt     as the paper: windows, half of them behind the beginning or end of another episode

On every held-out task they play beside retrieve-and-replay, all with the same N demonstrations: `similar` searches them at each
step, `prompt` begins with the first of them. `blind` is `similar` with nothing in sight. Some held-out tasks have shapes of
observation or action that no task of the training has. What a prompt changes is asked on tasks that were learned: begun with
their own demonstration, with that of another task of the same shapes (`wrong`), and with none (`bare`).
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gato.demo import tokenizer_in
from gato.episodes import Dataset, DatasetWriter, Episode, TaskSpec, find_datasets
from gato.episodes.manifest import write_file_atomically
from gato.episodes.store import dataset_folder
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.scores import expert_normalised, write_whole
from gato.model.bundle import TaskCard
from gato.policy import Agent, load
from gato.rollouts.pool import WorkerPool
from gato.rollouts.retrieve import Retrieval
from gato.training.start import resume_run, start_run
from gato.worlds import find

ROOT = Path(__file__).parents[1]
LEARNED = ("meta-world/*", "babyai/*", "dm-control-suite/*", "classic-control/*", "sokoban/*")
HELD_OUT = (
    "meta-world/button-press", "meta-world/door-open", "meta-world/reach",
    "babyai/go-to-local", "babyai/pickup-loc", "sokoban/7x7-1-box",
    "dm-control-suite/point-mass-easy", "dm-control-suite/point-mass-hard", "classic-control/pendulum-v1",
    "classic-control/mountain-car-v0",
)  # fmt: skip
# The same skills in other forms: not learned either.
ALIKE = ("babyai/go-to-local-*", "dm-control-suite-*/point-mass-*")
OTHER = {  # learned tasks, and whose prompt is the wrong one
    "meta-world/drawer-close": "meta-world/window-open", "meta-world/window-open": "meta-world/drawer-open",
    "meta-world/button-press-topdown": "meta-world/drawer-close", "babyai/go-to-red-ball-grey": "babyai/open-door",
}  # fmt: skip
K, COUNTS, EPISODES = 4, (1, 5, 20), 20
WORDS = {
    "similar": [f"similar_timesteps={K}", "prompt_share=0", "window_tokens=768"],
    "prompt": ["prompt_share=0.5", "window_tokens=768", 'window_timesteps={"*": null}'],
}


def learn(kind: str, args: argparse.Namespace) -> Path:
    """The network's bundle; a run that was interrupted goes on."""
    run = args.state / kind
    if (run / "recipe.json").exists():
        return resume_run(run, "cpu", args.processes)
    words = [*WORDS[kind], f"steps={args.steps}", "slots=4", f"hold_out={json.dumps((*HELD_OUT, *ALIKE))}", 'weights={"*": 1.0}',
             "final_ratio=0.05", "model.task_token=false", *args.set]  # fmt: skip
    held = [(d, Dataset.open(d)) for d in find_datasets([args.data])]
    data = [d for d, dataset in held if len(dataset) and any(Path(dataset.task).match(p) for p in LEARNED)]
    return start_run("demo", words, data, run, tokenizer_in(args.state, 1024), "cpu", args.processes)


def some(task: str, count: int, args: argparse.Namespace) -> Dataset:
    """The first `count` demonstrations of a task, as a dataset of their own."""
    whole = Dataset.open(dataset_folder(args.data, task))
    folder = dataset_folder(args.state / f"demonstrations-{count}", task)
    if not (folder / "MANIFEST.json").exists():
        with DatasetWriter(folder, task, whole.spec, {"source": whole.meta["source"]}) as writer:
            for number, episode in enumerate(whole.episodes(range(min(count, len(whole))))):
                writer.add(episode, number)
    return Dataset.open(folder)


def player(kind: str, agent: Agent, dataset: Dataset) -> Any:
    if kind == "retrieve":
        return Retrieval([dataset])
    if kind == "similar":
        return agent.shown([dataset])
    return begun(agent, dataset, dataset[0] if kind == "prompt" else None, 1 if kind == "blind" else None)


def begun(agent: Agent, dataset: Dataset, prompt: Episode | None, window: int | None = None) -> Agent:
    """The agent as it plays the dataset's task behind this prompt."""
    bundle = replace(agent.bundle, tasks={**agent.bundle.tasks}, prefixes={})
    bundle.tasks[dataset.task] = TaskCard(dataset.spec, window, prompt)
    return Agent(bundle)


def play(args: argparse.Namespace) -> None:
    agents = {kind: load(learn(kind, args)) for kind in WORDS}
    agents["blind"] = agents["retrieve"] = agents["similar"]
    with WorkerPool(args.workers) as pool:
        for task in HELD_OUT:
            for kind in ("blind", "retrieve", "prompt", "similar"):
                for count in COUNTS if kind in ("retrieve", "similar") else (1,):
                    one(
                        args,
                        pool,
                        task,
                        kind,
                        count,
                        lambda k=kind, n=count, t=task: player(k, agents[k], some(t, n, args)),
                    )
        for task, other in OTHER.items():
            own, wrong = some(task, 1, args), some(other, 1, args)
            for kind, prompt in (("prompt", own[0]), ("wrong", wrong[0]), ("bare", None)):
                one(args, pool, task, kind, 1, lambda p=prompt, d=own: begun(agents["prompt"], d, p))


def one(args: argparse.Namespace, pool: WorkerPool, task: str, kind: str, count: int, make: Callable[[], Any]) -> None:
    """The episodes of one player on one task, if they are not there yet."""
    file = args.state / "scores" / f"{task.replace('/', '--')}-{kind}-{count}.json"
    if file.exists() or not find(task).installed:
        return
    scores, _ = evaluate_task(make(), find(task), EPISODES, pool)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(file, json.dumps(scores.episodes).encode())
    print(f"{task} {kind} {count}: {np.mean(scores.episodes):.4g}", flush=True)


def shapes(spec: TaskSpec) -> str:
    """What goes in and out, without the leaves' names."""
    return json.dumps(
        [sorted([s.kind, list(s.shape)] for s in side.values()) for side in (spec.observation, spec.action)]
    )


def report(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {
        "protocol": {
            "episodes": EPISODES,
            "similar_timesteps": K,
            "learned": LEARNED,
            "held_out": HELD_OUT,
            "networks": {},
        },
        "tasks": [],
    }
    seen: set[str] = set()
    for kind in WORDS:
        if (args.state / kind / "bundle").exists():
            bundle = load(args.state / kind).bundle
            card, seen = bundle.card, {shapes(known.spec) for known in bundle.tasks.values()}
            found["protocol"]["networks"][kind] = {k: card[k] for k in ("parameters", "steps", "tokens", "seconds")}
    for name in (*HELD_OUT, *OTHER):
        references = find(name).references
        entry: dict[str, Any] = {"task": name, **{k: references[k].mean for k in references}}
        entry |= {"new_shapes": shapes(find(name).spec) not in seen, "scores": {}}
        for file in sorted((args.state / "scores").glob(f"{name.replace('/', '--')}-*.json")):
            kind, count = file.stem.removeprefix(name.replace("/", "--") + "-").rsplit("-", 1)
            if "-" in kind:  # of a task whose name goes on
                continue
            mean = float(np.mean(json.loads(file.read_text())))
            percent = expert_normalised(mean, entry.get("random"), entry.get("expert"))
            entry["scores"].setdefault(kind, {})[count] = {"mean": mean, "percent": percent}
        if entry["scores"]:
            found["tasks"].append(entry)
    write_whole(ROOT / "results/in_context.json", json.dumps(found, indent=1) + "\n")
    if found["tasks"]:
        draw(found, ROOT / "docs/images/in-context.png")
    return found


def draw(found: dict[str, Any], file: Path) -> None:
    """A panel per held-out task: percent of expert over the demonstrations in sight. PNG."""
    from matplotlib.figure import Figure

    tasks = [e for e in found["tasks"] if "similar" in e["scores"] or "retrieve" in e["scores"]]
    columns = min(5, len(tasks))
    figure = Figure(figsize=(2.3 * columns, 2.1 * -(-len(tasks) // columns)), dpi=150, layout="constrained")
    panels = figure.subplots(-(-len(tasks) // columns), columns, squeeze=False, sharex=True).ravel()
    for ax in panels[len(tasks) :]:
        ax.set_axis_off()
    for ax, entry in zip(panels, tasks, strict=False):
        for kind, colour in (("similar", "#2a78c8"), ("retrieve", "#c8772a")):
            counts = sorted(entry["scores"].get(kind, {}), key=int)
            y = [entry["scores"][kind][c]["percent"] for c in counts]
            ax.plot([int(c) for c in counts], y, color=colour, marker="o", markersize=3, linewidth=1.6, label=kind)
        for kind, style in (("prompt", "--"), ("blind", ":")):
            if kind in entry["scores"]:
                level = entry["scores"][kind]["1"]["percent"]
                ax.axhline(level, color="#777777", linewidth=1.0, linestyle=style, label=kind)
        ax.set(xscale="log", ylim=(-35, 112), yticks=(0, 50, 100))
        ax.set_xticks(COUNTS, [str(c) for c in COUNTS])
        ax.minorticks_off()
        ax.tick_params(labelsize=8)
        ax.set_title(entry["task"].replace("/", "\n"), loc="left", fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    panels[4 if len(tasks) > 4 else 0].legend(frameon=False, fontsize=7, loc="upper left")
    figure.supxlabel("demonstrations", fontsize=8)
    figure.supylabel("% of expert", fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_file_atomically(file, stream.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="demonstrations of the tasks learned and held out")
    parser.add_argument("--state", type=Path, required=True, help="a folder outside the checkout")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], help="field=value of both recipes")
    parser.add_argument("--report", action="store_true", help="only write what is there")
    args = parser.parse_args()
    if not args.report:
        play(args)
    for entry in report(args)["tasks"]:
        told = ", ".join(
            f"{kind} {count}: {score['percent']:.0f}" for kind, by in entry["scores"].items() for count, score in by.items()
            if score["percent"] is not None
        )  # fmt: skip
        print(f"{entry['task']}: {told}")


if __name__ == "__main__":
    main()
