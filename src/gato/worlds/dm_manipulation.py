"""Manipulation tasks of dm_control: a Jaco arm reaches, lifts, places and stacks, behind `dm-manipulation-playground/…`.

    {"jaco_arm-joints_pos": float32 (6, 2), …, "duplo-position": float32 (3,), …}  →  float32 (9,) joint velocities, rad/s

All 25 tasks of `dm_control.manipulation`: 13 observed by features, 12 by the arm's own sensors and a camera
(`front_close`, 80×80). A feature task and the vision task of the same name share their physics and their starts, so one
expert serves both. Names are the package's with dashes: `lift_brick_features` is
`dm-manipulation-playground/lift-brick-features`. Rewards lie in [0, 1] per step, an episode has 250 steps (10 s).

The paper's four playground tasks were never published; these are the published tasks with the same arm.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from gato.worlds import Task, jaco
from gato.worlds.camera import Camera
from gato.worlds.dm_control import import_suite

DOMAIN = "dm-manipulation-playground"
MAX_STEPS, SECONDS = 250, 10.0
FRAME = 80  # pixels a side; 84 in the package, which is no multiple of a patch
CAMERA = "front_close"

FEATURES = (
    "reach_site", "reach_duplo", "lift_brick", "lift_large_box", "place_brick", "place_cradle", "stack_2_bricks",
    "stack_2_bricks_moveable_base", "stack_3_bricks", "stack_3_bricks_random_order",
    "stack_2_of_3_bricks_random_order", "reassemble_3_bricks_fixed_order", "reassemble_5_bricks_random_order",
)  # fmt: skip
VISION = tuple(name for name in FEATURES if name != "stack_3_bricks_random_order")


def tasks() -> list[Task]:
    names = [f"{name}_features" for name in FEATURES] + [f"{name}_vision" for name in reversed(VISION)]
    return [
        Task(
            id=f"{DOMAIN}/{name.replace('_', '-')}",
            make_env=functools.partial(Manipulation, name),
            make_expert=jaco.EXPERTS.get(name.rpartition("_")[0]),
            score="return",
            requires=("dm_control", "mujoco"),
            extra="mujoco",
            max_steps=MAX_STEPS,
            expert_name="inverse kinematics" if name.rpartition("_")[0] in jaco.EXPERTS else "",
            same_world=f"{DOMAIN}/{name.replace('_', '-').replace('vision', 'features')}" if "vision" in name else "",
            notes="stand-in: the paper's playground tasks were not published; the same arm",
            meta={"simulator_id": name},
        )
        for name in names
    ]


def _noise_of_a_reset(record: logging.LogRecord) -> bool:
    """Whether to print it: the arm's start is found by trial, and each trial that fails is a warning."""
    return not record.getMessage().startswith("Failed to converge")


class Manipulation(gymnasium.Env):
    """One task. For the expert: `simulator` is the composer environment, `physics` its physics (new at some resets).

    `reset(options={"wide": True})` first moves the arm for up to 25 steps at random velocities, which do not count.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(self, name: str, *, render: bool = False):
        import_suite()  # settles dm_control on a GL library, or on none
        from dm_control import composer, manipulation  # noqa: F401  the second fills the registry
        from dm_control.manipulation.shared import registry

        logging.getLogger("absl").addFilter(_noise_of_a_reset)
        self.name = name
        self.task: Any = registry.get_constructor(name)()
        self._sees = self.task.task_observables[CAMERA].enabled
        # The composer's own camera would draw every frame with shadows, at a tenth of the speed.
        self.task.task_observables[CAMERA].enabled = False
        self._first_order = np.copy(getattr(self.task, "_initial_order", ()))
        self.simulator: Any = composer.Environment(
            self.task,
            time_limit=SECONDS,
            random_state=0,
            max_reset_attempts=20,  # a place without collisions is not always found at once
            # Bricks that were stacked leave a trace in the model (the last bit of a velocity); elsewhere it stays as it is.
            recompile_mjcf_every_episode=any(word in name for word in ("stack", "reassemble")),
        )
        observation = self.simulator.reset().observation
        bounds = self.simulator.action_spec()
        self.action_space = gymnasium.spaces.Box(
            bounds.minimum.astype(np.float32), bounds.maximum.astype(np.float32), dtype=np.float32
        )
        spaces: dict[str, gymnasium.Space] = {
            key: gymnasium.spaces.Box(-np.inf, np.inf, value.shape, np.float32)
            for key, value in self._features(observation).items()
        }
        if self._sees:
            spaces[CAMERA] = gymnasium.spaces.Box(0, 255, (FRAME, FRAME, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.render_mode = "rgb_array" if render else None
        self._camera: Camera | None = None
        self._steps = 0
        if render:
            self._picture()  # says at once where there is no OpenGL

    @property
    def physics(self) -> Any:
        return self.simulator.physics

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.simulator.random_state.seed(int(self.np_random.integers(2**32)))
        if self._first_order.size:  # shuffled in place by every episode
            self.task._initial_order[:] = self._first_order
        observation = self.simulator.reset().observation
        if (options or {}).get("wide"):
            observation = self._stir(observation)
        self._steps = 0
        return self._observe(observation), {}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        result = self.simulator.step(np.asarray(action, np.float64))
        self._steps += 1
        terminated = bool(result.last() and result.discount == 0.0)
        truncated = not terminated and (result.last() or self._steps >= MAX_STEPS)
        return self._observe(result.observation), float(result.reward), terminated, truncated, {}

    def state_vector(self) -> np.ndarray:
        """Positions, velocities and activations of arm and objects, what traces compare."""
        return np.array(self.physics.get_state(), np.float64)

    def render(self) -> np.ndarray | None:
        """uint8 (80, 80, 3), from the task's camera; None unless made with `render=True`."""
        return self._picture() if self.render_mode else None

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def _stir(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """One random velocity after another, each for five steps; the arm alone."""
        bounds = self.simulator.action_spec()
        for _ in range(int(self.np_random.integers(6))):
            velocity = self.np_random.uniform(bounds.minimum, bounds.maximum)
            for _ in range(5):
                observation = self.simulator.step(velocity).observation
        self.physics.data.time = 0.0
        return observation

    def _observe(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {**self._features(values), CAMERA: self._picture()} if self._sees else self._features(values)

    @staticmethod
    def _features(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The package's observables under plain names, without the leading dimension of a buffer of one."""
        return {
            key.replace("jaco_arm/jaco_hand/", "hand/").replace("jaco_arm/", "arm/").strip("/").replace("/", "-"):
            np.array(value[0], np.float32).reshape(np.shape(value)[1:] or (1,))
            for key, value in values.items()
        }  # fmt: skip

    def _picture(self) -> np.ndarray:
        physics = self.simulator._physics
        if self._camera is None or self._camera.model is not physics.model.ptr:
            self.close()
            model = physics.model.ptr
            index = next(i for i in range(model.ncam) if model.camera(i).name.endswith(CAMERA))
            self._camera = Camera(model, FRAME, FRAME, index, where=f"{DOMAIN} {self.name}")
        return self._camera.picture(physics.data.ptr)
