"""Any Gymnasium environment as a task, and any function of the user's as an expert.

    gato.worlds.find("gym/CartPole-v1")               # spaces, limits and info are read from the environment
    gato.worlds.find("gym/my_package:Pour-v0")        # imports my_package first, as gymnasium.make does
    load_expert("my_experts:balance")                 # def balance(env, seed) -> policy

There is no reference score and no expert for what we do not know; the score is the return.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium

from gato.errors import ExpertError, SimulatorMissingError, UnknownNameError, WorldError, nearest
from gato.worlds import MakeExpert, Task

DEFAULT_MAX_STEPS = 1000  # where an environment sets itself no limit

# Families that Gymnasium knows only after an import: prefix of the id → module, pip requirement.
FAMILIES = {
    "ALE/": ("ale_py", "gato-agent[atari]"),
    "BabyAI-": ("minigrid", "gato-agent[babyai]"),
    "MiniGrid-": ("minigrid", "gato-agent[babyai]"),
    "Meta-World/": ("metaworld", "gato-agent[mujoco]"),
    "MiniWorld-": ("miniworld", "gato-agent[first-person]"),
    "Vizdoom": ("vizdoom.gymnasium_wrapper", "gato-agent[first-person]"),
    **{
        prefix: ("gymnasium_robotics", "gato-agent[mujoco]")
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
    requirement = ""
    if not module:
        family = next((prefix for prefix in FAMILIES if name.startswith(prefix)), None)
        module, requirement = FAMILIES[family] if family else ("", "")
    if module:
        _import_environments(module, requirement, env_id)
    try:
        with warnings.catch_warnings():  # that a newer version exists is the user's choice to make
            warnings.simplefilter("ignore")
            return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        known = [f"gym/{known}" for known in gymnasium.registry]
        reason = str(error).split(". ")[0].rstrip(".")
        fix = nearest(f"gym/{name}", known) or "python -c 'import gymnasium; gymnasium.pprint_registry()' lists them"
        raise UnknownNameError(f"no task gym/{env_id}: {reason}", fix=fix) from error


def _import_environments(module: str, requirement: str, env_id: str) -> None:
    """Import what registers the ids."""
    _see_current_directory()
    try:
        if module == "miniworld":
            from gato.worlds.miniworld import import_miniworld

            import_miniworld()  # without a screen
        imported = importlib.import_module(module)
    except ImportError as error:
        fix = f'pip install "{requirement}" -c constraints.txt' if requirement else f"install the package of {module}"
        raise SimulatorMissingError(f"importing {module} failed: {error}", where=f"gym/{env_id}", fix=fix) from error
    if hasattr(imported, "register_envs"):
        imported.register_envs()


class _KnownOptions(gymnasium.Wrapper):
    """Keeps our own reset options from environments that do not know them."""

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        passed = {key: value for key, value in (options or {}).items() if key != "wide"}
        return self.env.reset(seed=seed, options=passed or None)


def _make(env_id: str, max_steps: int, *, render: bool = False) -> gymnasium.Env:
    spec = _find_spec(env_id)
    where = f"gym/{env_id}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Our own checks see every value that comes out, and name the step.
            options: dict[str, Any] = {"max_episode_steps": max_steps, "disable_env_checker": True}
            if render:
                options["render_mode"] = "rgb_array"
            env = gymnasium.make(spec, **options)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        fix = f"install what {spec.id} needs" if "pip install" in str(error) else 'pip install "gymnasium[all]"'
        raise SimulatorMissingError(str(error), where=where, fix=fix) from error
    except Exception as error:
        raise WorldError(f"gymnasium.make failed: {type(error).__name__}: {error}", where=where) from error
    return _KnownOptions(env)


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
