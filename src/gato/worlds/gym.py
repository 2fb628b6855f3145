"""Any Gymnasium environment as a task, and any function of the user's as an expert.

    gato.worlds.find("gym/CartPole-v1")               # spaces, limits and info are read from the environment
    gato.worlds.find("gym/my_package:Pour-v0")        # imports my_package first, as gymnasium.make does
    load_expert("my_experts:balance")                 # def balance(env, seed) -> policy

There is no reference score and no expert for what we do not know; the score is the return. The Gymnasium families that we do
know have files of their own (`classic_control.py`, `box2d.py`, `gym_mujoco.py`, `gym_robotics.py`), which make their tasks
with `named_task`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from gato.errors import ExpertError, SimulatorMissingError, UnknownNameError, WorldError, nearest
from gato.installed import pip_line
from gato.worlds import MakeExpert, Task
from gato.worlds.camera import Camera

FRAME_SIZE = (120, 160)  # height, width of our own camera's frames
DEFAULT_MAX_STEPS = 1000  # where an environment sets itself no limit

# Families that Gymnasium knows only after an import: prefix of the id → module, the extra it comes with.
FAMILIES = {
    "ALE/": ("ale_py", "atari"),
    "BabyAI-": ("minigrid", "babyai"),
    "MiniGrid-": ("minigrid", "babyai"),
    "Meta-World/": ("metaworld", "mujoco"),
    "MiniWorld-": ("miniworld", "first-person"),
    "Vizdoom": ("vizdoom.gymnasium_wrapper", "first-person"),
    **{
        prefix: ("gymnasium_robotics", "mujoco")
        for prefix in ("Adroit", "AntMaze", "Fetch", "FrankaKitchen", "Hand", "PointMaze")
    },
}


def gym_task(env_id: str) -> Task:
    """The task `gym/ENV-ID`. Raises UnknownNameError with the nearest ids, SimulatorMissingError with the pip line."""
    limit = _find_spec(env_id).max_episode_steps
    max_steps = limit or DEFAULT_MAX_STEPS
    notes = "any Gymnasium environment; no reference scores" + ("" if limit else f"; cut at {max_steps} steps")
    return Task(f"gym/{env_id}", functools.partial(_make, env_id, max_steps), max_steps=max_steps, notes=notes)


def _find_spec(env_id: str) -> gymnasium.envs.registration.EnvSpec:
    module, _, name = env_id.rpartition(":")
    extra = ""
    if not module:
        family = next((prefix for prefix in FAMILIES if name.startswith(prefix)), None)
        module, extra = FAMILIES[family] if family else ("", "")
    if module:
        _import_environments(module, extra, env_id)
    try:
        with warnings.catch_warnings():  # that a newer version exists is the user's choice to make
            warnings.simplefilter("ignore")
            return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        known = [f"gym/{known}" for known in gymnasium.registry]
        reason = str(error).split(". ")[0].rstrip(".")
        fix = nearest(f"gym/{name}", known) or "python -c 'import gymnasium; gymnasium.pprint_registry()' lists them"
        raise UnknownNameError(f"no task gym/{env_id}: {reason}", fix=fix) from error


def _import_environments(module: str, extra: str, env_id: str) -> None:
    """Import what registers the ids."""
    _see_current_directory()
    try:
        if module == "miniworld":
            from gato.worlds.miniworld import import_miniworld

            import_miniworld()  # without a screen
        imported = importlib.import_module(module)
    except ImportError as error:
        fix = pip_line(extra) if extra else f"install the package of {module}"
        raise SimulatorMissingError(f"importing {module} failed: {error}", where=f"gym/{env_id}", fix=fix) from error
    if hasattr(imported, "register_envs"):
        imported.register_envs()


class _KnownOptions(gymnasium.Wrapper):
    """Keeps our own reset options from environments that do not know them."""

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        passed = {key: value for key, value in (options or {}).items() if key != "wide"}
        return self.env.reset(seed=seed, options=passed or None)


def _make(env_id: str, max_steps: int, *, render: bool = False) -> gymnasium.Env:
    return _KnownOptions(_make_inner(env_id, max_steps, {}, render))


def _make_inner(env_id: str, max_steps: int, settings: Mapping[str, Any], render: bool) -> gymnasium.Env:
    spec = _find_spec(env_id)
    where = f"gym/{env_id}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Our own checks see every value that comes out, and name the step.
            options: dict[str, Any] = {"max_episode_steps": max_steps, "disable_env_checker": True}
            if render:
                _need_no_screen()
                options["render_mode"] = "rgb_array"
            return gymnasium.make(spec, **options, **settings)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        fix = f"install what {spec.id} needs" if "pip install" in str(error) else 'pip install "gymnasium[all]"'
        raise SimulatorMissingError(str(error), where=where, fix=fix) from error
    except Exception as error:
        raise WorldError(f"gymnasium.make failed: {type(error).__name__}: {error}", where=where) from error


def _need_no_screen() -> None:
    """Where there is none, worlds that draw with SDL are told so: looking for one it complains of an error that is none."""
    seen = ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY")
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in seen):
        return
    if importlib.util.find_spec("pygame") is None:
        return
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        import pygame

        pygame.display.init()
    finally:
        del os.environ["SDL_VIDEODRIVER"]  # a window asks anew whether there is a screen


# -- the families that we know ----------------------------------------------------------------------------------------

Wide = Mapping[str, Any] | Callable[[Any, np.random.Generator], Any]
Success = str | Callable[[Mapping[str, Any]], bool]


class Named(gymnasium.Wrapper):
    """A Gymnasium environment of ours: success where there is one, wide starts, and pictures without a screen.

    `success` names the entry of `info` that says whether the goal is met now, or computes it from the info. `wide` is how a wide start is made: options for
    the environment's own reset, or a function `(unwrapped, rng)` that changes the state after an ordinary one and
    returns the observation. `before` is called with the unwrapped environment ahead of every reset, where one would leave
    something of the last episode behind. `camera` renders with our own camera (environments that have an MjModel).
    """

    def __init__(
        self,
        env: gymnasium.Env,
        success: Success = "",
        wide: Wide | None = None,
        before: Callable[[Any], None] | None = None,
        camera: bool = False,
    ):
        super().__init__(env)
        self._success, self._wide, self._before = success, wide, before
        self._wants_camera = camera
        self._camera: Camera | None = None

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self._before is not None:
            self._before(self.unwrapped)
        wide = self._wide if (options or {}).get("wide") else None
        observation, info = self.env.reset(seed=seed, options=dict(wide) if isinstance(wide, Mapping) else None)
        if callable(wide):
            observation = wide(self.unwrapped, self.unwrapped.np_random)
        return self._own(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._success:
            met = self._success(info) if callable(self._success) else info[self._success]
            info = {**info, "success": bool(met)}
        return self._own(observation), float(reward), bool(terminated), bool(truncated), info

    def _own(self, observation: Any) -> Any:
        """Copies: some environments hand out their buffers."""
        if isinstance(observation, Mapping):
            return {key: self._own(value) for key, value in observation.items()}
        return np.array(observation)

    def render(self) -> Any:
        if not self._wants_camera:
            return self.env.render()
        simulator: Any = self.unwrapped
        if self._camera is None:
            where = str(self.spec and self.spec.id)
            self._camera = Camera(simulator.model, *FRAME_SIZE, where=where, free=_own_view(simulator))
        return self._camera.picture(simulator.data)

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        self.env.close()


def _own_view(simulator: Any) -> Mapping[str, Any] | None:
    """Where the package itself looks from, where it says so in full: Fetch's first camera is inside its head."""
    said = getattr(getattr(simulator, "mujoco_renderer", None), "default_cam_config", None) or {}
    return said if {"lookat", "distance", "azimuth", "elevation"} <= set(said) else None


def _make_named(
    env_id: str,
    max_steps: int,
    settings: Mapping[str, Any],
    success: Success,
    wide: Wide | None,
    before: Callable[[Any], None] | None,
    camera: bool,
    *,
    render: bool = False,
) -> gymnasium.Env:
    env = _make_inner(env_id, max_steps, settings, render and not camera)
    return Named(env, success, wide, before, camera and render)


def named_task(
    task_id: str,
    env_id: str,
    max_steps: int,
    *,
    settings: Mapping[str, Any] | None = None,
    success: Success = "",
    wide: Wide | None = None,
    before: Callable[[Any], None] | None = None,
    camera: bool = False,
    **facts: Any,
) -> Task:
    """A Gymnasium id as a task of ours; the score is success where `success` is named. `facts` are the Task's own fields."""
    make_env = functools.partial(_make_named, env_id, max_steps, settings or {}, success, wide, before, camera)
    score: Any = "success" if success else "return"
    return Task(task_id, make_env, score=score, max_steps=max_steps, meta={"simulator_id": env_id}, **facts)


# -- experts of the user's own ----------------------------------------------------------------------------------------


def load_expert(name: str) -> MakeExpert:
    """The user's expert `module:function`, called as `function(env, seed)` after every reset; it returns the policy.

    The module may lie in the current directory. Raises UnknownNameError where there is no such module or function, and
    ExpertError where importing it fails.
    """
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name):
        raise UnknownNameError(f"an expert is named module:function, not {name!r}", fix="--policy my_experts:balance")
    _see_current_directory()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ExpertError(f"importing {module_name} failed: {error}", where=name) from error
        fix = f"is {module_name}.py in {os.getcwd()}, or its package installed?"
        raise UnknownNameError(f"no module {module_name!r}", where=name, fix=fix) from error
    except Exception as error:
        raise ExpertError(f"importing {module_name} failed: {type(error).__name__}: {error}", where=name) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        fix = nearest(function_name, known) or f"its functions are {', '.join(sorted(known)) or 'none'}"
        raise UnknownNameError(f"{module_name} has no function {function_name!r}", where=name, fix=fix)
    return function


def _see_current_directory() -> None:
    """An installed command does not look for modules where it is called; at the end, so that it hides no package."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()
