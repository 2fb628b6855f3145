"""Modular RL: one body with limbs taken off, 39 ways, behind `modular-rl/…`.

    modular-rl/walker-3-1      three segments of one leg, one of the other
    modular-rl/cheetah-2-3     two segments of the hind leg, three of the front one
    modular-rl/hopper-2        thigh and leg, no foot
    modular-rl/humanoid-legs-2-1-arms-2-2     right and left, counted from the trunk

The whole bodies are Gymnasium's Walker2d, HalfCheetah, Hopper and Humanoid, read from the installed package; a limb goes
with everything below it, and its motors with it, so what is left is connected and holds the torso. Of two bodies that
are mirror images one is listed.

    {"position": float32 (all but the way travelled), "velocity": float32}  →  float32 in [-1, 1], one number a motor

The reward is Gymnasium's (version 5): speed forwards, a bonus while the torso is up (none for cheetahs), less a cost of
control. Unlike there an episode always has 1,000 steps: a fall costs the bonus and does not end it, so that returns of
different bodies compare, and getting up can be learned. The expert is a small trained network (`actors.py`), or else
predictive control on the body's own physics.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np

from gato.worlds import MakeExpert, Task, actors
from gato.worlds.camera import Camera
from gato.worlds.predictive import Future, Planning, PredictiveControl, ramp

MAX_STEPS = 1000
FRAME_SIZE = (120, 160)  # height, width of a rendered frame


@dataclass(frozen=True)
class Family:
    """A whole body and what its motion is worth. Limbs are chains of bodies, the one nearest to the trunk first."""

    file: str  # of Gymnasium's assets
    limbs: tuple[tuple[str, ...], ...]
    frame_skip: int
    height: int  # which position is the torso's height
    control_cost: float
    bonus: float = 0.0  # a step, while upright
    speed: float = 1.0  # worth of a metre a second


FAMILIES = {
    "walker": Family(
        "walker2d_v5.xml", (("thigh", "leg", "foot"), ("thigh_left", "leg_left", "foot_left")), 4, 1, 0.001, 1.0
    ),
    "cheetah": Family("half_cheetah.xml", (("bthigh", "bshin", "bfoot"), ("fthigh", "fshin", "ffoot")), 5, 1, 0.1),
    "hopper": Family("hopper.xml", (("thigh", "leg", "foot"),), 4, 1, 0.001, 1.0),
    "humanoid": Family(
        "humanoid.xml",
        (
            ("right_thigh", "right_shin"),
            ("left_thigh", "left_shin"),
            ("right_upper_arm", "right_lower_arm"),
            ("left_upper_arm", "left_lower_arm"),
        ),
        5, 2, 0.1, 5.0, 1.25,
    ),
}  # fmt: skip


def morphologies() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name, family, segments kept of each limb) of all 39."""
    for right in range(3, 0, -1):
        for left in range(right, -1, -1):
            yield f"walker-{right}-{left}", "walker", (right, left)
    for hind in range(3, -1, -1):
        for front in range(3, -1, -1):
            if hind + front:
                yield f"cheetah-{hind}-{front}", "cheetah", (hind, front)
    for segments in range(3, 0, -1):
        yield f"hopper-{segments}", "hopper", (segments,)
    every_arm = [(right, left) for right in range(2, -1, -1) for left in range(right, -1, -1)]
    some_arms = {(2, 2): every_arm, (2, 1): [(2, 2), (0, 0)], (1, 1): [(2, 2), (1, 1), (0, 0)], (2, 0): [(2, 2)]}
    for legs, arms in some_arms.items():
        for pair in arms:
            yield "humanoid-legs-{}-{}-arms-{}-{}".format(*legs, *pair), "humanoid", (*legs, *pair)


def tasks() -> list[Task]:
    return [
        Task(
            id=f"modular-rl/{name}",
            make_env=functools.partial(ModularBody, family, kept),
            make_expert=actors.expert(f"modular-rl/{name}") or _expert(family),
            requires=("mujoco", "gymnasium"),
            extra="mujoco",
            max_steps=MAX_STEPS,
            expert_name="trained actor" if actors.expert(f"modular-rl/{name}") else "predictive control",
            notes="1,000 steps, no end at a fall; which 38 bodies the paper took is not told, but their families are",
            meta={"family": family, "segments": kept},
        )
        for name, family, kept in morphologies()
    ]


def body_spec(family: str, kept: tuple[int, ...]) -> Any:
    """The whole body as a `mujoco.MjSpec` with limbs cut down to `kept` segments."""
    import mujoco

    found = importlib.util.find_spec("gymnasium")
    assert found is not None and found.origin is not None
    assets = Path(found.origin).parent / "envs" / "mujoco" / "assets"
    spec = mujoco.MjSpec.from_file(str(assets / FAMILIES[family].file))
    for texture in spec.textures:  # drawing them takes most of a compilation
        texture.width = texture.height = 8
        texture.height *= 6 if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX else 1
    for limb, segments in zip(FAMILIES[family].limbs, kept, strict=True):
        if segments < len(limb):
            _cut(spec, spec.body(limb[segments]))
    return spec


def _cut(spec: Any, body: Any) -> None:
    """Take off a body, all below it, and the motors and tendons that pull at it."""
    lost = {joint.name for joint in _joints(body)}
    for tendon in list(spec.tendons):  # Humanoid's couple hip and knee, and nothing uses them
        tendon.delete()
    for actuator in list(spec.actuators):
        if actuator.target in lost:
            actuator.delete()
    spec.detach_body(body)


def _joints(body: Any) -> Iterator[Any]:
    yield from body.joints
    for child in body.bodies:
        yield from _joints(child)


class ModularBody(gymnasium.Env):
    """One morphology. For planners: `physics` (model and data), `num_substeps`, `family`, `start_height`.

    `reset(options={"wide": True})` starts with bent limbs, tilted and moving.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}

    def __init__(self, family: str, kept: tuple[int, ...], *, render: bool = False):
        import mujoco

        self._mujoco, self.family = mujoco, FAMILIES[family]
        self._model = body_spec(family, kept).compile()
        self._data = mujoco.MjData(self._model)
        # The same names as dm_control's, which is what predictive control looks for.
        self.physics = SimpleNamespace(model=SimpleNamespace(ptr=self._model), data=SimpleNamespace(ptr=self._data))
        self.num_substeps = self.family.frame_skip
        self._dt = self.num_substeps * self._model.opt.timestep
        # Humanoid's motors take ±0.4; here every action space is the same, and the motors are as strong as before.
        self._model.actuator_gear[:] *= self._model.actuator_ctrlrange[:, 1:]
        self._control_unit = self._model.actuator_ctrlrange[:, 1].copy()
        self._model.actuator_ctrlrange[:] = [-1.0, 1.0]
        self._first = 2 if family == "humanoid" else 1  # positions that tell how far it has come are not observed
        self._start = self._model.qpos0.copy()
        self._start[self.family.height] -= self._clearance()
        self.start_height = float(self._start[self.family.height])
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self._model.nu,), np.float32)
        shapes = {"position": (self._model.nq - self._first,), "velocity": (self._model.nv,)}
        self.observation_space = gymnasium.spaces.Dict(
            {key: gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32) for key, shape in shapes.items()}
        )
        self.render_mode = "rgb_array" if render else None
        self._camera = Camera(self._model, *FRAME_SIZE, where=f"modular-rl {family} {kept}") if render else None
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        rng, data, height = self.np_random, self._data, self.family.height
        self._mujoco.mj_resetData(self._model, data)
        bend, speed = (0.3, 0.5) if (options or {}).get("wide") else (0.02, 0.02)
        data.qpos[:] = self._start
        data.qpos[height + 1 :] += rng.uniform(-bend, bend, self._model.nq - height - 1)
        for joint in range(self._model.njnt):
            if self._model.jnt_limited[joint]:
                address = self._model.jnt_qposadr[joint]
                data.qpos[address] = np.clip(data.qpos[address], *self._model.jnt_range[joint])
        data.qvel[:] = rng.normal(0.0, speed, self._model.nv)
        self._mujoco.mj_forward(self._model, data)
        data.qpos[height] -= min(0.0, self._lowest())  # not under the floor
        self._mujoco.mj_forward(self._model, data)
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        action, x = np.clip(np.asarray(action, np.float64), -1.0, 1.0), self._data.qpos[0]
        self._data.ctrl[:] = action
        self._mujoco.mj_step(self._model, self._data, self.num_substeps)
        self._steps += 1
        speed = (self._data.qpos[0] - x) / self._dt
        upright = is_up(self.family, self.start_height, self._data.qpos)
        cost = self.family.control_cost * float(((action * self._control_unit) ** 2).sum())
        reward = self.family.speed * speed + self.family.bonus * float(upright) - cost
        return self._observe(), float(reward), False, self._steps >= MAX_STEPS, {}

    def state_vector(self) -> np.ndarray:
        """Positions and velocities, what traces compare."""
        return np.concatenate([self._data.qpos, self._data.qvel])

    def render(self) -> np.ndarray | None:
        return None if self._camera is None else self._camera.picture(self._data)

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def _observe(self) -> dict[str, np.ndarray]:
        return {
            "position": self._data.qpos[self._first :].astype(np.float32),
            "velocity": self._data.qvel.astype(np.float32),
        }

    def _clearance(self) -> float:
        """How far above the floor the body hangs in its reference position."""
        self._data.qpos[:] = self._model.qpos0
        self._mujoco.mj_forward(self._model, self._data)
        return self._lowest()

    def _lowest(self) -> float:
        """Height of the lowest point of any capsule or sphere, in metres."""
        moving = self._model.geom_bodyid > 0
        radius, half = self._model.geom_size[moving, 0], self._model.geom_size[moving, 1].copy()
        half[self._model.geom_type[moving] == self._mujoco.mjtGeom.mjGEOM_SPHERE] = 0.0
        up = np.abs(self._data.geom_xmat[moving, 8])  # of the capsule's axis
        return float((self._data.geom_xpos[moving, 2] - half * up - radius).min())


def is_up(family: Family, start_height: float, position: np.ndarray) -> np.ndarray:
    """Whether the torso is higher than two thirds of its start, and tilted less than a radian (humanoid: any way)."""
    height = position[..., family.height]
    up = height > 0.67 * start_height
    return up if family.height == 2 else up & (np.abs(position[..., 2]) < 1.0)


# -- the expert -------------------------------------------------------------------------------------------------------


def _objective(family: Family, start_height: float, unit: np.ndarray, future: Future) -> np.ndarray:
    """The reward, with a slope towards standing where the bonus has none."""
    cost = family.control_cost * ((future.actions * unit) ** 2).sum(axis=2)
    reward = family.speed * future.velocity[:, :, 0] - cost
    if not family.bonus:
        return reward
    standing = ramp(future.position[:, :, family.height] / start_height, 0.5, 1.0)
    if family.height == 1:
        standing = standing * (0.5 + np.cos(future.position[:, :, 2]) / 2)
    return reward + family.bonus * (is_up(family, start_height, future.position) + standing)


PLANNING: dict[str, dict[str, Any]] = {
    "walker": {"horizon": 60, "knots": 10, "samples": 48, "replan": 2, "coarse": 2},
    "cheetah": {"horizon": 20, "knots": 20, "samples": 96},
    "hopper": {"horizon": 80, "knots": 10, "samples": 48, "replan": 2, "coarse": 2},
    "humanoid": {"horizon": 30, "knots": 6, "samples": 48, "replan": 2},
}


def _expert(family: str) -> MakeExpert:
    return functools.partial(_plan, PLANNING[family])


def _plan(settings: Mapping[str, Any], env: Any, seed: int) -> PredictiveControl:
    objective = functools.partial(_objective, env.family, env.start_height, env._control_unit)
    return PredictiveControl(Planning(objective, **settings), env, seed)
