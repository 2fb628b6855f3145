"""Looking ahead without a world: continuations are tried on what the network foretells.

    policy = agent.planner("classic-control/pendulum-v1", 1, Planning(continuations=16, steps=8, follow=1, drawn=8, imagined=True))

The network is its own world model: with `observation_loss` it learned what it will see after an action, and with `reward_shown`
what that brings, token by token, from demonstrations whose actions are those that were carried out (no noise). A continuation is
worth the discounted sum of the rewards it foretells. Nothing foretells an end, so what is foretold of a world that ends early is
what would follow if it did not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gato.errors import UsageError
from gato.model.bundle import Bundle
from gato.policy.planning import Leaves, Planning, PlanningPolicy, _Continuation, _Session
from gato.rollouts import Unit
from gato.sequences.returns import LAST_REWARD


class ImaginingPolicy(PlanningPolicy):
    """Raises UsageError for a network that was not told of rewards; SpecError for a task with texts or images."""

    name = "gato, planning in imagination"

    def __init__(
        self, bundle: Bundle, task: str, slots: int, planning: Planning, *, acting: Mapping[str, Any] | None = None
    ):
        bundle.codec(task).observation_blocks()
        if LAST_REWARD not in bundle.tasks[task].spec.observation:
            raise UsageError(
                "this network foretells no rewards", where=task,
                fix="train with reward_shown=true observation_loss=0.3 and windows of several timesteps",
            )  # fmt: skip
        super().__init__(bundle, task, slots, planning, acting=acting)

    def begin(self, index: int, unit: Unit, slot: Any) -> None:
        self._sessions[index] = _Session(None, None, unit.seed)
        self._policy.reset(index, unit.seed)

    def _as_planned(self, session: _Session, observation: Leaves) -> bool:
        """Nothing ever looks to the last digit as it was foretold, so only the age of a plan ends it."""
        plan = session.plan
        return plan is not None and 0 < session.followed < min(self.planning.follow, len(plan.actions))

    def _save(self, session: _Session) -> Any:
        return None

    def _put_back(self, session: _Session, state: Any) -> None:
        pass

    def _advance_all(
        self, tried: Mapping[int, list[_Continuation]], decided: Mapping[tuple[int, int], Leaves], weight: float
    ) -> None:
        rows = {self._row(*key): key for key in decided}
        for row, seen in self._policy.imagine(list(rows)).items():
            i, n = rows[row]
            continuation = tried[i][n]
            continuation.actions.append(decided[i, n])
            continuation.observation = seen
            continuation.seen.append(seen)
            continuation.value += weight * float(np.asarray(seen[LAST_REWARD]))
        self.imagined_steps += len(decided)
