"""Your own loops and arrays become a dataset.

    env = gato.record(gymnasium.make("CartPole-v1"), out="data/cartpole")     # then play it with whatever you have
    gato.write_episode("data/robot", {"joints": q, "camera": frames}, torques, rewards, task="lab/robot")

Each episode is durable as soon as it ends; the folder is a dataset at every moment.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from gato.episodes.episode import Episode, check_info, success_of
from gato.episodes.manifest import MANIFEST
from gato.episodes.spec import Specs, TaskSpec, check_values, flatten, specs_from_space, task_spec
from gato.episodes.store import read_spec
from gato.episodes.writer import DatasetWriter
from gato.errors import EpisodeError, ObservationError, SpecError, UsageError

LOOSE_FILES = 64  # `write_episode` compacts after this many calls
ROUNDING = 1e-5  # of the larger bound: how far outside an action may lie

# Packages whose ids `gym/ENV-ID` finds without being told who registers them: Gymnasium's own and `worlds.gym.FAMILIES`.
KNOWN = {"gymnasium", "ale_py", "gymnasium_robotics", "metaworld", "minigrid", "miniworld", "vizdoom"}

Spaces = tuple[gymnasium.Space, gymnasium.Space]  # (observation space, action space)


def record(env: gymnasium.Env, out: Path | str, task: str | None = None, source: str = "recorded") -> RecordedEnv:
    """Wrap an environment so that every episode played in it is added to the dataset `out`. Close it at the end.

    `task` defaults to `gym/ENV-ID`, or `gym/MODULE:ENV-ID` where a module of your own registers the id. The actions are
    taken for demonstrations: what a good agent would do. An episode that is broken off, by `reset` or by `close`, is kept
    with `info["broken_off"]`, if it has a step; the steps after the last finished episode of a process that is killed are
    lost. One process records into a folder at a time.

    Raises UsageError for an environment without an id, SpecError for spaces that cannot become tokens. `reset` and `step`
    raise ObservationError for what cannot be recorded, an action outside its bounds included, and EpisodeError for a
    reward that is no number; the steps before are kept.
    """
    if isinstance(env, gymnasium.vector.VectorEnv):
        fix = "wrap the environments inside it, one folder each"
        raise UsageError("a vector environment has many episodes at once", fix=fix)
    if task is None:
        if env.spec is None:
            raise UsageError("this environment has no id", fix='pass task="domain/name"')
        task = _playable_id(env.spec)
    return RecordedEnv(env, Path(out), _checked_id(task), source)


class RecordedEnv(gymnasium.Wrapper):
    """What `record` returns: behaves as the environment inside."""

    def __init__(self, env: gymnasium.Env, out: Path, task: str, source: str):
        super().__init__(env)
        self._task, self._spec = task, task_spec(env, task)
        self._writer: DatasetWriter | None = DatasetWriter(out, task, self._spec, {"source": source})
        self._source = source
        self._seed: int | None = None
        self._last: Mapping[str, Any] | None = None  # the observation to be acted on; None between episodes
        self._steps: list[tuple[Mapping[str, Any], Mapping[str, Any], float]] = []
        self._success: bool | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._finish(broken_off=True)
        check_info({"seed": seed}, self._task)  # now, not when an episode of it has been played
        observation, info = self.env.reset(seed=seed, options=options)
        self._seed, self._success = seed, None
        self._last = self._checked("observation", observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        chosen = self._checked("action", action)  # copied now: worlds may change what they are given
        _check_bounds(self._spec.action, {p: [v] for p, v in chosen.items()}, self._task, len(self._steps))
        observation, reward, terminated, truncated, info = self.env.step(action)
        before, self._last = self._last, None  # what cannot be recorded ends the episode in the dataset
        if before is not None:
            self._steps.append((before, chosen, _reward(reward, f"{self._task} step {len(self._steps)} reward")))
            success = success_of(info, f"{self._task} step {len(self._steps) - 1}")
            if success is not None:
                self._success = success
            if terminated or truncated:
                self._finish(terminated=bool(terminated))  # nothing follows: its last observation may be anything
            else:
                self._last = self._checked("observation", observation)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        try:
            self._finish(broken_off=True)
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            super().close()

    def _checked(self, side: str, value: Any) -> Mapping[str, Any]:
        specs: Specs = getattr(self._spec, side)
        return check_values(specs, flatten(value, side), f"{self._task} step {len(self._steps)} {side}")

    def _finish(self, terminated: bool = False, broken_off: bool = False) -> None:
        steps, self._steps, self._last = self._steps, [], None
        if not steps or self._writer is None:
            return
        info: dict[str, Any] = {"seed": self._seed, "source": self._source, "terminated": terminated}
        if self._success is not None:
            info["success"] = self._success
        if broken_off:
            info["broken_off"] = True

        def stack(specs: Specs, side: int) -> dict[str, Any]:
            leaves = {path: [step[side][path] for step in steps] for path in specs}  # type: ignore[index]
            return {p: leaves[p] if s.kind == "text" else np.stack(leaves[p]) for p, s in specs.items()}

        rewards = np.array([reward for *_, reward in steps], np.float32)
        seen, chosen = stack(self._spec.observation, 0), stack(self._spec.action, 1)
        self._writer.add(Episode(self._task, seen, chosen, rewards, info=info))


def write_episode(
    out: Path | str,
    observations: Any,
    actions: Any,
    rewards: Any,
    task: str,
    spec: TaskSpec | Spaces | None = None,
    info: Mapping[str, Any] | None = None,
    source: str = "recorded",
) -> int:
    """Add one episode from arrays with time first (nested dicts of them, or one; texts as a list). Returns its number.

    A final observation after the last action is dropped. Without `spec` (or the two Gymnasium spaces), that of the
    dataset `out` holds, or for a new one: floats are unbounded as observations and in [-1, 1] as actions, 8-bit
    integers and booleans have the range of their type; anything else is a SpecError that says what to pass. Raises
    EpisodeError for what is no array with time first or no episode of this spec, ObservationError for a value that is
    none, an action outside its bounds included. Nothing is made or changed then.
    """
    rewards = _in_time(rewards, f"{task} rewards", np.float32)
    seen, done = (
        {path: _in_time(leaf, f"{task} {side} {path}") for path, leaf in flatten(values, side).items()}
        for side, values in (("observation", observations), ("action", actions))
    )
    if seen and all(len(values) == len(rewards) + 1 for values in seen.values()):
        seen = {path: values[:-1] for path, values in seen.items()}
    if isinstance(spec, tuple):
        observed, acted = spec
        spec = TaskSpec(specs_from_space(observed, "observation", task), specs_from_space(acted, "action", task))
    if spec is None and (Path(out) / MANIFEST).exists():
        spec = read_spec(out)
    if spec is None:
        spec = TaskSpec(_infer(seen, "observation", task), _infer(done, "action", task))
    facts = {"source": source, **(info or {})}
    episode = Episode(task, seen, done, rewards, info=facts).check(spec, f"{task} episode")  # before a dataset is made
    _check_bounds(spec.action, episode.actions, f"{task} episode")
    writer = DatasetWriter(out, _checked_id(task), spec, {"source": source})
    try:
        number = writer.add(episode)
    finally:
        loose = sum(1 for _ in (Path(out) / "pending").glob("*.parquet"))
        writer.close(compact=loose >= LOOSE_FILES)
    return number


def _in_time(values: Any, where: str, dtype: Any = None) -> Any:
    """An array (T, …), or T texts."""
    if dtype is None and isinstance(values, list | tuple) and values and isinstance(values[0], str):
        return list(values)
    try:
        array = np.asarray(values, dtype)
    except (TypeError, ValueError) as error:  # ragged, or on a device
        raise EpisodeError(f"no array: {error}", where=where, fix="arrays (T, …), or lists of T texts") from error
    if array.ndim == 0 or array.dtype == object:
        what = "one value" if array.ndim == 0 else "Python objects"
        raise EpisodeError(
            f"{what}, not an array with time first", where=where, fix="arrays (T, …), or lists of T texts"
        )
    return array


def _checked_id(task: str) -> str:
    domain, _, name = task.partition("/")
    if not domain or not name:
        raise UsageError(f"{task!r} is no task id", fix='name it "domain/name", such as "lab/robot"')
    return task


def _playable_id(spec: gymnasium.envs.registration.EnvSpec) -> str:
    """By which `gato` finds an environment again; of one that a script itself registered, the bare id.

    An id does not say who registers it, its entry point nearly does: the package around it, as Gymnasium's own guide has
    it, or the very module, whose import runs those around it.
    """
    entry = spec.entry_point
    maker = getattr(entry, "func", entry)  # of a partial
    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(maker, "__module__", None) or ""
    package = module.partition(".")[0]
    if package in ("", "__main__", *KNOWN):
        return f"gym/{spec.id}"
    try:
        registers = "register" in inspect.getsource(sys.modules[package])
    except (KeyError, OSError, TypeError):  # not imported, or not from a file
        registers = False
    return f"gym/{package if registers else module}:{spec.id}"


def _reward(value: Any, where: str) -> float:
    try:
        reward = float(value)
    except (TypeError, ValueError) as error:
        raise EpisodeError(f"no number: {error}", where=where) from error
    with np.errstate(over="ignore"):
        if not np.isfinite(np.float32(reward)):
            raise EpisodeError(f"{reward} is not finite as float32", where=where)
    return reward


def _check_bounds(specs: Specs, actions: Mapping[str, Any], where: str, first: int = 0) -> None:
    """Actions with time first, from step `first` on. Raises ObservationError for a number outside its bounds by more than
    rounding: tokens would clip it. (Discrete ones are checked with their type. What is imported or collected may lie
    outside, for there nobody could mend it.)"""
    for path, spec in specs.items():
        if spec.kind != "continuous":
            continue
        low, high = spec.bounds()
        values = np.asarray(actions[path], np.float64).reshape(len(actions[path]), spec.size)
        slack = ROUNDING * np.maximum(np.abs(low), np.abs(high))
        outside = (values < low - slack) | (values > high + slack)
        if outside.any():
            t, i = np.argwhere(outside)[0]
            raise ObservationError(
                f"value {values[t, i]:g} at element {i}, outside {low[i]:g}…{high[i]:g}",
                where=f"{where} action {path} step {first + t}", fix="clip it, or give the action space wider bounds",
            )  # fmt: skip


def _infer(leaves: Mapping[str, Any], side: str, task: str) -> Specs:
    if not leaves:
        raise EpisodeError("no field at all", where=f"{task} {side}", fix="arrays (T, …), or lists of T texts")
    specs: Specs = {}
    for path, values in sorted(leaves.items()):
        place = f"{task} {side} {path}"
        if not isinstance(values, np.ndarray) and len(values) and isinstance(values[0], str):
            space: gymnasium.Space = gymnasium.spaces.Text(1)
        else:
            space = _space_of(np.asarray(values), side, place)
        [specs[path]] = specs_from_space(space, side, place).values()
    return specs


def _space_of(array: np.ndarray, side: str, place: str) -> gymnasium.Space:
    box, shape, dtype = gymnasium.spaces.Box, array.shape[1:], array.dtype
    if dtype == np.bool_:
        return box(0, 1, shape, np.int8)
    if np.issubdtype(dtype, np.floating) and side == "observation":
        return box(-np.inf, np.inf, shape, dtype.type)
    if np.issubdtype(dtype, np.floating) and np.abs(array).max(initial=0) <= 1:
        return box(-1, 1, shape, dtype.type)
    if np.issubdtype(dtype, np.integer) and dtype.itemsize == 1 and side == "observation":
        return box(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype.type)
    what = "the bounds of these actions" if side == "action" else f"the range of these {dtype} values"
    raise SpecError(
        f"{what} cannot be told from one episode", where=place, fix="pass spec=(observation_space, action_space)"
    )
