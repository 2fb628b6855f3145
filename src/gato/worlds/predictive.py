"""Predictive control: plan by sampling on the simulator's own physics, execute the first action, plan again.

A plan is one action per control step up to the horizon. Each decision draws `samples` smooth disturbances of the
present plan at several scales (linear splines through `knots` points), rolls all of them out from the environment's
exact state in one call into MuJoCo, scores them with the task's reward, and moves the plan to the average of the
samples, weighted by the exponential of their scores: an average jumps less from step to step than the best sample, so
it is a better target to imitate. The undisturbed plan is always among the samples; where poles balance, so are
continuations of it by feedback (`regulator.py`).

It reads the environment's state at every decision, so it also works where noise was executed instead of its actions,
and it plans on its own MjData, so the environment is left as it was. The rewards are the suite's own; where those are
sparse a small slope is added, in the planner only.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gato.errors import ExpertError
from gato.worlds import MakeExpert
from gato.worlds.mjcf import Probe, probed
from gato.worlds.regulator import Regulator

GRID = 512  # actions are multiples of its inverse: half a bin of the agent's tokens, and traces pack well


def on_grid(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The nearest action of the grid, float32, within the bounds: those need not be on it."""
    return np.clip(np.round(action * GRID) / GRID, low, high).astype(np.float32)


@dataclass(frozen=True)
class Future:
    """What the samples met: N samples, T control steps. Each reward belongs to the state that its action led to."""

    position: np.ndarray  # (N, T, nq)
    velocity: np.ndarray  # (N, T, nv)
    sensors: np.ndarray  # (N, T, nsensordata)
    actions: np.ndarray  # (N, T, nu)
    probes: Mapping[str, np.ndarray] = field(default_factory=dict)  # what was asked for, (N, T, 3 or 1) each
    model: Any = None  # the planner's MjModel
    diverged: np.ndarray = field(default_factory=lambda: np.zeros(1, bool))  # (N,) or (1,)


Objective = Callable[[Future], np.ndarray]  # → reward (N, T)


@dataclass(frozen=True)
class Planning:
    """How hard to think. Horizon in control steps; `scales` are standard deviations in action units (half-range 1)."""

    objective: Objective
    horizon: int
    knots: int
    samples: int
    scales: tuple[float, ...] = (1.0, 0.3, 0.1)
    temperature: float = 0.1  # of the weights, in standard deviations of the samples' scores
    replan: int = 1  # control steps between two decisions
    rounds: int = 1  # refinements of the plan in one decision
    coarse: int = 1  # physics steps of the plan are this much longer than the environment's
    hold: int = 0  # control steps between the moments where feedback to the zero position may end the plan; 0: nowhere
    probes: Mapping[str, Probe] = field(default_factory=dict)  # needs `env.description`


class PredictiveControl:
    """A policy for one episode. Same seed and states, same actions.

    `env` has `physics.model.ptr` and `physics.data.ptr` (an MjModel and an MjData, read and never written),
    `num_substeps` physics steps in a control step and a bounded `action_space`, one number an actuator; where the
    planning has probes also `description`, whose `spec()` is the model as an MjSpec.
    """

    def __init__(self, planning: Planning, env: Any, seed: int):
        import mujoco
        from mujoco import rollout

        self._planning, self._physics, self._substeps = planning, env.physics, env.num_substeps // planning.coarse
        self._columns: dict[str, slice] = {}
        if planning.probes:
            self._model, self._columns = probed(env.description.spec(), planning.probes, like=env.physics.model.ptr)
        else:
            self._model = copy.copy(env.physics.model.ptr)
        self._model.opt.timestep *= planning.coarse
        self._data = mujoco.MjData(self._model)
        self._rollout = rollout.Rollout(nthread=0)
        self._state_kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        self._state = np.empty(mujoco.mj_stateSize(self._model, self._state_kind))
        self._get_state = mujoco.mj_getState
        self._low, self._high = env.action_space.low.astype(np.float64), env.action_space.high.astype(np.float64)
        self._regulator = Regulator(self._model, self._substeps, self._low, self._high) if planning.hold else None
        self._rng = np.random.default_rng(seed)
        self._plan = np.zeros((planning.horizon, self._model.nu))
        self._age = 0  # steps since the last decision
        steps, knots = np.arange(planning.horizon), np.linspace(0, planning.horizon - 1, planning.knots)
        self._spline = np.stack([np.interp(steps, knots, row) for row in np.eye(planning.knots)], axis=1)  # (T, K)

    def __call__(self, observation: Any, info: Mapping[str, Any] | None = None) -> np.ndarray:
        if self._age % self._planning.replan == 0:
            for _ in range(self._planning.rounds):
                self._improve()
        action = on_grid(self._plan[0], self._low, self._high)
        self._plan = np.concatenate([self._plan[1:], self._plan[-1:]])
        self._age += 1
        return action

    def _improve(self) -> None:
        """Move the plan to the weighted average of its disturbed copies."""
        p, half_range = self._planning, (self._high - self._low) / 2
        scale = np.resize(p.scales, p.samples)[:, None, None] * half_range
        noise = self._spline @ self._rng.normal(size=(p.samples, p.knots, self._model.nu))
        noise[0] = 0.0
        candidates = np.clip(self._plan + noise * scale, self._low, self._high)  # (N, T, nu)
        self._get_state(self._model, self._physics.data.ptr, self._state, self._state_kind)
        if self._regulator is not None:
            candidates = np.concatenate([candidates, self._regulator.endings(self._state, self._plan, p.hold)])
        future = self._imagine(candidates)
        scores = np.where(future.diverged, -np.inf, p.objective(future).mean(axis=1))
        if not np.isfinite(scores).any():
            raise ExpertError("every plan made the simulation diverge", where=f"step {self._age}")
        scores = np.where(np.isfinite(scores), scores, scores[np.isfinite(scores)].min())
        weights = np.exp((scores - scores.max()) / (p.temperature * scores.std() + 1e-9))
        self._plan = np.tensordot(weights / weights.sum(), candidates, axes=1)

    def _imagine(self, candidates: np.ndarray) -> Future:
        controls = np.repeat(candidates, self._substeps, axis=1)
        start = np.broadcast_to(self._state, (len(candidates), self._state.size))
        states, sensors = self._rollout.rollout(self._model, self._data, start, controls)
        states, sensors = (
            states[:, self._substeps - 1 :: self._substeps],
            sensors[:, self._substeps - 1 :: self._substeps],
        )
        nq, nv = self._model.nq, self._model.nv  # a state is time, positions, velocities, activations
        probes = {name: sensors[:, :, columns] for name, columns in self._columns.items()}
        position, velocity = states[:, :, 1 : 1 + nq], states[:, :, 1 + nq : 1 + nq + nv]
        # MuJoCo begins again from its reference state, at time 0, where the numbers explode.
        diverged = states[:, -1, 0] < self._state[0] + (controls.shape[1] - 0.5) * self._model.opt.timestep
        return Future(position, velocity, sensors, candidates, probes, self._model, diverged)


# -- the suite's rewards, on whole futures ----------------------------------------------------------------------------


def ramp(x: np.ndarray, start: float, full: float) -> np.ndarray:
    """0 at `start`, 1 from `full` on, linear in between."""
    return np.clip((x - start) / (full - start), 0.0, 1.0)


def bell(distance: np.ndarray, margin: float) -> np.ndarray:
    """1 at or below 0, a tenth at `margin`: the suite's Gaussian tolerance."""
    return np.exp(np.log(0.1) * (np.maximum(distance, 0.0) / margin) ** 2)


def ball_in_cup(future: Future) -> np.ndarray:
    cup_x, cup_z, ball_x, ball_z = np.moveaxis(future.position, 2, 0)
    x, z = ball_x - cup_x, (ball_z + 0.2) - (cup_z + 0.6 - 0.05)  # the ball, seen from the middle of the cup
    inside = (np.abs(x) < 0.025) & (np.abs(z) < 0.025)
    above = bell(np.abs(x) - 0.02, 0.2) * ramp(z, -0.3, 0.05)
    return inside + 0.1 * above - 0.01 * np.hypot(x, z)


def walker(speed: float, future: Future) -> np.ndarray:
    """`speed` 0 stands, 1 walks, 8 runs."""
    standing = bell(1.2 - (future.position[:, :, 0] + 1.3), 0.6)
    upright = (1 + np.cos(future.position[:, :, 2])) / 2
    stand = (3 * standing + upright) / 4
    if speed == 0:
        # Standing is worth full marks however wildly the legs move; a quiet stand is easier to learn from.
        return stand - 0.02 * (future.actions**2).mean(axis=2) - 0.002 * np.abs(future.velocity).mean(axis=2)
    # The suite gives nothing below 0, half at half the speed; the slope below zero is ours.
    moving = ramp(future.sensors[:, :, 0], 0.0, speed) - 0.1 * ramp(-future.sensors[:, :, 0], 0.0, 1.0)
    return stand * (5 * moving + 1) / 6 - 0.01 * (future.actions**2).mean(axis=2)


def cheetah(future: Future) -> np.ndarray:
    return future.sensors[:, :, 0] / 10.0 - 0.1 * ramp(-np.cos(future.position[:, :, 2]), 0.0, 1.0)


def finger_spin(future: Future) -> np.ndarray:
    spin = -future.velocity[:, :, 2]  # rad/s; the reward is 1 from 15 on
    return (spin >= 15.0) + 0.5 * ramp(spin, -5.0, 25.0)


def finger_turn(radius: float, future: Future) -> np.ndarray:
    distance = norm(future.probes["tip"] - future.probes["target"]) - radius
    return (distance <= 0) + 0.5 * bell(distance, 0.3) - 0.3 * distance


def acrobot(future: Future) -> np.ndarray:
    """The reward, which far from the target is tiny, and a slope towards the energy of standing up."""
    import mujoco

    upright = mujoco.MjData(future.model)
    mujoco.mj_forward(future.model, upright)
    mujoco.mj_energyPos(future.model, upright)
    energy = (future.probes["potential"] + future.probes["kinetic"])[:, :, 0]  # J; hanging has 39 less than standing
    return bell(norm(future.probes["tip"] - [0.0, 0.0, 4.0]) - 0.2, 1.0) - 0.3 * np.abs(energy - upright.energy[0]) / 39


def poles(future: Future) -> np.ndarray:
    """Two or three poles on a cart, each angle told from the one below."""
    cart, angles = future.position[:, :, 0], np.cumsum(future.position[:, :, 1:], axis=2)
    upright = (1 + np.cos(angles)).mean(axis=2) / 2
    still = bell(np.abs(future.velocity[:, :, 1:]), 5.0).min(axis=2)
    return upright * (1 + bell(np.abs(cart), 2.0)) / 2 * (4 + (1 - future.actions[:, :, 0] ** 2)) / 5 * (1 + still) / 2


def fish_upright(future: Future) -> np.ndarray:
    return bell(1.0 - future.probes["up"][:, :, 2], 1.0)


def fish_swim(future: Future) -> np.ndarray:
    """The radii of mouth and target add up to 0.05 m. A slope towards facing the target, and towards it."""
    probes = future.probes
    distance = norm(probes["mouth"] - probes["target"])
    upright = (1 + probes["up"][:, :, 2]) / 2
    ahead, there = probes["mouth"] - probes["torso"], probes["target"] - probes["torso"]
    facing = (ahead * there).sum(axis=2) / (norm(ahead) * norm(there) + 1e-9)
    return (7 * bell(distance - 0.05, 0.1) + upright) / 8 - 3 * distance + 0.2 * facing * ramp(distance, 0.0, 0.2)


def hopper_stand(future: Future) -> np.ndarray:
    """One that sits with its leg in the air must give up an upright torso to stand up: hence the hip."""
    torso, height = _hopper_heights(future)
    pitch, hip = future.position[:, :, 2], future.position[:, :, 4]
    slope = 0.5 * ramp(height, -0.8, 0.7) + 0.3 * ramp(torso, 0.0, 1.0) + 0.2 * np.cos(pitch) - 0.15 * np.abs(hip)
    return _standing(height) * (4 + (1 - future.actions**2).mean(axis=2)) / 5 + slope


def hopper_hop(future: Future) -> np.ndarray:
    """At 2 m/s. The slope that lets it stand up spoils its hops (28 instead of 70)."""
    _, height = _hopper_heights(future)
    slope = 0.3 * ramp(height, 0.0, 0.7) + 0.1 * np.cos(future.position[:, :, 2])
    return _standing(height) * (0.1 + ramp(future.probes["velocity"][:, :, 0], 0.0, 2.0)) + slope


def _hopper_heights(future: Future) -> tuple[np.ndarray, np.ndarray]:
    """Of the torso above the ground and above the foot, metres."""
    torso = future.probes["torso"][:, :, 2]
    return torso, torso - future.probes["foot"][:, :, 2]


def _standing(height: np.ndarray) -> np.ndarray:
    return ((height >= 0.6) & (height <= 2.0)) * 1.0


def humanoid(speed: float, future: Future) -> np.ndarray:
    """`speed` 0 stands, 1 walks, 10 runs."""
    head, up = future.probes["head"][:, :, 2], future.probes["up"][:, :, 2]
    stand = bell(1.4 - head, 0.35) * ramp(up, -1.0, 0.9)
    slope = 0.2 * ramp(head, 0.0, 1.4) + 0.1 * up
    velocity = future.probes["velocity"][:, :, :2]
    calm = (4 + (1 - np.minimum(future.actions**2, 1.0)).mean(axis=2)) / 5
    if speed == 0:
        return calm * stand * bell(np.abs(velocity), 2.0).mean(axis=2) + slope
    return calm * stand * (5 * ramp(norm(velocity), 0.0, speed) + 1) / 6 + slope


def quadruped(speed: float, future: Future) -> np.ndarray:
    """`speed` 0.5 walks, 5 runs, in metres a second along the torso."""
    upright = (1 + future.probes["up"][:, :, 2]) / 2
    forward = future.probes["velocity"][:, :, 0]
    return upright * (1 + ramp(forward, -speed, speed)) / 2


def norm(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt((vectors**2).sum(axis=-1))


TIP = {"tip": Probe("framepos", "site tip"), "target": Probe("framepos", "site target")}
FISH = {
    "up": Probe("framezaxis", "xbody torso"),
    "torso": Probe("framepos", "xbody torso"),
    "mouth": Probe("framepos", "geom mouth"),
    "target": Probe("framepos", "geom target"),
}
HOPPER = {
    "torso": Probe("framepos", "body torso"),
    "foot": Probe("framepos", "body foot"),
    "velocity": Probe("subtreelinvel", "body torso"),
}
HUMANOID = {
    "head": Probe("framepos", "xbody head"),
    "up": Probe("framezaxis", "xbody torso"),
    "velocity": Probe("subtreelinvel", "body torso"),
}
QUADRUPED = {"up": Probe("framezaxis", "xbody torso"), "velocity": Probe("velocimeter", "site torso")}

ACROBOT = Planning(
    acrobot, horizon=220, knots=18, samples=48, replan=2, temperature=0.01, hold=20,
    probes={"tip": TIP["tip"], "potential": Probe("e_potential"), "kinetic": Probe("e_kinetic")},
)  # fmt: skip
POLES = Planning(poles, horizon=160, knots=24, samples=48, replan=2, temperature=0.01, hold=16)
HOP = functools.partial(Planning, samples=48, temperature=0.01, replan=2, rounds=2, coarse=2, probes=HOPPER)
RUN = Planning(functools.partial(humanoid, 10.0), horizon=30, knots=6, samples=48, temperature=0.02, probes=HUMANOID)

PLANNING: dict[str, Planning] = {
    "acrobot-swingup": ACROBOT,
    "acrobot-swingup-sparse": ACROBOT,
    "cartpole-two-poles": POLES,
    "cartpole-three-poles": POLES,
    "finger-turn-easy": Planning(functools.partial(finger_turn, 0.07), horizon=30, knots=10, samples=64, probes=TIP),
    "finger-turn-hard": Planning(functools.partial(finger_turn, 0.03), horizon=30, knots=10, samples=64, probes=TIP),
    "fish-upright": Planning(fish_upright, horizon=16, knots=8, samples=24, replan=2, probes=FISH),
    "fish-swim": Planning(fish_swim, horizon=30, knots=10, samples=40, replan=2, temperature=0.02, probes=FISH),
    "hopper-stand": HOP(hopper_stand, horizon=80, knots=10),
    "hopper-hop": HOP(hopper_hop, horizon=60, knots=15),
    "humanoid-stand": Planning(
        functools.partial(humanoid, 0.0), horizon=30, knots=6, samples=48, temperature=0.02, probes=HUMANOID
    ),
    "humanoid-walk": Planning(
        functools.partial(humanoid, 1.0), horizon=30, knots=6, samples=48, temperature=0.02, probes=HUMANOID
    ),
    "humanoid-run": RUN,
    "humanoid-run-pure-state": RUN,
    "quadruped-walk": Planning(
        functools.partial(quadruped, 0.5), horizon=30, knots=6, samples=32, replan=2, probes=QUADRUPED
    ),
    "quadruped-run": Planning(
        functools.partial(quadruped, 5.0), horizon=30, knots=6, samples=32, temperature=0.01, replan=2, probes=QUADRUPED
    ),
    "ball-in-cup-catch": Planning(ball_in_cup, horizon=50, knots=6, samples=32, replan=2, coarse=2),
    "cheetah-run": Planning(cheetah, horizon=40, knots=8, samples=48, rounds=2),
    "finger-spin": Planning(finger_spin, horizon=30, knots=30, samples=64, rounds=2),
    "walker-run": Planning(functools.partial(walker, 8.0), horizon=24, knots=6, samples=48, coarse=2),
    "walker-stand": Planning(
        functools.partial(walker, 0.0), horizon=24, knots=6, samples=48, temperature=0.02, replan=2, coarse=2
    ),
    "walker-walk": Planning(functools.partial(walker, 1.0), horizon=24, knots=6, samples=48, replan=2, coarse=2),
}

EXPERTS: dict[str, MakeExpert] = {
    name: functools.partial(PredictiveControl, planning) for name, planning in PLANNING.items()
}
