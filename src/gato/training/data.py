"""What a run learns from: datasets become stores of tokens, stores a mixture, the mixture a stream of batches.

The stream runs on grain. Its element s is what this rank needs of step s, a pure function of (recipe's seed, s, slot);
so the state of the data is one integer, the step, which the checkpoint has anyway. Worker processes, where the recipe
asks for them, prepare the steps ahead; they change nothing about what is drawn.
"""

from __future__ import annotations

import fnmatch
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from gato.episodes.store import Dataset, find_datasets
from gato.errors import DataError, DatasetMissingError, EpisodeError, RecipeError, TokenizerError
from gato.model import GatoConfig
from gato.model.bundle import make_codec
from gato.sequences import Batch, Mixture, ShelvedStore, Store, TokenStore
from gato.sequences.returns import tell, told_spec
from gato.sequences.shelf import choose
from gato.tokens import TimestepCodec
from gato.tokens.text import TextTokenizer
from gato.tokens.timestep import MARKS, QUESTION
from gato.training.recipe import Recipe

FOR_EVER = 2**40  # steps; more than any run has


def shelve(
    folders: Sequence[Path],
    config: GatoConfig,
    tokenizer: TextTokenizer,
    recipe: Recipe,
    shelf: Path,
    known: Sequence[str] = (),
    validation: bool = False,
) -> list[ShelvedStore]:
    """Every dataset below the folders, but for tasks that the recipe holds out; their tokens in files in `shelf`.

    known: tasks of the bundle that the run starts from; where the network has task tokens, they keep theirs.
    validation: of the episodes that the recipe sets aside (`validation_share`), in place of those it trains on; datasets
    too small to have any are left out. Nothing is tokenised yet.

    Raises DatasetMissingError where there is none, RecipeError where all are held out, DataError where two of one task are
    not of one spec, EpisodeError where no episode of one is left, TokenizerError.
    """
    stores = []
    for dataset, codec in _datasets(folders, config, tokenizer, recipe, known):
        try:
            stores.append(
                ShelvedStore(
                    dataset,
                    codec,
                    shelf,
                    recipe.return_filter,
                    recipe.validation_share,
                    validation,
                    recipe.similar_timesteps,
                )
            )
        except EpisodeError:
            if not validation:
                raise
    return stores


def load_stores(
    folders: Sequence[Path], config: GatoConfig, tokenizer: TextTokenizer, recipe: Recipe, known: Sequence[str] = ()
) -> list[TokenStore]:
    """The same, tokenised in memory. Raises what `shelve` does."""
    stores = []
    for dataset, codec in _datasets(folders, config, tokenizer, recipe, known):
        chosen = choose(dataset, codec.acts, recipe.return_filter, recipe.validation_share)
        returns = dataset.returns[chosen]
        episodes = (tell(dataset[i], codec.spec, returns) for i in chosen.tolist())
        stores.append(TokenStore.build(dataset.task, codec, episodes, alike=recipe.similar_timesteps * codec.acts))
    return stores


def _datasets(
    folders: Sequence[Path], config: GatoConfig, tokenizer: TextTokenizer, recipe: Recipe, known: Sequence[str]
) -> Iterator[tuple[Dataset, TimestepCodec]]:
    paths = find_datasets(list(folders))
    if not paths:
        raise DatasetMissingError(
            "no dataset there", where=", ".join(map(str, folders)), fix="gato collect GLOB --out DIR"
        )
    if tokenizer.size != config.vocabulary_size:
        raise TokenizerError(
            f"the tokenizer has {tokenizer.size} pieces, the network's vocabulary_size is {config.vocabulary_size}",
            fix=f"--set model.vocabulary_size={tokenizer.size}, or gato tokenizer train FILES --size {config.vocabulary_size}",
        )
    found = [Dataset.open(path) for path in paths]
    datasets = [d for d in found if not any(holds_out(pattern, d.task) for pattern in recipe.hold_out)]
    if not datasets:
        raise RecipeError(
            f"hold_out {list(recipe.hold_out)} leaves none of the datasets ({len(found)})", where=recipe.name,
            fix="hold out fewer, or add data of other tasks",
        )  # fmt: skip
    first: dict[str, Dataset] = {}
    for dataset in datasets:  # a bundle has one spec of a task: it could act by one of the two alone
        other = first.setdefault(dataset.task, dataset)
        if other.spec != dataset.spec:
            raise DataError(
                f"two datasets of {dataset.task} that differ in their spec", where=f"{other.folder} and {dataset.folder}",
                fix="leave one of them out, or collect it again",
            )  # fmt: skip
    numbers = {task: i for i, task in enumerate(known)}
    for dataset in datasets:
        spec = told_spec(dataset.spec, recipe.return_ranks, recipe.reward_shown)
        yield dataset, make_codec(
            config, tokenizer, spec, dataset.task, numbers.setdefault(dataset.task, len(numbers)),
            text_targets=recipe.text_targets, question_targets=recipe.question_targets,
            observation_targets=recipe.observation_loss > 0,
        )  # fmt: skip


def holds_out(pattern: str, task: str) -> bool:
    """Whether a pattern of `hold_out` is of a task: its id, its domain (as in `weights`), or a glob."""
    return fnmatch.fnmatch(task, pattern) or task.split("/", 1)[0] == pattern


def tokenise(stores: Sequence[ShelvedStore]) -> None:
    """Make the tables that are not on the shelf yet, with a progress bar."""
    console = Console(stderr=True)
    missing = [s for s in stores if not s.folder.exists()]
    for store in track(missing, "tokenising", console=console, disable=not console.is_terminal, transient=True):
        store.make()


def make_mixture(stores: Sequence[Store], recipe: Recipe, config: GatoConfig | None = None) -> Mixture:
    """What the recipe draws, for a network of `config`, or its own. Raises RecipeError for weights that name nothing, and for
    windows that are too short to learn from, or longer than what a network with learned positions has positions for."""
    config = config or recipe.config()
    longest = max((_longest(store, recipe, config) for store in stores), default=0)
    if config.position == "learned" and longest > config.token_sequence_length:
        raise RecipeError(
            f"up to {longest:,} tokens at a time; position=learned has {config.token_sequence_length:,} positions",
            where=recipe.name,
            fix=f"window_tokens and slot_tokens of at most {config.token_sequence_length}, or a larger model.token_sequence_length",
        )
    window = min(recipe.window_tokens, recipe.slot_tokens, recipe.document_tokens or recipe.window_tokens)
    for store in stores:
        pictures, leaves = store.codec.fixed_tokens, store.codec.spec.observation
        page = MARKS in leaves and QUESTION not in leaves  # which has texts without a picture too
        if not (store.codec.acts or page) and pictures >= window:
            raise RecipeError(
                f"a window of {window} tokens ends before the text begins, behind {pictures} tokens of a picture",
                where=store.task, fix="a larger window_tokens, slot_tokens and document_tokens, or smaller pictures",
            )  # fmt: skip
    return Mixture(
        stores, recipe.weights, recipe.slots, recipe.slot_tokens, recipe.window_tokens, recipe.window_timesteps,
        recipe.prompt_share, recipe.prompt_loss, config.parallel_actions, recipe.seed, recipe.document_tokens,
        recipe.similar_timesteps,
    )  # fmt: skip


def _longest(store: Store, recipe: Recipe, config: GatoConfig) -> int:
    """How many tokens a segment of this store can have, prompt and all."""
    window = min(recipe.window_tokens, recipe.slot_tokens)
    if not store.codec.acts:
        return min(window, recipe.document_tokens or window)
    if recipe.similar_timesteps:  # a timestep with a long text is taken whole where it is longer than the window
        timestep = config.local_position_encoding_size + store.codec.action_tokens
        texts = any(leaf.kind == "text" for leaf in store.codec.spec.observation.values())
        return max(window, min(timestep, recipe.slot_tokens)) if texts else window
    return window


@contextmanager
def stream(
    mixture: Mixture, mine: Sequence[int], parts: int, step: int, workers: int = 0
) -> Iterator[Iterator[list[Batch]]]:
    """The batches of parts `mine` (of `parts`) of step `step`, `step` + 1, …, one list per step."""
    grain = _grain()
    steps = grain.MapDataset.source(_Steps(mixture, tuple(mine), parts, portable=workers > 0)).slice(slice(step, None))
    if not workers:
        yield (steps[i] for i in range(len(steps)))
        return
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain's workers read their options there, and nobody here has a command line of absl's
    threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    ahead = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    iterator = iter(steps.to_iter_dataset(threads).mp_prefetch(ahead, _end_with_parent))
    try:
        yield ([_unpack(record) for record in records] for records in iterator)
    finally:
        iterator.close()


def _end_with_parent(*_: int) -> None:
    """In a worker of grain's, which after a kill of its training would wait for ever for its batches to be taken."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _grain() -> Any:
    """grain, which would say on stderr that it misses JAX: it can do without."""
    from absl import logging

    log = logging.get_absl_logger()
    level = log.level
    log.setLevel("ERROR")
    try:
        import grain

        return grain
    finally:
        log.setLevel(level)


class _Steps:
    """grain's random-access source: element s is a list of batches, or of plain arrays where they leave the process."""

    def __init__(self, mixture: Mixture, mine: tuple[int, ...], parts: int, portable: bool):
        self._mixture, self._mine, self._parts, self._portable = mixture, mine, parts, portable

    def __len__(self) -> int:
        return FOR_EVER

    def __getitem__(self, step: int) -> list[Any]:
        batches = [self._mixture.batch(int(step), part, self._parts) for part in self._mine]
        return [_pack(batch) for batch in batches] if self._portable else batches


def _pack(batch: Batch) -> dict[str, np.ndarray]:
    values = {f.name: getattr(batch, f.name) for f in fields(Batch)}
    return {
        name: value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value, np.int64)
        for name, value in values.items()
        if value is not None
    }


def _unpack(record: dict[str, np.ndarray]) -> Batch:
    values: dict[str, Any] = {name: torch.from_numpy(np.array(value)) for name, value in record.items()}
    values["groups"] = tuple(tuple(row) for row in record["groups"].tolist())
    values["num_tokens"] = int(record["num_tokens"])
    return Batch(**{"blank": None, "observed": None, **values})
