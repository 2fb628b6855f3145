"""Meta-World: a robot arm on a table, fifty things to do with it (metaworld, MuJoCo), behind `meta-world/…`.

    float32 (39,): 18 values now, 18 of the step before, 3 of the goal  →  float32 (4,): hand x, y, z and gripper

The 18: hand position (metres), gripper opening (0…1), then position and quaternion of up to two objects, zeros where
there are none. The goal is in the observation (in the simulator's default it is hidden as zeros), and goal and objects
are placed anew by every reset, from its seed.

`meta-world-physics-state/…` are the same fifty with the simulator's state appended, all joint positions and velocities
(MuJoCo's qpos and qvel: 18 values of the arm, 2 to 17 of the objects, so 59 to 74 in all, 65 on average). The paper's
experts saw the physics state, and so did its agent: the tokens it counts leave about 67 observed values per step.

The score is success. An episode ends at the first success, which leaves the score as it is (Meta-World counts an
episode as solved if any step of it was) and keeps demonstrations short; else it is truncated after 500 steps. The
experts are the package's scripted policies: functions of the observation alone.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from gato.errors import WorldError
from gato.worlds import Policy, Task
from gato.worlds.saving import restore_attributes, save_attributes

MAX_STEPS = 500
VALUES = 39  # of Meta-World's own observation
MAX_WIDE_STEPS = 25  # a step moves the hand by at most a centimetre along each axis
OPEN = 0.9  # gripper opening, of 1
FRAME = 128  # pixels a side
GL_LINE = "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libglvnd0"

NAMES = (
    "assembly", "basketball", "bin-picking", "box-close", "button-press", "button-press-topdown",
    "button-press-topdown-wall", "button-press-wall", "coffee-button", "coffee-pull", "coffee-push", "dial-turn",
    "disassemble", "door-close", "door-lock", "door-open", "door-unlock", "drawer-close", "drawer-open",
    "faucet-close", "faucet-open", "hammer", "hand-insert", "handle-press", "handle-press-side", "handle-pull",
    "handle-pull-side", "lever-pull", "peg-insert-side", "peg-unplug-side", "pick-out-of-hole", "pick-place",
    "pick-place-wall", "plate-slide", "plate-slide-back", "plate-slide-back-side", "plate-slide-side", "push",
    "push-back", "push-wall", "reach", "reach-wall", "shelf-place", "soccer", "stick-pull", "stick-push", "sweep",
    "sweep-into", "window-close", "window-open",
)  # fmt: skip


def tasks() -> list[Task]:
    """The fifty, then the fifty with physics state."""
    return [
        Task(
            id=f"meta-world{'-physics-state' if physics_state else ''}/{name}",
            make_env=functools.partial(MetaWorld, name, physics_state=physics_state),
            make_expert=scripted_policy,
            score="success",
            requires=("metaworld", "mujoco"),
            extra="mujoco",
            max_steps=MAX_STEPS,
            expert_name="Meta-World's scripted policy",
            same_world=f"meta-world/{name}" if physics_state else "",
            notes="ends at the first success; the goal is visible; the paper used 45 of the 50 tasks",
            meta={"simulator_id": f"{name}-v3"},
        )
        for physics_state in (False, True)
        for name in NAMES
    ]


class MetaWorld(gymnasium.Env):
    """One task. `simulator` is Meta-World's own environment; `physics_state` appends qpos and qvel to the 39 values.

    `reset(options={"wide": True})` moves the hand from its usual place before the first observation: up to 25 steps of
    one random action, held, which neither count nor may solve the task.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}

    def __init__(self, name: str, *, physics_state: bool = False, render: bool = False):
        from metaworld.env_dict import ENV_CLS_MAP

        self.name = name
        self.simulator: Any = ENV_CLS_MAP[f"{name}-v3"]()  # the class itself: the benchmark objects take 16 s to build
        # What set_task() does for a fixed list of goals; here every reset draws its own, from `simulator.np_random`.
        self.simulator._set_task_called = True
        self.simulator._freeze_rand_vec = False
        self.simulator.seeded_rand_vec = True
        # The observation space is cached with the goal's bounds at zero, and step() clips to it: drop both.
        self.simulator._partially_observable = False
        del self.simulator.sawyer_observation_space
        bounds = self.simulator.sawyer_observation_space
        self._low, self._high = bounds.low.astype(np.float32), bounds.high.astype(np.float32)
        self._physics_state = physics_state
        beyond = np.full(self.simulator.model.nq + self.simulator.model.nv if physics_state else 0, np.inf, np.float32)
        self.observation_space = gymnasium.spaces.Box(
            np.append(self._low, -beyond), np.append(self._high, beyond), dtype=np.float32
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.render_mode = "rgb_array" if render else None
        self._camera = _Camera(self.simulator.model, where=f"meta-world/{name}") if render else None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        layout = int(self.np_random.integers(2**31))
        observation = self._lay_out(layout)
        if (options or {}).get("wide"):
            held = self.np_random.uniform(-1, 1, 4).astype(np.float32)
            held[3] = -1.0  # open, as every task begins; some scripts cannot undo a closed gripper
            steps = int(self.np_random.integers(MAX_WIDE_STEPS + 1))
            while (moved := self._move(held, steps)) is None:  # solved on the way: go half as far
                observation, steps = self._lay_out(layout), steps // 2
            observation = observation if steps == 0 else moved
        return self._observed(observation), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        seen, reward, _, truncated, info = self.simulator.step(np.asarray(action, np.float32))
        success = bool(info["success"])
        return self._observed(seen), float(reward), success, bool(truncated) and not success, {"success": success}

    def state_vector(self) -> np.ndarray:
        """Positions and velocities of arm and objects, what traces compare."""
        return np.concatenate([self.simulator.data.qpos, self.simulator.data.qvel], dtype=np.float64)

    def render(self) -> np.ndarray | None:
        """uint8 (128, 128, 3)."""
        return self._camera.picture(self.simulator.data) if self._camera else None

    def save_state(self) -> Any:
        return save_attributes(self.simulator)

    def restore_state(self, state: Any) -> None:
        restore_attributes(self.simulator, state)

    def close(self) -> None:
        if self._camera:
            self._camera.close()
            self._camera = None
        self.simulator.close()

    def _lay_out(self, layout: int) -> np.ndarray:
        self.simulator.seed(layout)
        observation, _ = self.simulator.reset()
        return observation

    def _move(self, action: np.ndarray, steps: int) -> np.ndarray | None:
        """Hold an action. The last observation (empty if there were no steps), or None where it solved the task."""
        observation = np.empty(0)
        for _ in range(steps):
            observation, _, _, _, info = self.simulator.step(action)
            if info["success"]:
                return None
        self.simulator.curr_path_length = 0
        return observation

    def _observed(self, observation: np.ndarray) -> np.ndarray:
        # A reset does not clip as a step does; the hand can begin a hair outside of its bounds.
        seen = np.clip(observation.astype(np.float32), self._low, self._high)
        if not self._physics_state:
            return seen
        data = self.simulator.data
        return np.concatenate([seen, data.qpos, data.qvel], dtype=np.float32, casting="same_kind")


def scripted_policy(env: MetaWorld, seed: int = 0) -> Policy:
    """The package's policy for this task, clipped to the action space."""
    from metaworld.policies import ENV_POLICY_MAP

    # It asks for more than the arm can do at almost every step, and warns each time.
    warnings.filterwarnings("ignore", message="Constant.s. may be too high")
    script_class: Any = ENV_POLICY_MAP[f"{env.name}-v3"]
    script = script_class()

    def act(observation: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
        action = np.clip(script.get_action(np.asarray(observation[:VALUES], np.float64)), -1, 1).astype(np.float32)
        # On their way to an object some scripts leave the gripper as it is, open; if noise has closed it, open it.
        if action[3] == 0 and observation[3] < OPEN:
            action[3] = -1.0
        return action

    return act


class _Camera:
    """Headless frames of one model, from beside the table (the package's own cameras stand far off, or on their heads).

    No shadows, reflections and multisampling, which cost ten times the rest.

    The GL context is made here, not by `mujoco.Renderer`, since that one chooses its library when mujoco is first
    imported: with MUJOCO_GL=egl and no libEGL not even the physics would import.
    """

    def __init__(self, model: Any, where: str):
        import mujoco

        self._mujoco, self._model = mujoco, model
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        self._viewport = mujoco.MjrRect(0, 0, FRAME, FRAME)
        self._view = mujoco.MjvCamera()
        self._view.lookat, self._view.distance = (0, 0.6, 0.15), 1.15  # metres
        self._view.azimuth, self._view.elevation = 150, -28  # degrees
        self._option = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        try:
            self._gl = _gl_context()
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:  # whatever a GL library (or its absence) comes up with
            raise WorldError(
                f"no picture: OpenGL without a display does not work here ({type(error).__name__}: {error})",
                where=where,
                fix=f"{GL_LINE}   (or MUJOCO_GL=osmesa with libosmesa6)",
            ) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)

    def picture(self, data: Any) -> np.ndarray:
        mujoco, everything = self._mujoco, self._mujoco.mjtCatBit.mjCAT_ALL
        self._gl.make_current()  # other environments of this process have contexts of their own
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._view, everything, self._scene)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        pixels = np.empty((FRAME, FRAME, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._viewport, self._context)
        return pixels[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _gl_context() -> Any:
    """EGL on Linux unless MUJOCO_GL names another; elsewhere MuJoCo's own choice."""
    if sys.platform == "linux" and os.environ.get("MUJOCO_GL", "") in ("", "egl"):
        from mujoco.egl import GLContext
    elif sys.platform == "linux" and os.environ["MUJOCO_GL"] == "osmesa":
        from mujoco.osmesa import GLContext
    else:
        from mujoco.gl_context import GLContext
    return GLContext(FRAME, FRAME)
