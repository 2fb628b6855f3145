"""Worlds and any policy become episodes: one environment loop, on a supervised pool of worker processes."""

from gato.rollouts.loop import CLEAN, ExpertPolicy, LocalSlot, Noise, RandomPolicy, Unit, episode_seed, rollout

__all__ = ["CLEAN", "ExpertPolicy", "LocalSlot", "Noise", "RandomPolicy", "Unit", "episode_seed", "rollout"]
