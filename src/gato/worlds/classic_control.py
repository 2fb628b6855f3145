"""`classic-control/*`: the five small problems of Gymnasium, in its own versions. Needs no extra.

    float32 (2,) position and velocity of a car  →  push left, coast, push right

CartPole's expert is a line through its four numbers. The mountain cars and the pendulum have two numbers, so their experts are
dynamic programming: the equations of motion on a grid of states, swept until the best return from every state is known
(half a second, once per process). Acrobot's plans ahead on its equations. All are functions of the observation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gato.worlds import MakeExpert, Policy, Task
from gato.worlds.gym import named_task


def cart_pole(observation: np.ndarray, info: Any = None) -> int:
    """Push towards where the pole falls; a little against where the cart strays."""
    x, v, angle, speed = observation.tolist()
    return int(angle + 0.5 * speed + 0.02 * x + 0.05 * v > 0)


# -- dynamic programming over two numbers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A deterministic problem with two state numbers.

    `step(x, v, a)` → (x, v, reward, over), all arrays of one shape; `axes` are (low, high, number of points); the first axis
    closes on itself where `wraps`; `actions` are what is tried; `discount` is 1 for none, with `sweeps` as horizon.
    """

    step: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    axes: tuple[tuple[float, float, int], tuple[float, float, int]]
    actions: np.ndarray
    wraps: bool = False
    discount: float = 1.0
    sweeps: int = 300


def _weights(problem: Problem, x: np.ndarray, v: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The four grid points around each state (flat indices) and their shares."""
    (x_low, x_high, x_points), (v_low, v_high, v_points) = problem.axes
    if problem.wraps:
        across = (x - x_low) / (x_high - x_low) % 1.0 * x_points
    else:
        across = np.clip((x - x_low) / (x_high - x_low), 0, 1) * (x_points - 1)
    up = np.clip((v - v_low) / (v_high - v_low), 0, 1) * (v_points - 1)
    i, j = np.floor(across).astype(int), np.minimum(np.floor(up).astype(int), v_points - 2)
    if not problem.wraps:
        i = np.minimum(i, x_points - 2)
    s, t = across - i, up - j
    right = (i + 1) % x_points
    i = i % x_points
    corners = [i * v_points + j, right * v_points + j, i * v_points + j + 1, right * v_points + j + 1]
    return corners, [(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t]


def solve(problem: Problem) -> np.ndarray:
    """The best return from every grid point, flat."""
    (x_low, x_high, x_points), (v_low, v_high, v_points) = problem.axes
    xs = np.linspace(x_low, x_high, x_points, endpoint=not problem.wraps)
    vs = np.linspace(v_low, v_high, v_points)
    x, v, a = np.meshgrid(xs, vs, problem.actions, indexing="ij")
    next_x, next_v, reward, over = problem.step(x, v, a)
    corners, shares = _weights(problem, next_x, next_v)
    ahead = problem.discount * ~over
    value = np.zeros(x_points * v_points)
    for _ in range(problem.sweeps):
        future = sum(share * value[corner] for share, corner in zip(shares, corners, strict=True))
        value = (reward + ahead * future).max(axis=2).ravel()
    return value


@functools.cache
def _solved(name: str) -> np.ndarray:
    return solve(PROBLEMS[name])


def best_action(name: str, x: float, v: float) -> float:
    """The best action of a solved problem in one state."""
    problem = PROBLEMS[name]
    actions = problem.actions
    here = np.full(len(actions), x), np.full(len(actions), v)
    next_x, next_v, reward, over = problem.step(*here, actions)
    corners, shares = _weights(problem, next_x, next_v)
    value = _solved(name)
    future = sum(share * value[corner] for share, corner in zip(shares, corners, strict=True))
    return float(actions[int(np.argmax(reward + problem.discount * ~over * future))])


def _car(power: float, goal: float, cost: Callable[[np.ndarray, np.ndarray], np.ndarray], x, v, a):
    v = np.clip(v + a * power - 0.0025 * np.cos(3 * x), -0.07, 0.07)
    x = np.clip(x + v, -1.2, 0.6)
    v = np.where((x == -1.2) & (v < 0), 0.0, v)
    over = (x >= goal) & (v >= 0)
    return x, v, cost(a, over), over


def _swing(x, v, a):
    """Pendulum-v1: 1 kg, 1 m, g 10, steps of 0.05 s; the angle is 0 upright."""
    angle = (x + np.pi) % (2 * np.pi) - np.pi
    reward = -(angle**2 + 0.1 * v**2 + 0.001 * a**2)
    v = np.clip(v + (15.0 * np.sin(x) + 3.0 * a) * 0.05, -8.0, 8.0)
    return x + v * 0.05, v, reward, np.zeros(np.shape(v), bool)


CAR = ((-1.2, 0.6, 181), (-0.07, 0.07, 141))
PROBLEMS = {
    "mountain-car": Problem(
        functools.partial(_car, 0.001, 0.5, lambda a, over: -np.ones(np.shape(a))), CAR, np.array([-1.0, 0.0, 1.0])
    ),
    "mountain-car-continuous": Problem(
        # The environment asks nothing for time but ends after 999 steps; a thousandth a step makes the car set off.
        functools.partial(_car, 0.0015, 0.45, lambda a, over: 100.0 * over - 0.1 * a**2 - 0.001),
        CAR,
        np.linspace(-1, 1, 9),
    ),
    "pendulum": Problem(
        _swing, ((-np.pi, np.pi, 120), (-8.0, 8.0, 121)), np.linspace(-2, 2, 9), wraps=True, discount=0.99, sweeps=250
    ),
}


def mountain_car(observation: np.ndarray, info: Any = None) -> int:
    return 1 + round(best_action("mountain-car", *observation.tolist()))


def mountain_car_continuous(observation: np.ndarray, info: Any = None) -> np.ndarray:
    return np.array([best_action("mountain-car-continuous", *observation.tolist())], np.float32)


def pendulum(observation: np.ndarray, info: Any = None) -> np.ndarray:
    cosine, sine, speed = observation.tolist()
    angle = math.atan2(sine, cosine)
    swing = best_action("pendulum", angle, speed)
    near = math.exp(-((angle / 0.2) ** 4) - speed**4)  # the grid is too coarse to stand still on
    hold = min(max(-10.0 * angle - 3.0 * speed, -2.0), 2.0)
    return np.array([near * hold + (1 - near) * swing], np.float32)


# -- acrobot ----------------------------------------------------------------------------------------------------------


def acrobot(env: Any, seed: int = 0) -> Policy:
    """Tries plans on the equations of motion: torques held for a while, as many steps as it takes to reach the bar.

    Reads the observation alone; `seed` draws the plans.
    """
    rng = np.random.default_rng([seed, 0xAC0B])
    plan: list[int] = []

    def policy(observation: np.ndarray, info: Any = None) -> int:
        nonlocal plan
        c1, s1, c2, s2, w1, w2 = observation.astype(float).tolist()
        state = np.array([math.atan2(s1, c1), math.atan2(s2, c2), w1, w2])
        plan = _plan_acrobot(state, plan[1:], rng)
        return plan[0]

    return policy


ACROBOT_HORIZON, ACROBOT_PLANS = 40, 96


def _plan_acrobot(state: np.ndarray, rest: list[int], rng: np.random.Generator) -> list[int]:
    lengths = rng.integers(2, 12, (ACROBOT_PLANS, ACROBOT_HORIZON))
    switches = np.minimum(np.cumsum(lengths, axis=1), ACROBOT_HORIZON)
    plans = np.zeros((ACROBOT_PLANS, ACROBOT_HORIZON), int)
    for n in range(ACROBOT_PLANS):
        at, sign = 0, 2 * int(rng.integers(2))
        for end in switches[n]:
            plans[n, at:end] = sign
            at, sign = end, 2 - sign
            if at >= ACROBOT_HORIZON:
                break
    if rest:
        plans[0, : len(rest)] = rest
        plans[0, len(rest) :] = rest[-1]
    states = np.repeat(state[:, None], ACROBOT_PLANS, axis=1)
    alive, value = np.ones(ACROBOT_PLANS, bool), np.zeros(ACROBOT_PLANS)
    for t in range(ACROBOT_HORIZON):
        states = acrobot_step(states, plans[:, t] - 1.0)
        height = -np.cos(states[0]) - np.cos(states[0] + states[1])
        value -= alive
        alive &= height <= 1.0
        if not alive.any():
            break
    energy = 9.8 * (-2.0 * np.cos(states[0])) + 0.5 * (states[2] ** 2 + (states[2] + states[3]) ** 2)
    value += np.where(alive, -20.0 + 0.2 * np.minimum(energy, 40.0) + 2.0 * height, 0.0)
    return plans[int(np.argmax(value))].tolist()


def acrobot_step(states: np.ndarray, torques: np.ndarray) -> np.ndarray:
    """Two links of 1 kg and 1 m (Sutton 1996, with the book's term), one step of 0.2 s by Runge and Kutta. (4, N) → (4, N)."""

    def rates(s: np.ndarray) -> np.ndarray:
        a, b, u, w = s
        m11 = 1 * 0.25 + 1 * (1 + 0.25 + np.cos(b)) + 2.0
        m12 = 0.25 + 0.5 * np.cos(b) + 1.0
        lower = 4.9 * np.cos(a + b - np.pi / 2)
        upper = -0.5 * w**2 * np.sin(b) - w * u * np.sin(b) + 14.7 * np.cos(a - np.pi / 2) + lower
        w_rate = (torques + m12 / m11 * upper - 0.5 * u**2 * np.sin(b) - lower) / (1.25 - m12**2 / m11)
        return np.stack([u, w, -(m12 * w_rate + upper) / m11, w_rate])

    dt = 0.2
    k1 = rates(states)
    k2 = rates(states + dt / 2 * k1)
    k3 = rates(states + dt / 2 * k2)
    k4 = rates(states + dt * k3)
    states = states + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    states[:2] = (states[:2] + np.pi) % (2 * np.pi) - np.pi
    states[2] = np.clip(states[2], -4 * np.pi, 4 * np.pi)
    states[3] = np.clip(states[3], -9 * np.pi, 9 * np.pi)
    return states


# -- the tasks --------------------------------------------------------------------------------------------------------


def _formula(law: Any) -> MakeExpert:
    return lambda env, seed: law


# name: Gymnasium's id, steps, expert, its name, wide starts (options of the environment's own reset)
TASKS: dict[str, tuple[str, int, MakeExpert, str, Mapping[str, Any]]] = {
    "cartpole-v1": ("CartPole-v1", 500, _formula(cart_pole), "linear feedback", {"low": -0.15, "high": 0.15}),
    "mountain-car-v0": (
        "MountainCar-v0", 200, _formula(mountain_car), "dynamic programming", {"low": -1.0, "high": 0.2},
    ),
    "mountain-car-continuous-v0": (
        "MountainCarContinuous-v0", 999, _formula(mountain_car_continuous), "dynamic programming",
        {"low": -1.0, "high": 0.2},
    ),
    "pendulum-v1": (
        "Pendulum-v1", 200, _formula(pendulum), "dynamic programming", {"x_init": math.pi, "y_init": 8.0},
    ),
    "acrobot-v1": ("Acrobot-v1", 500, acrobot, "plans on the equations of motion", {"low": -0.8, "high": 0.8}),
}  # fmt: skip


def tasks() -> list[Task]:
    return [
        named_task(
            f"classic-control/{name}",
            env_id,
            steps,
            wide=wide,
            make_expert=expert,
            expert_name=expert_name,
            notes="not in the paper",
        )
        for name, (env_id, steps, expert, expert_name, wide) in TASKS.items()
    ]
