"""What language costs and brings: one network that also captions, answers and talks, beside the same without, and one that sees
no pictures.

    python benchmarks/language.py --state DIR                # writes results/language.json
    python benchmarks/language.py --state DIR --only train   # or data, play, tell: a part of it, later ones need the earlier

* `language`, three seeds: the recipe `language`, `--minutes` of training, which the first decides how many steps they are: control,
  captions, questions, dialogues, pages, clips and text in one network of 0.8 M parameters;
* `control`, three seeds: the same recipe without language, as many steps as give it the same number of control tokens;
* `blank`: the same network on as many tokens of the same questions, all pictures black: what the questions alone teach.

All are scored on held-out scenes, and on `--episodes` episodes of every control task, from seeds that no demonstration has. The
difference of control is between means of domain means over all seeds' episodes; its interval is a bootstrap over episodes within
runs. What is finished is a file or a folder in --state, and the next call goes on behind it; a training that was stopped resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import gato
from gato.demo import PLANS
from gato.episodes.manifest import write_file_atomically
from gato.evaluation.scores import interval
from gato.recipes import language as recipe_file
from gato.recipes.language import CONTROL, LANGUAGE, recipe

TASKS = (
    "babyai/go-to-local", "sokoban/7x7-1-box", "meta-world/reach", "meta-world/drawer-close", "meta-world/button-press",
    "dm-control-suite/cartpole-swingup", "dm-control-suite/reacher-easy",
)  # fmt: skip
CORPORA = {  # episodes of each
    "captions/scenes": 30_000, "captions/rooms": 15_000, "questions/rooms": 90_000, "dialogues/scenes": 8_000,
    "dialogues/program": 5_000, "clips/experts": 3_000, "pages/walkthroughs": 2_000, "text/python-docs": 1,
}  # fmt: skip
HELD_OUT = {"captions/scenes": 1_000, "questions/rooms": 1_000}  # of others 300
GOALS = {"caption_exact": 0.85, "vqa_accuracy": 0.70, "control_points": -5.0}
REPLICATES = 2_000


def say(*words: object) -> None:
    print(time.strftime("%H:%M:%S"), *words, flush=True)


def done(file: Path, record: dict[str, Any]) -> None:
    write_file_atomically(file, json.dumps(record, indent=1, ensure_ascii=False).encode())


# -- data -------------------------------------------------------------------------------------------------------------


def make_data(state: Path, workers: int, scale: float) -> None:
    from gato.corpora.text import python_docs
    from gato.rollouts.collect import collect
    from gato.scenes import episodes, generate
    from gato.tokens.text import TextTokenizer
    from gato.worlds import find

    for plan in (p for p in PLANS if p.task in TASKS):
        say("demonstrations", plan.task)
        collect(
            [find(plan.task)], sized(plan.episodes, scale), state / "control", workers, noise=plan.noise, wide_share=plan.wide_share,
            max_steps=plan.max_steps, policy=plan.policy,
        )  # fmt: skip
    for name, count in CORPORA.items():
        say("corpus", name)
        generate(state / "language", [name], scenes=sized(count, scale))
    generate(state / "blank", ["questions/rooms"], scenes=sized(CORPORA["questions/rooms"], scale), blank=True)
    if not (state / "tokenizer.model").exists():

        def texts() -> Iterable[str]:
            yield from (e.observations["text"][0] for e in python_docs("train"))
            for name in CORPORA:
                for e in episodes(name, "train", 1_000) if name != "text/python-docs" else ():
                    yield from (text for leaf in ("text", "question", "reply") for text in e.observations.get(leaf, ()))

        TextTokenizer.train(texts(), recipe.config().vocabulary_size).save(state / "tokenizer.model")


def sized(count: int, scale: float) -> int:
    return max(4, round(count * scale))


# -- training ---------------------------------------------------------------------------------------------------------


def runs(seeds: int) -> list[str]:
    return [f"{kind}-{seed}" for seed in range(seeds) for kind in ("language", "control")] + ["blank-0"]


def train(state: Path, name: str, minutes: float, processes: int) -> None:
    """One run through the command line, so that it resumes as any other. The first one decides the others' steps."""
    out = state / name
    if (out / "bundle" / "MANIFEST.json").exists():
        return
    kind, seed = name.split("-")
    words = ["train"]
    if (out / "recipe.json").exists():
        words += ["--resume", out]
    else:
        changes: dict[str, Any] = {"seed": int(seed)}
        data = {"language": ["control", "language"], "control": ["control"], "blank": ["blank"]}[kind]
        if name == "language-0":
            changes["seconds"] = 60 * minutes
        else:
            share = {"language": recipe.weights, "control": CONTROL, "blank": {"questions": LANGUAGE["questions"]}}[
                kind
            ]
            steps = card(state, "language-0")["steps"]
            changes["weights"] = share
            changes["steps"] = round(steps * sum(share.values()) / sum(recipe.weights.values()))
        words += [recipe_file.__file__, "--out", out, "--tokenizer", state / "tokenizer.model"]
        words += ["--data", *(state / folder for folder in data)]
        words += ["--set", *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
    say("training", name)
    subprocess.run(
        [sys.executable, "-m", "gato", *map(str, words), "--device", "cpu", "--processes", str(processes)], check=True
    )


def card(state: Path, name: str) -> dict[str, Any]:
    from gato.model.bundle import Bundle

    return dict(Bundle.load(state / name / "bundle").card)


# -- scores -----------------------------------------------------------------------------------------------------------


def play(state: Path, name: str, episodes: int, workers: int) -> None:
    """The control tasks, each its own file."""
    import torch

    from gato.evaluation.evaluate import evaluate_task
    from gato.policy import load
    from gato.rollouts.pool import WorkerPool
    from gato.worlds import find

    torch.set_num_threads(1)
    waiting = [task for task in TASKS if not score_file(state, name, task).exists()]
    if not waiting:
        return
    agent = load(state / name)
    with WorkerPool(workers) as pool:
        for task in waiting:
            scores, _ = evaluate_task(agent, find(task), episodes, pool)
            say(name, task, scores.expert_normalised)
            record = {"episodes": list(map(float, scores.episodes)), "random": scores.random, "expert": scores.expert}
            done(score_file(state, name, task), record)


def score_file(state: Path, name: str, task: str) -> Path:
    folder = state / "scores" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{task.replace('/', '--')}.json"


def tell(state: Path, name: str) -> None:
    """Captions, replies and text; of `blank` the questions, with black pictures."""
    from gato.evaluation.telling import score_all
    from gato.policy import load
    from gato.scenes import episodes
    from gato.scenes.questions import room_question_episode

    file = state / "scores" / f"{name}.json"
    if file.exists() or name.startswith("control"):
        return
    file.parent.mkdir(exist_ok=True)
    agent = load(state / name)
    if name.startswith("blank"):
        count = HELD_OUT["questions/rooms"]
        corpora = {"questions/rooms": [room_question_episode("heldout", i, blank=True) for i in range(count)]}
    else:
        known = [n for n in CORPORA if not n.startswith("pages/")]
        corpora = {
            n: list(episodes(n, "heldout", HELD_OUT.get(n, 10_000 if n.startswith("text/") else 300))) for n in known
        }
    scores, samples = score_all(agent, corpora, state / "media" / name, recipe.document_tokens or recipe.window_tokens)
    say(name, {task: {k: v for k, v in found.items() if isinstance(v, float)} for task, found in scores.items()})
    done(
        file,
        {
            "scores": scores,
            "samples": samples[:24],
            "card": {k: agent.bundle.card[k] for k in ("tokens", "steps", "seconds")},
        },
    )


# -- the record -------------------------------------------------------------------------------------------------------


def control(state: Path, kind: str, seeds: int) -> tuple[dict[str, Any], np.ndarray]:
    """(mean of domain means with its interval, per task too; replicates) of all seeds of one kind, in percent of expert."""
    rng = np.random.default_rng(0)
    tasks: dict[str, Any] = {}
    domains: dict[str, list[np.ndarray]] = {}
    means: dict[str, list[float]] = {}
    for task in TASKS:
        drawn, percents = [], []
        for seed in range(seeds):
            record = json.loads(score_file(state, f"{kind}-{seed}", task).read_text())
            values = 100 * (np.array(record["episodes"]) - record["random"]) / (record["expert"] - record["random"])
            drawn.append(values[rng.integers(len(values), size=(REPLICATES, len(values)))].mean(1))
            percents.append(float(values.mean()))
        together = np.mean(drawn, axis=0)
        tasks[task] = {"percent": float(np.mean(percents)), "interval": interval(together), "by_seed": percents}
        domains.setdefault(task.split("/")[0], []).append(together)
        means.setdefault(task.split("/")[0], []).append(float(np.mean(percents)))
    whole = np.mean([np.mean(each, axis=0) for each in domains.values()], axis=0)
    mean = float(np.mean([np.mean(each) for each in means.values()]))
    return {"mean_of_domain_means": mean, "interval": interval(whole), "tasks": tasks}, whole


def summary(state: Path, seeds: int, minutes: float, episodes: int) -> dict[str, Any]:
    told = [json.loads((state / "scores" / f"language-{seed}.json").read_text()) for seed in range(seeds)]
    blank = json.loads((state / "scores" / "blank-0.json").read_text())["scores"]["questions/rooms"]
    scenes = [t["scores"]["captions/scenes"] for t in told]
    rooms = [t["scores"]["captions/rooms"] for t in told]
    asked = [t["scores"]["questions/rooms"] for t in told]
    text = [t["scores"]["text/python-docs"] for t in told]
    (with_language, a), (without, b) = control(state, "language", seeds), control(state, "control", seeds)
    difference = with_language["mean_of_domain_means"] - without["mean_of_domain_means"]
    figures = {
        "caption_exact": mean_of(s["exact_by_things"]["1"] for s in scenes),
        "caption_exact_all": mean_of(s["exact_match"] for s in scenes),
        "caption_true": mean_of(r["true"] for r in rooms),
        "vqa_accuracy": mean_of(q["accuracy"] for q in asked),
        "vqa_question_only": blank["accuracy"],
        "vqa_chance": mean_of(q["chance"] for q in asked),
        "vqa_answer_prior": mean_of(q["answer_prior"] for q in asked),
        "vqa_question_prior": mean_of(q["question_prior"] for q in asked),
        "bits_per_byte": mean_of(t["bits_per_byte"] for t in text),
        "trigram_bits_per_byte": mean_of(t["trigram_bits_per_byte"] for t in text),
        "control_points": difference,
    }
    met = {name: bool(figures[name] >= least) for name, least in GOALS.items()}
    met["question_only_at_chance"] = abs(figures["vqa_question_only"] - figures["vqa_chance"]) <= 0.05
    cards = {name: card(state, name) for name in runs(seeds)}
    return {
        "protocol": {
            "caption_exact": "one-thing scenes of captions/scenes, held out; caption_exact_all: of one to three things",
            "vqa": "questions/rooms, held out; exact after the VQA rule's normalisation",
            "control": f"{episodes} episodes a task and run, evaluation seeds; percent of expert",
            "seeds": seeds, "minutes": minutes, "weights": dict(recipe.weights), "held_out": HELD_OUT, "machine": platform.machine(),
            "versions": {"gato-agent": gato.__version__, "python": platform.python_version()}, "cores": os.cpu_count(),
        },
        **figures,
        "goals": {**GOALS, "met": met},
        "vqa_by_type": {
            kind: {"network": mean_of(q["by_type"][kind] for q in asked), "question_only": blank["by_type"][kind],
                   "answer_prior": mean_of(q["answer_prior_by_type"][kind] for q in asked)}
            for kind in asked[0]["by_type"]
        },
        "control_difference_interval": interval(a - b),
        "control": {"with_language": with_language, "without": without},
        "runs": {
            name: {"tokens": c["tokens"], "steps": c["steps"], "seconds": c["seconds"], "parameters": c["parameters"]}
            for name, c in cards.items()
        },
        "by_seed": [{"corpora": t["scores"]} for t in told],
        "samples": told[0]["samples"],
    }  # fmt: skip


def draw(state: Path, file: Path) -> None:
    """What the first network says of held-out pictures, the first six of three corpora. PNG."""
    import io
    import textwrap

    from matplotlib.figure import Figure
    from PIL import Image

    samples = json.loads((state / "scores" / "language-0.json").read_text())["samples"]
    rows = [
        [s for s in samples if s["image"].startswith(kind)][:6]
        for kind in ("captions--scenes", "captions--rooms", "questions")
    ]
    figure = Figure(figsize=(11, 7.6), dpi=120, layout="constrained")
    for panels, row in zip(figure.subplots(3, 6), rows, strict=True):
        for ax, sample in zip(panels, row, strict=True):
            ax.imshow(
                Image.open(state / "media" / "language-0" / sample["image"]).convert("RGB"), interpolation="nearest"
            )
            ax.set_axis_off()
            asked = sample.get("question", "").removeprefix("Q: ").removesuffix(" A:")
            right = sample["predicted"] == sample["true"]
            if asked:
                said = f"{sample['predicted']}" + ("" if right else f" (true: {sample['true']})")
            else:
                said = sample["predicted"]
            ax.set_title("\n".join(textwrap.wrap(asked, 27)), fontsize=7.5, color="#555555")
            colour = "#1a7f4b" if right else "#333333" if not asked else "#b3402a"
            text = "\n".join(textwrap.wrap(said, 27))
            ax.text(0.5, -0.04, text, transform=ax.transAxes, ha="center", va="top", fontsize=8, color=colour)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_file_atomically(file, stream.getvalue())


def mean_of(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, each `language` run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="of the data: a small part shows that all of it runs")
    parser.add_argument("--only", choices=("data", "train", "play", "tell"))
    parser.add_argument("--out", type=Path, default=Path("results/language.json"))
    arguments = parser.parse_args()
    state: Path = arguments.state
    state.mkdir(parents=True, exist_ok=True)
    parts = [arguments.only] if arguments.only else ["data", "train", "tell", "play"]
    for part in parts:
        if part == "data":
            make_data(state, arguments.processes, arguments.scale)
        for name in runs(arguments.seeds) if part != "data" else ():
            if part == "train":
                train(state, name, arguments.minutes, arguments.processes)
            elif part == "tell":
                tell(state, name)
            elif not name.startswith("blank"):
                play(state, name, arguments.episodes, arguments.processes)
    if not arguments.only:
        record = summary(state, arguments.seeds, arguments.minutes, arguments.episodes)
        done(arguments.out, record)
        draw(state, Path(__file__).resolve().parents[1] / "docs/images/language.png")
        say(
            json.dumps(
                {k: v for k, v in record.items() if isinstance(v, float | dict) and k in ("goals", *GOALS)}, indent=1
            )
        )


if __name__ == "__main__":
    main()
