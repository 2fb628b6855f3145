"""Worlds and any policy become episodes: one environment loop, on a supervised pool of worker processes."""

from gato.rollouts.loop import CLEAN, ExpertPolicy, LocalSlot, Noise, RandomPolicy, Unit, episode_seed, rollout
from gato.rollouts.pool import WorkerPool

__all__ = [
    "CLEAN",
    "ExpertPolicy",
    "LocalSlot",
    "Noise",
    "RandomPolicy",
    "Unit",
    "WorkerPool",
    "episode_seed",
    "rollout",
]
