"""The main job on a small scale: collect, train, evaluate, report. `gato demo`, offline, on two cores, in twenty minutes.

Each stage leaves a folder below `out` and is skipped where that folder is complete, so a demo that was interrupted goes
on where it stopped.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gato.rollouts.loop import CLEAN, Noise


@dataclass(frozen=True)
class Plan:
    """How much of a task is collected, and how: noise and wide starts show the way back from mistakes."""

    task: str
    episodes: int
    noise: Sequence[Noise] = (CLEAN,)
    wide_share: float = 0.0
    max_steps: int | None = None
    from_traces: bool = False
    policy: str = "expert"


_GRID = (CLEAN, Noise(scale=0.1), Noise(scale=0.25))
_ARM = (CLEAN, Noise(scale=0.2), Noise(scale=0.1, burst=0.02, burst_steps=10))
_STATE = (Noise(scale=0.1, burst=0.02, burst_steps=15),)

CAPTIONED = 30_000  # pictures with captions
BOXING = "gato.worlds.lookahead:boxing_by_rule"

PLANS = (
    Plan("babyai/go-to-red-ball-grey", 4_000, _GRID),
    Plan("babyai/go-to-local", 10_000, _GRID),
    Plan("babyai/pickup-loc", 10_000, _GRID),
    Plan("meta-world/reach", 400, _ARM, 0.5),
    Plan("meta-world/drawer-close", 300, _ARM, 0.5),
    Plan("meta-world/button-press", 400, _ARM, 0.5),
    Plan("meta-world/window-open", 400, _ARM, 0.5),
    Plan("dm-control-suite/pendulum-swingup", 500, _STATE, 0.7, 150),
    Plan("dm-control-suite/reacher-easy", 500, _STATE, 0.7, 150),
    Plan("dm-control-suite/point-mass-easy", 400, _STATE, 0.7, 150),
    Plan("dm-control-suite/cartpole-swingup", 400, _STATE, 0.5, 200),
    Plan("sokoban/7x7-1-box", 8_000, (CLEAN,), 0.5),
    Plan("ale-atari/freeway", 8, from_traces=True),
    # A rule in place of the planner, whose plans this small network does not learn (docs/log.md).
    Plan("ale-atari/boxing", 80, (CLEAN, Noise(0.1), Noise(0.05, burst=0.01, burst_steps=10)), 0.3, 400, policy=BOXING),
)


def run(
    out: Path,
    *,
    seconds: float | None = None,
    episodes: int = 20,
    workers: int = 2,
    device: str = "auto",
    tasks: Sequence[str] | None = None,
) -> Path:
    """The whole demo; returns the report. `tasks` narrows it to some of PLANS; `seconds` is the training time."""
    from gato.episodes.manifest import make_folder
    from gato.recipes.demo import recipe

    out = Path(out)
    make_folder(out)  # before minutes of work
    began = time.perf_counter()
    plans = [p for p in PLANS if tasks is None or p.task in tasks]
    tokenizer = tokenizer_in(out / "tokenizer", recipe.config().vocabulary_size)
    print(f"[1/4] demonstrations → {out / 'data'}")
    collect_all(plans, out, workers)
    print(f"[2/4] training → {out / 'train'}")
    collected = time.perf_counter() - began
    train_one(out, tokenizer, seconds, device)
    trained = time.perf_counter() - began
    print(f"[3/4] evaluation → {out / 'results.json'}")
    took = {"collecting_seconds": round(collected, 1), "training_wall_seconds": round(trained - collected, 1)}
    evaluate_all(plans, out, episodes, workers, took)
    from gato.evaluation.report import write_report

    report = write_report(out)
    record = json.loads((out / "results.json").read_text())
    print(
        f"[4/4] {record['aggregates']['mean_of_domain_means'] or 0.0:.1f} % of expert (mean of domain means), {time.perf_counter() - began:.0f} s in all"
    )
    print(f"report: {report}")
    return report


def tokenizer_in(folder: Path, pieces: int) -> Path:
    """`folder`/tokenizer.model; where it is not there, it is learned from the documentation of the standard library and some
    captions."""
    from gato.corpora.text import python_docs
    from gato.episodes.manifest import make_folder, write_file_atomically
    from gato.scenes.grid import captions
    from gato.tokens.text import TextTokenizer

    path = folder / "tokenizer.model"
    if not path.exists():
        texts = itertools.chain(python_docs("train"), captions("train", count=2_000))
        tokenizer = TextTokenizer.train((e.observations["text"][0] for e in texts), pieces)
        make_folder(folder)
        write_file_atomically(path, tokenizer.to_bytes())
    return path


def collect_all(plans: Sequence[Plan], out: Path, workers: int) -> None:
    """Demonstrations of every task and the generated corpora; what is complete costs nothing."""
    from gato.rollouts.collect import collect
    from gato.scenes import generate
    from gato.worlds import find

    for plan in plans:
        collect(
            [find(plan.task)], plan.episodes, out / "data", workers, noise=plan.noise, wide_share=plan.wide_share,
            max_steps=plan.max_steps, from_traces=plan.from_traces, policy=plan.policy,
        )  # fmt: skip
    generate(out / "data", scenes=CAPTIONED)


def train_one(out: Path, tokenizer: Path, seconds: float | None, device: str) -> None:
    """One network on all of it; a run that was stopped is resumed."""
    import torch

    from gato.recipes.demo import recipe
    from gato.tokens.text import TextTokenizer
    from gato.training import load_stores, train
    from gato.training.progress import TrainingBar
    from gato.training.team import sensible

    if (out / "train" / "bundle" / "MANIFEST.json").exists():
        return
    if seconds is not None:
        recipe = recipe.replace(seconds=seconds)
    torch.set_num_threads(1)  # processes share the cores; see training/team.py
    text = TextTokenizer.load(tokenizer)
    stores = load_stores([out / "data"], recipe.config(), text, recipe)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    with TrainingBar() as bar:
        train(
            recipe, stores, text, out / "train", resume=(out / "train" / "recipe.json").exists(), device=device, watch=bar,
            processes=sensible(recipe.slots // recipe.accumulate) if device == "cpu" else 1,
        )  # fmt: skip


def evaluate_all(plans: Sequence[Plan], out: Path, episodes: int, workers: int, protocol: dict) -> None:
    """Every task closed loop, captions and text on held-out data; nothing where this bundle's results are there."""
    import torch

    from gato.episodes.manifest import MANIFEST
    from gato.evaluation.evaluate import evaluate
    from gato.evaluation.telling import held_out, tell
    from gato.policy import load
    from gato.worlds import find

    bundle = json.loads((out / "train" / "bundle" / MANIFEST).read_text())["self"]
    if (out / "results.json").exists():
        before = json.loads((out / "results.json").read_text())
        made = (
            before["protocol"].get("bundle"),
            before["protocol"]["episodes_per_task"],
            {t["id"] for t in before["tasks"]},
        )
        if made == (bundle, episodes, {p.task for p in plans}):
            return
    agent = load(out / "train" / "bundle")
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))  # the worker processes want a core
    language = tell(agent, held_out(agent), out / "media")
    evaluate(
        agent, [find(p.task) for p in plans], episodes, out, workers=workers, language=language,
        protocol={**protocol, "bundle": bundle}, overwrite=True,
    )  # fmt: skip
