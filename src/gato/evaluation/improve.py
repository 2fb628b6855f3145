"""Beyond the demonstrations: rounds of acting, keeping what went best, and training on it.

    round r: the agent plays N training episodes, sampling its actions
             of all that was played or demonstrated, the best share is kept (by return, ties included)
             the bundle is trained on what is kept, and plays evaluation episodes

The paper's agent only imitates, so its experts are its measure. A network that knows nothing begins the same way, from a random
policy's episodes for demonstrations. What a round played, kept and reached is in its folder as soon as it is there; killed, the
same call goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato.episodes import Episode
from gato.episodes.manifest import make_folder, write_file_atomically
from gato.episodes.store import Dataset, DatasetWriter, dataset_folder
from gato.errors import OutputExistsError, RecipeError, UsageError
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.scores import expert_normalised, write_whole
from gato.model.bundle import Bundle, make_codec
from gato.policy import Agent
from gato.rollouts import Unit, episode_seed, rollout
from gato.rollouts.pool import WorkerPool
from gato.sequences import TokenStore
from gato.training import Recipe, train
from gato.worlds import Reference, Task

SLOTS = 20  # episodes played side by side
FIRST_NUMBER = 1_000_000  # of the training seeds: far from those that demonstrations use
EXPLORING: dict[str, Any] = {"discrete": "sample", "continuous": "sample", "temperature": 1.0}


def improve(
    start: Bundle,
    task: Task,
    demonstrations: Dataset,
    recipe: Recipe,
    out: Path,
    *,
    rounds: int = 5,
    episodes: int = 100,
    keep: float = 0.2,
    judged: int = 50,
    workers: int = 2,
    device: str = "cpu",
) -> dict[str, Any]:
    """Write out/improve.json and return it: {"task", "expert", "demonstrations", "protocol", "rounds": [{"round", "score",
    "std", "episodes", "bar", "kept", "kept_own", "played_mean", "percent", "over_expert"}, …]}; round 0 is the start.

    `keep` is the share kept of all episodes so far; `over_expert` is [gain, low, high], the difference to the expert's measured
    score with its 95 % interval (Welch). The last round's bundle is in out/round-N/train/bundle. More rounds go on where fewer
    ended. Raises RecipeError for a bundle that does not know the task, OutputExistsError where `out` holds the rounds of another
    bundle, other demonstrations or other settings.
    """
    if task.id not in start.tasks:
        raise RecipeError(
            f"the bundle was not trained on {task.id}",
            fix=f"gato finetune BUNDLE --tasks {task.id} --data DIR --out DIR",
        )
    _claim(out, start, demonstrations, {"episodes": episodes, "keep": keep, "recipe": recipe.to_json()})
    bundle, history, expert = start, [], teacher(task, demonstrations)
    with WorkerPool(workers) as pool:
        for number in range(rounds + 1):
            folder = out / f"round-{number}"
            entry: dict[str, Any] = {"round": number}
            if number:
                bundle, facts = _round(bundle, task, demonstrations, recipe, out, number, episodes, keep, pool, device)
                entry |= facts
            entry |= _judge(bundle, task, expert, judged, pool, folder)
            history.append(entry)
            print(_line(task, entry), flush=True)
            record = _record(task, demonstrations, expert, recipe, history, episodes, keep, judged)
            write_whole(out / "improve.json", json.dumps(record, indent=1))
    return record


def own_recipe(bundle: Bundle) -> Recipe:
    """The recipe that the bundle was trained by, at a constant rate: 300 steps of 4 × 1,024 tokens. Raises RecipeError."""
    if not bundle.card.get("recipe"):
        raise RecipeError("this bundle does not say how it was trained", fix="gato finetune BUNDLE makes one that does")
    own = Recipe.from_json(bundle.card["recipe"])
    return own.replace(
        name="improve", model=bundle.config.to_json(), steps=300, slots=4, slot_tokens=1024, accumulate=1, weights={"*": 1.0},
        hold_out=(), warmup=0.0, final_ratio=1.0, return_filter=None, validation_share=0.0,
        return_ranks=0, reward_shown=False, similar_timesteps=0, observation_loss=0.0,
    )  # fmt: skip


def _claim(out: Path, start: Bundle, demonstrations: Dataset, settings: dict[str, Any]) -> None:
    """Say what the rounds in `out` follow from, or find that it is the same."""
    weights = hashlib.sha256()
    for name, tensor in sorted(start.model.state_dict().items()):
        weights.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    said = {"start": weights.hexdigest(), "demonstrations": demonstrations.identity, **settings}
    file = out / "begun.json"
    if file.exists() and json.loads(file.read_text()) != json.loads(json.dumps(said)):
        held = json.loads(file.read_text())
        other = ", ".join(key for key in said if held.get(key) != json.loads(json.dumps(said[key])))
        raise OutputExistsError(f"these rounds began otherwise: {other}", where=str(out), fix="another --out")
    make_folder(out)
    write_file_atomically(file, json.dumps(said, indent=1).encode())


def _round(
    bundle: Bundle, task: Task, demonstrations: Dataset, recipe: Recipe, out: Path, number: int, episodes: int, keep: float,
    pool: WorkerPool, device: str,
) -> tuple[Bundle, dict[str, Any]]:  # fmt: skip
    """Play, keep, train. Returns the round's bundle, and what was kept."""
    folder = out / f"round-{number}"
    earlier = [Dataset.open(dataset_folder(out / f"round-{n}", task.id)) for n in range(1, number)]
    own = [*earlier, _play(bundle, task, folder, number, episodes, pool)]
    bar = float(np.quantile(np.concatenate([demonstrations.returns, *(d.returns for d in own)]), 1 - keep))
    best = [np.flatnonzero(d.returns >= bar) for d in (demonstrations, *own)]
    facts = {
        "played_mean": float(own[-1].returns.mean()), "bar": bar, "kept": sum(map(len, best)),
        "kept_own": sum(map(len, best[1:])),
    }  # fmt: skip
    made = folder / "train" / "bundle"
    if not made.exists():
        shutil.rmtree(folder / "train", ignore_errors=True)
        config = bundle.config.replace(**recipe.model)
        place = list(bundle.tasks).index(task.id)  # of its task token
        codec = make_codec(config, bundle.tokenizer, task.spec, task.id, place, text_targets=recipe.text_targets)

        def kept() -> Iterator[Episode]:
            for dataset, numbers in zip((demonstrations, *own), best, strict=True):
                yield from dataset.episodes(numbers.tolist())

        store = TokenStore.build(task.id, codec, kept())
        train(recipe.replace(seed=number), [store], bundle.tokenizer, folder / "train", start=bundle, device=device)
    return Bundle.load(made, device), facts


def _play(bundle: Bundle, task: Task, folder: Path, number: int, episodes: int, pool: WorkerPool) -> Dataset:
    """The round's own episodes, of training seeds that no demonstration and no other round has."""
    place = dataset_folder(folder, task.id)
    with DatasetWriter(place, task.id, task.spec, {"source": f"improve, round {number}"}) as writer:
        first = FIRST_NUMBER + number * 100_000
        seeds = {
            episode_seed(task.id, n, "train"): n for n in range(first, first + episodes) if n not in writer.numbers
        }
        count = min(SLOTS, max(1, len(seeds)))
        policy = Agent(bundle).policy(task.id, count, **EXPLORING)
        for episode in rollout([Unit(task.id, seed) for seed in seeds], pool.slots(count), policy) if seeds else ():
            writer.add(episode, seeds[episode.info["seed"]])
    return Dataset.open(place)


def _judge(
    bundle: Bundle, task: Task, expert: Reference | None, judged: int, pool: WorkerPool, folder: Path
) -> dict[str, Any]:
    """Score on evaluation seeds, kept in the round's folder."""
    file = folder / "scores.json"
    if not file.exists() or len(json.loads(file.read_text())) != judged:
        scores, _ = evaluate_task(Agent(bundle), task, judged, pool)
        make_folder(folder)
        write_file_atomically(file, json.dumps(scores.episodes).encode())
    played = np.asarray(json.loads(file.read_text()), np.float64)
    random = task.references.get("random")
    return {
        "score": float(played.mean()), "std": float(played.std(ddof=1)) if judged > 1 else 0.0, "episodes": judged,
        "percent": expert_normalised(float(played.mean()), random.mean if random else None, expert.mean if expert else None),
        "over_expert": gain(played, expert) if expert else None,
    }  # fmt: skip


def teacher(task: Task, demonstrations: Dataset) -> Reference | None:
    """The score to pass: the task's expert's as it is measured, or, where another function demonstrated, that of what it did."""
    if ":" not in demonstrations.meta.get("source", ""):
        return task.references.get("expert")
    scores = demonstrations.returns
    if task.score == "success":
        scores = np.array([float(bool(entry.success)) for entry in demonstrations.index])
    return Reference(float(scores.mean()), float(scores.std(ddof=1)), len(scores))


def gain(scores: np.ndarray, expert: Reference) -> list[float]:
    """[difference of means, and its 95 % interval by Welch's t], between scores (N,) and an expert's measured ones."""
    from scipy.stats import t

    a, b = float(np.var(scores, ddof=1)) / len(scores), expert.std**2 / expert.episodes
    difference = float(np.mean(scores)) - expert.mean
    if a + b == 0:
        return [difference] * 3
    freedom = (a + b) ** 2 / (a**2 / (len(scores) - 1) + b**2 / max(1, expert.episodes - 1))
    half = float(t.ppf(0.975, freedom)) * math.sqrt(a + b)
    return [difference, difference - half, difference + half]


def _record(
    task: Task, demonstrations: Dataset, expert: Reference | None, recipe: Recipe, history: list[dict[str, Any]], episodes: int,
    keep: float, judged: int,
) -> dict[str, Any]:  # fmt: skip
    random = task.references.get("random")
    return {
        "task": task.id, "score": task.score, "random": random and asdict(random), "expert": expert and asdict(expert),
        "demonstrations": {"episodes": len(demonstrations), "mean": float(demonstrations.returns.mean()),
                           "best": float(demonstrations.returns.max()), "source": demonstrations.meta.get("source")},
        "protocol": {"episodes": episodes, "keep": keep, "judged": judged, "recipe": recipe.to_json()},
        "rounds": history,
    }  # fmt: skip


def _line(task: Task, entry: Mapping[str, Any]) -> str:
    played = (
        f", played {entry['played_mean']:.4g}, kept {entry['kept']} from {entry['bar']:.4g}" if "bar" in entry else ""
    )
    over = entry["over_expert"]
    beside = f", {over[0]:+.4g} ({over[1]:+.4g} to {over[2]:+.4g}) over its expert" if over else ""
    return f"{task.id} round {entry['round']}: {entry['score']:.4g} ± {entry['std']:.3g}{beside}{played}"


def draw(records: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """A panel per task: score after each round with its 95 % interval, its expert, its demonstrations. PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "plots need matplotlib, not installed", fix='pip install "gato-agent[viz]" -c constraints.txt'
        ) from None
    figure = Figure(figsize=(3.4 * len(records), 2.9), dpi=150, layout="constrained")
    for ax, record in zip(figure.subplots(1, len(records), squeeze=False)[0], records, strict=True):
        x = [r["round"] for r in record["rounds"]]
        y = np.array([r["score"] for r in record["rounds"]])
        half = np.array([1.96 * r["std"] / math.sqrt(r["episodes"]) for r in record["rounds"]])
        ax.fill_between(x, y - half, y + half, color="#2a78c8", alpha=0.2, linewidth=0)
        ax.plot(x, y, color="#2a78c8", marker="o", markersize=3, linewidth=1.6, label="agent")
        if record["expert"]:
            ax.axhline(
                record["expert"]["mean"],
                color="#777777",
                linewidth=0.9,
                linestyle="--",
                label="its expert",
            )
        ax.axhline(
            record["demonstrations"]["mean"], color="#c8772a", linewidth=0.9, linestyle=":", label="its demonstrations"
        )
        ax.set_title(record["task"], loc="left", fontsize=9)
        ax.set_xlabel("round")
        ax.set_xticks(x)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    figure.axes[0].set_ylabel("score")
    figure.axes[0].legend(frameon=False, fontsize=7)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_file_atomically(Path(file), stream.getvalue())
    return Path(file)
