"""Demonstrations that stay in sight: at each step the agent reads the demonstrated timesteps that are most like this one.

    agent = gato.load(path).shown([Dataset.open(folder)])
    agent.session("meta-world/button-press")            # a task that it may never have been trained on

For networks that were trained on such sequences (recipe field `similar_timesteps`). The paper's agent is shown the first half
window of one demonstration when an episode begins; that states retrieved at each step pay better, and carry over to tasks never
trained on, was found by REGENT (Sridhar et al., ICLR 2025). Nothing here depends on a task's shapes: what is retrieved is tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gato.episodes import Dataset
from gato.episodes.likeness import Memory
from gato.sequences import TokenStore
from gato.sequences.returns import tell
from gato.tokens import TimestepCodec
from gato.tokens.patches import PATCH, PatchTable


@dataclass(frozen=True)
class Shown:
    """A task's demonstrations: where they are alike, and their tokens."""

    memory: Memory
    store: TokenStore
    count: int  # timesteps that are read

    @classmethod
    def of(cls, dataset: Dataset, codec: TimestepCodec, count: int) -> Shown:
        """What the codec reads of returns is told, and counts in likeness, as in training. Raises DatasetMissingError for an
        empty dataset, or one too large to be searched at every step."""
        episodes = [tell(episode, codec.spec, dataset.returns) for episode in dataset]
        memory = Memory.build(codec.spec, episodes, str(dataset.folder))
        return cls(memory, TokenStore.build(dataset.task, codec, episodes), count)

    @property
    def longest(self) -> int:
        """Tokens of the demonstrations' longest timestep."""
        return int(np.diff(self.store.starts).max())

    def rows(self, observation: Mapping[str, Any], room: int, table: PatchTable, time: int) -> dict[str, np.ndarray]:
        """Token rows of the timesteps most like this observation (flat leaves), the likest last, within `room` tokens; their
        different patches go into `table`."""
        starts, tokens = self.store.starts, self.store.tokens
        near = self.memory.most_alike(self.memory.key(observation)[None], self.count)[0]
        sizes = np.cumsum(np.diff(starts)[near[near >= 0]])
        near = near[: int(np.searchsorted(sizes, room, side="right"))][::-1]
        at = np.concatenate([np.arange(starts[t], starts[t + 1]) for t in near]) if len(near) else np.zeros(0, np.int64)
        patches = tokens.patches[at].copy()
        pictures = patches >= 0
        if pictures.any():
            patches[pictures] = table.add(tokens.table.rows[patches[pictures]].reshape(-1, PATCH, PATCH, 3))
        return {
            "ids": tokens.ids[at], "kinds": tokens.kinds[at], "positions": tokens.positions[at], "patches": patches,
            "boxes": tokens.boxes[at], "times": np.full(len(at), time), "blank": np.zeros(len(at), bool),
        }  # fmt: skip
