"""`gym-mujoco/*`: Gymnasium's eleven MuJoCo tasks in their fifth version, observed by their state.

    float64 (17,) joint angles and velocities  →  float32 (6,) torques, within the bounds of the action space

Half Cheetah is `gym-mujoco/half-cheetah-v5`. Unlike the DM Control Suite these have rewards without a ceiling, and some end when
the body falls. The experts are predictive control (`predictive.py`) on the environment's own model; the two pendulums on
a cart are held by linear-quadratic feedback, whose gains come from the model's own derivatives; the swimmer follows a wave;
and four runners have trained actors (`actors.py`), two of them those of Modular RL's whole cheetah and walker, which are
the same bodies.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from gato.worlds import MakeExpert, Policy, Task, actors
from gato.worlds.gym import named_task
from gato.worlds.predictive import Future, Planning, PredictiveControl
from gato.worlds.regulator import Regulator

# -- predictive control -----------------------------------------------------------------------------------------------


def planner(planning: Planning, points: Mapping[str, str], env: Any, seed: int) -> Policy:
    """Predictive control for a Gymnasium environment. `points` are frames whose positions the objective reads as sensors.

    {"tips_arm": "body"}: three sensor values each, in this order, after the model's own.
    """
    import mujoco

    model = _with_sensors(env.fullpath, points) if points else copy.copy(env.model)
    # Half of these models are integrated by Runge-Kutta, four times the work; a plan is remade before the difference shows.
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    return PredictiveControl(planning, as_planned(env, model), seed)


def as_planned(env: Any, model: Any = None) -> Any:
    """A Gymnasium environment as planners and actors look at one: with a model of theirs, or its own.

    Its physics steps in a control step are `frame_skip`, or `n_substeps` where it is one of the older robots.
    """
    return SimpleNamespace(
        physics=SimpleNamespace(model=SimpleNamespace(ptr=model or env.model), data=SimpleNamespace(ptr=env.data)),
        num_substeps=env.n_substeps if hasattr(env, "n_substeps") else env.frame_skip,
        action_space=env.action_space,
    )


def _with_sensors(path: str, points: Mapping[str, str]) -> Any:
    """The model once more, with a position sensor per frame. Sensors do not touch the physics."""
    import mujoco

    kinds = {"body": mujoco.mjtObj.mjOBJ_BODY, "site": mujoco.mjtObj.mjOBJ_SITE, "geom": mujoco.mjtObj.mjOBJ_GEOM}
    spec = mujoco.MjSpec.from_file(path)
    for name, kind in points.items():
        spec.add_sensor(name=f"where_{name}", type=mujoco.mjtSensor.mjSENS_FRAMEPOS, objtype=kinds[kind], objname=name)
    return spec.compile()


FALLEN = -8.0  # what the step of a fall earns


def _while_healthy(reward: np.ndarray, healthy: np.ndarray) -> np.ndarray:
    """Rewards up to the first fall; a fall costs what a few good steps earn."""
    alive = np.cumprod(healthy, axis=1)
    fell = np.diff(alive, axis=1, prepend=1.0) < 0
    return reward * alive - 3.0 * (1 - alive) + (FALLEN + 3.0) * fell


def _effort(future: Future) -> np.ndarray:
    return (future.actions**2).sum(axis=2)


def hopper(future: Future) -> np.ndarray:
    z, angle = future.position[:, :, 1], future.position[:, :, 2]
    healthy = (z > 0.7) & (np.abs(angle) < 0.2) & (np.abs(future.velocity) < 100).all(axis=2)
    leaning = np.clip(np.abs(angle) - 0.1, 0, 1)
    return _while_healthy(1 + future.velocity[:, :, 0] - 0.001 * _effort(future) - 5 * leaning, healthy)


def ant(future: Future) -> np.ndarray:
    z = future.position[:, :, 2]
    upright = 1 - 2 * (future.position[:, :, 4] ** 2 + future.position[:, :, 5] ** 2)  # the torso's z axis, up
    reward = 1 + future.velocity[:, :, 0] - 0.5 * _effort(future) - 0.5 * (1 - upright)
    return _while_healthy(reward, (z > 0.2) & (z < 1.0))


def humanoid(future: Future) -> np.ndarray:
    z = future.position[:, :, 2]
    upright = 1 - 2 * (future.position[:, :, 4] ** 2 + future.position[:, :, 5] ** 2)
    reward = (
        5 + 1.25 * future.velocity[:, :, 0] - 0.1 * _effort(future) - 8 * (1 - upright) - 10 * np.clip(1.2 - z, 0, 1)
    )
    return _while_healthy(reward, (z > 1.0) & (z < 2.0))


def humanoid_standup(future: Future) -> np.ndarray:
    return future.position[:, :, 2] / 0.003 / 100 - 0.001 * _effort(future)


def reacher(future: Future) -> np.ndarray:
    """Two links of 10 and 11 cm, to a target whose place is in the state."""
    shoulder, elbow = future.position[:, :, 0], future.position[:, :, 1]
    x = 0.1 * np.cos(shoulder) + 0.11 * np.cos(shoulder + elbow) - future.position[:, :, 2]
    y = 0.1 * np.sin(shoulder) + 0.11 * np.sin(shoulder + elbow) - future.position[:, :, 3]
    return -np.hypot(x, y) - 0.1 * _effort(future)


def pusher(future: Future) -> np.ndarray:
    sensors = future.sensors.reshape(*future.sensors.shape[:2], -1, 3)
    tip, thing, goal = np.moveaxis(sensors[:, :, -3:], 2, 0)
    near, far = np.linalg.norm(tip - thing, axis=2), np.linalg.norm(thing - goal, axis=2)
    return -0.5 * near - far - 0.1 * _effort(future)


PUSHER = {"tips_arm": "body", "object": "body", "goal": "body"}

PLANNING: dict[str, tuple[Planning, Mapping[str, str]]] = {
    "hopper-v5": (Planning(hopper, horizon=60, knots=10, samples=64, scales=(0.8, 0.3, 0.1)), {}),
    "ant-v5": (Planning(ant, horizon=24, knots=8, samples=48, scales=(0.5, 0.2, 0.1)), {}),
    "humanoid-v5": (Planning(humanoid, horizon=30, knots=6, samples=48, scales=(0.15, 0.06)), {}),
    "humanoid-standup-v5": (Planning(humanoid_standup, horizon=24, knots=5, samples=32, replan=2), {}),
    "reacher-v5": (Planning(reacher, horizon=16, knots=5, samples=32, scales=(0.5, 0.1, 0.03)), {}),
    "pusher-v5": (Planning(pusher, horizon=30, knots=6, samples=48, scales=(0.5, 0.2, 0.1)), PUSHER),
}

# -- trained actors ---------------------------------------------------------------------------------------------------

# Whose weights: its own, or those of the same body elsewhere.
ACTORS = {
    "ant-v5": "gym-mujoco/ant-v5",
    "half-cheetah-v5": "modular-rl/cheetah-3-3",
    "hopper-v5": "gym-mujoco/hopper-v5",
    "walker2d-v5": "modular-rl/walker-3-3",
}


def actor(trained: str, env: Any, seed: int = 0) -> Policy:
    return actors.Actor(actors.weights(trained), as_planned(env))


# -- feedback ---------------------------------------------------------------------------------------------------------


def balance(env: Any, seed: int = 0) -> Policy:
    """Feedback that holds the model where it stands upright, at zero. Reads the state; the observation holds the same."""
    low, high = env.action_space.low.astype(np.float64), env.action_space.high.astype(np.float64)
    hold = Regulator(env.model, env.frame_skip, low, high, position=1.0, velocity=1.0, effort=0.01)

    def act(observation: Any, info: Any = None) -> np.ndarray:
        return hold(env.data).astype(np.float32)

    return act


def swim(env: Any, seed: int = 0) -> Policy:
    """Three links, two joints: damped springs towards a wave that runs from the head to the tail. The clock counts calls.

    Its constants were found by a search over training seeds.
    """
    swing, frequency, lag, stiffness, damping = 1.08, 4.06, 0.74, 3.8, 0.44  # rad, rad/s, rad, 1/rad, s/rad
    step = 0

    def policy(observation: np.ndarray, info: Any = None) -> np.ndarray:
        nonlocal step
        angles, spins = observation[1:3], observation[6:8]
        wave = swing * np.sin(frequency * env.dt * step - lag * np.arange(2))
        step += 1
        return np.clip(stiffness * (wave - angles) - damping * spins, -1.0, 1.0).astype(np.float32)

    return policy


# -- the tasks --------------------------------------------------------------------------------------------------------

# name: Gymnasium's id, steps, the noise of a wide start (its own is 0.005 to 0.1; 0: no wide starts)
TASKS: dict[str, tuple[str, int, float]] = {
    "ant-v5": ("Ant-v5", 1000, 0.2),
    "half-cheetah-v5": ("HalfCheetah-v5", 1000, 0.4),
    "hopper-v5": ("Hopper-v5", 1000, 0.03),
    "humanoid-v5": ("Humanoid-v5", 1000, 0.04),
    "humanoid-standup-v5": ("HumanoidStandup-v5", 1000, 0.05),
    "inverted-double-pendulum-v5": ("InvertedDoublePendulum-v5", 1000, 0.15),
    "inverted-pendulum-v5": ("InvertedPendulum-v5", 1000, 0.08),
    "pusher-v5": ("Pusher-v5", 100, 0.0),
    "reacher-v5": ("Reacher-v5", 50, 0.0),
    "swimmer-v5": ("Swimmer-v5", 1000, 0.5),
    "walker2d-v5": ("Walker2d-v5", 1000, 0.04),
}


def _noisier(scale: float, env: Any, rng: np.random.Generator) -> np.ndarray:
    """The environment's own start, drawn once more with more noise."""
    usual, env._reset_noise_scale = env._reset_noise_scale, scale
    try:
        return env.reset_model()
    finally:
        env._reset_noise_scale = usual


def _expert(name: str) -> tuple[MakeExpert, str]:
    if name in ACTORS:
        return functools.partial(actor, ACTORS[name]), "trained actor"
    if name in PLANNING:
        return functools.partial(planner, *PLANNING[name]), "predictive control"
    if name == "swimmer-v5":
        return swim, "a travelling wave"
    return balance, "linear-quadratic feedback"


def _wide(scale: float) -> Callable[[Any, np.random.Generator], np.ndarray] | None:
    return functools.partial(_noisier, scale) if scale else None


def tasks() -> list[Task]:
    return [
        named_task(
            f"gym-mujoco/{name}",
            env_id,
            steps,
            wide=_wide(noise),
            camera=True,
            make_expert=_expert(name)[0],
            expert_name=_expert(name)[1],
            requires=("mujoco",),
            extra="mujoco",
            notes="not in the paper",
        )
        for name, (env_id, steps, noise) in TASKS.items()
    ]
