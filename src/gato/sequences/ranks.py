"""Return conditioning: each timestep of a demonstration says how good its episode was, and the agent asks for the best.

The paper filters demonstrations by return and conditions on nothing. Here (a switch, `return_ranks` of a recipe) an episode's
return becomes its rank among the returns of its dataset, one of R of equal number, and stands in every timestep as a discrete
observation more. Acting, the agent reads the highest rank, or `return_rank` where it is told one. The idea is that of
upside-down reinforcement learning (Schmidhuber 2019) and of decision transformers (Chen et al. 2021), with the episode's
return in place of what is left of it, so that a timestep needs no history.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gato.episodes import Episode, Spec, TaskSpec

RETURN_RANK = "return_rank"  # path of the leaf


def ranked_spec(spec: TaskSpec, ranks: int) -> TaskSpec:
    """The spec with the rank among its observations; 0 ranks leave it as it is."""
    if not ranks:
        return spec
    leaf = Spec("discrete", (), "int64", (0.0,), (float(ranks - 1),))
    return TaskSpec(dict(sorted({**spec.observation, RETURN_RANK: leaf}.items())), spec.action)


def num_ranks(spec: TaskSpec) -> int:
    """0 where the spec has none."""
    return int(spec.observation[RETURN_RANK].num_values()[0]) if RETURN_RANK in spec.observation else 0


def rank_edges(returns: np.ndarray, ranks: int) -> np.ndarray:
    """Where one rank ends and the next begins, float64 (ranks - 1,): quantiles of the returns (N,)."""
    return np.quantile(np.asarray(returns, np.float64), np.arange(1, ranks) / ranks)


def ranked(episode: Episode, edges: np.ndarray) -> Episode:
    """The episode with its rank in every timestep. Of equal returns all have the highest rank that any of them has."""
    rank = int(np.searchsorted(edges, episode.total_return, side="right"))
    column = np.full(len(episode), rank, np.int64)
    return replace(episode, observations=dict(sorted({**episode.observations, RETURN_RANK: column}.items())))
