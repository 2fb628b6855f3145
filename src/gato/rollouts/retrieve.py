"""Retrieve and replay: a folder of demonstrations that acts, by the action of the most similar observation it holds.

    retrieval = Retrieval.open([folder])                       # one dataset per task
    rollout(units, slots, retrieval.policy("meta-world/reach", len(slots)))

The baseline that an agent must beat before anyone speaks of learning: no training, no memory, no interpolation. Likeness
is a squared distance, summed over the leaves of the observation, each divided by its size: continuous values in standard
deviations of the demonstrations, discrete values 0 where equal and 1 where not, images as 16×16 grey pixels in the same
way, texts 0 or 1. Of equals the earliest wins, so the same data and observations give the same actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gato.episodes import Dataset, Spec, Specs, check_values, find_datasets, flatten
from gato.errors import DatasetMissingError, nearest

PIXELS = 16  # a side, of a picture as it is compared
MAX_VALUES = 2**28  # float32 values of all keys of a task: 1 GiB


@dataclass(frozen=True)
class Memory:
    """What a task's demonstrations hold: keys float32 (N, D), whose dot products tell distances, and N actions."""

    observation: Specs
    keys: np.ndarray
    norms: np.ndarray  # (N,) squared
    centre: Mapping[str, np.ndarray]  # per leaf, of the continuous ones and the images
    scale: Mapping[str, np.ndarray]
    texts: Mapping[str, dict[str, int]]
    actions: dict[str, Any]  # flat leaves, (N, …)

    @classmethod
    def of(cls, dataset: Dataset) -> Memory:
        """Every timestep of a dataset. Raises DatasetMissingError where it is empty or too large to be searched."""
        where, specs = str(dataset.folder), dataset.spec.observation
        if not dataset.num_timesteps:
            raise DatasetMissingError("no timestep to retrieve", where=where, fix="gato collect makes demonstrations")
        episodes = list(dataset)
        columns = {
            path: np.concatenate([_plain(s, e.observations[path]) for e in episodes]) for path, s in specs.items()
        }
        varying = {p: c for p, c in columns.items() if specs[p].kind in ("continuous", "image")}
        centre = {p: c.mean(axis=0) for p, c in varying.items()}
        scale = {p: np.where(c.std(axis=0) > 1e-6, c.std(axis=0), 1.0) for p, c in varying.items()}
        texts = {
            p: {text: i for i, text in enumerate(sorted(set(columns[p])))} for p, s in specs.items() if s.kind == "text"
        }
        width = sum(_width(s, texts.get(p, {})) for p, s in specs.items())
        if dataset.num_timesteps * width > MAX_VALUES:
            raise DatasetMissingError(
                f"{dataset.num_timesteps:,} timesteps of {width} values are more than can be searched at every step",
                where=where, fix="collect fewer episodes for this baseline",
            )  # fmt: skip
        actions = {
            p: np.concatenate([np.asarray(e.actions[p]) for e in episodes]) if s.kind != "text"
            else [text for e in episodes for text in e.actions[p]]
            for p, s in dataset.spec.action.items()
        }  # fmt: skip
        empty = np.zeros((0, width), np.float32)
        memory = cls(specs, empty, np.zeros(0, np.float32), centre, scale, texts, actions)
        keys = memory.encode(columns)
        return cls(specs, keys, np.square(keys).sum(axis=1), centre, scale, texts, actions)

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
                low = spec.bounds()[0].astype(np.int64)
                part = np.concatenate(
                    [np.eye(n, dtype=np.float32)[values[:, i] - low[i]] for i, n in enumerate(spec.num_values())], axis=1
                ) * np.sqrt(0.5 / spec.size)  # fmt: skip
            else:
                part = (values - self.centre[path]) / self.scale[path] / np.sqrt(values.shape[1])
            parts.append(part.astype(np.float32))
        return np.concatenate(parts, axis=1)

    def nearest(self, observation: Mapping[str, Any]) -> int:
        """The timestep whose observation is most like this one (flat leaves, checked)."""
        columns = {p: _plain(s, _alone(s, observation[p])) for p, s in self.observation.items()}
        return int(np.argmin(self.norms - 2 * (self.keys @ self.encode(columns)[0])))


class Retrieval:
    """Demonstrations of some tasks, in place of an agent."""

    def __init__(self, datasets: Iterable[Dataset]):
        self._datasets = {dataset.task: dataset for dataset in datasets}
        self._memories: dict[str, Memory] = {}

    @classmethod
    def open(cls, paths: Iterable[Path | str]) -> Retrieval:
        """Every dataset in these folders."""
        return cls(Dataset.open(folder) for folder in find_datasets(list(paths)))

    @property
    def tasks(self) -> list[str]:
        return list(self._datasets)

    @property
    def facts(self) -> dict[str, Any]:
        """For the protocol of an evaluation."""
        held = {task: f"{len(d)} episodes, {d.num_timesteps} timesteps" for task, d in self._datasets.items()}
        return {"acting": "retrieve and replay: the action of the most similar demonstrated observation", "data": held}

    def policy(self, task: str, slots: int) -> RetrievePolicy:
        """A batch policy for `gato.rollouts.rollout`. Raises DatasetMissingError without demonstrations of the task."""
        if task not in self._datasets:
            raise DatasetMissingError(
                f"no demonstrations of {task}", where=", ".join(str(d.folder) for d in self._datasets.values()),
                fix=nearest(task, self._datasets) or f"gato collect {task} --out DIR",
            )  # fmt: skip
        if task not in self._memories:
            self._memories[task] = Memory.of(self._datasets[task])
        return RetrievePolicy(self._memories[task])


class RetrievePolicy:
    """Acts for any number of slots; remembers nothing of an episode."""

    name = "retrieve"
    legal_mass = 1.0  # it only ever repeats legal actions

    def __init__(self, memory: Memory):
        self._memory = memory

    def begin(self, index: int, unit: Any, slot: Any) -> None:
        pass

    def act(self, observations: Mapping[int, Any], infos: Mapping[int, Any]) -> dict[int, Any]:
        return {i: self._one(observation) for i, observation in observations.items()}

    def _one(self, observation: Any) -> Any:
        checked = check_values(self._memory.observation, flatten(observation, "observation"), "retrieve")
        at = self._memory.nearest(checked)
        return {path: values[at] for path, values in self._memory.actions.items()}


def _alone(spec: Spec, value: Any) -> Any:
    return [value] if spec.kind == "text" else np.asarray(value)[None]


def _plain(spec: Spec, values: Any) -> np.ndarray:
    """A leaf over time → (T, size), numbers; pictures made small and grey; texts (T,) as they are."""
    if spec.kind == "text":
        return np.asarray(values, dtype=object)
    values = np.asarray(values)
    if spec.kind != "image":
        return values.reshape(len(values), -1)
    rows, columns = (np.linspace(0, side, PIXELS + 1).astype(int)[:-1] for side in spec.shape[:2])
    grey = values.mean(axis=-1, dtype=np.float32)
    summed = np.add.reduceat(np.add.reduceat(grey, rows, axis=1), columns, axis=2)
    return summed.reshape(len(values), -1)


def _width(spec: Spec, texts: Mapping[str, int]) -> int:
    if spec.kind == "text":
        return len(texts) + 1
    if spec.kind == "discrete":
        return int(spec.num_values().sum())
    return PIXELS**2 if spec.kind == "image" else spec.size
