"""Saved states: a world is put back where it was, so that what might be done can be tried before it is done.

    saver = saver_of(env, "sokoban/7x7-1-box")     # raises StateError where that is not possible
    state = saver.save()
    env.step(action)                               # as often as one likes
    saver.restore(state)                           # and the next step is what it would have been

A world says how with two methods (`Savable`), and then holds everything in the state that its next steps depend on,
random numbers too: who plans in a world that draws in its steps knows its luck. A state may be restored many times. For a
world without these methods its own attributes are copied, as far as Python can. Whichever way, a saver is given out only
after it was tried: the same actions from the same state had to give the same observations and rewards to the last bit.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

from gato.episodes import flatten
from gato.errors import WorldError

TRIED_STEPS = 3  # of random play, before a saver is trusted
# Arrays of MjData that grow with the contacts (and the islands they form), or point elsewhere.
VARYING = ("_", "efc_", "i", "contact", "map", "dof_island", "plugin", "maxuse", "warning", "timer", "solver", "bind")


class StateError(WorldError):
    """A world whose state cannot be saved, or does not come back as it was."""

    code = "world-state"


@runtime_checkable
class Savable(Protocol):
    """A world that can be put back where it was."""

    def save_state(self) -> Any: ...
    def restore_state(self, state: Any) -> None: ...


class Saver:
    """Saves and restores one environment with its wrappers' counters."""

    def __init__(self, env: gymnasium.Env):
        self._world = env.unwrapped
        self._limits = [layer for layer in _layers(env) if isinstance(layer, gymnasium.wrappers.TimeLimit)]

    def save(self) -> Any:
        world = self._world
        inner = world.save_state() if isinstance(world, Savable) else save_attributes(world)
        return inner, [limit._elapsed_steps for limit in self._limits]

    def restore(self, state: Any) -> None:
        inner, steps = state
        if isinstance(self._world, Savable):
            self._world.restore_state(inner)
        else:
            restore_attributes(self._world, inner)
        for limit, elapsed in zip(self._limits, steps, strict=True):
            limit._elapsed_steps = elapsed


def saver_of(env: gymnasium.Env, where: str = "") -> Saver:
    """The saver of a freshly reset environment, after a trial that leaves it as it was. Raises StateError."""
    saver = Saver(env)
    space = copy.deepcopy(env.action_space)
    space.seed(0)
    actions = [space.sample() for _ in range(TRIED_STEPS)]
    try:
        state = saver.save()
        seen = []
        for _ in range(2):
            seen.append(list(_played(env, actions)))
            saver.restore(state)
    except Exception as error:
        raise _unsavable(f"saving its state failed: {type(error).__name__}: {error}", where) from error
    if seen[0] != seen[1]:
        raise _unsavable("after its state was restored, the same actions led elsewhere", where)
    return saver


def _unsavable(what: str, where: str) -> StateError:
    return StateError(
        what, where=where, fix="play without --plan, or give the world save_state() and restore_state(state)"
    )


def _played(env: gymnasium.Env, actions: list[Any]) -> Iterator[tuple[Any, ...]]:
    """What each step showed, in a form that can be compared to the last bit."""
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(copy.deepcopy(action))  # it is played twice
        leaves = flatten(observation, "observation")
        shown = {
            k: v if isinstance(v, str) else (np.asarray(v).shape, np.asarray(v).tobytes()) for k, v in leaves.items()
        }
        yield shown, float(reward), bool(terminated), bool(truncated)
        if terminated or truncated:
            return


def _layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env


# -- worlds that are Python objects, and MuJoCo's ----------------------------------------------------------------------


def save_attributes(world: Any) -> dict[str, Any]:
    """A copy of an object's own attributes, as far as they can be copied: windows, models, spaces and libraries stay."""
    kept, copied = {id(world): world}, {}
    for name, value in vars(world).items():
        if _is_physics(value, "MjData"):
            copied[name] = _Physics(save_physics(world.model, value))
            kept[id(value)] = value
        elif _is_physics(value, "MjModel") or isinstance(value, gymnasium.Space) or callable(value):
            kept[id(value)] = value
    plain = {name: value for name, value in vars(world).items() if name not in copied and id(value) not in kept}
    return copied | _deep(plain, kept)


def restore_attributes(world: Any, state: dict[str, Any]) -> None:
    """Put `save_attributes` back; the state stays good for another time."""
    kept = {id(world): world}
    for value in vars(world).values():
        if _is_physics(value, "MjModel") or _is_physics(value, "MjData"):
            kept[id(value)] = value
    physics = {name: value for name, value in state.items() if isinstance(value, _Physics)}
    for name, value in physics.items():
        restore_physics(world.model, getattr(world, name), value.saved)
    vars(world).update(_deep({k: v for k, v in state.items() if k not in physics}, kept))


@dataclass(frozen=True)
class _Physics:
    """The place of an MjData among saved attributes."""

    saved: Any


def save_physics(model: Any, data: Any) -> Any:
    """What MuJoCo's next step depends on, and every array of fixed size, since readings may be of the step before."""
    import mujoco

    state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    return state, [getattr(data, name).copy() for name in _fixed_arrays()]


def restore_physics(model: Any, data: Any, saved: Any) -> None:
    """Put `save_physics` back, in the MjData that others hold on to. The contacts are found anew."""
    import mujoco

    state, arrays = saved
    mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    for name, values in zip(_fixed_arrays(), arrays, strict=True):
        getattr(data, name)[:] = values


@functools.cache
def _fixed_arrays() -> tuple[str, ...]:
    """The arrays of MjData whose sizes are the model's, not the number of contacts'."""
    import mujoco

    empty = mujoco.MjModel.from_xml_string("<mujoco/>")
    found = {name: getattr(mujoco.MjData(empty), name) for name in dir(mujoco.MjData) if not name.startswith(VARYING)}
    return tuple(name for name, value in found.items() if isinstance(value, np.ndarray))


def _deep(values: dict[str, Any], kept: dict[int, Any]) -> dict[str, Any]:
    """Copies that share what they shared; what cannot be copied is left out."""
    try:
        return copy.deepcopy(values, dict(kept))
    except Exception:  # whatever a C library's object comes up with: leave such ones out, one by one
        memo, out = dict(kept), {}
        for name, value in values.items():
            try:
                out[name] = copy.deepcopy(value, memo)
            except Exception:
                continue
        return out


def _is_physics(value: Any, name: str) -> bool:
    """Whether it is MuJoCo's own structure, without importing MuJoCo."""
    return type(value).__name__ == name and type(value).__module__.partition(".")[0] == "mujoco"
