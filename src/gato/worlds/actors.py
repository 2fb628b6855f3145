"""Small trained actors: experts for bodies that run, where planning is weak or slow.

An actor is a network of two hidden layers of 128 that PPO trained on the task's own physics (`benchmarks/train_actors.py`); its
weights, some forty kilobytes, are in `actors/` beside this file. It reads positions and velocities from the environment, not
what the task shows, so that it serves every sense of its world, and acts by the mean of its policy: a smooth function of the state,
which is easier to imitate than a plan.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from gato.worlds import MakeExpert
from gato.worlds.predictive import on_grid


def expert(task: str) -> MakeExpert | None:
    """Of `dm-control-suite/walker-run`; None where no actor was trained."""
    file = resources.files("gato.worlds") / "actors" / f"{task.replace('/', '--')}.safetensors"
    return functools.partial(_make, task) if file.is_file() else None


def _make(task: str, env: Any, seed: int) -> Actor:
    return Actor(weights(task), env)


@functools.cache
def weights(task: str) -> Mapping[str, np.ndarray]:
    """Three layers ("0.weight", float16 (128, features), …) and what the features are normalised by ("mean", "scale")."""
    from safetensors.numpy import load

    return load((resources.files("gato.worlds") / "actors" / f"{task.replace('/', '--')}.safetensors").read_bytes())


def body_state(model: Any, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """(N, nq) and (N, nv) of an MjModel → float32 (N, features): the same wherever on the ground the body is.

    A hinge with limits is its angle, one without sine and cosine; a slide is its place unless it is horizontal and without limits,
    and so goes anywhere; a free body is its height, its rotation matrix and its velocities in its own frame.
    """
    import mujoco
    from scipy.spatial.transform import Rotation

    kinds, parts, moving = mujoco.mjtJoint, [], velocity.copy()
    for joint in range(model.njnt):
        kind, at, dof = model.jnt_type[joint], model.jnt_qposadr[joint], model.jnt_dofadr[joint]
        value = position[:, at : at + 1]
        if kind == kinds.mjJNT_HINGE:
            parts += [value] if model.jnt_limited[joint] else [np.sin(value), np.cos(value)]
        elif kind == kinds.mjJNT_SLIDE:
            goes_anywhere = not model.jnt_limited[joint] and model.jnt_axis[joint, 2] == 0
            parts += [] if goes_anywhere else [value]
        elif kind == kinds.mjJNT_FREE:
            turn = Rotation.from_quat(position[:, at + 3 : at + 7], scalar_first=True).as_matrix()
            parts += [position[:, at + 2 : at + 3], turn.reshape(-1, 9)]
            moving[:, dof : dof + 3] = np.einsum("nij,ni->nj", turn, velocity[:, dof : dof + 3])
        else:
            parts += [position[:, at : at + 4]]
    return np.concatenate([*parts, moving], axis=1).astype(np.float32)


def turned(position: np.ndarray, velocity: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """(nq,) and (nv,) of a free body, turned about the vertical by so many radians: where it looks and where it is moving to."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("z", angle)
    position, velocity = position.copy(), velocity.copy()
    position[3:7] = (turn * Rotation.from_quat(position[3:7], scalar_first=True)).as_quat(scalar_first=True)
    velocity[:3] = turn.apply(velocity[:3])  # that of turning is in the body's own frame
    return position, velocity


class Actor:
    """policy(observation, info) → action, the same for the same state. `env` has what planners ask of it (`predictive.py`)."""

    def __init__(self, trained: Mapping[str, np.ndarray], env: Any):
        self._layers = [
            (trained[f"{i}.weight"].astype(np.float32), trained[f"{i}.bias"].astype(np.float32)) for i in range(3)
        ]
        self._mean, self._scale = trained["mean"], trained["scale"]
        self._physics, self._low, self._high = env.physics, env.action_space.low, env.action_space.high

    def __call__(self, observation: Any, info: Mapping[str, Any] | None = None) -> np.ndarray:
        data = self._physics.data.ptr
        return self.act(data.qpos, data.qvel)

    def act(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """What it does in this state, (nq,) and (nv,), which need not be the simulator's."""
        senses = body_state(self._physics.model.ptr, position[None], velocity[None])[0]
        x = np.clip((senses - self._mean) * self._scale, -10.0, 10.0)
        for weight, bias in self._layers[:-1]:
            x = weight @ x + bias
            x = np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))
        weight, bias = self._layers[-1]
        action = self._low + (np.clip(weight @ x + bias, -1.0, 1.0) + 1) / 2 * (self._high - self._low)
        return on_grid(action, self._low, self._high)
