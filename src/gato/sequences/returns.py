"""What a network may be told of returns, as observations more in every timestep. The paper filters by return and tells nothing.

return_rank   how good the demonstration was (`return_ranks` of a recipe): the rank of its return among those of its dataset, one
              of R of equal number. Acting, the agent reads the highest, or `return_rank` where it is told one. The idea is that
              of upside-down reinforcement learning (Schmidhuber 2019) and of decision transformers (Chen et al. 2021), with the
              episode's return in place of what is left of it, so that a timestep needs no history.
last_reward   what the step before brought (`reward_shown`): with `observation_loss` a network learns to foretell it beside what
              it will see, and can plan in its imagination (`gato.policy.imagining`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gato.episodes import Episode, Spec, TaskSpec
from gato.episodes.episode import LAST_REWARD

RETURN_RANK = "return_rank"  # path of the leaf


def told_spec(spec: TaskSpec, ranks: int, rewards: bool) -> TaskSpec:
    """The spec of a control task with these leaves among its observations; of a document, or with 0 and False, as it is."""
    more = {}
    if ranks and spec.action:
        more[RETURN_RANK] = Spec("discrete", (), "int64", (0.0,), (float(ranks - 1),))
    if rewards and spec.action:
        more[LAST_REWARD] = Spec("continuous", (), "float32", (-np.inf,), (np.inf,))
    return TaskSpec(dict(sorted({**spec.observation, **more}.items())), spec.action) if more else spec


def world_spec(spec: TaskSpec) -> TaskSpec:
    """The spec without these leaves: what the world gives, and who acts through a server sends."""
    return TaskSpec({p: s for p, s in spec.observation.items() if p not in (RETURN_RANK, LAST_REWARD)}, spec.action)


def num_ranks(spec: TaskSpec) -> int:
    """0 where the spec has none."""
    return int(spec.observation[RETURN_RANK].num_values()[0]) if RETURN_RANK in spec.observation else 0


def rank_edges(returns: np.ndarray, ranks: int) -> np.ndarray:
    """Where one rank ends and the next begins, float64 (ranks - 1,): quantiles of the returns (N,)."""
    return np.quantile(np.asarray(returns, np.float64), np.arange(1, ranks) / ranks)


def tell(episode: Episode, spec: TaskSpec, returns: np.ndarray) -> Episode:
    """The episode with what its spec names. `returns` are those of its dataset; of equal ones all have the highest rank that
    any of them has."""
    more = {}
    if ranks := num_ranks(spec):
        rank = np.searchsorted(rank_edges(returns, ranks), episode.total_return, side="right")
        more[RETURN_RANK] = np.full(len(episode), rank, np.int64)
    if LAST_REWARD in spec.observation:
        more[LAST_REWARD] = np.concatenate([[0.0], episode.rewards[:-1]]).astype(np.float32)
    return replace(episode, observations=dict(sorted({**episode.observations, **more}.items()))) if more else episode
