"""DM Control from pixels: the suite's 28 benchmark tasks behind `dm-control-suite-pixels/…`, seen by its first camera.

    uint8 (64, 64, 3)  →  the state task's actions, rewards and episodes

The pictures are drawn without shadows, reflections and antialiasing, which in software take five to twenty times as
long as everything else together and tell nothing about the state. `pixel_task("walker", "walk", look="suite")` is the
same task with the suite's own pictures, at its own price. The expert is the state task's, on the same simulator.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import gymnasium
import numpy as np

from gato.errors import UsageError
from gato.worlds import MakeExpert, Policy, Task
from gato.worlds.camera import Camera
from gato.worlds.dm_control import MAX_STEPS, DMControl, make_expert, task_name

DOMAIN = "dm-control-suite-pixels"
SIZE = (64, 64)  # height, width

BENCHMARK = {  # what the suite tags as `benchmarking`
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse"),
    "cheetah": ("run",),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run"),
    "manipulator": ("bring_ball",),
    "pendulum": ("swingup",),
    "point_mass": ("easy",),
    "reacher": ("easy", "hard"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}

Look = Literal["plain", "suite"]


def tasks() -> list[Task]:
    return [pixel_task(domain, task) for domain, names in BENCHMARK.items() for task in names]


def pixel_task(domain: str, task: str, look: Look = "plain") -> Task:
    """One task, with plain pictures or with the suite's own (its id then ends in `-suite-look`; `register` it)."""
    if look not in ("plain", "suite"):
        raise UsageError(f"no look {look!r}", where=f"{DOMAIN}/{task_name(domain, task)}", fix="plain or suite")
    name = task_name(domain, task)
    expert, expert_name = make_expert(name)
    return Task(
        id=f"{DOMAIN}/{name}" + ("-suite-look" if look == "suite" else ""),
        make_env=functools.partial(make_env, domain, task, look),
        make_expert=sees_state(expert) if expert else None,
        requires=("dm_control", "mujoco"),
        extra="mujoco",
        max_steps=MAX_STEPS,
        expert_name=expert_name,
        same_world=f"dm-control-suite/{name}",
        notes="64×64, first camera" + ("" if look == "suite" else "; no shadows, reflections or antialiasing"),
        meta={"simulator_id": f"{domain}/{task}", "look": look},
    )


def make_env(domain: str, task: str, look: Look, *, render: bool = False) -> gymnasium.Env:
    return Pixels(DMControl(domain, task, render=render), look)


class Pixels(gymnasium.Wrapper):
    """What a DMControl environment looks like, in place of its state."""

    def __init__(self, env: DMControl, look: Look):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 255, (*SIZE, 3), np.uint8)
        self._world, self._look = env, look
        self._camera: Camera | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        _, info = self.env.reset(seed=seed, options=options)
        if self._camera is None:
            model = self._world.physics.model
            self._camera = Camera(model.ptr, *SIZE, where=f"{DOMAIN} {model.name}", plain=self._look == "plain")
        self._camera.upload_terrain()
        return self._picture(), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._picture(), float(reward), terminated, truncated, info

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        self.env.close()

    def _picture(self) -> np.ndarray:
        assert self._camera is not None
        return self._camera.picture(self._world.physics.data.ptr)


def sees_state(make_policy: MakeExpert) -> MakeExpert:
    """An expert that is shown the state, whatever the task shows."""
    return functools.partial(_sees_state, make_policy)


def _sees_state(make_policy: MakeExpert, env: DMControl, seed: int) -> Policy:
    policy = make_policy(env, seed)

    def act(observation: Any, info: Mapping[str, Any]) -> Any:
        return policy(env.observe(), info)

    return act
