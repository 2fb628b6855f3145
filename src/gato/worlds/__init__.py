"""Worlds: a simulator becomes a Gymnasium environment behind one task id, with its expert and reference scores.

    task = gato.worlds.find("babyai/go-to-local")
    env = task.make()                      # imports the simulator only now
    observation, info = env.reset(seed=7)
    policy = task.expert(env.unwrapped, 7)   # made anew after every reset; lives for one episode
    env.step(policy(observation, info))

A domain is one file here with a function `tasks() -> list[Task]`, which lists every task without importing the
simulator. Third parties add tasks through the entry-point group `gato.tasks` (a function that returns Tasks); any
Gymnasium id works as `gym/ENV-ID`. The contract of `make()`:

* a Gymnasium environment, seeded by `reset(seed=…)`: same seed and actions, same episode;
* it ends by itself (truncation at `max_steps`);
* `info["success"]` (bool) is there at every step where the score is `success`;
* `reset(options={"wide": True})` starts from states that reach beyond the task's own, where the world can; ignored elsewhere;
* `render()` returns uint8 (height, width, 3), if made with `make(render=True)`.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, Protocol

import gymnasium

from gato.episodes.spec import TaskSpec, task_spec
from gato.errors import SimulatorMissingError, UnknownNameError, nearest
from gato.installed import pip_line

DOMAINS = (  # files in this folder
    "babyai",
    "meta_world",
    "dm_control",
    "dm_control_pixels",
    "dm_control_random",
    "dm_control_text",
    "modular_rl",
    "dm_manipulation",
    "rgb_stacking",
    "sokoban",
    "atari",
    "procgen",
    "miniworld",
    "vizdoom",
    "dm_maze",
    "dm_lab",
    "classic_control",
    "box2d",
    "gym_mujoco",
    "gym_robotics",
    "dummy",
)

Policy = Callable[[Any, Mapping[str, Any]], Any]  # (observation, info) → action


class MakeEnv(Protocol):
    def __call__(self, *, render: bool = False) -> gymnasium.Env: ...


MakeExpert = Callable[[Any, int], Policy]  # (unwrapped environment, just reset; seed) → policy for this episode


@dataclass(frozen=True)
class Reference:
    """A measured score: mean and standard deviation over episodes."""

    mean: float
    std: float
    episodes: int


@dataclass(frozen=True)
class Task:
    """One control task. `id` is `domain/name`; `requires` are modules that must import, `extra` the pip extra."""

    id: str
    make_env: MakeEnv
    make_expert: MakeExpert | None = None
    score: Literal["return", "success"] = "return"
    requires: tuple[str, ...] = ()
    extra: str = ""
    install: str = ""  # what else it takes, where the extra alone is not enough
    max_steps: int = 1000
    expert_name: str = ""
    notes: str = ""  # what differs from the paper
    deterministic: bool = True
    same_world: str = ""  # the task that is the same simulation, seen otherwise: its reference scores are this one's
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def domain(self) -> str:
        return self.id.split("/", 1)[0]

    @property
    def installed(self) -> bool:
        return all(importlib.util.find_spec(module) is not None for module in self.requires)

    @property
    def pip_line(self) -> str:
        return " && ".join(filter(None, [pip_line(self.extra) if self.extra else "", self.install]))

    def make(self, *, render: bool = False) -> gymnasium.Env:
        """The environment. Raises SimulatorMissingError with the pip line."""
        self.check_installed()
        return self.make_env(render=render)

    def check_installed(self) -> None:
        """Raises SimulatorMissingError with the pip line."""
        if not self.installed:
            absent = [m for m in self.requires if importlib.util.find_spec(m) is None]
            raise SimulatorMissingError(
                f"{self.id} needs {', '.join(absent)}, not installed", where=self.id, fix=self.pip_line or self.notes
            )

    def expert(self, env: Any, seed: int) -> Policy:
        if self.make_expert is None:
            raise UnknownNameError(
                f"{self.id} has no expert", where=self.id, fix="--policy module:function, or --policy random"
            )
        return self.make_expert(env, seed)

    @functools.cached_property
    def spec(self) -> TaskSpec:
        env = self.make()
        try:
            return task_spec(env, self.id)
        finally:
            env.close()

    @property
    def references(self) -> dict[str, Reference]:
        """{"random": …, "expert": …} as measured by us (`benchmarks/references.py`), absent where not measured.

        Neither random play nor an expert that reads the simulator's state sees the observation, so one measurement serves
        every sense in which a world is offered (`same_world`).
        """
        measured_as = self.same_world or self.id
        record = _references(measured_as.split("/", 1)[0]).get(measured_as, {})
        return {k: Reference(**v) for k, v in record.items() if k in ("random", "expert")}

    @property
    def published(self) -> dict[str, Any] | None:
        """{"score", "agent", "source"} of the best agent in the literature that we could read; None where none is known."""
        return _references(f"{self.domain}.published").get(self.id)


@functools.cache
def _references(name: str) -> dict[str, Any]:
    file = resources.files("gato.worlds") / "references" / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


@functools.cache
def registry() -> dict[str, Task]:
    """Every known task, installed or not, by id. `gym/…` ids are open-ended and made by `find`."""
    found: list[Task] = []
    for domain in DOMAINS:
        found += importlib.import_module(f"gato.worlds.{domain}").tasks()
    for entry in importlib.metadata.entry_points(group="gato.tasks"):
        found += entry.load()()
    return {task.id: task for task in found}


def register(task: Task) -> Task:
    """Add a task for this process (packages use the entry-point group `gato.tasks`)."""
    registry()[task.id] = task
    return task


def find(task_id: str) -> Task:
    """One task by id. Raises UnknownNameError with the nearest ids."""
    if task_id in registry():
        return registry()[task_id]
    if task_id.startswith("gym/"):
        from gato.worlds.gym import gym_task

        return register(gym_task(task_id.removeprefix("gym/")))
    raise UnknownNameError(
        f"no task {task_id!r}",
        fix=nearest(task_id, registry()) or "gato tasks lists them; gym/ENV-ID takes any Gymnasium id",
    )


def senses(task_id: str) -> list[str]:
    """The ids of all tasks that are one simulation, seen in whatever way (as state, pixels, text); the task's own first."""
    world = find(task_id).same_world or task_id
    return [task_id, *(t.id for t in registry().values() if world in (t.id, t.same_world) and t.id != task_id)]


def select(patterns: str | list[str]) -> list[Task]:
    """Tasks whose id matches any of the globs (comma-separated, or a list), in registry order."""
    wanted = patterns.split(",") if isinstance(patterns, str) else patterns
    chosen: dict[str, Task] = {}
    for pattern in (p.strip() for p in wanted):
        hits = fnmatch.filter(registry(), pattern) if any(c in pattern for c in "*?[") else [find(pattern).id]
        if not hits:
            raise UnknownNameError(
                f"no task matches {pattern!r}", fix=nearest(pattern, registry()) or "gato tasks lists them"
            )
        chosen.update({task_id: find(task_id) for task_id in hits})
    return list(chosen.values())
