"""An episode, moment by moment: the picture, what the network read, what it chose and from what, what came of it.

    for moments in watch(agent, task, policy, seeds=[7], show=screen.draw): …

The world is played by the one environment loop; a moment is what the policy was given and what it decided, not a
reconstruction. `show` is called after every step, and may raise `Enough` to end the watching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from gato.episodes import Episode, check_same
from gato.episodes.episode import success_of
from gato.errors import ObservationError, SimulatorMissingError, WorldError
from gato.policy import Agent, look
from gato.rollouts import LocalSlot, Unit, rollout
from gato.sequences.returns import world_spec
from gato.tokens import Tokens
from gato.worlds import Task


@dataclass(frozen=True)
class Moment:
    """After `step` decisions of an episode. The first moment of one has no tokens and no choices."""

    episode: int
    step: int
    frame: np.ndarray | None  # uint8 (H, W, 3), or None where the world cannot be drawn
    total: float = 0.0
    done: bool = False
    success: bool | None = None
    tokens: Tokens | None = None  # of the timestep that led here
    labels: list[str] = field(default_factory=list)
    choices: list[dict[str, Any]] = field(default_factory=list)


class Enough(Exception):
    """Whoever watches has seen enough."""


def make_visible(task: Task) -> tuple[gymnasium.Env, bool]:
    """The environment, and whether it draws itself: without OpenGL it can be played all the same."""
    try:
        return task.make(render=True), True
    except SimulatorMissingError:
        raise
    except WorldError:
        return task.make(), False


def watch(
    agent: Agent, task: Task, policy: Any, seeds: Iterable[int], show: Callable[[Moment], None], max_steps: int
) -> list[Episode]:
    """Play one episode per seed and show every moment. Returns the episodes that were seen to their end.

    Raises ObservationError for what is no picture, and for what a world must not deliver; SpecError for a world that is not
    the one that was learned from.
    """
    check_same(world_spec(agent.bundle.tasks[task.id].spec), task.spec, task.id)
    env, visible = make_visible(task)
    watched = _Watched(agent, task, policy, env, visible, show)
    seen: list[Episode] = []
    try:
        for episode in rollout([Unit(task.id, seed, max_steps=max_steps) for seed in seeds], [watched], watched):
            seen.append(episode)
    except Enough:
        pass
    finally:
        env.close()
    return seen


class _Watched(LocalSlot):
    """The slot and the policy of a rollout in one, so that a step is seen with the decision that led to it."""

    def __init__(
        self, agent: Agent, task: Task, policy: Any, env: gymnasium.Env, visible: bool, show: Callable[[Moment], None]
    ):
        super().__init__()
        self._envs[task.id] = env
        self.name = policy.name
        self._policy, self._task, self._visible, self._show = policy, task, visible, show
        self._codec, self._spec = agent.bundle.codec(task.id), agent.bundle.tasks[task.id].spec
        self._episode, self._max_steps = -1, 0

    def reset(self, unit: Unit) -> None:
        super().reset(unit)
        self._episode, self._step, self._total = self._episode + 1, 0, 0.0
        self._max_steps = unit.max_steps or self._task.max_steps
        self._show(Moment(self._episode, 0, self._frame()))

    def begin(self, index: int, unit: Unit, slot: Any) -> None:
        self._policy.begin(index, unit, slot)

    def act(self, observations: Any, infos: Any) -> Any:
        actions = self._policy.act(observations, infos)
        leaves = self._policy.seen(0, observations[0], infos.get(0))
        self._tokens = look.timestep(self._codec, self._task.id, leaves, actions[0])
        self._choices = look.choices(self._policy.probabilities(0), self._spec.action, actions[0])
        return actions

    def step(self, action: Any) -> None:
        super().step(action)
        result = self._result
        assert result is not None
        self._step += 1
        self._total += result.reward
        done = result.terminated or result.truncated or self._step >= self._max_steps
        success = success_of(result.info, self._where)
        names = look.labels(self._codec, self._tokens)
        self._show(
            Moment(
                self._episode, self._step, self._frame(), self._total, done, success, self._tokens, names, self._choices
            )
        )

    def _frame(self) -> np.ndarray | None:
        assert self.env is not None
        if not self._visible:
            return None
        frame = np.array(self.env.render())  # a copy: worlds may draw the next into the same buffer
        if frame.dtype != np.uint8 or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[-1] in (3, 4))):
            raise ObservationError(
                f"render() gives {frame.dtype} {frame.shape}, expected uint8 (height, width, 3)", where=self._where,
                fix="mend the environment's render()",
            )  # fmt: skip
        return frame
