"""DM Control with other bodies: 26 tasks, their physics drawn anew every episode, little or much.

    dm-control-suite-random-small/walker-walk     factors in [0.9, 0.95] or [1.05, 1.1]
    dm-control-suite-random-large/walker-walk     factors in [0.6, 0.8] or [1.2, 1.4]

Six factors are drawn from the episode's seed, one for all of its kind: actuator gear, joint range, joint stiffness,
joint damping, size of the body's geoms, and their density. They multiply the model's description, which is compiled
again, so masses and inertias follow from sizes and densities. The reset's info holds them under `drawn`; the observation
shows none of them. Floors, targets and meshes stay as they are, and so do the lengths of limbs that are told by their two
ends. The expert is predictive control, which plans on the changed physics, or the state task's feedback law, which does not
know it. Trained actors know one body only; that of `cheetah-run` bears the small changes.

The paper counts 26 tasks and does not name them; these are the suite's benchmark tasks without manipulator bring_ball and
acrobot swingup_sparse. Its intervals are taken as it tells them; whether it drew one factor for all of a kind is open.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from gato.worlds import Task
from gato.worlds.dm_control import MAX_STEPS, DMControl, make_expert, task_name
from gato.worlds.dm_control_pixels import BENCHMARK

LEFT_OUT = {("manipulator", "bring_ball"), ("acrobot", "swingup_sparse")}
INTERVALS = {
    "small": ((0.9, 0.95), (1.05, 1.1)),
    "large": ((0.6, 0.8), (1.2, 1.4)),
}
BORNE = {("small", "cheetah-run")}  # by the actor of the unchanged body
KINDS = ("gear", "range", "stiffness", "damping", "size", "density")


def tasks() -> list[Task]:
    chosen = [(d, t) for d, names in BENCHMARK.items() for t in names if (d, t) not in LEFT_OUT]
    return [_task(amount, domain, task) for amount in INTERVALS for domain, task in chosen]


def _task(amount: str, domain: str, task: str) -> Task:
    name = task_name(domain, task)
    expert, expert_name = make_expert(name, changed=(amount, name) not in BORNE)
    return Task(
        id=f"dm-control-suite-random-{amount}/{name}",
        make_env=functools.partial(_make_env, domain, task, amount),
        make_expert=expert,
        requires=("dm_control", "mujoco"),
        extra="mujoco",
        max_steps=MAX_STEPS,
        expert_name=expert_name,
        notes="one factor for all of a kind; the paper does not name its 26 tasks",
        meta={"simulator_id": f"{domain}/{task}", "amount": amount},
    )


def _make_env(domain: str, task: str, amount: str, *, render: bool = False) -> gymnasium.Env:
    return DMControl(domain, task, render=render, vary=functools.partial(vary, amount))


def vary(amount: str, spec: Any, rng: np.random.Generator) -> dict[str, float]:
    """Draw the six factors and multiply an MjSpec's numbers by them. Returns the factors."""
    drawn = {kind: float(rng.uniform(*INTERVALS[amount][rng.integers(2)])) for kind in KINDS}
    apply(spec, drawn)
    return drawn


def apply(spec: Any, factors: Mapping[str, float]) -> None:
    """Multiply what the factors name in an MjSpec; see the module."""
    import mujoco

    shaped = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_MESH, mujoco.mjtGeom.mjGEOM_HFIELD)
    for actuator in spec.actuators:
        actuator.gear *= factors["gear"]
    for joint in spec.joints:
        joint.range *= factors["range"]
        joint.stiffness *= factors["stiffness"]
        joint.damping *= factors["damping"]
    for geom in spec.geoms:
        if geom.parent.name == "world" or geom.type in shaped:
            continue
        geom.size *= factors["size"]
        geom.density *= factors["density"]
        geom.mass *= factors["density"]  # NaN where the density tells it
