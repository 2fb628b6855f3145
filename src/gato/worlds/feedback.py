"""Experts that are formulas of the observation: feedback laws for the DM Control tasks with known equations of motion.

A learner sees the observation and nothing else, so the best teacher is a smooth function of it: no plan in mind, no
samples, no memory but the clock of those that swim. Each law here reaches at least what a sampling planner reaches on the
same task, at the speed of the simulator. Constants are those of the suite's models (SI units); actions are in [-1, 1].

    policy(observation, info) → float32 (nu,)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gato.worlds import Policy

GRAVITY = 9.81


def clip(value: float) -> float:
    return min(max(value, -1.0), 1.0)


def pendulum(observation: Mapping[str, np.ndarray], info: Any = None) -> np.ndarray:
    """Energy shaping far from the top, a damped spring near it, blended by the angle.

    Torque along the velocity adds energy, against it removes energy; with at most 1 Nm against gravity's 4.9 the
    pendulum needs up to five swings.
    """
    mgl, inertia = 4.905, 0.25  # 1 kg at 0.5 m
    cosine, sine = observation["orientation"].tolist()
    speed = float(observation["velocity"][0])
    angle = math.atan2(sine, cosine)
    energy = 0.5 * inertia * speed**2 + mgl * (cosine - 1.0)  # 0 at rest upright
    near = math.exp(-((angle / 0.4) ** 2))
    swing, hold = clip(-5.0 * energy * speed), clip(-8.0 * angle - 1.0 * speed)
    return np.array([near * hold + (1.0 - near) * swing], np.float32)


def cartpole(observation: Mapping[str, np.ndarray], info: Any = None) -> np.ndarray:
    """Swing up by shaping the pole's energy through the cart's acceleration, then linear-quadratic feedback.

    Far from upright: the acceleration that adds energy to the pole and pulls the cart to the middle, turned into a
    force by the equations of motion (partial feedback linearisation). Near upright: gains of a linear-quadratic
    regulator for this model. The constants of both were found by random search on the return.
    """
    cart, pole, arm, inertia, motor = 1.0, 0.1, 0.5, 0.03442459, 10.0  # kg, kg, m, kg m² about the hinge, N
    x, cosine, sine = observation["position"].tolist()
    v, speed = observation["velocity"].tolist()
    angle = math.atan2(sine, cosine)
    energy = 0.5 * inertia * speed**2 + pole * GRAVITY * arm * (cosine - 1.0)  # 0 at rest upright
    wanted = min(max(38.35 * energy * speed * cosine, -6.97), 6.97) - 2.53 * x - 1.52 * v  # m/s² of the cart
    turning = (pole * GRAVITY * arm * sine - pole * arm * wanted * cosine) / inertia  # the pole's answer, rad/s²
    swing = ((cart + pole) * wanted + pole * arm * (turning * cosine - speed**2 * sine)) / motor
    hold = 0.45 * x + 5.03 * angle + 0.64 * v + 1.31 * speed
    near = math.exp(-((angle / 0.81) ** 4) - (speed / 4.03) ** 4)
    return np.array([near * clip(hold) + (1.0 - near) * clip(swing)], np.float32)


def reacher(observation: Mapping[str, np.ndarray], info: Any = None) -> np.ndarray:
    """A spring from finger to target, felt by the joints through the transposed Jacobian, with damping.

    No inverse kinematics, hence no choice between two elbows and no jump at ±180°: smooth in the observation. The
    spring stiffens with distance (ten times at 15 cm), which hurries the arm out of postures where the joints hardly
    feel it, and stays soft at the target, where a stiff one is hard to imitate.
    """
    link, stiffness, damping = 0.12, 100.0, 0.15  # m; in full torques per m², per rad/s
    shoulder, wrist = observation["position"].tolist()
    to_x, to_y = observation["to_target"].tolist()
    shoulder_speed, wrist_speed = observation["velocity"].tolist()
    hand_x, hand_y = link * math.cos(shoulder + wrist), link * math.sin(shoulder + wrist)  # finger seen from the wrist
    x, y = link * math.cos(shoulder) + hand_x, link * math.sin(shoulder) + hand_y  # finger seen from the shoulder
    stiffness *= 1.0 + (to_x**2 + to_y**2) / 0.05**2
    return np.array(
        [
            clip(stiffness * (x * to_y - y * to_x) - damping * shoulder_speed),
            clip(stiffness * (hand_x * to_y - hand_y * to_x) - damping * wrist_speed),
        ],
        np.float32,
    )


def point_mass(observation: Mapping[str, np.ndarray], info: Any = None) -> np.ndarray:
    """A damped spring to the middle, which saturates: full speed (0.1 m/s) along each axis, then a soft stop."""
    return np.clip(-20.0 * observation["position"] - observation["velocity"], -1.0, 1.0).astype(np.float32)


def point_mass_mixed(env: Any, seed: int = 0) -> Policy:
    """The same spring where each action pulls along its own direction, drawn anew every episode.

    The directions are read from the model (one row an action); the observation does not show them, so a learner has to
    find out by moving.
    """
    directions = np.array(env.physics.model.wrap_prm, np.float64).reshape(2, 2)
    to_actions = np.linalg.inv(directions.T)

    def policy(observation: Mapping[str, np.ndarray], info: Any = None) -> np.ndarray:
        action = to_actions @ (-20.0 * observation["position"] - observation["velocity"])
        return (action / max(1.0, np.abs(action).max())).astype(np.float32)

    return policy


def lqr(env: Any, seed: int = 0) -> Policy:
    """The optimal gains of the suite's own solver, computed for this system; the actions are cut to [-1, 1]."""
    from dm_control.suite import lqr_solver

    _, gains, _ = lqr_solver.solve(env.simulator)

    def policy(observation: Mapping[str, np.ndarray], info: Any = None) -> np.ndarray:
        state = np.concatenate([observation["position"], observation["velocity"]])
        return np.clip(gains @ state, -1.0, 1.0).astype(np.float32)

    return policy


def swimmer(
    swing: float, frequency: float, lag: float, stiffness: float, damping: float, turn: float, most: float, growth: float,
    near: float, env: Any = None, seed: int = 0,
) -> Policy:  # fmt: skip
    """A wave that travels from the head to the tail, and leans to the side on which the target is.

    Each joint is a damped spring (`stiffness` per rad, `damping` per rad/s) towards `swing` rad times a sine of `frequency`
    rad/s that comes `lag` rad later than that of the joint before, and towards `turn` rad for each rad that the target is
    off the nose, at most `most`. The swing of the last joint is larger by `growth` than that of the first, about their
    mean; within `near` metres of the target all of them fall off with the distance. The clock counts calls. The constants
    of each body were found by random search on the return over training seeds.
    """
    step, control_timestep = 0, 0.03  # s

    def policy(observation: Mapping[str, np.ndarray], info: Any = None) -> np.ndarray:
        nonlocal step
        angles = observation["joints"]
        place = np.arange(len(angles))
        to_x, to_y = observation["to_target"].tolist()  # the nose looks along -y
        spins = observation["body_velocities"].reshape(-1, 3)[:, 2]
        wave = np.sin(frequency * control_timestep * step - lag * place)
        reach = swing * (1 + growth * (place / (len(angles) - 1) - 0.5)) * min(1.0, math.hypot(to_x, to_y) / near)
        lean = min(max(turn * math.atan2(to_x, -to_y), -most), most)
        step += 1
        return np.clip(stiffness * (reach * wave + lean - angles) - damping * np.diff(spins), -1.0, 1.0).astype(
            np.float32
        )

    return policy
