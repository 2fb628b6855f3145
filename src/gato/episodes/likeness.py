"""How alike observations are: the demonstrated timesteps that are most like what is seen now.

    memory = Memory.of(dataset)
    at = memory.nearest(leaves)                          # the likest timestep
    others = memory.most_alike(memory.keys[:8], 4, memory.episodes[:8])     # (8, 4), of other episodes

Likeness is a squared distance, summed over the leaves of the observation, each divided by its size: continuous values in
standard deviations of the demonstrations, discrete values 0 where equal and 1 where not, images as 16×16 grey pixels in the
same way, texts 0 or 1. Of equals, as float32 tells them, the earliest wins, so the same data and observations give the same
answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gato.episodes.episode import Episode
from gato.episodes.spec import Spec, Specs, TaskSpec
from gato.episodes.store import Dataset
from gato.errors import DatasetMissingError

PIXELS = 16  # a side, of a picture as it is compared
MAX_VALUES = 2**28  # of all keys of a task: 2 GiB
AT_ONCE = 2**24  # distances that are held in memory


@dataclass(frozen=True)
class Memory:
    """What a task's demonstrations hold: keys (N, D), whose dot products tell distances, and N actions."""

    observation: Specs
    keys: np.ndarray  # float32 in value, kept as float64 for the products
    norms: np.ndarray  # float64 (N,) squared
    episodes: np.ndarray  # int64 (N,) which episode each timestep is of, counted from 0
    centre: Mapping[str, np.ndarray]  # per leaf, of the continuous ones and the images
    scale: Mapping[str, np.ndarray]
    texts: Mapping[str, dict[str, int]]
    values: Mapping[str, list[np.ndarray]]  # per discrete leaf and position, those that occur, ascending
    actions: dict[str, Any]  # flat leaves, (N, …)

    @classmethod
    def of(cls, dataset: Dataset) -> Memory:
        """Every timestep of a dataset. Raises DatasetMissingError where it is empty or too large to be searched."""
        return cls.build(dataset.spec, list(dataset), str(dataset.folder))

    @classmethod
    def build(cls, spec: TaskSpec, episodes: Sequence[Episode], where: str) -> Memory:
        """Every timestep of these episodes. Raises DatasetMissingError as above, naming `where`."""
        lengths = [len(e) for e in episodes]
        if not sum(lengths):
            raise DatasetMissingError("no timestep to retrieve", where=where, fix="gato collect makes demonstrations")
        specs = spec.observation
        columns = _columns(specs, episodes)
        varying = {p: c for p, c in columns.items() if specs[p].kind in ("continuous", "image")}
        centre = {p: c.mean(axis=0, dtype=np.float64) for p, c in varying.items()}
        spread = {p: c.std(axis=0, dtype=np.float64) for p, c in varying.items()}
        scale = {p: np.where(s > 1e-6, s, 1.0) for p, s in spread.items()}
        texts = {
            p: {text: i for i, text in enumerate(sorted(set(columns[p])))} for p, s in specs.items() if s.kind == "text"
        }
        values = {
            p: [np.unique(columns[p][:, i]) for i in range(s.size)] for p, s in specs.items() if s.kind == "discrete"
        }
        width = sum(_width(s, texts.get(p, {}), values.get(p, [])) for p, s in specs.items())
        if sum(lengths) * width > MAX_VALUES:
            raise DatasetMissingError(
                f"{sum(lengths):,} timesteps of {width} values are more than can be searched at every step",
                where=where, fix="take fewer episodes",
            )  # fmt: skip
        actions = {
            p: np.concatenate([np.asarray(e.actions[p]) for e in episodes]) if s.kind != "text"
            else [text for e in episodes for text in e.actions[p]]
            for p, s in spec.action.items()
        }  # fmt: skip
        numbers = np.repeat(np.arange(len(lengths)), lengths)
        empty = np.zeros((0, width))
        memory = cls(specs, empty, np.zeros(0), numbers, centre, scale, texts, values, actions)
        keys = memory.encode(columns).astype(np.float64)
        return replace(memory, keys=keys, norms=np.square(keys).sum(axis=1))

    def encode(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Flat leaves with time first → keys float32 (n, D)."""
        parts = []
        for path, spec in self.observation.items():
            values = columns[path]
            if spec.kind == "text":
                known = self.texts[path]
                part = np.zeros((len(values), len(known) + 1), np.float32)
                part[np.arange(len(values)), [known.get(v, len(known)) for v in values]] = np.sqrt(0.5)
            elif spec.kind == "discrete":
                # what never occurs is as far from everything, so it needs no column
                equal = [column[:, None] == known for column, known in zip(values.T, self.values[path], strict=True)]
                part = np.concatenate(equal, axis=1) * np.sqrt(0.5 / spec.size)
            else:
                part = (values - self.centre[path]) / self.scale[path] / np.sqrt(values.shape[1])
            parts.append(part.astype(np.float32))
        return np.concatenate(parts, axis=1)

    def keys_of(self, episodes: Sequence[Episode]) -> np.ndarray:
        """Of every timestep of these episodes, float32 (T, D)."""
        return self.encode(_columns(self.observation, episodes))

    def key(self, observation: Mapping[str, Any]) -> np.ndarray:
        """One observation (flat leaves, checked) → its key float32 (D,)."""
        return self.encode({p: _plain(s, _alone(s, observation[p])) for p, s in self.observation.items()})[0]

    def nearest(self, observation: Mapping[str, Any]) -> int:
        """The timestep whose observation is most like this one (flat leaves, checked)."""
        return int(np.argmin(self._distances(self.key(observation)[None])))

    def most_alike(self, keys: np.ndarray, count: int, not_of: np.ndarray | None = None) -> np.ndarray:
        """The `count` timesteps most like each key (n, D), the likest first: int64 (n, count), -1 where there are no more.

        `not_of` (n,): an episode for each key, whose own timesteps are left out.
        """
        found = np.full((len(keys), count), -1, np.int64)
        some = max(1, AT_ONCE // len(self.keys))
        for at in range(0, len(keys), some):
            part = slice(at, at + some)
            distances = self._distances(keys[part])
            if not_of is not None:
                distances[not_of[part, None] == self.episodes] = np.inf
            most = min(count, distances.shape[1])
            for row, own in zip(found[part], distances, strict=True):
                near = np.flatnonzero(own <= np.partition(own, most - 1)[most - 1])
                near = near[np.isfinite(own[near])]
                near = near[np.argsort(own[near], kind="stable")[:most]]  # of equals the earliest comes first
                row[: len(near)] = near
        return found

    def _distances(self, keys: np.ndarray) -> np.ndarray:
        """Of each key from every timestep, float32 (n, N), but for the key's own norm. A product rounds by the place in it: only one
        of more digits than are compared lets equals come out equal."""
        return (self.norms - 2 * (keys.astype(np.float64) @ self.keys.T)).astype(np.float32)


def _columns(specs: Specs, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """All timesteps of these episodes, one after another, as `_plain` leaves."""
    return {path: np.concatenate([_plain(s, e.observations[path]) for e in episodes]) for path, s in specs.items()}


def _alone(spec: Spec, value: Any) -> Any:
    return [value] if spec.kind == "text" else np.asarray(value)[None]


def _plain(spec: Spec, values: Any) -> np.ndarray:
    """A leaf over time → (T, size), numbers; pictures made small and grey; texts (T,) as they are."""
    if spec.kind == "text":
        return np.asarray(values, dtype=object)
    values = np.asarray(values)
    if spec.kind != "image":
        return values.reshape(len(values), spec.size)
    rows, columns = (np.linspace(0, side, PIXELS + 1).astype(int)[:-1] for side in spec.shape[-3:-1])
    grey = values.mean(axis=-1, dtype=np.float32)
    summed = np.add.reduceat(np.add.reduceat(grey, rows, axis=-2), columns, axis=-1)
    return summed.reshape(len(values), _width(spec, {}, ()))


def _width(spec: Spec, texts: Mapping[str, int], values: Sequence[np.ndarray]) -> int:
    if spec.kind == "text":
        return len(texts) + 1
    if spec.kind == "discrete":
        return sum(map(len, values))
    return PIXELS**2 * math.prod(spec.shape[:-3]) if spec.kind == "image" else spec.size
