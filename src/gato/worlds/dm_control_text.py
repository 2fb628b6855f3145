"""DM Control in words: some tasks of the suite behind `dm-control-suite-text/…`, so that a skill can be asked of several senses.

    "position -0.29 0.96 0.29; velocity -1.31."  →  the state task's actions, rewards and episodes

The sentence names every vector of the state and tells its numbers to two decimals. The same tasks are there from state
(`dm-control-suite/…`) and from pixels (`dm-control-suite-pixels/…`).
"""

from __future__ import annotations

import functools
import string
from collections.abc import Mapping

import gymnasium
import numpy as np

from gato.worlds import Task
from gato.worlds.dm_control import MAX_STEPS, DMControl, make_expert, task_name
from gato.worlds.dm_control_pixels import sees_state

DOMAIN = "dm-control-suite-text"
TASKS = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "reacher": ("easy", "hard"),
    "swimmer": ("swimmer6",),
    "walker": ("stand", "walk", "run"),
}
MAX_CHARACTERS = 384


def tasks() -> list[Task]:
    return [_task(domain, task) for domain, names in TASKS.items() for task in names]


def _task(domain: str, task: str) -> Task:
    name = task_name(domain, task)
    expert, expert_name = make_expert(name)
    return Task(
        id=f"{DOMAIN}/{name}",
        make_env=functools.partial(_make_env, domain, task),
        make_expert=sees_state(expert) if expert else None,
        requires=("dm_control", "mujoco"),
        extra="mujoco",
        max_steps=MAX_STEPS,
        expert_name=expert_name,
        same_world=f"dm-control-suite/{name}",
        notes="the state in a sentence; not in the paper",
        meta={"simulator_id": f"{domain}/{task}"},
    )


def _make_env(domain: str, task: str, *, render: bool = False) -> gymnasium.Env:
    return Words(DMControl(domain, task, render=render))


class Words(gymnasium.ObservationWrapper):
    """The state of an environment as a sentence."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Text(MAX_CHARACTERS, charset=string.printable)

    def observation(self, observation: Mapping[str, np.ndarray]) -> str:
        return sentence(observation)


def sentence(observation: Mapping[str, np.ndarray]) -> str:
    """`position -0.29 0.96; velocity -1.31.`, keys in their order, underscores as blanks."""
    values = [value for vector in observation.values() for value in vector.tolist()]
    form = _form(tuple((key, len(vector)) for key, vector in observation.items()))
    return (form % tuple(values)).replace("-0.00", "0.00")


@functools.cache
def _form(vectors: tuple[tuple[str, int], ...]) -> str:
    return "; ".join(" ".join([key.replace("_", " "), *["%.2f"] * length]) for key, length in vectors) + "."
