"""A shelf: token tables of datasets in files, made when a dataset is first drawn from, mapped into memory ever after.

    SHELF/babyai--go-to-local--3fd1…/   tokens.bin   a record of 16 bytes per token
                                        patches.bin  every different patch, 768 bytes each
                                        starts.bin, episodes.bin, prompts.bin, MANIFEST.json

The name's digits stand for everything the tokens follow from: the dataset's content, the codec and the return filter. So
a table is never taken for another, a shelf may serve many runs, and may be deleted whenever no run uses it. A table is
verified against its manifest each time a process opens it.

A mixture of a thousand datasets begins at once: until the first draw a store knows its *outline* alone, the lengths of
some episodes from the index, and of some texts by reading a few. The outline, never the table, decides how often a store
is drawn, so that what is drawn does not depend on which tables are made already.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import gato
from gato.episodes import Episode
from gato.episodes.manifest import (
    LOCK,
    TEMPORARY,
    commit_folder,
    make_folder,
    naming_disk_errors,
    sha256_of,
    temporary_beside,
    verify_manifest,
)
from gato.episodes.store import Dataset
from gato.errors import DatasetCorruptError, EpisodeError
from gato.sequences.filter import good_episodes
from gato.sequences.returns import num_ranks, tell
from gato.sequences.store import (
    Layout,
    Piece,
    TokenStore,
    boundaries,
    encode,
    most_alike,
    no_episodes,
    share_of_targets,
    shares_pictures,
    showing,
)
from gato.tokens import TimestepCodec, Tokens
from gato.tokens.patches import PatchTable
from gato.tokens.timestep import MARKS

FORMAT = 1
ROW = np.dtype(
    [
        ("ids", "<i4"), ("patches", "<i4"), ("positions", "<i2"), ("kinds", "u1"), ("targets", "?"), ("boxes", "u1", 4),
    ]
)  # fmt: skip
BOUNDARY = np.dtype("<i8")
OUTLINE_EPISODES = 256  # whose lengths stand for all
READ_EPISODES, READ_DOCUMENTS = 8, 64  # read for an outline where texts make timesteps differ in length
TABLE_PATCHES = 2**20  # different patches that are held in memory at a time while a table is made


class ShelvedStore:
    """The tokens of a dataset's episodes: an outline now, a table in `shelf` when first drawn from.

    keep: of the expert's return, the share that an episode must reach (paper section 3); None for every episode.
    alike: find the so many timesteps of other episodes most like each.
    held_out: the share of episodes that are set aside, drawn by their numbers, so that an episode stays on its side when
    others join; the store is of the rest, or, if `validation`, of them.
    Raises EpisodeError where no episode is left, saying what took them.
    """

    def __init__(
        self,
        dataset: Dataset,
        codec: TimestepCodec,
        shelf: Path | str,
        keep: float | None = None,
        held_out: float = 0.0,
        validation: bool = False,
        alike: int = 0,
    ):
        self.task, self.codec, self.dataset = dataset.task, codec, dataset
        self._shelf, self._keep, self._side = Path(shelf), keep, (held_out, validation)
        self._alike = alike if codec.acts else 0
        self.chosen = choose(dataset, codec.acts, keep, held_out, validation)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "table"}  # whoever gets a copy maps the files anew

    # -- known at once ------------------------------------------------------------------------------------------------

    @property
    def domain(self) -> str:
        return self.task.split("/", 1)[0]

    @cached_property
    def outline(self) -> Layout:
        """A layout of at most OUTLINE_EPISODES episodes, spread over the dataset."""
        return self._sketch[0]

    @property
    def target_share(self) -> float:
        """Of the tokens, about how many are targets; numbers of observations are not counted."""
        return self._sketch[1]

    @cached_property
    def _sketch(self) -> tuple[Layout, float]:
        shared = shares_pictures(self.codec)  # then each timestep's own length counts, and all of them are read
        indices = self.chosen[_spread(len(self.chosen), READ_DOCUMENTS if shared else OUTLINE_EPISODES)]
        lengths = self.dataset.lengths[indices]
        episodes = np.concatenate([[0], np.cumsum(lengths)])
        steps = int(episodes[-1])
        prompts = np.array([i for i, k in enumerate(indices) if self.dataset.index[k].success is not False], np.int64)
        specs = {**self.codec.spec.observation, **self.codec.spec.action}
        if any(spec.kind == "text" or path == MARKS for path, spec in specs.items()):
            read = indices[_spread(len(indices), READ_EPISODES if self.codec.acts else READ_DOCUMENTS)]
            pieces = list(encode(self.codec, self._read(read), PatchTable()))
            sizes = np.concatenate([np.diff(piece.tokens.starts(sum(piece.lengths))) for piece in pieces])
            share = share_of_targets([piece.tokens for piece in pieces])
        else:
            sizes = np.array([self.codec.fixed_tokens])
            share = self.codec.action_tokens / self.codec.fixed_tokens
        starts = np.concatenate([[0], np.cumsum(np.resize(sizes, steps))]).astype(np.int64)
        pictures = showing(np.concatenate([piece.tokens.kinds for piece in pieces]), starts) if shared else None
        return Layout(starts, episodes.astype(np.int64), prompts, pictures=pictures), share

    def _read(self, chosen: np.ndarray) -> Iterator[Episode]:
        """Episodes of the dataset, told what the codec reads of returns; a few in memory at a time."""
        returns = self._ranked if num_ranks(self.codec.spec) else self.dataset.returns[:0]
        return (tell(episode, self.codec.spec, returns) for episode in _episodes(self.dataset, chosen))

    @cached_property
    def _ranked(self) -> np.ndarray:
        """The returns by which an episode is ranked: of those trained on, whichever side this store is of, since a rank must be
        in validation what it was in training."""
        held_out, validation = self._side
        trained = choose(self.dataset, self.codec.acts, self._keep, held_out) if validation else self.chosen
        return self.dataset.returns[trained]

    @property
    def num_episodes(self) -> int:
        return len(self.chosen)

    @property
    def num_timesteps(self) -> int:
        return int(self.dataset.lengths[self.chosen].sum())

    @property
    def num_tokens(self) -> int:
        """Exact where the table is open; else as the outline has it."""
        if "table" in self.__dict__:
            return self.table.num_tokens
        return round(self.num_timesteps * self.outline.num_tokens / self.outline.num_timesteps)

    @property
    def example(self) -> Episode | None:
        """The first episode that may be a prompt."""
        first = next((int(k) for k in self.chosen if self.dataset.index[k].success is not False), None)
        return None if first is None else next(self._read(np.array([first])))

    # -- known when opened --------------------------------------------------------------------------------------------

    @cached_property
    def folder(self) -> Path:
        """Where the table is, or will be."""
        facts = [FORMAT, gato.__version__, self.dataset.identity, self.codec.identity, self._keep, self._side]
        facts += [self._alike] * bool(self._alike)
        name = self.task.replace("/", "--").replace(":", "-")
        return self._shelf / f"{name}--{sha256_of(json.dumps(facts).encode())[:16]}"

    def make(self) -> Path:
        """Write the table, if no process has."""
        folder = self.folder
        if not folder.exists():
            with _alone(self._shelf, folder.name):
                if not folder.exists():  # another process made it while this one waited
                    _write(folder, self)
        return folder

    @cached_property
    def table(self) -> TokenStore:
        """The tokens, made first if need be. Raises DatasetCorruptError for a damaged table."""
        return _open(self.make(), self.task, self.codec)

    @property
    def tokens(self) -> Tokens:
        return self.table.tokens

    def window(
        self, rng: np.random.Generator, max_tokens: int, max_timesteps: int | None = None, whole: int = 0
    ) -> tuple[int, int]:
        return self.table.window(rng, max_tokens, max_timesteps, whole)

    def prompt(
        self, rng: np.random.Generator, not_episode: int, max_tokens: int, from_end: bool
    ) -> tuple[int, int] | None:
        return self.table.prompt(rng, not_episode, max_tokens, from_end)

    def among_alike(self, rng: np.random.Generator, count: int, max_tokens: int) -> list[tuple[int, int]]:
        return self.table.among_alike(rng, count, max_tokens)

    def episode_at(self, token: int) -> int:
        return self.table.episode_at(token)


def choose(
    dataset: Dataset, acts: bool, keep: float | None = None, held_out: float = 0.0, validation: bool = False
) -> np.ndarray:
    """Indices of a dataset's episodes that pass the filter (of a control task) and are on this side, int64 (E,). Raises
    EpisodeError where there are none, saying how many there were and which field of a recipe took them."""
    if not len(dataset):
        raise no_episodes(dataset.task, acts)
    chosen, took = np.arange(len(dataset)), {}
    if keep is not None and acts:
        chosen = good_episodes(dataset.returns, keep)
        took["return_filter"] = f"return_filter={keep} keeps {len(chosen)}"
    if held_out:
        aside = set_aside(dataset, chosen, held_out)
        took["validation_share"] = f"validation_share={held_out} sets {aside.sum()} aside"
        chosen = chosen[aside == validation]
    elif validation:
        chosen = chosen[:0]
    if not len(chosen):
        raise EpisodeError(
            f"of {len(dataset)} episodes none is left{': ' * bool(took)}{', '.join(took.values())}", where=dataset.task,
            fix=f"another {' or '.join(took) or 'validation_share'}, or more episodes",
        )  # fmt: skip
    return chosen


def set_aside(dataset: Dataset, chosen: Iterable[int], share: float) -> np.ndarray:
    """Which of these episodes are never trained on (a recipe's `validation_share`): always the same ones, by their numbers."""

    def drawn(number: int) -> float:
        return int(sha256_of(f"{dataset.task} {number}".encode())[:8], 16) / 2**32

    return np.array([drawn(dataset.index[i].number) < share for i in chosen], bool)


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers 0 … count - 1, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _write(folder: Path, store: ShelvedStore) -> None:
    """Encode episodes piece by piece into files; whole, or not there at all."""
    beside = temporary_beside(folder)
    pieces: list[Piece] = []
    try:
        with (
            naming_disk_errors(folder),
            open(beside / "tokens.bin", "wb") as tokens,
            open(beside / "patches.bin", "wb") as patches,
        ):
            table, written = PatchTable(), 0
            for piece in encode(store.codec, store._read(store.chosen), table):
                _rows(piece.tokens, written).tofile(tokens)
                pieces.append(_without_columns(piece))
                if len(table) > TABLE_PATCHES:
                    written = _flush(table, patches, written)
                    table.clear()
            _flush(table, patches, written)
            for name, array in zip(("starts", "episodes", "prompts"), boundaries(pieces), strict=True):
                array.astype(BOUNDARY).tofile(beside / f"{name}.bin")
            if store._alike:
                likest = most_alike(store.codec, list(store._read(store.chosen)), store._alike, store.task)
                likest.astype(BOUNDARY).tofile(beside / "alike.bin")
        commit_folder(beside, folder, {"task": store.task}, kind="tokens")
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _rows(tokens: Tokens, offset: int) -> np.ndarray:
    rows = np.empty(len(tokens), ROW)
    for name in ROW.names or ():
        rows[name] = getattr(tokens, name)
    rows["patches"] += np.where(tokens.patches >= 0, offset, 0).astype(np.int32)
    return rows


def _without_columns(piece: Piece) -> Piece:
    """What the boundaries need: the steps alone."""
    steps = piece.tokens.steps
    none = np.zeros(0, np.int32)
    return Piece(Tokens(steps, none, none, none, steps, none, none, PatchTable()), piece.lengths, piece.fit)


def _flush(table: PatchTable, file: BinaryIO, written: int) -> int:
    table.rows.tofile(file)
    return written + len(table)


def _open(folder: Path, task: str, codec: TimestepCodec) -> TokenStore:
    verify_manifest(folder, DatasetCorruptError, kind="tokens")
    rows = _map(folder / "tokens.bin", ROW)
    patches = _map(folder / "patches.bin", np.dtype(np.uint8)).reshape(-1, 768)
    tokens = Tokens(
        rows["ids"], rows["kinds"], rows["positions"], rows["targets"], np.zeros(0, np.int32), rows["patches"],
        rows["boxes"], PatchTable.of(patches),
    )  # fmt: skip
    starts, episodes, prompts = (_map(folder / f"{name}.bin", BOUNDARY) for name in ("starts", "episodes", "prompts"))
    alike = folder / "alike.bin"
    likest = _map(alike, BOUNDARY).reshape(len(starts) - 1, -1) if alike.exists() else None
    return TokenStore(starts, episodes, prompts, task, codec, tokens, alike=likest)


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    """A file as an array that is read from disk where it is looked at. An empty file cannot be mapped."""
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r").view(np.ndarray)


@contextmanager
def _alone(shelf: Path, name: str) -> Iterator[None]:
    """One process makes a table; the others that want it wait. The lock goes with its holder, however that ends."""
    make_folder(shelf)
    path = shelf / f"{name}{LOCK}"
    with naming_disk_errors(path), open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left in shelf.glob(f"{name}{TEMPORARY}*"):  # of a maker that was killed
            shutil.rmtree(left)
        yield


def _episodes(dataset: Dataset, chosen: np.ndarray) -> Iterator[Episode]:
    if len(chosen) == len(dataset):
        yield from dataset
    for i in range(0, len(chosen), 16) if len(chosen) < len(dataset) else ():
        yield from dataset.episodes(chosen[i : i + 16].tolist())
