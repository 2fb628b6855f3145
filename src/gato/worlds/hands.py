"""Experts of the Shadow hand (`gymnasium-robotics/hand-*`): what lies in the palm is turned by predictive control.

Plans are tried out on a copy of the environment's own model whose actuators take actions as the environment does, -1 to 1 over
each joint's range (`predictive.py`). The objective is the angle that is left, and the distance where a place is asked for too; it
keeps the thing in the palm, and still once it is turned. The environment tells apart a quaternion and its negative, which are the
same rotation: where a goal is more than half a turn away by its count, so it is by ours, and the long way round is planned.

`reach` needs no sampling: where the fingertips come to rest is nearly linear in the action, so it follows the slopes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gato.worlds import Policy
from gato.worlds.gym_mujoco import as_planned
from gato.worlds.predictive import Future, Planning, PredictiveControl, on_grid

PALM = 0.03  # m that a thing may stray from where it lay
LOW = 0.02  # m below where it lay, it begins to fall


def taking_actions(env: Any) -> Any:
    """A copy of the model whose position servos go from -1 to 1 over their range, as the environment's actions do."""
    model = copy.copy(env.model)
    low, high = model.actuator_ctrlrange.T
    middle, half, stiffness = (low + high) / 2, (high - low) / 2, model.actuator_gainprm[:, 0].copy()
    model.actuator_biasprm[:, 0] += stiffness * middle
    model.actuator_gainprm[:, 0] = stiffness * half
    model.actuator_ctrlrange[:] = [-1.0, 1.0]
    return model


# -- turning what lies in the palm ------------------------------------------------------------------------------------


def manipulate(planning: Mapping[str, Any], stray: float, env: Any, seed: int = 0) -> Policy:
    """`planning` are the settings of `Planning`; a metre out of the palm costs `stray` radians."""
    joint = env.model.joint("object:joint")
    place, speed = int(joint.qposadr[0]), int(joint.dofadr[0])
    home, goal = env.data.qpos[place : place + 3].copy(), np.array(env.goal)
    somewhere, spin = env.target_position != "ignore", env.ignore_z_target_rotation
    facing = _spinless_goal(goal[3:]) if spin else goal[3:]

    def objective(future: Future) -> np.ndarray:
        position, turned = np.split(future.position[:, :, place : place + 7], [3], axis=2)
        angle = 2 * np.arccos(np.clip(((_spinless(turned) if spin else turned) * facing).sum(axis=2), -1.0, 1.0))
        away = np.linalg.norm(position - goal[:3], axis=2) if somewhere else np.zeros_like(angle)
        near = np.exp(-((away / env.distance_threshold) ** 2))
        fallen = np.maximum(home[2] - LOW - position[:, :, 2], 0.0)
        moving = np.minimum(np.linalg.norm(future.velocity[:, :, speed : speed + 3], axis=2), 0.3)
        reward = near * np.exp(-((angle / env.rotation_threshold) ** 2)) / 2 - angle
        reward -= 50 * np.minimum(fallen, 0.05) + 2.0 * (fallen > 0.04) + 0.5 * moving * np.clip(1 - angle / 0.3, 0, 1)
        if somewhere:  # the place matters the more the nearer the rotation is
            beyond = np.maximum(away - 0.7 * env.distance_threshold, 0.0)
            return reward - 4 * beyond + 2 * np.clip((1 - angle) / 0.9, 0, 1) * np.maximum(1 - beyond / 0.1, 0.0)
        return reward - stray * np.maximum(np.linalg.norm(position - home, axis=2) - PALM, 0.0)

    return PredictiveControl(Planning(objective, **planning), as_planned(env, taking_actions(env)), seed)


def _spinless(turned: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4) without the turn about the thing's own z axis: its first two angles, of three in the order x, y, z."""
    w, x, y, z = np.moveaxis(turned, -1, 0)
    second = np.arcsin(np.clip(2 * (x * z + w * y), -1.0, 1.0)) / 2
    first = np.arctan2(2 * (w * x - y * z), 1 - 2 * (x * x + y * y)) / 2
    c, s, cc, ss = np.cos(first), np.sin(first), np.cos(second), np.sin(second)
    return np.stack([c * cc, s * cc, c * ss, s * ss], axis=-1)


def _spinless_goal(goal: np.ndarray) -> np.ndarray:
    """The same with the sign that the goal has: it counts."""
    w, x, y, z = goal
    third = np.arctan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z)) / 2
    c, s = np.cos(third), -np.sin(third)
    return np.array([w * c - z * s, x * c + y * s, y * c - x * s, z * c + w * s])


TURN = {
    "horizon": 16,
    "knots": 4,
    "samples": 48,
    "scales": (0.6, 0.25, 0.1),
    "temperature": 0.05,
    "coarse": 2,
    "replan": 2,
}
turn = functools.partial(manipulate, TURN, 3.0)
turn_pen = functools.partial(manipulate, {**TURN, "samples": 64, "rounds": 2}, 8.0)


# -- fingertips -------------------------------------------------------------------------------------------------------

AHEAD = 6  # control steps until the fingers have come to rest
NUDGE = 0.05
DAMPING = 1e-4


def reach(env: Any, seed: int = 0) -> Policy:
    """Damped least squares on the places where the fingertips would come to rest, each action nudged in turn."""
    import mujoco
    from mujoco import rollout

    model, data = taking_actions(env), mujoco.MjData(env.model)
    kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
    state, steps = np.empty(mujoco.mj_stateSize(model, kind)), AHEAD * env.n_substeps
    tips = [model.site(f"robot0:S_{finger}tip").id for finger in ("ff", "mf", "rf", "lf", "th")]
    low, high = env.action_space.low.astype(np.float64), env.action_space.high.astype(np.float64)
    action, roll = np.zeros(model.nu), rollout.Rollout(nthread=0)

    def policy(observation: Mapping[str, np.ndarray], info: Any = None) -> np.ndarray:
        nonlocal action
        mujoco.mj_getState(model, env.data, state, kind)
        nudges = np.where(action > 0, -NUDGE, NUDGE)
        tried = np.clip(action + np.vstack([np.zeros(model.nu), np.diag(nudges)]), low, high)
        states, _ = roll.rollout(model, data, np.tile(state, (len(tried), 1)), np.repeat(tried[:, None], steps, axis=1))
        rested = np.stack([_tips(model, data, one[-1], kind, tips) for one in states])
        slopes = (rested[1:] - rested[0]).T / nudges  # (15, actions)
        error = np.asarray(observation["desired_goal"]) - rested[0]
        change = slopes.T @ np.linalg.solve(slopes @ slopes.T + DAMPING * np.eye(error.size), error)
        action = np.clip(action + np.clip(change, -0.5, 0.5), low, high)
        return on_grid(action, low, high)

    return policy


def _tips(model: Any, data: Any, state: np.ndarray, kind: Any, tips: list[int]) -> np.ndarray:
    import mujoco

    mujoco.mj_setState(model, data, state, kind)
    mujoco.mj_kinematics(model, data)
    return data.site_xpos[tips].ravel().copy()
