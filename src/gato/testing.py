"""Does a world keep the contract? One suite for our own worlds and for everybody else's.

    from gato.testing import check_task

    def test_my_world():
        check_task("my-lab/pour-tea")          # or a Task

`check_task` plays a few short episodes with random actions and stops at the first broken rule with a ConformanceError
that names the task and the rule. The rules are the functions below whose names begin with `rule_`, in that order; the
first line of each says what must hold.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from gato.episodes import TaskSpec, check_values, flatten, task_spec
from gato.errors import ExpertError, GatoError, SimulatorMissingError, WorldError
from gato.worlds import Task, find

SEED = 20_221  # of the first episode; the others count on from it
EXPERT_TRIES = 5  # starts that the expert may give up (ExpertError) before it counts as broken


class ConformanceError(WorldError):
    """A world that breaks a rule of the contract; `rule` is the rule's name."""

    code = "conformance"

    @property
    def rule(self) -> str:
        return self.what.split(":", 1)[0]


@dataclass(frozen=True)
class Conformance:
    """What was checked: the rules that hold, and those that were skipped, with the reason."""

    task: str
    held: tuple[str, ...]
    skipped: dict[str, str]
    steps: int  # environment steps taken in all


@dataclass
class _Play:
    """One episode with random actions: what came out, in copies, and the very objects that came out."""

    seed: int
    keep: bool = True
    flat: list[dict[str, Any]] = field(default_factory=list)  # checked copies, T + 1 of them
    held: list[dict[str, Any]] = field(default_factory=list)  # what the world returned
    frozen: list[dict[str, Any]] = field(default_factory=list)  # what that looked like when it was returned
    rewards: list[Any] = field(default_factory=list)
    ends: list[tuple[Any, Any]] = field(default_factory=list)
    infos: list[Any] = field(default_factory=list)
    actions: list[tuple[Any, Any]] = field(default_factory=list)  # as passed, and a copy made before

    @property
    def ended(self) -> bool:
        return bool(self.ends) and any(self.ends[-1])


class _Broken(Exception):
    """What is wrong, said by a rule; `check_task` adds which rule and which task."""


@dataclass
class _Examination:
    """A task under examination. Plays are made when a rule first asks for them and shared by the rules."""

    task: Task
    episodes: int
    steps: int
    expert_steps: int
    num_steps: int = 0

    def __post_init__(self) -> None:
        self.env = self.make()
        self._plays: dict[str, _Play] = {}

    @functools.cached_property
    def spec(self) -> TaskSpec:
        return task_spec(self.env, self.task.id)

    def make(self) -> gymnasium.Env:
        return self.call("make", self.task.make)

    def play(
        self,
        name: str,
        seed: int,
        steps: int | None = None,
        *,
        env: gymnasium.Env | None = None,
        options: dict[str, Any] | None = None,
        keep: bool = True,
    ) -> _Play:
        """The play called `name`: the same random actions in all of them. `keep` what was observed, for comparing."""
        if name in self._plays:
            return self._plays[name]
        env = self.env if env is None else env
        space = copy.deepcopy(env.action_space)
        space.seed(SEED)
        play = self._plays[name] = _Play(seed, keep)
        observation, info = self.call("reset", env.reset, seed=seed, options=options)
        self._note(play, observation, info)
        while not play.ended and len(play.rewards) < (self.steps if steps is None else steps):
            action = space.sample()
            play.actions.append((action, copy.deepcopy(action)))
            observation, reward, terminated, truncated, info = self.call("step", env.step, action)
            play.rewards.append(reward)
            play.ends.append((terminated, truncated))
            self._note(play, observation, info)
            self.num_steps += 1
        return play

    def plays(self) -> list[_Play]:
        """The ordinary ones: `episodes` of them."""
        return [self.play(f"episode {i}", SEED + i) for i in range(self.episodes)]

    def _note(self, play: _Play, observation: Any, info: Any) -> None:
        where = f"{self.task.id} seed {play.seed} step {len(play.rewards)}"
        leaves = flatten(observation, "observation")
        checked = check_values(self.spec.observation, leaves, where)
        if play.keep:
            play.flat.append(checked)
            play.held.append(leaves)
            play.frozen.append({path: copy.deepcopy(value) for path, value in leaves.items()})
            play.infos.append(info)

    def call(self, what: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """The world's own code, run so that whatever it raises becomes a broken rule."""
        try:
            result = function(*args, **kwargs)
        except GatoError:
            raise
        except Exception as error:
            raise _Broken(f"{what} failed with {type(error).__name__}: {error}") from error
        expected = {"reset": 2, "step": 5}.get(what)
        if expected and not (isinstance(result, tuple) and len(result) == expected):
            raise _Broken(f"{what} must return {expected} values")
        return result


def check_task(
    task: Task | str,
    episodes: int = 1,
    steps: int = 200,
    *,
    expert_steps: int = 20,
    skip: Iterable[str] = (),
) -> Conformance:
    """Check one task (or its id) against the contract in `gato.worlds`.

    `episodes` of at most `steps` random steps are looked at closely; beyond them, one episode is played to its end, and
    the expert acts for `expert_steps`. `skip` names rules that are known not to hold (say why beside it), for instance
    `("seeds-differ",)` for a world that has only one start. Raises ConformanceError, or SimulatorMissingError where the
    task is not installed.
    """
    task = find(task) if isinstance(task, str) else task
    unknown = set(skip) - set(RULES)
    if unknown:
        raise ConformanceError(f"no rule {sorted(unknown)}", where=task.id, fix=f"the rules are {', '.join(RULES)}")
    held: list[str] = []
    skipped = dict.fromkeys(skip, "asked for")
    examination: _Examination | None = None
    try:
        for name, rule in RULES.items():
            if name in skipped:
                continue
            try:
                examination = examination or _Examination(task, episodes, steps, expert_steps)
                reason = rule(examination)
            except SimulatorMissingError:
                raise
            except _Broken as error:
                raise ConformanceError(f"{name}: {error}", where=task.id, fix=_fix(rule)) from error.__cause__
            except GatoError as error:
                fix = error.fix or _fix(rule)
                raise ConformanceError(f"{name}: {error.what}", where=error.where or task.id, fix=fix) from error
            if reason:
                skipped[name] = reason
            else:
                held.append(name)
    finally:
        if examination is not None:
            with contextlib.suppress(Exception):  # what is wrong has been said already
                examination.env.close()
    return Conformance(task.id, tuple(held), skipped, examination.num_steps if examination else 0)


def _fix(rule: Callable) -> str:
    return f"the rule: {(rule.__doc__ or '').strip().splitlines()[0]}"


# -- the rules: each raises _Broken, or returns why it does not apply --------------------------------------------------


def rule_id(x: _Examination) -> str | None:
    """The id is `domain/name`, each of lower-case letters, digits, dashes and dots; `max_steps` is positive."""
    if not x.task.id.startswith("gym/") and not re.fullmatch(r"[a-z0-9.-]+/[a-z0-9.-]+", x.task.id):
        raise _Broken(f"{x.task.id!r} is not such an id")
    if x.task.max_steps < 1:
        raise _Broken(f"max_steps is {x.task.max_steps}")
    return None


def rule_spaces(x: _Examination) -> str | None:
    """Both spaces become specs: bounded actions, at most 1,024 values where discrete."""
    if not x.spec.observation or not x.spec.action:
        raise _Broken("a space without a single leaf")
    return None


def rule_observations(x: _Examination) -> str | None:
    """Every observation has the keys, shapes and types of the spec, and is finite."""
    x.plays()  # checked as they come
    return None


def rule_rewards(x: _Examination) -> str | None:
    """Every reward is one finite number, and the ends are two booleans."""
    for play in x.plays():
        for t, (reward, ends) in enumerate(zip(play.rewards, play.ends, strict=True)):
            if np.ndim(reward) != 0 or not np.isfinite(float(reward)):
                raise _Broken(f"reward {reward!r} at step {t}")
            if not all(isinstance(end, bool | np.bool_) for end in ends):
                raise _Broken(f"terminated and truncated are {ends!r} at step {t}")
    return None


def rule_success(x: _Examination) -> str | None:
    """Where the score is `success`, info["success"] says so, as true or false, after every step."""
    if x.task.score != "success":
        return "the score is the return"
    for play in x.plays():
        for t, info in enumerate(play.infos[1:]):
            if "success" not in info:
                raise _Broken(f"no info['success'] at step {t}")
            if info["success"] not in (True, False):
                raise _Broken(f"info['success'] is {info['success']!r} at step {t}")
    return None


def rule_same_seed(x: _Examination) -> str | None:
    """The same seed and actions give the same episode to the last bit, in a used environment and in a new one."""
    if not x.task.deterministic:
        return "the task says that it is not deterministic"
    first = x.play("episode 0", SEED)
    x.play("something else", SEED + 1000, steps=min(x.steps, 5))  # what an environment may remember
    again = x.play("again", SEED)
    other = x.make()
    if task_spec(other, x.task.id) != x.spec:
        raise _Broken("two environments of the task have different spaces")
    fresh = x.play("fresh", SEED, env=other)
    x.call("close", other.close)
    for play, which in ((again, "in the same environment"), (fresh, "in a new environment")):
        difference = _difference(first, play)
        if difference:
            raise _Broken(f"played again {which}, {difference}")
    return None


def rule_seeds_differ(x: _Examination) -> str | None:
    """Different seeds give different episodes, with the same actions."""
    first = x.play("episode 0", SEED)
    for i in range(1, 6):
        if _difference(first, x.play(f"seed {i}", SEED + i, steps=min(x.steps, 20))):
            return None
    # A game may show the same opening for a hundred steps, whatever the seed.
    if x.steps <= 20 or not any(_difference(first, x.play(f"long {i}", SEED + i)) for i in range(1, 6)):
        raise _Broken(f"six seeds gave one and the same episode, as far as {len(first.rewards)} steps show")
    return None


def rule_not_shared(x: _Examination) -> str | None:
    """An observation, once returned, does not change, and neither does an action that was passed in."""
    for play in x.plays():
        for t, (held, frozen) in enumerate(zip(play.held, play.frozen, strict=True)):
            for path in held:
                if not _same(held[path], frozen[path]):
                    raise _Broken(
                        f"observation {t} changed afterwards: {path} is a buffer of the world's; return a copy"
                    )
        for t, (passed, before) in enumerate(play.actions):
            now, then = flatten(passed, "action"), flatten(before, "action")
            if not all(_same(now[path], then[path]) for path in then):
                raise _Broken(f"the action of step {t} was changed by the world")
    return None


def rule_not_constant(x: _Examination) -> str | None:
    """Something in the observations changes as the world is acted upon, and no image is always of one colour."""
    plays = [*x.plays(), x.play("seed 1", SEED + 1, steps=min(x.steps, 20))]
    frames = [frame for play in plays for frame in play.flat]
    moved = any(
        not _same(play.flat[0][path], frame[path]) for play in plays for frame in play.flat[1:] for path in frame
    )
    if not moved:
        raise _Broken(f"no observation changed in {len(frames)} steps")
    for path, spec in x.spec.observation.items():
        if spec.kind == "image":
            pixels = [frame[path] for frame in frames]
            if all((frame == pixels[0].flat[0]).all() for frame in pixels):
                raise _Broken(f"{path} shows nothing: all its pixels are {pixels[0].flat[0]}")
    return None


def rule_ends(x: _Examination) -> str | None:
    """An episode ends by itself, after `max_steps` at the latest."""
    play = x.play("whole", SEED, steps=x.task.max_steps, keep=False)
    if not play.ended:
        raise _Broken(f"not ended after {x.task.max_steps} steps")
    return None


def rule_wide(x: _Examination) -> str | None:
    """`reset(options={"wide": True})` is accepted, and leaves nothing behind."""
    x.play("wide", SEED, steps=min(x.steps, 20), options={"wide": True})
    if x.task.deterministic:
        difference = _difference(x.play("episode 0", SEED), x.play("after wide", SEED))
        if difference:
            raise _Broken(f"after a wide start, an ordinary one is another than before: {difference}")
    return None


def rule_expert(x: _Examination) -> str | None:
    """The expert's actions are legal: keys, shapes, types and bounds of the action space."""
    if x.task.make_expert is None:
        return "no expert"
    for attempt in range(EXPERT_TRIES):
        seed = SEED + attempt
        observation, info = x.env.reset(seed=seed)
        try:
            policy = x.task.expert(x.env.unwrapped, seed)
            for t in range(x.expert_steps):
                action = policy(observation, info)
                _check_action(x.spec, action, f"{x.task.id} seed {seed} step {t}")
                observation, _, terminated, truncated, info = x.env.step(action)
                x.num_steps += 1
                if terminated or truncated:
                    break
            return None
        except ExpertError:
            continue
        except GatoError:
            raise
        except Exception as error:
            raise _Broken(f"the expert failed with {type(error).__name__}: {error} (seed {seed})") from error
    raise _Broken(f"the expert gave up {EXPERT_TRIES} starts in a row")


def rule_close(x: _Examination) -> str | None:
    """Closing succeeds, and closing twice is harmless."""
    for time in ("first", "second"):
        x.call(f"the {time} close", x.env.close)
    return None


RULES: dict[str, Callable[[_Examination], str | None]] = {
    name.removeprefix("rule_").replace("_", "-"): rule
    for name, rule in list(globals().items())
    if name.startswith("rule_")
}


def check_expert(task: Task | str, episodes: int = 5) -> tuple[float, float]:
    """Mean scores of the random policy and of the expert over whole episodes. ConformanceError if it is no better."""
    from gato.rollouts.loop import BatchPolicy, ExpertPolicy, LocalSlot, RandomPolicy, Unit, rollout

    task = find(task) if isinstance(task, str) else task
    slot = LocalSlot()

    def mean_score(policy: BatchPolicy) -> float:
        played = rollout([Unit(task.id, SEED + i) for i in range(episodes)], [slot], policy)
        return float(np.mean([bool(e.success) if task.score == "success" else e.total_return for e in played]))

    random, expert = mean_score(RandomPolicy()), mean_score(ExpertPolicy())
    slot.close()
    if not expert > random:
        raise ConformanceError(f"expert-better: the expert scores {expert:.4g}, random {random:.4g}", where=task.id)
    return random, expert


# -- comparing --------------------------------------------------------------------------------------------------------


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _difference(a: _Play, b: _Play) -> str:
    """Where two plays part, over the steps that both have; empty where they do not."""
    shared = min(len(a.rewards), len(b.rewards))
    for t in range(shared + 1):
        for path in a.flat[t]:
            if not _same(a.flat[t][path], b.flat[t][path]):
                return f"observation {path} of step {t} differs"
        if t < shared and float(a.rewards[t]) != float(b.rewards[t]):
            return f"the reward of step {t} differs: {float(a.rewards[t])!r} and {float(b.rewards[t])!r}"
        if t < shared and tuple(map(bool, a.ends[t])) != tuple(map(bool, b.ends[t])):
            return f"step {t} ends one and not the other"
    return ""


def _check_action(spec: TaskSpec, action: Any, where: str) -> None:
    checked = check_values(spec.action, flatten(action, "action"), where)
    for path, leaf in spec.action.items():
        low, high = leaf.bounds()
        flat = np.asarray(checked[path], np.float64).ravel()
        slack = 1e-6 * (high - low)  # float32 rounding of float64 bounds
        outside = (flat < low - slack) | (flat > high + slack)
        if outside.any():
            i = int(np.argmax(outside))
            raise _Broken(f"{path} is {flat[i]:.6g} at element {i}, outside {low[i]:.6g}…{high[i]:.6g} [{where}]")
