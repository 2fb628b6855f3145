"""Linear-quadratic feedback to a body's zero position, at rest: how poles that stand on their heads are held and caught.

Where a body balances, a random plan loses it within a second, and so does the best of a hundred. A law that answers
to every state holds it for ever, but only from nearby. So the planner (`predictive.py`) is handed what this law would do,
played forward on its own model from several states of the plan that it has: it swings by sampling, and ends by feedback.

    Regulator(model, substeps, low, high)(data) → float64 (nu,)
"""

from __future__ import annotations

from typing import Any

import numpy as np

SMALL = 1e-4  # of the finite differences, in rad, m, rad/s, m/s and actions


def gains(model: Any, substeps: int, position: float, velocity: float, effort: float) -> np.ndarray:
    """(nu, 2 nv): the action is minus their product with (positions, velocities).

    The optimal law of the control step (`substeps` physics steps) linearised at zero by central differences. The costs are those of
    the squares of positions (rad or m), velocities (rad/s or m/s) and actions.
    """
    import mujoco
    from scipy.linalg import solve_discrete_are

    data, nv = mujoco.MjData(model), model.nv

    def after(state: np.ndarray, action: np.ndarray) -> np.ndarray:
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = state[:nv], state[nv:], action
        mujoco.mj_step(model, data, substeps)
        return np.concatenate([data.qpos, data.qvel])

    still, idle = np.zeros(2 * nv), np.zeros(model.nu)
    step = [(after(d, idle) - after(-d, idle)) / (2 * SMALL) for d in SMALL * np.eye(2 * nv)]
    push = [(after(still, d) - after(still, -d)) / (2 * SMALL) for d in SMALL * np.eye(model.nu)]
    a, b = np.stack(step, axis=1), np.stack(push, axis=1)
    costs, efforts = np.diag([position] * nv + [velocity] * nv), effort * np.eye(model.nu)
    future = solve_discrete_are(a, b, costs, efforts)
    return np.linalg.solve(efforts + b.T @ future @ b, b.T @ future @ a)


class Regulator:
    """For bodies of hinges and slides. `model` is read at every call and never written; actions keep to [low, high]."""

    def __init__(
        self, model: Any, substeps: int, low: np.ndarray, high: np.ndarray,
        position: float = 10.0, velocity: float = 1.0, effort: float = 10.0,
    ):  # fmt: skip
        import mujoco

        self._gains = gains(model, substeps, position, velocity, effort)
        self._model, self._substeps, self._low, self._high = model, substeps, low, high
        self._data, self._kind = mujoco.MjData(model), mujoco.mjtState.mjSTATE_FULLPHYSICS
        self._turns = (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & (model.jnt_limited == 0)

    def __call__(self, data: Any) -> np.ndarray:
        """The action in the state of an MjData. Angles of hinges without stops count from the nearest full turn."""
        position = data.qpos - self._turns * 2 * np.pi * np.round(data.qpos / (2 * np.pi))
        return np.clip(-self._gains @ np.concatenate([position, data.qvel]), self._low, self._high)

    def endings(self, state: np.ndarray, plan: np.ndarray, every: int) -> np.ndarray:
        """`plan` (T, nu) from `state` (mjSTATE_FULLPHYSICS) on, given up for feedback after 0, every, 2 every … steps:
        (T / every, T, nu), T / every rounded up."""
        import mujoco

        parted = []
        mujoco.mj_setState(self._model, self._data, state, self._kind)
        for step, action in enumerate(plan):
            if step % every == 0:
                parted.append(np.empty_like(state))
                mujoco.mj_getState(self._model, self._data, parted[-1], self._kind)
            self._advance(action)
        plans = np.repeat(plan[None], len(parted), axis=0)
        for ending, start, begin in zip(plans, parted, range(0, len(plan), every), strict=True):
            mujoco.mj_setState(self._model, self._data, start, self._kind)
            for step in range(begin, len(plan)):
                ending[step] = self(self._data)
                self._advance(ending[step])
        return plans

    def _advance(self, action: np.ndarray) -> None:
        import mujoco

        self._data.ctrl[:] = action
        mujoco.mj_step(self._model, self._data, self._substeps)
