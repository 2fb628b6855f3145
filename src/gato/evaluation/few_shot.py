"""Few-shot fine-tuning on a task that pretraining never saw (paper section 5, appendix E, figure 9).

    the best 2,000 episodes → series k draws up to 1,000 of them → nested subsets of 1, 3, 5, 10, 100, 1000
    each (start, subset) is one run: evaluated every 100 steps over 10 episodes, smoothed over five such scores
    its score is the largest smoothed one

A start is a bundle, or None for a network of the same size from scratch. Every finished run is a file, so that the
whole, interrupted, goes on with what is missing; `begun.json` says what they follow from. What is evaluated is what the run
would save then, in all: its tasks, the token and the prompt of the new one.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gato.episodes.manifest import write_file_atomically
from gato.episodes.store import Dataset
from gato.errors import RecipeError, UsageError
from gato.evaluation.begun import claim, fingerprint
from gato.evaluation.scores import expert_normalised, write_whole
from gato.installed import pip_line
from gato.model.bundle import Bundle, make_codec
from gato.policy import Agent
from gato.rollouts.pool import WorkerPool
from gato.sequences import TokenStore
from gato.sequences.returns import tell, told_spec
from gato.tokens.text import TextTokenizer
from gato.training import Recipe, train
from gato.worlds import Task

BEST, DRAWN = 2000, 1000
COLOURS = ("#2a78c8", "#c8772a", "#3a9a5c", "#8a5ac8")
EVALUATE_EVERY, EVALUATION_EPISODES, SMOOTHED = 100, 10, 5


def nested_subsets(returns: np.ndarray, sizes: Sequence[int], series: int) -> dict[int, np.ndarray]:
    """{size: episode numbers} of one series: the smaller are the first of the larger. Returns (N,) choose the best 2,000.

    Raises RecipeError where there are fewer episodes than the largest size asks for.
    """
    if max(sizes) > min(len(returns), DRAWN):
        raise RecipeError(
            f"{max(sizes)} demonstrations of {len(returns)} (at most {DRAWN} are drawn)", where="--demonstrations",
            fix="collect more episodes, or ask for fewer",
        )  # fmt: skip
    best = np.argsort(-np.asarray(returns, np.float64), kind="stable")[:BEST]
    order = np.random.default_rng(series).permutation(best)[:DRAWN]
    return {n: order[:n] for n in sorted(sizes)}


def smoothed_best(scores: Sequence[float]) -> float:
    """The largest mean over five successive scores; over all of them where there are fewer."""
    width = min(SMOOTHED, len(scores))
    return float(np.convolve(scores, np.ones(width) / width, "valid").max())


def few_shot(
    starts: Mapping[str, Bundle | None],
    task: Task,
    dataset: Dataset,
    recipe: Recipe,
    sizes: Sequence[int],
    series: int,
    out: Path,
    *,
    episodes: int = EVALUATION_EPISODES,
    every: int = EVALUATE_EVERY,
    workers: int = 2,
    device: str = "cpu",
    like: Bundle | None = None,
) -> dict[str, Any]:
    """All runs of one task; writes out/few_shot.json and returns it.

    {"task", "random", "expert", "protocol": …, "runs": [{"start", "demonstrations", "series", "scores", "score",
    "expert_normalised"}, …]}. `like` is the bundle whose network and tokenizer a start from scratch has; the first of the
    starts, if not said. More sizes, series and starts go on where fewer ended. Raises RecipeError where a start was trained on
    the task, which must be held out, or the recipe chooses episodes, OutputExistsError where `out` holds runs of another bundle,
    other demonstrations or another protocol.
    """
    some = like or next(b for b in starts.values() if b is not None)
    for name, bundle in starts.items():
        _check_held_out(name, bundle, task.id)
    _check_recipe(recipe, every)
    recipe = recipe.replace(model={**some.config.to_json(), **recipe.model})  # what a start from scratch is built from
    subsets = {
        k: nested_subsets(dataset.returns, sizes, k) for k in range(series)
    }  # refused before anything is written
    reference = task.references
    random, expert = (reference[k].mean if k in reference else None for k in ("random", "expert"))
    runs = []
    claim(
        out,
        {**{f"start {name}": bundle and fingerprint(bundle) for name, bundle in starts.items()},
         "tokenizer": some.tokenizer.fingerprint, "demonstrations": dataset.identity, "recipe": recipe.to_json(),
         "episodes": episodes, "every": every},
    )  # fmt: skip
    with WorkerPool(workers) as pool:
        for k in range(series):
            for size in sorted(sizes):
                for name, bundle in starts.items():
                    file = out / "runs" / f"{name}-{size}-{k}.json"
                    if not file.exists():
                        scores = _one(bundle, some.tokenizer, task, dataset, subsets[k][size], recipe.replace(seed=recipe.seed + k), pool, file, episodes, every, device)  # fmt: skip
                        write_file_atomically(file, json.dumps(scores).encode())
                    scores = json.loads(file.read_text())
                    score = smoothed_best(scores)
                    runs.append(
                        {"start": name, "demonstrations": size, "series": k, "scores": scores, "score": score,
                         "expert_normalised": expert_normalised(score, random, expert)}
                    )  # fmt: skip
                    print(f"{task.id} {name} {size} demonstrations, series {k}: {score:.4g}", flush=True)
    record = {
        "task": task.id, "score": task.score, "random": random, "expert": expert,
        "protocol": {"episodes": episodes, "every": every, "smoothed": SMOOTHED, "recipe": recipe.to_json(),
                     "episodes_in_the_dataset": len(dataset)},
        "runs": runs,
    }  # fmt: skip
    write_whole(out / "few_shot.json", json.dumps(record, indent=1))
    return record


def _check_held_out(name: str, bundle: Bundle | None, task: str) -> None:
    seen = {d["task"] for d in bundle.card.get("data", [])} | set(bundle.tasks) if bundle else set()
    if task in seen:
        raise RecipeError(
            f"{name} was trained on {task}: few-shot learning is measured on tasks held out of pretraining", where=name,
            fix=f"gato train RECIPE … --set 'hold_out=[\"{task}\"]'",
        )  # fmt: skip


def _check_recipe(recipe: Recipe, every: int) -> None:
    if recipe.steps is not None and recipe.steps < every:
        raise RecipeError(f"{recipe.steps} steps, an evaluation every {every}", fix="--every less than --steps")
    for name in ("return_filter", "validation_share"):
        if getattr(recipe, name):
            raise RecipeError(
                f"{name}={getattr(recipe, name)}: a few-shot run learns from every demonstration of its subset", where=recipe.name,
                fix=f"--set {name}={json.dumps(getattr(Recipe, name))}",
            )  # fmt: skip


def _one(
    start: Bundle | None, tokenizer: TextTokenizer, task: Task, dataset: Dataset, chosen: np.ndarray, recipe: Recipe,
    pool: WorkerPool, file: Path, episodes: int, every: int, device: str,
) -> list[float]:  # fmt: skip
    """One run: the score (mean of `episodes`) at each evaluation. The bundle of the best stays beside the last."""
    from gato.evaluation.evaluate import evaluate_task

    spec = told_spec(dataset.spec, recipe.return_ranks, recipe.reward_shown)
    codec = make_codec(
        recipe.config(), tokenizer, spec, task.id, len(start.tasks) if start else 0,  # behind those that it knows
        text_targets=recipe.text_targets, observation_targets=recipe.observation_loss > 0,
    )  # fmt: skip
    returns = dataset.returns[chosen]
    told = (tell(dataset[int(i)], spec, returns) for i in chosen)
    store = TokenStore.build(task.id, codec, told, alike=recipe.similar_timesteps)
    scores: list[float] = []

    def score(bundle: Bundle) -> float:
        found, _ = evaluate_task(Agent(bundle), task, episodes, pool)
        scores.append(float(np.mean(found.episodes)))
        return scores[-1]

    folder = file.parent / file.stem
    if folder.exists():  # of a run that was interrupted: its scores were not kept
        shutil.rmtree(folder)
    train(recipe, [store], tokenizer, folder, start=start, device=device, score=score, score_every=every)
    if not scores:
        raise RecipeError(f"fewer than {every} steps in {recipe.seconds} s", fix="a smaller --every, or more seconds")
    return scores


def draw(record: Mapping[str, Any], file: Path) -> Path:
    """Figure 9 for one task: score over demonstrations, a line per start (mean of the series), a dot per run. PNG."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("plots need matplotlib, not installed", fix=pip_line("viz"))
    from matplotlib.figure import Figure

    known = record["expert"] is not None
    field = "expert_normalised" if known else "score"
    figure = Figure(figsize=(5.6, 3.6), dpi=150, layout="constrained")
    ax = figure.subplots()
    for n, start in enumerate(dict.fromkeys(run["start"] for run in record["runs"])):
        mine = [run for run in record["runs"] if run["start"] == start]
        sizes = sorted({run["demonstrations"] for run in mine})
        means = [np.mean([r[field] for r in mine if r["demonstrations"] == s]) for s in sizes]
        ax.plot(sizes, means, color=COLOURS[n % len(COLOURS)], linewidth=1.6, label=start)
        ax.scatter(
            [r["demonstrations"] for r in mine],
            [r[field] for r in mine],
            s=12,
            color=COLOURS[n % len(COLOURS)],
            alpha=0.5,
        )
    if known:
        ax.axhline(100, color="#999999", linewidth=0.8, linestyle="--")
        ax.annotate("expert", (1, 100), fontsize=8, color="#777777", xytext=(0, 3), textcoords="offset points")
    ax.set_xscale("log")
    ax.set_xticks(sorted({run["demonstrations"] for run in record["runs"]}))
    ax.get_xaxis().set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set_xlabel("demonstrations")
    ax.set_ylabel("% of expert" if known else "score")
    ax.set_title(record["task"], loc="left", fontsize=10)
    ax.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_file_atomically(Path(file), stream.getvalue())
    return Path(file)
