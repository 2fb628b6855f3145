"""The DM Control Suite on MuJoCo: all 51 tasks behind `dm-control-suite/…`, observed by their state.

    {"orientation": float32 (2,), "velocity": float32 (1,)}  →  float32 (1,) in [-1, 1]

Names are `domain-task` with dashes for underscores: pendulum `swingup` is `dm-control-suite/pendulum-swingup`. Rewards
lie in [0, 1] per step (lqr: at most 1) and an episode has 1,000 steps, so returns reach 1,000. An environment loads its
model once; a reset costs well under a millisecond for most.

The expert is a feedback law where one is as good as planning (`feedback.py`), a small trained network where planning is weak
(`actors.py`), and otherwise predictive control on the simulator's own physics (`predictive.py`). What departs from the
suite: lqr, whose actions are unbounded and whose episodes have no limit, has actions in [-1, 1], ends after 1,000 steps,
and is always the same system (the suite draws one at every load).
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from gato.worlds import MakeExpert, Task, actors, feedback, mjcf, predictive
from gato.worlds.camera import Camera
from gato.worlds.saving import restore_physics, save_physics

DOMAIN = "dm-control-suite"
MAX_STEPS = 1000
FRAME_SIZE = (120, 160)  # height, width of a rendered frame

SUITE = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}


def formula(law: Any) -> MakeExpert:
    """A policy that needs neither environment nor seed, as an expert."""
    return lambda env, seed: law


BALANCE = (formula(feedback.cartpole), "energy shaping and linear-quadratic feedback")
REACH = (formula(feedback.reacher), "transposed-Jacobian feedback")
# Names of the numbers: `feedback.swimmer`.
SWIM_6 = functools.partial(feedback.swimmer, 0.958, 6.152, 1.366, 6.201, 0.144, -0.388, 0.693, 0.646, 0.649)
SWIM_15 = functools.partial(feedback.swimmer, 1.104, 7.271, 1.678, 4.712, 0.25, -2.27, 1.101, 1.497, 1.003)
FEEDBACK: dict[str, tuple[MakeExpert, str]] = {
    "cartpole-balance": BALANCE,
    "cartpole-balance-sparse": BALANCE,
    "cartpole-swingup": BALANCE,
    "cartpole-swingup-sparse": BALANCE,
    "lqr-lqr-2-1": (feedback.lqr, "linear-quadratic feedback"),
    "lqr-lqr-6-2": (feedback.lqr, "linear-quadratic feedback"),
    "pendulum-swingup": (formula(feedback.pendulum), "energy shaping and a damped spring"),
    "point-mass-easy": (formula(feedback.point_mass), "a damped spring"),
    "point-mass-hard": (feedback.point_mass_mixed, "a damped spring that knows the gains"),
    "reacher-easy": REACH,
    "reacher-hard": REACH,
    "swimmer-swimmer6": (SWIM_6, "a travelling wave that steers"),
    "swimmer-swimmer15": (SWIM_15, "a travelling wave that steers"),
}


def task_name(domain: str, task: str) -> str:
    return f"{domain}-{task}".replace("_", "-").lower()


def tasks() -> list[Task]:
    return [_task(domain, task) for domain, names in SUITE.items() for task in names]


def make_expert(name: str, changed: bool = False) -> tuple[MakeExpert | None, str]:
    """The expert of a task (`cartpole-swingup`) and what it is called; None and nothing where there is none. An actor knows one body:
    of one that is `changed` it is the planner, which sees the physics as it is."""
    if name in FEEDBACK:
        return FEEDBACK[name]
    if not changed and (actor := actors.expert(f"{DOMAIN}/{name}")):
        return actor, "trained actor"
    return (predictive.EXPERTS[name], "predictive control") if name in predictive.EXPERTS else (None, "")


def _task(domain: str, task: str) -> Task:
    name = task_name(domain, task)
    expert, expert_name = make_expert(name)
    return Task(
        id=f"{DOMAIN}/{name}",
        make_env=functools.partial(DMControl, domain, task),
        make_expert=expert,
        score="return",
        requires=("dm_control", "mujoco"),
        extra="mujoco",
        max_steps=MAX_STEPS,
        expert_name=expert_name,
        notes="actions bounded to [-1, 1], one fixed system, 1,000 steps" if domain == "lqr" else "",
        meta={"simulator_id": f"{domain}/{task}"},
    )


def import_suite() -> Any:
    """`dm_control.suite`, without a screen: EGL unless MUJOCO_GL says otherwise, no OpenGL at all where that fails."""
    chosen = "MUJOCO_GL" in os.environ
    if not chosen and sys.platform == "linux":
        os.environ["MUJOCO_GL"] = "egl"
    try:
        from dm_control import suite
    except Exception:  # PyOpenGL without a GL library fails with AttributeError, ImportError or OSError
        if chosen:
            raise
        for module in [m for m in sys.modules if m.partition(".")[0] in ("dm_control", "OpenGL")]:
            del sys.modules[module]  # half imported
        os.environ["MUJOCO_GL"] = "disabled"
        os.environ.pop("PYOPENGL_PLATFORM", None)
        from dm_control import suite
    return suite


Vary = Callable[[Any, np.random.Generator], dict[str, float]]  # changes an MjSpec, says what it drew


class DMControl(gymnasium.Env):
    """One task. For planners: `simulator` and `physics` are dm_control's, `num_substeps` the physics steps in a control step, and
    `description` the model as text.

    `reset(options={"wide": True})` starts from positions and velocities well beyond the task's own start, in
    the domains of `WIDE`. `vary` changes the physics at every reset; what it drew is in the reset's info as `drawn`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, domain: str, task: str, *, render: bool = False, vary: Vary | None = None):
        suite = import_suite()
        with mjcf.heard() as self.description:
            self.simulator = suite.load(domain, task, task_kwargs={"random": 0})
        self._wide, self._vary = WIDE.get(domain), vary
        self._steps = 0
        self.physics = self.simulator.physics
        # quadruped-escape would make itself a GL context, to upload its terrain; our camera has its own.
        self.physics._make_rendering_contexts = lambda: None
        self.num_substeps = round(self.simulator.control_timestep() / self.physics.timestep())
        bounds = self.simulator.action_spec()
        low, high = (np.broadcast_to(np.asarray(b, np.float32), bounds.shape) for b in (bounds.minimum, bounds.maximum))
        if domain == "lqr":  # ±1e10 in the suite, which no bins can hold
            low, high = -np.ones(bounds.shape, np.float32), np.ones(bounds.shape, np.float32)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        with self.physics.reset_context():  # some observations exist only after an episode has begun
            self.simulator.task.initialize_episode(self.physics)
        self.observation_space = gymnasium.spaces.Dict(
            {
                key: gymnasium.spaces.Box(-np.inf, np.inf, value.shape, np.float32)
                for key, value in self._observe(self.simulator.task.get_observation(self.physics)).items()
            }
        )
        self.render_mode = "rgb_array" if render else None
        self._camera = Camera(self.physics.model.ptr, *FRAME_SIZE, where=f"{domain} {task}") if render else None

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self._steps = 0
        info = {}
        if self._vary is not None:
            spec = self.description.spec()
            info["drawn"] = self._vary(spec, self.np_random)
            mjcf.pour(spec.compile(), into=self.physics.model.ptr)
        self.simulator.task.random.seed(int(self.np_random.integers(2**32)))
        observation = self.simulator.reset().observation
        if self._wide is not None and (options or {}).get("wide"):
            self._wide(self.physics, self.np_random)
            self.physics.after_reset()
            observation = self.simulator.task.get_observation(self.physics)
        if self._camera is not None:
            self._camera.upload_terrain()
        return self._observe(observation), info

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        result = self.simulator.step(np.asarray(action, np.float64))
        self._steps += 1
        ended = result.last()
        terminated = ended and result.discount == 0.0
        truncated = not terminated and (ended or self._steps >= MAX_STEPS)
        return self._observe(result.observation), float(result.reward), terminated, truncated, {}

    def observe(self) -> dict[str, np.ndarray]:
        """The state now, for an expert of a task that shows something else."""
        return self._observe(self.simulator.task.get_observation(self.physics))

    def state_vector(self) -> np.ndarray:
        """Positions, velocities and activations, what traces compare."""
        return np.array(self.physics.get_state(), np.float64)

    def render(self) -> np.ndarray | None:
        """uint8 (120, 160, 3), from the model's first camera; None unless made with `render=True`."""
        return None if self._camera is None else self._camera.picture(self.physics.data.ptr)

    def save_state(self) -> Any:
        simulator = self.simulator
        physics = save_physics(self.physics.model.ptr, self.physics.data.ptr)
        return physics, self._steps, simulator._step_count, simulator._reset_next_step

    def restore_state(self, state: Any) -> None:
        physics, self._steps, self.simulator._step_count, self.simulator._reset_next_step = state
        restore_physics(self.physics.model.ptr, self.physics.data.ptr, physics)

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    @staticmethod
    def _observe(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {key: np.atleast_1d(np.asarray(value, np.float32)) for key, value in values.items()}


# -- wide starts: (physics, rng) sets qpos and qvel, after the task has drawn its own start ---------------------------


def _velocities(physics: Any, rng: np.random.Generator) -> None:
    """The task's own positions, which are already anywhere, with random velocities."""
    physics.data.qvel[:] = rng.normal(0.0, 1.0, physics.model.nv)


def _pendulum(physics: Any, rng: np.random.Generator) -> None:
    physics.data.qpos[0] = rng.uniform(-np.pi, np.pi)
    physics.data.qvel[0] = rng.uniform(-9.0, 9.0)  # falling from the top ends at 8.9 rad/s


def _cartpole(physics: Any, rng: np.random.Generator) -> None:
    physics.data.qpos[0] = rng.uniform(-1.2, 1.2)
    physics.data.qpos[1:] = rng.uniform(-np.pi, np.pi, physics.model.nq - 1)
    physics.data.qvel[0] = rng.uniform(-2.5, 2.5)
    physics.data.qvel[1:] = rng.uniform(-8.0, 8.0, physics.model.nv - 1)


def _reacher(physics: Any, rng: np.random.Generator) -> None:
    physics.data.qpos[:] = rng.uniform([-4.0, -2.7], [4.0, 2.7])  # the shoulder may wind a little beyond ±180°
    physics.data.qvel[:] = rng.normal(0.0, 2.0, 2)


def _point_mass(physics: Any, rng: np.random.Generator) -> None:
    physics.data.qpos[:] = rng.uniform(-0.29, 0.29, 2)
    physics.data.qvel[:] = rng.uniform(-0.1, 0.1, 2)  # 0.1 m/s is full speed


def _ball_in_cup(physics: Any, rng: np.random.Generator) -> None:
    """Cup and ball anywhere within each other's string, apart, and moving."""
    while True:
        cup = rng.uniform(-0.15, 0.15, 2)
        distance, angle = rng.uniform(0.0, 0.29), rng.uniform(-np.pi, np.pi)
        # The string ties the ball (z 0.2 + qpos) to the bottom of the cup (z 0.6 - 0.108 + qpos).
        offset = distance * np.array([np.cos(angle), np.sin(angle)]) + [0.0, 0.6 - 0.108 - 0.2]
        physics.data.qpos[:] = [*cup, *(cup + offset)]
        physics.after_reset()
        if physics.data.ncon == 0:
            break
    physics.data.qvel[:] = rng.normal(0.0, [0.3, 0.3, 1.0, 1.0])


def _walker(physics: Any, rng: np.random.Generator) -> None:
    physics.data.qvel[:] = rng.normal(0.0, [1.0, 1.0, 1.0, *[2.0] * 6])


WIDE: dict[str, Callable[[Any, np.random.Generator], None]] = {
    "pendulum": _pendulum,
    "cartpole": _cartpole,
    "reacher": _reacher,
    "point_mass": _point_mass,
    "ball_in_cup": _ball_in_cup,
    "cheetah": _velocities,
    "finger": _velocities,
    "lqr": _velocities,
    "swimmer": _velocities,
    "walker": _walker,
}
