"""Beyond the demonstrations: rounds of acting, keeping what went best, and training on it.

    round r: the agent plays N training episodes, sampling its actions, a share of them replaced by chance
             the best share is kept
             the bundle is trained on what is kept, and plays evaluation episodes

What is kept are whole episodes, of all that was played or demonstrated, by their return; or single timesteps of the round's own
play, those after which more was won than after nearly all of the timesteps that were most like them: an advantage whose critic is
the round itself.

The paper's agent only imitates, so its experts are its measure. A network that knows nothing begins the same way, from a random
policy's episodes for demonstrations. What a round played, kept and reached is in its folder as soon as it is there; killed, the
same call goes on with what is missing.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gato.episodes import Episode, TaskSpec
from gato.episodes.likeness import Memory
from gato.episodes.manifest import make_folder, write_file_atomically
from gato.episodes.store import Dataset, dataset_folder
from gato.episodes.writer import DatasetWriter
from gato.errors import RecipeError, UsageError
from gato.evaluation.begun import claim, fingerprint
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.scores import expert_normalised, write_whole
from gato.installed import pip_line
from gato.model.bundle import Bundle, make_codec
from gato.policy import Agent
from gato.rollouts import Noise, Unit, episode_seed, rollout
from gato.rollouts.pool import WorkerPool
from gato.sequences import TokenStore
from gato.sequences.mixture import pattern_value
from gato.sequences.returns import world_spec
from gato.training import Recipe, train
from gato.worlds import Reference, Task

SLOTS = 20  # episodes played side by side
FIRST_NUMBER = 1_000_000  # of the training seeds: far from those that demonstrations use
LIKE = 16  # timesteps that each is measured by
MOST_STEPS = 20_000  # of a round, that are compared with each other
COLOURS = {"steps": ("#2a78c8", "keeping timesteps"), "episodes": ("#c8772a", "keeping episodes")}
# Fields of a recipe for data that are read from folders; a round has its own.
NOT_IN_ROUNDS: dict[str, Any] = {
    "return_filter": None, "validation_share": 0.0, "return_ranks": 0, "reward_shown": False, "similar_timesteps": 0,
}  # fmt: skip
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
    by: Literal["episodes", "steps"] = "episodes",
    explore: float = 0.0,
    discount: float = 0.98,
    judged: int = 50,
    workers: int = 2,
    device: str = "cpu",
) -> dict[str, Any]:
    """Write out/improve.json and return it: {"task", "expert", "demonstrations", "protocol", "rounds": [{"round", "score",
    "std", "episodes", "bar", "kept", "kept_own", "played_mean", "percent", "over_expert"}, …]}; round 0 is the start.

    `keep` is the share kept: `by="episodes"`, of all so far; `by="steps"`, of those most like each of the round's timesteps, as
    many may have won more of what follows, discounted (with it, windows of a single timestep). `explore`: the share of actions
    that are drawn at random (of continuous ones the noise, in half-ranges), none in a third of the episodes, half of it in
    another. `over_expert` is [gain, low, high], the difference to the expert's measured score with its 95 % interval (Welch),
    which is None where one of the two has a single score.
    The last round's bundle is in out/round-N/train/bundle. More rounds go on where fewer ended. Raises RecipeError for a bundle
    that does not know the task, what rounds do not have, or windows that do not go with `by`, OutputExistsError where `out`
    holds the rounds of another bundle, other demonstrations or other settings.
    """
    if task.id not in start.tasks:
        raise RecipeError(
            f"the bundle was not trained on {task.id}",
            fix=f"gato finetune BUNDLE --tasks {task.id} --data DIR --out DIR",
        )
    if world_spec(start.tasks[task.id].spec) != start.tasks[task.id].spec:
        raise RecipeError(
            "a network that is told of returns or rewards is not improved by rounds", where=task.id,
            fix="begin from a bundle trained with return_ranks=0 and reward_shown=False",
        )  # fmt: skip
    if ignored := [name for name, none in NOT_IN_ROUNDS.items() if getattr(recipe, name) != none]:
        raise RecipeError(f"rounds do not have {', '.join(ignored)}", where=task.id, fix="leave it out of --set")
    if by == "steps" and pattern_value(recipe.window_timesteps, task.id, None) != 1:
        raise RecipeError(
            "single timesteps are kept only where windows hold one", where=task.id,
            fix='--by episodes, or a bundle trained with window_timesteps={"*": 1}',
        )  # fmt: skip
    settings = {"episodes": episodes, "keep": keep, "by": by, "explore": explore, "recipe": recipe.to_json()}
    if by == "steps":
        settings["discount"] = discount
    claim(out, {"start": fingerprint(start), "demonstrations": demonstrations.identity, **settings})
    bundle, history, expert = start, [], teacher(task, demonstrations)
    with WorkerPool(workers) as pool:
        for number in range(rounds + 1):
            folder = out / f"round-{number}"
            entry: dict[str, Any] = {"round": number}
            if number:
                bundle, facts = _round(bundle, task, demonstrations, recipe, out, number, settings, pool, device)
                entry |= facts
            entry |= _judge(bundle, task, expert, judged, pool, folder)
            history.append(entry)
            print(_line(task, entry), flush=True)
            record = _record(task, demonstrations, expert, history, {**settings, "judged": judged})
            write_whole(out / "improve.json", json.dumps(record, indent=1, allow_nan=False))
    return record


def own_recipe(bundle: Bundle, by: Literal["episodes", "steps"] = "episodes") -> Recipe:
    """The recipe that the bundle was trained by, at a constant rate: 300 steps of 4 × 1,024 tokens, or, since single timesteps
    are kept of one round alone and soon known by heart, 50. Raises RecipeError."""
    if not bundle.card.get("recipe"):
        raise RecipeError("this bundle does not say how it was trained", fix="gato finetune BUNDLE makes one that does")
    own = Recipe.from_json(bundle.card["recipe"])
    return own.replace(
        name="improve", model=bundle.config.to_json(), steps=300 if by == "episodes" else 50, slots=4, slot_tokens=1024,
        accumulate=1, weights={"*": 1.0}, hold_out=(), warmup=0.0, final_ratio=1.0, observation_loss=0.0, **NOT_IN_ROUNDS,
    )  # fmt: skip


def _round(
    bundle: Bundle, task: Task, demonstrations: Dataset, recipe: Recipe, out: Path, number: int, settings: Mapping[str, Any],
    pool: WorkerPool, device: str,
) -> tuple[Bundle, dict[str, Any]]:  # fmt: skip
    """Play, keep, train. Returns the round's bundle (the same one, if there was nothing to keep), and what was kept."""
    folder = out / f"round-{number}"
    made, told = folder / "train" / "bundle", folder / "kept.json"
    facts = json.loads(told.read_text()) if told.exists() else None
    if facts is None or not (made.exists() or facts.get("kept_steps") == 0):
        own = _play(bundle, task, folder, number, settings["episodes"], settings["explore"], pool)
        if settings["by"] == "steps":
            kept, chosen = _best_steps(own, settings["keep"], settings["discount"], seed=number)
        else:
            earlier = [Dataset.open(dataset_folder(out / f"round-{n}", task.id)) for n in range(1, number)]
            kept, chosen = _best_episodes([demonstrations, *earlier, own], settings["keep"])
        facts = {"played_mean": float(own.returns.mean()), **chosen}
        write_file_atomically(told, json.dumps(facts).encode())
    if facts.get("kept_steps") == 0:
        return bundle, facts
    if not made.exists():
        shutil.rmtree(folder / "train", ignore_errors=True)
        config = bundle.config.replace(**recipe.model)
        place = list(bundle.tasks).index(task.id)  # of its task token
        codec = make_codec(config, bundle.tokenizer, task.spec, task.id, place, text_targets=recipe.text_targets)
        store = TokenStore.build(task.id, codec, kept)
        reseeded = recipe.replace(seed=recipe.seed + number)
        train(reseeded, [store], bundle.tokenizer, folder / "train", start=bundle, device=device)
    return Bundle.load(made, device), facts


def _best_episodes(datasets: Sequence[Dataset], keep: float) -> tuple[Iterator[Episode], dict[str, Any]]:
    """The share of all their episodes with the highest returns, ties included; the first dataset is the demonstrations."""
    bar = float(np.quantile(np.concatenate([d.returns for d in datasets]), 1 - keep))
    best = [np.flatnonzero(d.returns >= bar) for d in datasets]

    def kept() -> Iterator[Episode]:
        yield from datasets[0].episodes(best[0].tolist())
        for dataset, numbers in zip(datasets[1:], best[1:], strict=True):
            yield from map(_done, dataset.episodes(numbers.tolist()))

    return kept(), {"bar": bar, "kept": sum(map(len, best)), "kept_own": sum(map(len, best[1:]))}


def _best_steps(own: Dataset, keep: float, discount: float, seed: int) -> tuple[Iterator[Episode], dict[str, Any]]:
    """Of each episode the timesteps after which no more than the share `keep` of the LIKE timesteps of other episodes that are
    most like it won more, and more of them won less. Of a round with more than MOST_STEPS timesteps, so many are drawn to be
    compared."""
    episodes = list(own)
    lengths = np.array([len(e) for e in episodes])
    some = np.arange(lengths.sum())
    if len(some) > MOST_STEPS:
        some = np.sort(np.random.default_rng(seed).choice(some, MOST_STEPS, replace=False))
    at = np.split(some, np.searchsorted(some, np.cumsum(lengths)[:-1]))
    at = [part - first for part, first in zip(at, np.cumsum(lengths) - lengths, strict=True)]
    drawn = [_only(e, part) for e, part in zip(episodes, at, strict=True)]
    follows = np.concatenate([_to_go(e.rewards, discount)[part] for e, part in zip(episodes, at, strict=True)])
    rng = np.random.default_rng(seed)
    alike = _likest(own.spec, drawn, rng)
    both = TaskSpec({**own.spec.observation, **{f"done {k}": v for k, v in own.spec.action.items()}}, own.spec.action)
    told = [
        replace(e, observations={**e.observations, **{f"done {k}": v for k, v in _done(e).actions.items()}})
        for e in drawn
    ]
    done_alike = _likest(both, told, rng)
    # What follows an action is mostly luck: the mean over those most like it in what was seen and done is less so.
    follows = (follows + np.where(done_alike >= 0, follows[done_alike], 0).sum(1)) / (1 + (done_alike >= 0).sum(1))
    others = np.where(alike >= 0, follows[alike] - follows[:, None], 0.0)
    better, worse = (others > 1e-6).sum(axis=1), (others < -1e-6).sum(axis=1)
    best = (better <= keep * LIKE) & (worse > better)  # where nothing was won by anybody there is nothing to learn
    parts = np.split(best, np.cumsum([len(e) for e in drawn])[:-1])
    kept = (_only(_done(e), np.flatnonzero(part)) for e, part in zip(drawn, parts, strict=True) if part.any())
    return kept, {"kept_steps": int(best.sum()), "of_steps": len(best)}


def _likest(spec: TaskSpec, episodes: Sequence[Episode], rng: np.random.Generator) -> np.ndarray:
    """The LIKE timesteps of other episodes most like each (N, LIKE), -1 for none."""
    memory = Memory.build(spec, episodes, episodes[0].task)
    # Of equals any may be compared with: else it would be the earliest for all, and their luck everyone's measure.
    keys = memory.keys + rng.normal(0.0, 1e-3, memory.keys.shape).astype(np.float32)
    memory = replace(memory, keys=keys, norms=np.square(keys).sum(axis=1))
    return memory.most_alike(keys, LIKE, memory.episodes)


def _to_go(rewards: np.ndarray, discount: float) -> np.ndarray:
    """Rewards (T,) → what follows from each step on, discounted, float64 (T,)."""
    follows, out = 0.0, np.zeros(len(rewards))
    for t in range(len(rewards) - 1, -1, -1):
        out[t] = follows = float(rewards[t]) + discount * follows
    return out


def _only(episode: Episode, at: np.ndarray) -> Episode:
    """Some timesteps of an episode."""

    def some(leaves: Mapping[str, Any]) -> dict[str, Any]:
        return {k: [v[t] for t in at] if isinstance(v, list) else v[at] for k, v in leaves.items()}

    done = some(episode.executed) if episode.executed is not None else None
    return replace(
        episode,
        observations=some(episode.observations),
        actions=some(episode.actions),
        rewards=episode.rewards[at],
        executed=done,
    )


def _done(episode: Episode) -> Episode:
    """Chance is imitated too where it went well: what was done is the target, not what the agent meant to do. (Of a
    demonstrator it is the intention.)"""
    if episode.executed is None:
        return episode
    return replace(episode, actions=episode.executed, executed=None)


def _play(
    bundle: Bundle, task: Task, folder: Path, number: int, episodes: int, explore: float, pool: WorkerPool
) -> Dataset:
    """The round's own episodes, of training seeds that no demonstration and no other round has."""
    place = dataset_folder(folder, task.id)
    with DatasetWriter(place, task.id, task.spec, {"source": f"improve, round {number}"}) as writer:
        first = FIRST_NUMBER + number * 100_000
        seeds = {
            episode_seed(task.id, n, "train"): n for n in range(first, first + episodes) if n not in writer.numbers
        }
        count = min(SLOTS, max(1, len(seeds)))
        policy = Agent(bundle).policy(task.id, count, **EXPLORING)
        units = [Unit(task.id, seed, Noise(explore * (n % 3) / 2)) for seed, n in seeds.items()]
        for episode in rollout(units, pool.slots(count), policy) if seeds else ():
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
    return Reference(float(scores.mean()), float(scores.std(ddof=1)) if len(scores) > 1 else 0.0, len(scores))


def gain(scores: np.ndarray, expert: Reference) -> list[float | None]:
    """[difference of means, and its 95 % interval by Welch's t], between scores (N,) and an expert's measured ones. Of a single
    score nobody knows how far others are from it: then the interval is None."""
    from scipy.stats import t

    difference = float(np.mean(scores)) - expert.mean
    if len(scores) < 2 or expert.episodes < 2:
        return [difference, None, None]
    a, b = float(np.var(scores, ddof=1)) / len(scores), expert.std**2 / expert.episodes
    if a + b == 0:
        return [difference] * 3
    freedom = (a + b) ** 2 / (a**2 / (len(scores) - 1) + b**2 / (expert.episodes - 1))
    half = float(t.ppf(0.975, freedom)) * math.sqrt(a + b)
    return [difference, difference - half, difference + half]


def _record(
    task: Task, demonstrations: Dataset, expert: Reference | None, history: list[dict[str, Any]], protocol: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    random = task.references.get("random")
    return {
        "task": task.id, "score": task.score, "random": random and asdict(random), "expert": expert and asdict(expert),
        "demonstrations": {"episodes": len(demonstrations), "mean": float(demonstrations.returns.mean()),
                           "best": float(demonstrations.returns.max()), "source": demonstrations.meta.get("source")},
        "protocol": protocol, "rounds": history,
    }  # fmt: skip


def _line(task: Task, entry: Mapping[str, Any]) -> str:
    played = ""
    if "played_mean" in entry:
        kept = f"{entry['kept']} from {entry['bar']:.4g}" if "bar" in entry else f"{entry['kept_steps']} timesteps"
        played = f", played {entry['played_mean']:.4g}, kept {kept}"
    beside = ""
    if entry["over_expert"]:
        over, low, high = entry["over_expert"]
        interval = f" ({low:+.4g} to {high:+.4g})" if low is not None else ""
        beside = f", {over:+.4g}{interval} over its expert"
    return f"{task.id} round {entry['round']}: {entry['score']:.4g} ± {entry['std']:.3g}{beside}{played}"


def draw(records: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """A panel per task: score after each round with its 95 % interval, for each way of keeping; its expert, its
    demonstrations. PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("plots need matplotlib, not installed", fix=pip_line("viz")) from None
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        tasks.setdefault(record["task"], []).append(record)
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.7 * lines), dpi=150, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in panels[len(tasks) :]:
        ax.set_axis_off()
    for ax, (task, mine) in zip(panels, tasks.items(), strict=False):
        for record in mine:
            colour, label = COLOURS[record["protocol"]["by"]]
            x = [r["round"] for r in record["rounds"]]
            y = np.array([r["score"] for r in record["rounds"]])
            half = np.array([1.96 * r["std"] / math.sqrt(r["episodes"]) for r in record["rounds"]])
            ax.fill_between(x, y - half, y + half, color=colour, alpha=0.2, linewidth=0)
            ax.plot(x, y, color=colour, marker="o", markersize=3, linewidth=1.6, label=label)
        if mine[0]["expert"]:
            ax.axhline(mine[0]["expert"]["mean"], color="#777777", linewidth=0.9, linestyle="--", label="its expert")
        demonstrated = mine[0]["demonstrations"]["mean"]
        ax.axhline(demonstrated, color="#333333", linewidth=0.9, linestyle=":", label="its demonstrations")
        ax.set_title(task, loc="left", fontsize=9)
        ax.set_xlabel("round")
        ax.xaxis.get_major_locator().set_params(integer=True)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    panels[0].set_ylabel("score")
    handles = {text: handle for ax in figure.axes for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    panels[0].legend(handles.values(), handles.keys(), frameon=False, fontsize=7)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_file_atomically(Path(file), stream.getvalue())
    return Path(file)
