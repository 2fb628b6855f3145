"""Episode: what happened, as checked arrays with time first.

Timestep t is (observation t, action t, reward t): what was seen, what the expert chose on seeing it, and what came of
it. Nothing follows the last action, so an episode of T steps has T observations, T actions and T rewards; all T are
kept and learned from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gato.episodes.spec import Specs, TaskSpec, check_value, flatten
from gato.errors import EpisodeError

Leaves = dict[str, Any]  # path → array (T, *shape), or a list of T strings


LAST_REWARD = "last_reward"  # what the step before brought: where a policy is told of it, and where a network reads it


@dataclass
class Episode:
    """`actions` are the targets (the expert's choice); `executed` is what was done instead, where noise was mixed in.

    `info` holds small JSON facts: seed, source agent, noise, success, terminated, simulator versions.
    """

    task: str
    observations: Leaves
    actions: Leaves
    rewards: np.ndarray  # float32 (T,)
    executed: Leaves | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def total_return(self) -> float:
        return float(np.sum(self.rewards, dtype=np.float64))

    @property
    def success(self) -> bool | None:
        return self.info.get("success")

    def __repr__(self) -> str:
        def shapes(leaves):
            return ", ".join(f"{k} {getattr(v, 'shape', ('text',))}" for k, v in leaves.items())

        return (
            f"Episode({self.task}, {len(self)} steps, return {self.total_return:.3g}, "
            f"observations [{shapes(self.observations)}], actions [{shapes(self.actions)}])"
        )

    def check(self, spec: TaskSpec, where: str = "") -> Episode:
        """Returns itself, in canonical dtypes. Raises EpisodeError or ObservationError (episode, step, field)."""
        where = where or self.task
        self.rewards = np.asarray(self.rewards, np.float32)
        if self.rewards.ndim != 1:
            raise EpisodeError(f"rewards of shape {self.rewards.shape}, expected one number a step: (T,)", where=where)
        if not len(self.rewards):
            raise EpisodeError("no rewards: an episode needs at least one step", where=where)
        if not np.isfinite(self.rewards).all():
            raise EpisodeError(f"reward is not finite at step {int(np.argmin(np.isfinite(self.rewards)))}", where=where)
        self.observations = _check_leaves(spec.observation, self.observations, len(self), f"{where} observation")
        self.actions = _check_leaves(spec.action, self.actions, len(self), f"{where} action")
        if self.executed is not None:
            self.executed = _check_leaves(spec.action, self.executed, len(self), f"{where} executed action")
        self.info = check_info(self.info, where)
        return self


def facts_as_json(value: Any) -> str:
    """Small facts; numpy scalars and arrays become plain numbers and lists."""
    return json.dumps(value, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v), sort_keys=True)


def success_of(info: Mapping[str, Any], where: str) -> bool | None:
    """What a world's info says of success; None where it says nothing, or None, or NaN. An array of one value is that value.

    Raises EpisodeError for what is no truth value.
    """
    said = info.get("success")
    value = said.item() if isinstance(said, np.ndarray | np.generic) and said.size == 1 else said
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise EpisodeError(f"info['success'] is {said!r}", where=where, fix="True or False, or no such key")


def check_info(info: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Facts that an index has a column for are of its type, the rest is what JSON can hold. Raises EpisodeError."""
    checked = dict(info)
    success, seed = checked.get("success"), checked.get("seed")
    if success is not None:
        if not isinstance(success, bool | np.bool_) and not (
            isinstance(success, int | np.integer) and success in (0, 1)
        ):
            raise EpisodeError(f"success={success!r}", where=f"{where} info", fix="True, False or None")
        checked["success"] = bool(success)
    if seed is not None:
        if not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**63:
            raise EpisodeError(f"seed={seed!r}", where=f"{where} info", fix="a whole number of 64 bits, or None")
        checked["seed"] = int(seed)
    if not isinstance(checked.get("source", ""), str):
        raise EpisodeError(f"source={checked['source']!r}", where=f"{where} info", fix="the name of who acted")
    try:
        facts_as_json(checked)
    except (TypeError, ValueError) as error:
        raise EpisodeError(
            f"no JSON: {error}", where=f"{where} info", fix="texts, numbers, lists and dicts of them"
        ) from error
    return checked


def _check_leaves(specs: Specs, leaves: Mapping[str, Any], steps: int, where: str) -> Leaves:
    if set(leaves) != set(specs):
        raise EpisodeError(f"fields {sorted(leaves)}, expected {list(specs)}", where=where)
    checked: Leaves = {}
    for path, spec in specs.items():
        values = leaves[path]
        if len(values) != steps:
            raise EpisodeError(f"{len(values)} values for {steps} rewards", where=f"{where} {path}")
        if spec.kind == "text":
            checked[path] = [check_value(spec, v, f"{where} {path} step {t}") for t, v in enumerate(values)]
            continue
        array = np.asarray(values)
        fine = array.dtype == spec.dtype and array.shape[1:] == spec.shape
        if fine and spec.kind == "continuous":
            fine = bool(np.isfinite(array).all())
        elif fine and spec.kind == "discrete" and spec.size:
            low, high = spec.bounds()
            flat = array.reshape(steps, -1)
            fine = bool((flat >= low).all() and (flat <= high).all())
        # The quick check covers whole arrays; on any doubt go step by step, so that the message names the step.
        checked[path] = (
            np.ascontiguousarray(array)
            if fine
            else np.stack([np.asarray(check_value(spec, v, f"{where} {path} step {t}")) for t, v in enumerate(values)])
        )
    return checked


def stack_episode(
    task: str,
    spec: TaskSpec,
    observations: Sequence[Any],
    actions: Sequence[Any],
    rewards: Sequence[float] | np.ndarray,
    executed: Sequence[Any] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Episode:
    """An Episode from per-step (nested) observations and actions. Raises EpisodeError, ObservationError (task, seed, step)."""
    where = f"{task} seed {info['seed']}" if info and info.get("seed") is not None else task

    def stack(specs: Specs, steps: Sequence[Any], root: str) -> Leaves:
        flat = [flatten(step, root) for step in steps]
        for t, leaves in enumerate(flat):
            if set(leaves) != set(specs):
                raise EpisodeError(f"fields {sorted(leaves)}, expected {list(specs)}", where=f"{where} {root} step {t}")
        out: Leaves = {}
        for path, s in specs.items():
            checked = [check_value(s, leaves[path], f"{where} {path} step {t}") for t, leaves in enumerate(flat)]
            out[path] = checked if s.kind == "text" else np.stack(checked)  # type: ignore[arg-type]
        return out

    return Episode(
        task,
        stack(spec.observation, observations, "observation"),
        stack(spec.action, actions, "action"),
        np.asarray(rewards, np.float32),
        None if executed is None else stack(spec.action, executed, "action"),
        dict(info or {}),
    ).check(spec, where)
