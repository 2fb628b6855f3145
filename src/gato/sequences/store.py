"""A dataset's tokens, ready for windows: one flat table over all episodes, with timestep and episode boundaries.

Layout       where timesteps and episodes begin in a table; draws windows and prompts from it
TokenStore   a layout with its tokens, in memory or mapped from a file (`shelf.py`)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

import numpy as np

from gato.episodes import Episode
from gato.episodes.likeness import Memory
from gato.errors import EpisodeError
from gato.tokens import TimestepCodec, Tokens
from gato.tokens.patches import PatchTable
from gato.tokens.timestep import CONTINUOUS, DISCRETE, IMAGE, MARKS, QUESTION

CHUNK_STEPS = 4096  # episodes are encoded together in chunks of about so many timesteps


@dataclass
class Layout:
    """Timestep t owns rows starts[t] … starts[t+1]; episode e owns timesteps episodes[e] … episodes[e+1]."""

    starts: np.ndarray  # int64 (T + 1,)
    episodes: np.ndarray  # int64 (E + 1,)
    prompts: np.ndarray  # int64 (P,) episodes fit to be prompts
    alike: np.ndarray | None = field(
        default=None, kw_only=True
    )  # int64 (T, K) the timesteps of other episodes most like each, -1 for none
    pictures: np.ndarray | None = field(
        default=None, kw_only=True
    )  # int64 (P,) the timesteps that show a picture, where questions of an episode share it; else None

    @property
    def num_timesteps(self) -> int:
        return len(self.starts) - 1

    @property
    def num_episodes(self) -> int:
        return len(self.episodes) - 1

    @property
    def num_tokens(self) -> int:
        return int(self.starts[-1])

    def window(
        self, rng: np.random.Generator, max_tokens: int, max_timesteps: int | None = None, whole: int = 0
    ) -> tuple[int, int]:
        """Token rows [begin, end) of a random window, uniform over where it begins.

        It starts at a timestep and holds whole timesteps; where it would run past the episode it moves back, so the last
        step is seen as often as the others. A timestep longer than the window is taken alone if it has at most `whole`
        tokens; else (a document) it is cut at any token.

        Of questions that share a picture it begins with the picture, and holds as many as fit then, up to the last that it
        would have held: `max_timesteps` may be passed.
        """
        begin, end = self._window(rng, max_tokens, max_timesteps, whole)
        if self.pictures is None:
            return begin, end
        t = int(np.searchsorted(self.starts, begin, side="right")) - 1
        shown = int(np.searchsorted(self.pictures, t, side="right")) - 1
        if shown < 0 or self.pictures[shown] < self.episodes[self.episode_at(begin)]:
            return begin, end
        begin = int(self.starts[self.pictures[shown]])
        fits = int(self.starts[np.searchsorted(self.starts, begin + max_tokens, side="right") - 1])
        return begin, min(end, fits if fits > begin else begin + max_tokens)

    def _window(
        self, rng: np.random.Generator, max_tokens: int, max_timesteps: int | None, whole: int
    ) -> tuple[int, int]:
        t = int(rng.integers(self.num_timesteps))
        begin, end = int(self.starts[t]), int(self.starts[t + 1])
        if max_tokens < end - begin <= whole:
            return begin, end
        if end - begin > max_tokens:
            begin = int(rng.integers(begin, end - max_tokens + 1))
            return begin, begin + max_tokens
        if max_timesteps == 1:
            return begin, end
        e = int(np.searchsorted(self.episodes, t, side="right")) - 1
        first, last = int(self.episodes[e]), int(self.episodes[e + 1])
        stop = last if max_timesteps is None else min(last, t + max_timesteps)
        stop = (
            max(int(np.searchsorted(self.starts, begin + max_tokens, side="right")) - 1, t + 1)
            if self.starts[stop] - begin > max_tokens
            else stop
        )
        if stop == last:  # move back: as many whole timesteps as fit
            floor = first if max_timesteps is None else max(first, stop - max_timesteps)
            t = max(floor, int(np.searchsorted(self.starts, self.starts[stop] - max_tokens, side="left")))
        return int(self.starts[t]), int(self.starts[stop])

    def prompt(
        self, rng: np.random.Generator, not_episode: int, max_tokens: int, from_end: bool
    ) -> tuple[int, int] | None:
        """Whole timesteps of another successful episode: its end, or a uniformly drawn part (paper section 2.2)."""
        choices = self.prompts[self.prompts != not_episode]
        if not len(choices):
            return None
        e = int(choices[rng.integers(len(choices))])
        first, last = int(self.episodes[e]), int(self.episodes[e + 1])
        if not from_end:
            last = int(rng.integers(first + 1, last + 1))
        t = max(first, int(np.searchsorted(self.starts, self.starts[last] - max_tokens, side="left")))
        return (int(self.starts[t]), int(self.starts[last])) if t < last else None

    def among_alike(self, rng: np.random.Generator, count: int, max_tokens: int) -> list[tuple[int, int]]:
        """Token rows of a random timestep, last, behind those of up to `count` timesteps of other episodes that are most like
        it, the likest next to it; the least alike are left out where they would be more than `max_tokens` together. Where
        likeness is not known (an outline), any timesteps stand in."""
        t = int(rng.integers(self.num_timesteps))
        others = rng.integers(self.num_timesteps, size=count) if self.alike is None else self.alike[t, :count]
        spans = [(int(self.starts[t]), int(self.starts[t + 1]))]
        left = max_tokens - (spans[0][1] - spans[0][0])
        for other in others[others >= 0]:
            begin, end = int(self.starts[other]), int(self.starts[other + 1])
            if end - begin > left:
                break
            spans.append((begin, end))
            left -= end - begin
        return spans[::-1]

    def episode_at(self, token: int) -> int:
        t = int(np.searchsorted(self.starts, token, side="right")) - 1
        return int(np.searchsorted(self.episodes, t, side="right")) - 1


class Store(Protocol):
    """What a mixture draws from: a TokenStore, or one that opens itself when it is first drawn from (`shelf.py`)."""

    task: str
    codec: TimestepCodec

    @property
    def domain(self) -> str: ...
    @property
    def outline(self) -> Layout:
        """What the mixture looks at before it draws."""
        ...

    @property
    def target_share(self) -> float:
        """Of the tokens, how many are targets; numbers of observations (`observation_loss`) are not counted."""
        ...

    @property
    def tokens(self) -> Tokens: ...
    @property
    def example(self) -> Episode | None:
        """The first episode fit to be a prompt, whole: a bundle's evaluation prompt."""
        ...

    @property
    def num_episodes(self) -> int: ...
    @property
    def num_timesteps(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...

    def window(
        self, rng: np.random.Generator, max_tokens: int, max_timesteps: int | None = None, whole: int = 0
    ) -> tuple[int, int]: ...
    def prompt(
        self, rng: np.random.Generator, not_episode: int, max_tokens: int, from_end: bool
    ) -> tuple[int, int] | None: ...
    def among_alike(self, rng: np.random.Generator, count: int, max_tokens: int) -> list[tuple[int, int]]: ...
    def episode_at(self, token: int) -> int: ...


@dataclass
class TokenStore(Layout):
    """Tokens of one task."""

    task: str
    codec: TimestepCodec
    tokens: Tokens
    example: Episode | None = None

    def __post_init__(self) -> None:
        if shares_pictures(self.codec):
            self.pictures = showing(self.tokens.kinds, self.starts)

    @property
    def domain(self) -> str:
        return self.task.split("/", 1)[0]

    @property
    def outline(self) -> Layout:
        return self

    @property
    def target_share(self) -> float:
        return share_of_targets([self.tokens])

    @classmethod
    def build(
        cls,
        task: str,
        codec: TimestepCodec,
        episodes: Iterable[Episode],
        table: PatchTable | None = None,
        alike: int = 0,
    ) -> TokenStore:
        """Encode episodes, many at once, into memory; `alike`: find the so many timesteps most like each. Raises EpisodeError
        where there are none."""
        table = PatchTable() if table is None else table
        first: list[Episode] = []
        if alike:
            episodes = list(episodes)

        def noting(episodes: Iterable[Episode]) -> Iterator[Episode]:
            for episode in episodes:
                if not first and fit(episode):
                    first.append(episode)
                yield episode

        pieces = list(encode(codec, noting(episodes), table))
        if not pieces:
            raise no_episodes(task, codec.acts)

        def join(name: str) -> np.ndarray:
            return np.concatenate([getattr(piece.tokens, name) for piece in pieces])

        tokens = Tokens(
            join("ids"), join("kinds"), join("positions"), join("targets"), np.zeros(0, np.int32),  # steps: see `starts`
            join("patches"), join("boxes"), table,
        )  # fmt: skip
        likest = most_alike(codec, episodes, alike, task) if alike else None  # type: ignore[arg-type]
        return cls(*boundaries(pieces), task, codec, tokens, first[0] if first else None, alike=likest)


@dataclass
class Piece:
    """The tokens of a few episodes: how many timesteps each has, and which may be prompts."""

    tokens: Tokens
    lengths: list[int]
    fit: list[bool]


def encode(codec: TimestepCodec, episodes: Iterable[Episode], table: PatchTable) -> Iterator[Piece]:
    """Episodes in pieces of about CHUNK_STEPS timesteps; different patches go into `table`."""
    waiting: list[Episode] = []
    steps = 0
    for episode in chain(episodes, (None,)):
        if episode is not None:
            waiting.append(episode)
            steps += len(episode)
        if waiting and (episode is None or steps >= CHUNK_STEPS):
            yield Piece(
                codec.encode(_concatenate(waiting), table), [len(e) for e in waiting], [fit(e) for e in waiting]
            )
            waiting, steps = [], 0


def most_alike(codec: TimestepCodec, episodes: Sequence[Episode], count: int, where: str) -> np.ndarray:
    """For each timestep the `count` of other episodes most like it, int64 (T, count), -1 where there are no more."""
    memory = Memory.build(codec.spec, episodes, where)
    return memory.most_alike(memory.keys, count, memory.episodes)


def shares_pictures(codec: TimestepCodec) -> bool:
    """Whether these are questions several of which may be about the picture that the first shows."""
    return not codec.acts and {MARKS, QUESTION} <= set(codec.spec.observation)


def showing(kinds: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The timesteps that show a picture, int64 (P,)."""
    held = np.flatnonzero(np.diff(starts))  # those that have tokens
    return held[np.logical_or.reduceat(kinds == IMAGE, starts[held])]


def no_episodes(task: str, acts: bool) -> EpisodeError:
    """What is said of a dataset that holds nothing: nobody collects a corpus."""
    again = f"gato collect {task} --episodes 10 --out DIR" if acts else "gato data import (or generate) makes it anew"
    return EpisodeError("no episodes", where=task, fix=f"{again}; or remove its folder")


def share_of_targets(pieces: Sequence[Tokens]) -> float:
    """Of the tokens, how many are targets. Numbers of observations are not counted: they may be foretold beside the actions, and
    weigh what `observation_loss` says."""

    def counted(tokens: Tokens) -> np.ndarray:
        return tokens.targets & ~((tokens.positions >= 0) & np.isin(tokens.kinds, (DISCRETE, CONTINUOUS)))

    return float(np.concatenate([counted(tokens) for tokens in pieces]).mean())


def fit(episode: Episode) -> bool:
    """Whether an episode may be a prompt: one that is not known to have failed."""
    return episode.success is not False


def boundaries(pieces: Iterable[Piece]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`starts`, `episodes` and `prompts` of pieces laid end to end."""
    starts, lengths, good, offset = [np.zeros(1, np.int64)], [], [], 0
    for piece in pieces:
        starts.append(piece.tokens.starts(sum(piece.lengths))[1:] + offset)
        offset += len(piece.tokens)
        lengths += piece.lengths
        good += piece.fit
    return np.concatenate(starts), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), np.flatnonzero(good)


def _concatenate(episodes: Sequence[Episode]) -> Episode:
    """One long episode: the codec works over time and never looks across a timestep."""
    if len(episodes) == 1:
        return episodes[0]

    def join(side: str) -> dict:
        leaves = [getattr(e, side) for e in episodes]
        return {
            path: [text for leaf in leaves for text in leaf[path]]
            if isinstance(leaves[0][path], list)
            else np.concatenate([leaf[path] for leaf in leaves])
            for path in leaves[0]
        }

    return Episode(
        episodes[0].task, join("observations"), join("actions"), np.concatenate([e.rewards for e in episodes])
    )
