"""A dataset's tokens, ready for windows: one flat table over all episodes, with timestep and episode boundaries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gato.episodes import Episode
from gato.errors import EpisodeError
from gato.tokens import TimestepCodec, Tokens
from gato.tokens.patches import PatchTable

CHUNK_STEPS = 4096  # episodes are encoded together in chunks of about so many timesteps


@dataclass
class TokenStore:
    """Tokens of one task. Timestep t owns rows starts[t] … starts[t+1]; episode e owns timesteps episodes[e] … episodes[e+1]."""

    task: str
    codec: TimestepCodec
    tokens: Tokens
    starts: np.ndarray  # int64 (T + 1,)
    episodes: np.ndarray  # int64 (E + 1,)
    prompts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # episodes fit to be prompts
    example: Episode | None = None  # the first of them, whole: a bundle's evaluation prompt

    @property
    def domain(self) -> str:
        return self.task.split("/", 1)[0]

    @property
    def num_timesteps(self) -> int:
        return len(self.starts) - 1

    @property
    def num_episodes(self) -> int:
        return len(self.episodes) - 1

    @classmethod
    def build(
        cls, task: str, codec: TimestepCodec, episodes: Iterable[Episode], table: PatchTable | None = None
    ) -> TokenStore:
        """Encode episodes, many at once. Raises EpisodeError where there are none."""
        table = PatchTable() if table is None else table
        parts: list[Tokens] = []
        lengths: list[int] = []
        good: list[int] = []
        waiting: list[Episode] = []

        def flush() -> None:
            if waiting:
                parts.append(codec.encode(_concatenate(waiting), table))
                waiting.clear()

        steps = 0
        example = None
        for episode in episodes:
            if episode.success is not False:
                example = example or episode
                good.append(len(lengths))
            lengths.append(len(episode))
            waiting.append(episode)
            steps += len(episode)
            if steps >= CHUNK_STEPS:
                flush()
                steps = 0
        flush()
        if not parts:
            raise EpisodeError("no episodes", where=task, fix=f"gato collect {task} --episodes 10 --out DIR")
        starts = [np.zeros(1, np.int64)]
        offset = 0
        for part in parts:
            starts.append(part.starts()[1:] + offset)
            offset += len(part)

        def join(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        tokens = Tokens(
            join("ids"), join("kinds"), join("positions"), join("targets"), np.zeros(0, np.int32),  # steps: see `starts`
            join("patches"), join("boxes"), table,
        )  # fmt: skip
        return cls(
            task,
            codec,
            tokens,
            np.concatenate(starts),
            np.concatenate([[0], np.cumsum(lengths)]),
            np.asarray(good, np.int64),
            example,
        )

    def window(self, rng: np.random.Generator, max_tokens: int, max_timesteps: int | None = None) -> tuple[int, int]:
        """Token rows [begin, end) of a random window, uniform over where it begins.

        It starts at a timestep and holds whole timesteps; where it would run past the episode it moves back, so the last
        step is seen as often as the others. A timestep longer than the window (a document) is cut at any token.
        """
        t = int(rng.integers(self.num_timesteps))
        begin, end = int(self.starts[t]), int(self.starts[t + 1])
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

    def episode_at(self, token: int) -> int:
        t = int(np.searchsorted(self.starts, token, side="right")) - 1
        return int(np.searchsorted(self.episodes, t, side="right")) - 1


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
