"""From the words of a command to a run: recipe, data, tokenizer, a folder that remembers all three."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from gato.episodes.manifest import MANIFEST, lock_folder, write_file_atomically
from gato.episodes.store import Dataset, find_datasets
from gato.errors import (
    CheckpointMissingError,
    DatasetChangedError,
    DatasetMissingError,
    OutputExistsError,
    RecipeError,
    nearest,
)
from gato.model import Gato
from gato.model.bundle import Bundle, read_json
from gato.model.config import WEIGHTLESS
from gato.sequences import ShelvedStore, Store
from gato.sequences.mixture import governing
from gato.tokens.text import TextTokenizer
from gato.training.best import REMEMBERED, Best, Judging, Scoring
from gato.training.checkpoint import load_checkpoint
from gato.training.data import holds_out, shelve, tokenise
from gato.training.loop import holds_a_run, make_bundle, train
from gato.training.optimizer import make_optimizers
from gato.training.plan import Plan
from gato.training.progress import TrainingBar
from gato.training.recipe import Recipe, load_recipe
from gato.training.team import Team, Torchrun, keeping_threads, sensible, under_torchrun


def start_run(
    recipe_name: str,
    words: Sequence[str],
    data: Sequence[Path],
    out: Path,
    tokenizer: Path | None,
    device: str,
    processes: int = 0,
    **watching: Any,
) -> Path:
    """Train `recipe_name` with `field=value` words changed. Returns the bundle's folder.

    `watching` goes to `train`; but `evaluate`, fields of a `Judging`, and `scoring`, how a bundle is scored on its tasks, every
    so many steps and at the end. Raises UsageError, before the run begins, where the data have none of these tasks.
    """
    recipe = load_recipe(recipe_name).override(list(words))
    device, team = _place(device)

    def prepare() -> str:
        _must_be_free(out)
        paths = find_datasets(list(data))
        size = recipe.config().vocabulary_size
        text = TextTokenizer.load(tokenizer) if tokenizer else TextTokenizer.train(_texts(paths), size)
        named = any("vocabulary_size" in word for word in words)  # a recipe's own gives way to the tokenizer's
        if tokenizer and named and text.size != size:
            raise RecipeError(
                f"model.vocabulary_size={size}, and a tokenizer of {text.size} pieces", where=str(tokenizer),
                fix=f"leave the one out, or the other, or gato tokenizer train FILES --size {size}",
            )  # fmt: skip
        _fill(out, data, text)
        return ""

    team.first("prepare", prepare) if team else prepare()
    text = TextTokenizer.load(out / "tokenizer.model")
    recipe = recipe.override([f"model.vocabulary_size={text.size}"])
    return _run(recipe, data, out, text, device, processes, resume=False, team=team, **watching)


def _place(device: str) -> tuple[str, Team | None]:
    """(device, team) of this process among those that torchrun started, or (device, None)."""
    if not under_torchrun():
        return device, None
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    return device, Torchrun(device)


def finetune_run(
    bundle: Bundle,
    recipe_name: str,
    words: Sequence[str],
    data: Sequence[Path],
    out: Path,
    device: str,
    processes: int = 0,
) -> Path:
    """Go on training a bundle on the datasets `data` (paper section 5). Returns the new bundle's folder."""
    recipe = finetune_recipe(bundle, recipe_name, words)
    _fill(out, data, bundle.tokenizer, bundle)
    return _run(recipe, data, out, bundle.tokenizer, device, processes, resume=False, start=bundle)


def finetune_recipe(bundle: Bundle, name: str, words: Sequence[str]) -> Recipe:
    """A recipe for this bundle's network: its sizes, whatever sizes the recipe names for a network of its own; of the recipe's
    `model`, what no weight's shape follows from (dropout, task tokens). Raises RecipeError where `words` ask for other sizes."""
    own, recipe = bundle.config.to_json(), load_recipe(name)
    mine = {field: value for field, value in recipe.model.items() if field in WEIGHTLESS}
    recipe = recipe.replace(model={**own, **mine}).override(list(words))
    for field, value in recipe.model.items():
        if field not in WEIGHTLESS and value != own[field]:
            raise RecipeError(
                f"model.{field}={value!r}: the bundle's network has {own[field]!r}", where=name,
                fix="leave it out; gato train begins a network of other sizes",
            )  # fmt: skip
    return recipe.replace(model={**own, **recipe.model})


def _must_be_free(out: Path) -> None:
    """Raises OutputExistsError for the folder of a run, a dataset, a bundle or a checkpoint."""
    if (out / MANIFEST).exists():
        raise OutputExistsError("this folder holds a dataset or a bundle", where=str(out), fix="another --out")
    if (out / "recipe.json").exists():
        raise holds_a_run(out)


def _fill(out: Path, data: Sequence[Path], text: TextTokenizer, start: Bundle | None = None) -> None:
    """A new run's folder, with all that it needs to go on. An attempt that never became a run may have left another bundle and
    other datasets to begin with: they go. Raises OutputExistsError."""
    with lock_folder(out):
        _must_be_free(out)
        if (out / "data.json").exists():
            (out / "datasets.json").unlink(missing_ok=True)
            shutil.rmtree(out / "start", ignore_errors=True)
        write_file_atomically(out / "tokenizer.model", text.to_bytes())
        write_file_atomically(out / "data.json", json.dumps([str(p.resolve()) for p in data]).encode())
        if start is not None:
            start.save(out / "start")


def datasets_of(tasks: str, data: Sequence[Path]) -> list[Path]:
    """Folders of the datasets whose task matches one of the comma-separated globs. Raises DatasetMissingError."""
    wanted = [glob.strip() for glob in tasks.split(",")]
    known = {path: Dataset.open(path).task for path in find_datasets(list(data))}
    chosen = [path for path, task in known.items() if any(fnmatch.fnmatch(task, glob) for glob in wanted)]
    if not chosen:
        raise DatasetMissingError(
            f"no demonstrations of {tasks}", where=", ".join(map(str, data)),
            fix=nearest(tasks, set(known.values())) or f"there are {', '.join(sorted(set(known.values())))}",
        )  # fmt: skip
    return chosen


def resume_run(out: Path, device: str, processes: int = 0, **watching: Any) -> Path:
    """Go on where the run in `out` stopped; a finished one costs nothing. `watching` is as in `start_run`: what `evaluate` does
    not say is as the run began, if there is a `scoring`."""
    recipe, data, text, start = _read_run(out)
    device, team = _place(device)
    if (out / "bundle" / "MANIFEST.json").exists():
        scoring, judging = watching.get("scoring"), Judging.of(watching.get("evaluate", {}), out)
        if scoring and judging and (team is None or team.lead):  # killed before its last evaluation, perhaps
            bundle = Bundle.load(out / "bundle")
            score = lambda b: judging.score(scoring, judging.chosen(b.tasks)[0])(b)  # noqa: E731
            Best(out, score, judging.every, lambda: bundle).judge_the_end(bundle)
        return out / "bundle"
    return _run(recipe, data, out, text, device, processes, resume=True, start=start, team=team, **watching)


def bundle_so_far(out: Path) -> Path:
    """The bundle of a run's last checkpoint, in out/bundle-step-N, as if the run had ended there; it may still go on, or be
    going on. Raises CheckpointMissingError before the first one."""
    recipe, data, text, start = _read_run(out)
    stores = shelve(data, recipe.config(), text, recipe, out / "tokens", list(start.tasks) if start else ())
    _same_data(out, stores)
    model = Gato(start.config.replace(**recipe.model) if start else recipe.config())
    state = load_checkpoint(out, model, make_optimizers(model, recipe))
    folder = out / f"bundle-step-{state.step:08d}"
    if not (folder / "MANIFEST.json").exists():
        make_bundle(model, state, recipe, stores, text, start).save(folder)
    return folder


def _read_run(out: Path) -> tuple[Recipe, list[Path], TextTokenizer, Bundle | None]:
    if not (out / "recipe.json").exists():
        raise CheckpointMissingError("no run here", where=str(out), fix="name the --out folder of a run")
    recipe = Recipe.from_json(read_json(out / "recipe.json"))
    data = [Path(p) for p in read_json(out / "data.json")]
    start = Bundle.load(out / "start") if (out / "start").exists() else None
    return recipe, data, TextTokenizer.load(out / "tokenizer.model"), start


@keeping_threads()
def _run(
    recipe: Recipe, data: Sequence[Path], out: Path, text: TextTokenizer, device: str, processes: int, resume: bool,
    start: Bundle | None = None, team: Team | None = None, evaluate: Mapping[str, Any] = MappingProxyType({}),
    scoring: Scoring | None = None, **watching: Any,
) -> Path:  # fmt: skip
    processes = 1 if team or device != "cpu" else processes or sensible(recipe.slots, recipe.accumulate)
    if processes > 1:
        torch.set_num_threads(1)  # before anything uses more: they are forked
    stores = shelve(list(data), recipe.config(), text, recipe, out / "tokens", list(start.tasks) if start else ())
    _same_data(out, stores)
    lead = team is None or team.lead
    score, every = None, 0
    if scoring is not None and (judging := Judging.of(evaluate, out if resume else None)):
        tasks, unmet = judging.chosen({s.task for s in stores} | set(start.tasks if start else ()))
        if lead and unmet:
            print(f"no data of {', '.join(unmet)} to evaluate", file=sys.stderr)
        if lead:
            judging.remember(out)
        score, every = judging.score(scoring, tasks), judging.every
        watching |= {"score": score, "score_every": every}
    elif lead and not resume:
        (out / REMEMBERED).unlink(missing_ok=True)  # of an attempt that never became a run
    if not recipe.lazy:
        tokenise(stores)
    absent = absent_weights(recipe, stores)
    if absent and lead:
        print(f"no data for {', '.join(absent)}: the other weights share theirs", file=sys.stderr)
    if lead and (unmet := absent_hold_out(recipe, data)):
        print(f"no data of {', '.join(unmet)} to hold out", file=sys.stderr)
    plan = Plan.of(recipe, device, team.world if team else processes, sharded=team is not None)
    if lead:
        print(plan, file=sys.stderr)
    with TrainingBar(plan) if lead else nullcontext() as bar:
        bundle = train(
            recipe, stores, text, out, resume=resume, start=start, device=device, watch=bar, processes=processes,
            team=team, **watching,
        )  # fmt: skip
    if score and lead:
        Best(out, score, every, lambda: bundle).judge_the_end(bundle)
    return out / "bundle"


def _same_data(out: Path, stores: Sequence[ShelvedStore]) -> None:
    """A run that goes on must learn from what it began with. Raises DatasetChangedError."""
    path = out / "datasets.json"
    now = {f"{s.task} {s.dataset.folder.resolve()}": s.dataset.identity for s in stores}
    if not path.exists():
        write_file_atomically(path, json.dumps(now, indent=1, sort_keys=True).encode())
        return
    before = read_json(path)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            how = "new" if name not in before else "gone" if name not in now else "not what it was"
            raise DatasetChangedError(
                f"{name.split()[0]} is {how} since this run began",
                where=name.split(maxsplit=1)[1],
                fix="put it back as it was, or begin another run (gato finetune goes on from a bundle)",
            )


def absent_weights(recipe: Recipe, stores: Sequence[Store]) -> list[str]:
    """Domains (or globs of tasks) that the recipe weighs and no dataset answers to; the rest is renormalised."""
    met = {governing(recipe.weights, store.task) for store in stores}
    return [name for name, weight in recipe.weights.items() if weight and name != "*" and name not in met]


def absent_hold_out(recipe: Recipe, data: Sequence[Path]) -> list[str]:
    """Patterns of `hold_out` that no dataset answers to: misspelt, perhaps."""
    tasks = [Dataset.open(path).task for path in find_datasets(list(data))] if recipe.hold_out else []
    return [pattern for pattern in recipe.hold_out if not any(holds_out(pattern, task) for task in tasks)]


def _texts(paths: Sequence[Path]) -> Iterator[str]:
    """Every text of the data once, and the documentation of the standard library, so that any dataset gives a tokenizer."""
    from gato.corpora.text import python_docs

    yield from (e.observations["text"][0] for e in python_docs("train"))
    yield from texts_of(paths)


def texts_of(paths: Sequence[Path]) -> Iterator[str]:
    """Every text of these datasets once: what a tokenizer of them is learned from."""
    for path in paths:
        dataset = Dataset.open(path)
        texts = [p for p, s in dataset.spec.observation.items() if s.kind == "text"]
        seen: set[str] = set()
        for episode in dataset if texts else ():
            for p in texts:
                new = set(episode.observations[p]) - seen
                seen |= new
                yield from sorted(new)
