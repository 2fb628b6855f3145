"""Retrieve and replay: a folder of demonstrations that acts, by the action of the most similar observation it holds.

    retrieval = Retrieval.open([folder])                       # one dataset per task
    rollout(units, slots, retrieval.policy("meta-world/reach", len(slots)))

The baseline that an agent must beat before anyone speaks of learning: no training, no memory, no interpolation. What is alike
is said in `gato.episodes.likeness`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gato.episodes import Dataset, TaskSpec, check_values, find_datasets, flatten
from gato.episodes.likeness import Memory
from gato.errors import DatasetMissingError, nearest


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
    def identity(self) -> list[str]:
        """Of its demonstrations."""
        return [dataset.identity for _, dataset in sorted(self._datasets.items())]

    @property
    def facts(self) -> dict[str, Any]:
        """For the protocol of an evaluation."""
        held = {task: f"{len(d)} episodes, {d.num_timesteps} timesteps" for task, d in self._datasets.items()}
        return {"acting": "retrieve and replay: the action of the most similar demonstrated observation", "data": held}

    def spec(self, task: str) -> TaskSpec:
        """What was demonstrated of one of its tasks."""
        return self._datasets[task].spec

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
