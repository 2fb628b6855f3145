"""The one environment loop. Experts, random play and the trained agent all go through `rollout`.

A `Unit` is one episode to be played, addressed by task and seed. Slots hold environments (here, or in a worker
process); a policy serves many slots at once. What happens in a unit depends on the unit alone, never on which slot or
worker played it or on what its neighbours did.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import gymnasium
import numpy as np

from gato.episodes import Episode, TaskSpec, check_values, flatten, stack_episode, unflatten
from gato.episodes.episode import LAST_REWARD, success_of
from gato.errors import GatoError, UsageError, WorldError
from gato.worlds import Task, find

EVALUATION_SEEDS = 2**30  # training seeds lie below, evaluation seeds at and above: they never meet


def episode_seed(task_id: str, index: int, split: Literal["train", "evaluation"] = "train") -> int:
    """The seed of episode `index` of a task: a hash, so that tasks and workers never share a stream."""
    digest = hashlib.sha256(f"{task_id}\0{split}\0{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % EVALUATION_SEEDS + (EVALUATION_SEEDS if split == "evaluation" else 0)


@dataclass(frozen=True)
class Noise:
    """What is mixed into the executed actions; the recorded target stays the expert's own choice (as in DART).

    `scale`: sd of Gaussian noise, in half-ranges of the action space; for discrete actions the chance of a random one.
    `burst`: chance per step that a burst of wholly random actions begins; it lasts up to `burst_steps`.
    """

    scale: float = 0.0
    burst: float = 0.0
    burst_steps: int = 0

    def __post_init__(self) -> None:
        if not (self.scale >= 0 and 0 <= self.burst <= 1) or (self.burst and self.burst_steps < 1):
            raise UsageError(f"{self}", fix="no negative scale, a chance from 0 to 1, and bursts of at least one step")

    def __bool__(self) -> bool:
        return self.scale > 0 or self.burst > 0


CLEAN = Noise()


@dataclass(frozen=True)
class Unit:
    """One episode. `wide` starts reach beyond the task's own; `max_steps` cuts the recording short."""

    task: str
    seed: int
    noise: Noise = CLEAN
    wide: bool = False
    max_steps: int | None = None


@dataclass
class Transition:
    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


class Slot(Protocol):
    """One environment. `reset` and `step` start the work, `receive` waits for it."""

    def reset(self, unit: Unit) -> None: ...
    def step(self, action: Any) -> None: ...
    def receive(self) -> Transition: ...


class BatchPolicy(Protocol):
    """Acts for many slots. `begin` is called when a slot starts a unit; `act` maps slot index → flat action leaves."""

    name: str

    def begin(self, index: int, unit: Unit, slot: Slot) -> None: ...
    def act(self, observations: Mapping[int, Any], infos: Mapping[int, Mapping[str, Any]]) -> Mapping[int, Any]: ...


class LocalSlot:
    """Environments in this process, made once per task; the last KEPT that were asked for stay open. `making(True)` is called
    before one is made, which may take long, and `making(False)` after."""

    KEPT = 4  # a simulator holds up to hundreds of megabytes, and tasks come one after another

    def __init__(self, render: bool = False, making: Callable[[bool], None] | None = None):
        self._render, self._making = render, making
        self._envs: dict[str, gymnasium.Env] = {}
        self._result: Transition | None = None
        self.env: gymnasium.Env | None = None

    def environment(self, task_id: str) -> gymnasium.Env:
        """The environment of a task, made when first asked for."""
        while task_id not in self._envs and len(self._envs) >= self.KEPT:
            _close(self._envs.pop(next(iter(self._envs))))
        env = self._envs.pop(task_id) if task_id in self._envs else self._make(task_id)
        self._envs[task_id] = env  # the last asked for comes last
        return env

    def reset(self, unit: Unit) -> None:
        self.env = self.environment(unit.task)
        try:
            observation, info = self.env.reset(seed=unit.seed, options={"wide": True} if unit.wide else None)
            self._result = Transition(observation, 0.0, False, False, dict(info or {}))
        except GatoError:
            raise
        except Exception as error:
            raise WorldError(
                f"reset failed: {type(error).__name__}: {error}", where=f"{unit.task} seed {unit.seed}"
            ) from error
        self._where = f"{unit.task} seed {unit.seed}"

    def _make(self, task_id: str) -> gymnasium.Env:
        if self._making is None:
            return find(task_id).make(render=self._render)
        self._making(True)
        try:
            return find(task_id).make(render=self._render)
        finally:
            self._making(False)

    def step(self, action: Any) -> None:
        assert self.env is not None, "reset first"
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            self._result = Transition(observation, float(reward), terminated, truncated, dict(info or {}))
        except GatoError:
            raise
        except Exception as error:
            raise WorldError(f"step failed: {type(error).__name__}: {error}", where=self._where) from error

    def receive(self) -> Transition:
        assert self._result is not None, "nothing was asked"
        result, self._result = self._result, None
        return result

    def close(self) -> None:
        """Close them all."""
        envs, self._envs = self._envs, {}
        for env in envs.values():
            _close(env)


def _close(env: gymnasium.Env) -> None:
    """What it raises in doing so is its last word: its episodes are complete, and others follow."""
    with contextlib.suppress(Exception):
        env.close()


class ExpertPolicy:
    """The task's own expert, or `make` for all of them; needs local slots, since planners work on the simulator."""

    def __init__(self, make=None, name: str = ""):
        self._make, self.name = make, name or "expert"
        self._policies: dict[int, Any] = {}

    def begin(self, index: int, unit: Unit, slot: Slot) -> None:
        assert isinstance(slot, LocalSlot) and slot.env is not None
        task = find(unit.task)
        self._policies[index] = (self._make or task.expert)(slot.env.unwrapped, unit.seed)

    def act(self, observations, infos):
        return {i: self._policies[i](observation, infos[i]) for i, observation in observations.items()}


class RandomPolicy:
    """Uniform over the action space, in a stream of its own that follows from the unit's seed."""

    name = "random"

    def __init__(self) -> None:
        self._known: dict[str, gymnasium.Space] = {}
        self._spaces: dict[int, gymnasium.Space] = {}

    def begin(self, index: int, unit: Unit, slot: Slot) -> None:
        if unit.task not in self._known:
            self._known[unit.task] = _action_space(find(unit.task), slot)
        self._spaces[index] = copy.deepcopy(self._known[unit.task])
        # Never the bare seed: a world that Gymnasium seeds with it draws the same numbers, and chance would know the answers.
        self._spaces[index].seed(int(np.random.SeedSequence([unit.seed, 0x4A2D]).generate_state(1)[0]))

    def act(self, observations, infos):
        return {i: self._spaces[i].sample() for i in observations}


@dataclass
class _Playing:
    """One unit in progress."""

    unit: Unit
    spec: TaskSpec
    space: gymnasium.Space
    rng: np.random.Generator
    observation: Any
    info: Mapping[str, Any]
    observations: list = field(default_factory=list)
    actions: list = field(default_factory=list)
    executed: list = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    burst_left: int = 0
    drawn: Any = None  # what the world drew for this episode, if its reset's info tells

    @property
    def told(self) -> dict[str, Any]:
        """What the world says beside its observation, and what the last step brought."""
        return {**self.info, LAST_REWARD: self.rewards[-1] if self.rewards else 0.0}

    def disturb(self, action: Any) -> Any:
        """The action to execute: the policy's own, or noise in its place."""
        noise = self.unit.noise
        if not noise:
            return action
        if self.burst_left == 0 and self.rng.random() < noise.burst:
            self.burst_left = int(self.rng.integers(1, noise.burst_steps + 1))
        whole = self.burst_left > 0
        self.burst_left -= whole
        flat = flatten(action, "action")
        noisy = {
            path: _disturb_leaf(self.spec.action[path], value, noise.scale, whole, self.rng)
            for path, value in flat.items()
        }
        return unflatten(noisy, self.space, "action")


def _disturb_leaf(spec, value, scale: float, whole: bool, rng: np.random.Generator) -> np.ndarray:
    low, high = (b.reshape(spec.shape) for b in spec.bounds())
    value = np.asarray(value)
    if spec.kind == "discrete":
        random = rng.integers(low.astype(np.int64), high.astype(np.int64) + 1)
        return np.where(whole | (rng.random(spec.shape) < scale), random, value).astype(spec.dtype)
    if whole:
        return rng.uniform(low, high).astype(spec.dtype)
    return np.clip(value + rng.normal(0.0, 1.0, spec.shape) * scale * (high - low) / 2, low, high).astype(spec.dtype)


def rollout(
    units: Iterable[Unit], slots: list[Any], policy: BatchPolicy, spaces: Mapping[str, gymnasium.Space] | None = None
) -> Iterator[Episode]:
    """Play every unit on the slots and yield episodes as they finish (their order depends on their lengths).

    Raises ObservationError (task, seed, step, field) for what a world must not deliver, WorldError for its crashes.
    """
    waiting = iter(units)
    playing: dict[int, _Playing] = {}
    known = dict(spaces or {})

    def start(indices: Iterable[int]) -> None:
        begun = []
        for i in indices:
            unit = next(waiting, None)
            if unit is None:
                playing.pop(i, None)
                continue
            slots[i].reset(unit)
            begun.append((i, unit))
        for i, unit in begun:
            first = slots[i].receive()
            task = find(unit.task)
            if unit.task not in known:
                known[unit.task] = _action_space(task, slots[i])
            seen = copy.deepcopy(first.observation)  # a policy may try out the world as it begins
            playing[i] = _Playing(
                unit, task.spec, known[unit.task], np.random.default_rng([unit.seed, 0x4015E]), seen, first.info,
                drawn=_drawn(first.info),
            )  # fmt: skip
            policy.begin(i, unit, slots[i])

    start(range(len(slots)))
    while playing:
        checked = {}
        for i, p in playing.items():
            where = f"{p.unit.task} seed {p.unit.seed} step {len(p.rewards)}"
            flat = flatten(p.observation, "observation")
            checked[i] = check_values(p.spec.observation, flat, where)
            p.observations.append(checked[i])
        observations = {i: p.observation for i, p in playing.items()}
        actions = policy.act(observations, {i: p.told for i, p in playing.items()})
        for i, p in playing.items():
            action = unflatten(
                flatten(actions[i], "action"), p.space, "action"
            )  # a copy: policies may reuse their arrays
            executed = p.disturb(action)
            p.actions.append(action)
            p.executed.append(executed)
            slots[i].step(copy.deepcopy(executed))  # worlds may change what they are given
        finished = []
        for i, p in playing.items():
            result = slots[i].receive()
            p.rewards.append(float(result.reward))
            p.observation, p.info = result.observation, result.info
            cut = p.unit.max_steps is not None and len(p.rewards) >= p.unit.max_steps
            if result.terminated or result.truncated or cut:
                finished.append(i)
                yield _finish(p, policy.name, result)
        start(finished)


def _action_space(task: Task, slot: Any) -> gymnasium.Space:
    env = getattr(slot, "env", None)
    if env is not None:
        return env.action_space
    made = task.make()
    try:
        return made.action_space
    finally:
        made.close()


def _drawn(info: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the seed chose beyond the start: a mode, a body. A world of somebody else's may mean another thing by the word."""
    return dict(info["drawn"]) if isinstance(info.get("drawn"), Mapping) else None


def _finish(p: _Playing, source: str, last: Transition) -> Episode:
    info: dict[str, Any] = {"seed": p.unit.seed, "source": source, "terminated": bool(last.terminated)}
    success = success_of(last.info, f"{p.unit.task} seed {p.unit.seed}")
    if success is not None:
        info["success"] = success
    if p.unit.noise:
        info["noise"] = asdict(p.unit.noise)
    if p.unit.wide:
        info["wide"] = True
    if (drawn := _drawn(last.info) if p.drawn is None else p.drawn) is not None:
        info["drawn"] = drawn
    noisy = p.unit.noise and p.executed
    # Observations were checked and copied step by step; they are stacked as flat leaves.
    return stack_episode(p.unit.task, p.spec, p.observations, p.actions, p.rewards, p.executed if noisy else None, info)
