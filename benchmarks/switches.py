"""What each switch does at equal tokens: small trainings, two seeds each, scored on demonstrations that were held out.

    python benchmarks/switches.py DATA --state DIR [--only NAME …] [--processes 2]
    python benchmarks/switches.py --table --out results/switches_more.json        its table, in Markdown

DATA is a folder of demonstrations as `gato demo` collects them. A run that is finished is a file in --state, so the whole
goes on where it stopped; when all that were asked for are there, they are written to --out.
Differences are to the base of the same file: demonstrations that are collected anew move all scores a little.

The base is the recipe `demo`, bounded by tokens, with a vocabulary of 1,024. A score is the mean loss (nats) of the true
action token, or for text and captions of the true piece, always against the one-hot target, over windows of the last
twentieth of each dataset's episodes, which no run trains on; text is in bits per byte, so that tokenizers compare. Runs
with prompts are scored with prompts. `captions at 160` are the same held-out scenes, drawn at twice the size that was trained on.

What a score of predictions cannot tell, `played` does: the variants of `PLAYED`, trained longer on the tasks with continuous
actions alone, and then played; in percent of expert.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato.demo import tokenizer_in
from gato.episodes import Episode
from gato.episodes.manifest import write_file_atomically
from gato.episodes.store import Dataset, find_datasets
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.scores import expert_normalised
from gato.model.bundle import make_codec
from gato.policy import load
from gato.recipes.demo import recipe as demo
from gato.rollouts.pool import WorkerPool
from gato.sequences import Mixture, TokenStore
from gato.sequences.filter import good_episodes
from gato.tokens.text import TextTokenizer
from gato.tokens.timestep import TEXT
from gato.training import Recipe, train
from gato.worlds import find

TASKS = (
    "babyai/go-to-local", "meta-world/button-press", "meta-world/drawer-close", "meta-world/reach", "meta-world/window-open",
    "dm-control-suite/reacher-easy", "sokoban/7x7-1-box", "ale-atari/freeway", "captions/scenes", "text/python-docs",
)  # fmt: skip
SHARES = {
    "babyai": 1.0,
    "meta-world": 1.0,
    "dm-control-suite": 1.0,
    "sokoban": 1.0,
    "ale-atari": 0.5,
    "captions": 0.5,
    "text": 1.0,
}
TOKENS, SEEDS, HELD_OUT, BATCHES = 600_000, (0, 1), 0.05, 8
PROMPT = {"prompt_share": 0.25}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "adamw": {"optimizer": "adamw"},
    "loss by targets": {"loss_by": "targets"},
    "one-hot targets": {"smooth_targets": 0.0},
    "random bin rows": {"model": {"smooth_bin_rows": False}},
    "linear patches": {"model": {"patch_embedder": "linear"}},
    "fixed encodings": {"model": {"encodings": "fixed"}},
    "xl positions": {"model": {"position": "xl"}},
    "learned positions": {"model": {"position": "learned"}},
    "separate ids": {"model": {"separate_discrete": True}},
    "no action position": {"model": {"action_position": False}},
    "linear bins": {"model": {"observation_bins": "linear"}},
    "all actions in one pass": {"model": {"parallel_actions": True}},
    "observations predicted": {"observation_loss": 0.1},
    "text observations predicted": {"text_targets": True},
    "return filter": {"return_filter": 0.8},
    "prompt": PROMPT,
    "prompt without loss": {**PROMPT, "prompt_loss": False},
    "task token": {"model": {"task_token": True}},
    "prompt and task token": {**PROMPT, "model": {"task_token": True}},
    "windows of four timesteps": {"window_timesteps": {"*": 4, "text": None, "captions": None}},
    "stochastic depth": {"model": {"stochastic_depth": 0.1}},
    "bytes": {"bytes": True},
    "vocabulary of 4,096": {"model": {"vocabulary_size": 4096}},
    "wide stem": {"model": {"patch_stem_width": 64}},
    "stem of stride 2": {"model": {"patch_stem_stride": 2}},
    "decay as the paper's": {"weight_decay": 0.1, "final_ratio": 0.1},
    "one rate for tables too": {"table_learning_rate": None},
    "four blocks": {"model": {"num_transformer_blocks": 4}},
    "two slots": {"slots": 2},
    "weights by hand": {"weights": demo.weights},
    "weights by sequences": {"weigh": "sequences"},
    "warm-up of a tenth": {"warmup": 0.1},
    "no warm-up": {"warmup": 0.0},
    "no clipping": {"clip": 1e9},
    "no weight decay": {"weight_decay": 0.0},
    "float32": {"precision": "float32"},
}  # fmt: skip
PLAYED = ("base", "one-hot targets", "random bin rows")
PLAYED_TASKS, PLAYED_TOKENS, EPISODES = TASKS[1:6], 3_000_000, 20


def recipe_of(variant: dict[str, Any], seed: int) -> Recipe:
    changes = {k: v for k, v in variant.items() if k not in ("model", "bytes", "weigh")}
    recipe = demo.replace(
        weights=SHARES, window_timesteps={"*": 1, "text": None, "captions": None}, window_tokens=512, seed=seed,
        save_every_seconds=1e9, model={**demo.model, "vocabulary_size": 1024, **variant.get("model", {})},
    )  # fmt: skip
    recipe = recipe.replace(**changes)
    return recipe.replace(steps=TOKENS // (recipe.slots * recipe.slot_tokens))


def byte_tokenizer() -> TextTokenizer:
    """A SentencePiece model that knows no sub-word of ordinary text: every character but the blank is spelt in bytes."""
    return TextTokenizer.train((f"{chr(0xE000 + i)} " for i in range(765)), 1024)


def build(data: Path, tokenizer: TextTokenizer, recipe: Recipe) -> tuple[list[TokenStore], list[TokenStore]]:
    """(training stores, held-out stores)."""
    parts: tuple[list[TokenStore], list[TokenStore]] = ([], [])
    datasets = {d.task: d for d in map(Dataset.open, find_datasets([data]))}
    for index, task in enumerate(TASKS):
        dataset = datasets[task]
        codec = make_codec(
            recipe.config(), tokenizer, dataset.spec, task, index, text_targets=recipe.text_targets,
            observation_targets=recipe.observation_loss > 0,
        )  # fmt: skip
        first = len(dataset) - max(1, int(HELD_OUT * len(dataset)))
        numbers: Sequence[int] = range(first)
        if recipe.return_filter is not None and codec.acts:
            numbers = good_episodes(dataset.returns[:first], recipe.return_filter).tolist()
        parts[0].append(TokenStore.build(task, codec, (dataset[i] for i in numbers)))
        parts[1].append(TokenStore.build(task, codec, (dataset[i] for i in range(first, len(dataset)))))
    return parts


@torch.no_grad()
def score(model, stores: list[TokenStore], recipe: Recipe) -> dict[str, float]:
    """{task: nats per action (or piece)}; text in bits per byte."""
    out = {}
    for store in stores:
        mixture = Mixture(
            [store], {"*": 1.0}, recipe.slots, recipe.slot_tokens, recipe.window_tokens, recipe.window_timesteps,
            1.0 if recipe.prompt_share else 0.0, False, recipe.config().parallel_actions, 10_000, recipe.document_tokens,
        )  # fmt: skip
        nats, count = 0.0, 0
        for step in range(BATCHES):
            batch = mixture.batch(step)
            log_p = torch.log_softmax(model(batch).float(), -1).gather(1, batch.targets[:, None])[:, 0]
            wanted = ~batch.observed & ((batch.kinds != TEXT) if store.codec.acts else torch.ones_like(batch.observed))
            nats, count = nats - float(log_p[wanted].sum()), count + int(wanted.sum())
        out[store.task] = nats / count
        if store.task.startswith("text/"):
            tokenizer = store.codec.text
            assert tokenizer is not None
            size = sum(len(tokenizer.decode(store.tokens.ids[a:b]).encode()) for a, b in _pieces(store))
            out[store.task] *= len(store.tokens) / size / math.log(2)
    return out


def _pieces(store: TokenStore):
    return zip(store.starts[:-1].tolist(), store.starts[1:].tolist(), strict=True)


def larger(dataset: Dataset, store: TokenStore, numbers: Sequence[int]) -> TokenStore:
    """Captioned scenes at twice their size, each pixel doubled."""

    def grown(episode: Episode) -> Episode:
        image = np.asarray(episode.observations["image"]).repeat(2, axis=1).repeat(2, axis=2)
        return Episode(episode.task, {**episode.observations, "image": image}, {}, episode.rewards)

    from gato.corpora import caption_spec

    codec = make_codec(demo.config(), store.codec.text, caption_spec(160, 160), store.task)
    codec.vocabulary = store.codec.vocabulary
    return TokenStore.build(store.task, codec, (grown(dataset[i]) for i in numbers))


def tokens_of(name: str) -> str:
    """What decides the tokens of a variant: variants that agree in it share their stores."""
    recipe, model = recipe_of(VARIANTS[name], 0), recipe_of(VARIANTS[name], 0).config()
    return json.dumps(
        [model.vocabulary_size, "bytes" in VARIANTS[name], model.separate_discrete, model.action_position, model.observation_bins,
         model.task_token, recipe.observation_loss > 0, recipe.text_targets, recipe.return_filter]
    )  # fmt: skip


def run(name: str, seed: int, data: Path, tokenizer: TextTokenizer, stores, file: Path) -> None:
    training, held_out = stores
    recipe = recipe_of(VARIANTS[name], seed)
    if VARIANTS[name].get("weigh") == "sequences":
        recipe = recipe.replace(weights=by_sequences(training, recipe))
    with tempfile.TemporaryDirectory() as folder:
        bundle = train(recipe, training, tokenizer, Path(folder) / "run")
    scores = score(bundle.model, held_out, recipe)
    scenes = Dataset.open(data / "captions/scenes")
    last = range(len(scenes) - 600, len(scenes))
    scores["captions at 160"] = score(
        bundle.model, [larger(scenes, held_out[TASKS.index("captions/scenes")], last)], recipe
    )["captions/scenes"]
    save(file, {"variant": name, "seed": seed, "tokens": bundle.card["tokens"], "scores": scores})


def by_sequences(stores: list[TokenStore], recipe: Recipe) -> dict[str, float]:
    """Shares of tokens such that the recipe's weights are the shares of windows. {task: share}"""
    mixture = Mixture(
        stores, recipe.weights, recipe.slots, recipe.slot_tokens, recipe.window_tokens, recipe.window_timesteps,
        document_tokens=recipe.document_tokens,
    )  # fmt: skip
    lengths: dict[int, list[int]] = {}
    for segment in (segment for step in range(50) for i in range(recipe.slots) for segment in mixture.slot(step, i)):
        lengths.setdefault(segment.store, []).append(len(segment))
    return {s.task: float(mixture.shares[k] * np.mean(lengths[k])) for k, s in enumerate(stores)}


def run_played(name: str, seed: int, tokenizer: TextTokenizer, training: list[TokenStore], file: Path) -> None:
    """Trained on the tasks with continuous actions alone, and played."""
    recipe = recipe_of(VARIANTS[name], seed)
    recipe = recipe.replace(steps=PLAYED_TOKENS // (recipe.slots * recipe.slot_tokens))
    scores = {}
    with tempfile.TemporaryDirectory() as folder, WorkerPool(0) as pool:
        train(recipe, [s for s in training if s.task in PLAYED_TASKS], tokenizer, Path(folder) / "run")
        agent = load(Path(folder) / "run")
        for task in map(find, PLAYED_TASKS):
            random, expert = (task.references[k].mean for k in ("random", "expert"))
            found, _ = evaluate_task(agent, task, EPISODES, pool)
            scores[task.id] = [expert_normalised(score, random, expert) for score in found.episodes]
    save(file, {"variant": name, "seed": seed, "scores": scores})


def save(file: Path, record: dict[str, Any]) -> None:
    """The file is there once the run is whole."""
    write_file_atomically(file, json.dumps(record).encode())
    print(file.stem, {k: round(float(np.mean(v)), 3) for k, v in record["scores"].items()}, flush=True)


GROUPS = {
    "BabyAI": ("babyai/",), "Meta-World": ("meta-world/",), "reacher": ("dm-control-suite/",), "Sokoban": ("sokoban/",),
    "Freeway": ("ale-atari/",), "captions": ("captions/",), "captions at 160": ("captions at 160",), "text": ("text/",),
}  # fmt: skip


def table(record: dict[str, Any]) -> str:
    """The base's scores, and what each variant adds to them: the mean over seeds, ± half their range."""

    def scores(variant: str) -> np.ndarray:  # (seeds, groups)
        runs = sorted((r for r in record["runs"] if r["variant"] == variant), key=lambda r: r["seed"])
        return np.array(
            [[np.mean([v for k, v in r["scores"].items() if k.startswith(g)]) for g in GROUPS.values()] for r in runs]
        )

    base = scores("base")
    lines = [f"| | {' | '.join(GROUPS)} |", "| --- " * (len(GROUPS) + 1) + "|"]
    for variant in dict.fromkeys(r["variant"] for r in record["runs"]):
        values = base if variant == "base" else scores(variant) - base
        sign = "" if variant == "base" else "+"
        cells = [f"{m:{sign}.3f} ± {h:.3f}" for m, h in zip(values.mean(0), np.ptp(values, axis=0) / 2, strict=True)]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *played_table(record.get("played", []))])


def played_table(runs: list[dict[str, Any]]) -> list[str]:
    """Percent of expert per task: the mean over seeds, ± half their range."""
    lines = [f"| | {' | '.join(PLAYED_TASKS)} | mean |", "| --- " * (len(PLAYED_TASKS) + 2) + "|"]
    for variant in dict.fromkeys(r["variant"] for r in runs):
        scores = np.array([[np.mean(r["scores"][t]) for t in PLAYED_TASKS] for r in runs if r["variant"] == variant])
        scores = np.hstack([scores, scores.mean(axis=1, keepdims=True)])
        cells = [f"{m:.0f} ± {h:.0f}" for m, h in zip(scores.mean(0), np.ptp(scores, axis=0) / 2, strict=True)]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/switches.json"))
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.out.read_text())))
        return
    if not (arguments.data and arguments.state):
        parser.error("DATA and --state")
    arguments.state.mkdir(parents=True, exist_ok=True)
    jobs = [
        (part, n, s) for part, names in (("told", VARIANTS), ("played", PLAYED)) for n in names
        if n in arguments.only for s in SEEDS
    ]  # fmt: skip
    file = {job: arguments.state / f"{'-'.join(map(str, job)).replace(' ', '-')}.json" for job in jobs}
    torch.set_num_threads(1)
    for key in dict.fromkeys(map(tokens_of, arguments.only)):
        waiting = [job for job in jobs if tokens_of(job[1]) == key and not file[job].exists()]
        if not waiting:
            continue
        pieces, as_bytes, *_ = json.loads(key)
        folder = arguments.state / f"{pieces}-pieces"
        tokenizer = byte_tokenizer() if as_bytes else TextTokenizer.load(tokenizer_in(folder, pieces))
        training, held_out = build(arguments.data, tokenizer, recipe_of(VARIANTS[waiting[0][1]], 0))
        running: dict[int, tuple[str, str, int]] = {}
        while waiting or running:
            while waiting and len(running) < arguments.processes:
                job = part, name, seed = waiting.pop(0)
                pid = os.fork()  # nothing has used more than one thread yet
                if pid == 0:
                    if part == "told":
                        run(name, seed, arguments.data, tokenizer, (training, held_out), file[job])
                    else:
                        run_played(name, seed, tokenizer, training, file[job])
                    os._exit(0)
                running[pid] = job
            pid, status = os.wait()
            job = running.pop(pid)
            if status:
                raise SystemExit(f"{job} failed")
    runs = {job: json.loads(f.read_text()) for job, f in file.items()}
    told, played = ([run for (part, *_), run in runs.items() if part == which] for which in ("told", "played"))
    record = {
        "protocol": " ".join((__doc__ or "").split("\n\n", 2)[2].split()), "tokens": TOKENS,
        "tokens_played": PLAYED_TOKENS, "seeds": list(SEEDS), "torch": torch.__version__,
        "recipe": recipe_of({}, 0).to_json(), "runs": told, "played": played,
    }  # fmt: skip
    write_file_atomically(arguments.out, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
