"""Looking ahead with the policy: continuations are tried on saved states of the world, and the best one is begun.

    policy = PlanningPolicy(bundle, "sokoban/7x7-1-box", slots=1, planning=Planning(continuations=16))
    rollout(units, [LocalSlot()], policy)

At a decision the state of the world is saved and N continuations of up to H steps are played from it, all in one batch:

    0     as the agent would go on without a plan
    1     the rest of the last plan, then as the agent goes on
    2…    the first steps drawn from the policy's probabilities (also where the agent takes the likeliest or the mean),
          then as the agent goes on

The policy is the only prior and the world's own rewards are the only judge: a continuation that succeeds is better than one
that does not, the sooner the better, and then the discounted return decides; among equals the first. So the agent's
own way is kept unless another was seen to be better. The chosen plan is followed for a few steps, or to its end if
that is a success, and thrown away at once if the world is not where the plan said.

The simulator is only known as something that steps and can be put back (`gato.worlds.saving`). What the agent
remembers is forked with it: a continuation starts as a copy of the session's slot in the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gato.episodes import flatten, unflatten
from gato.errors import UsageError
from gato.model.bundle import Bundle
from gato.policy.batch import AgentPolicy
from gato.rollouts import LocalSlot, Unit
from gato.rollouts.loop import Slot
from gato.sequences.returns import LAST_REWARD
from gato.worlds import find
from gato.worlds.saving import Saver, saver_of

Leaves = Mapping[str, Any]
LAST_PLAN = 1  # this continuation begins with what was planned before, if anything is left of it


@dataclass(frozen=True)
class Planning:
    """How far and how often to look ahead. Lengths are in steps of the world."""

    continuations: int = 8
    steps: int = 20
    follow: int = 4  # steps of a plan that are taken before the next one is made
    drawn: int = 1  # first steps of a continuation that are sampled, whatever the agent's own manner
    discount: float = 0.99
    imagined: bool = False  # tried out on what the network foretells (`gato.policy.imagining`), not on the world

    def __post_init__(self) -> None:
        for name in ("continuations", "steps", "follow", "drawn"):
            if getattr(self, name) < 1:
                raise UsageError(f"planning: {name}={getattr(self, name)}", fix="a whole number from 1")
        if not 0 < self.discount <= 1:
            raise UsageError(f"planning: discount={self.discount}", fix="above 0 and at most 1")


@dataclass
class _Continuation:
    """What was done, what was then seen, and what it was worth."""

    state: Any
    observation: Any
    info: Mapping[str, Any]  # what came with it
    actions: list[Leaves] = field(default_factory=list)
    seen: list[Leaves] = field(default_factory=list)  # the observation after each action
    success: float = 0.0
    value: float = 0.0
    over: bool = False


@dataclass
class _Session:
    """One slot of the rollout: its world, and the plan that it follows."""

    env: Any
    saver: Any  # a Saver; None in imagination
    seed: int
    decisions: int = 0
    plan: _Continuation | None = None
    followed: int = 0


class PlanningPolicy:
    """A `BatchPolicy` over slots of this process, since it tries things out on their worlds."""

    name = "gato, planning"

    def __init__(
        self,
        bundle: Bundle,
        task: str,
        slots: int,
        planning: Planning,
        *,
        acting: Mapping[str, Any] | None = None,
    ):
        self.task, self.planning = task, planning
        self._by_success = find(task).score == "success"
        self._policy = AgentPolicy(bundle, task, slots * (1 + planning.continuations), acting=acting)
        self._slots = slots
        self._sessions: dict[int, _Session] = {}
        self._savers: dict[int, tuple[Any, Saver]] = {}  # by slot: found once for each environment
        self.imagined_steps = 0

    @property
    def legal_mass(self) -> float | None:
        return self._policy.legal_mass

    def probabilities(self, index: int) -> list[np.ndarray]:
        """What the policy alone thought of each action token, see `AgentPolicy.probabilities`."""
        return self._policy.probabilities(index)

    def seen(self, index: int, observation: Any, info: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """See `AgentPolicy.seen`."""
        return self._policy.seen(index, observation, info)

    def begin(self, index: int, unit: Unit, slot: Slot) -> None:
        """Raises StateError where the world cannot be put back."""
        assert isinstance(slot, LocalSlot) and slot.env is not None, "planning needs worlds of this process"
        if index not in self._savers or self._savers[index][0] is not slot.env:
            self._savers[index] = (slot.env, saver_of(slot.env, unit.task))
        env, saver = self._savers[index]
        self._sessions[index] = _Session(env, saver, unit.seed)
        self._policy.reset(index, unit.seed)

    def act(
        self, observations: Mapping[int, Any], infos: Mapping[int, Any] | None = None
    ) -> dict[int, dict[str, np.ndarray]]:
        """{slot: observation} → {slot: action leaves}."""
        observations = copy.deepcopy(
            dict(observations)
        )  # a world may reuse its arrays, and is stepped before these are read
        flat = {i: flatten(observation, "observation") for i, observation in observations.items()}
        infos = infos or {}
        self._think(
            {i: seen for i, seen in observations.items() if not self._as_planned(self._sessions[i], flat[i])}, infos
        )
        chosen = {}
        for i in observations:
            session = self._sessions[i]
            assert session.plan is not None
            chosen[i] = session.plan.actions[session.followed]
            session.followed += 1
        return self._policy.act(observations, infos, given=chosen)

    def _as_planned(self, session: _Session, observation: Leaves) -> bool:
        """Whether the plan goes on: it has a next step, is not too old, and the world is where it said."""
        plan, at = session.plan, session.followed
        if plan is None or at >= len(plan.actions) or not (at < self.planning.follow or plan.success):
            return False
        return at > 0 and _same(plan.seen[at - 1], observation)

    # -- continuations ------------------------------------------------------------------------------------------------

    def _think(self, observations: Mapping[int, Any], infos: Mapping[int, Any]) -> None:
        """Make a plan for each of these slots. Their worlds are left as they were."""
        if not observations:  # all are on their way
            return
        count = self.planning.continuations
        starts = {i: self._save(self._sessions[i]) for i in observations}
        tried = {
            i: [_Continuation(starts[i], seen, infos.get(i) or {}) for _ in range(count)]
            for i, seen in observations.items()
        }
        for i in observations:
            session = self._sessions[i]
            self._policy.fork(i, [self._row(i, n) for n in range(count)], (session.seed, 2, session.decisions))
            session.decisions += 1
        for step in range(self.planning.steps):
            going = {(i, n): tried[i][n] for i in tried for n in range(count) if not tried[i][n].over}
            self._advance_all(tried, self._decide(going, step), self.planning.discount**step)
        for i, start in starts.items():
            session = self._sessions[i]
            self._put_back(session, start)
            session.plan, session.followed = max(tried[i], key=lambda c: (c.success, c.value)), 0

    def _row(self, index: int, n: int) -> int:
        """The slot of the batch in which continuation n of a slot is played."""
        return self._slots + index * self.planning.continuations + n

    def _decide(self, going: Mapping[tuple[int, int], _Continuation], step: int) -> dict[tuple[int, int], Leaves]:
        """What each continuation does next."""
        rest: dict[tuple[int, int], Leaves] = {}
        for i, n in going:
            session = self._sessions[i]
            if n == LAST_PLAN and session.plan and session.followed + step < len(session.plan.actions):
                rest[i, n] = session.plan.actions[session.followed + step]
        drawn = {key for key in going if step < self.planning.drawn and not (key[1] == 0 or key in rest)}
        own = self._policy_acts({key: c for key, c in going.items() if key not in drawn}, rest)
        if not drawn:
            return own
        manner = self._policy.acting
        self._policy.change(discrete="sample", continuous="sample")
        sampled = self._policy_acts({key: going[key] for key in drawn}, {})
        self._policy.change(**manner)
        return own | sampled

    def _policy_acts(
        self, going: Mapping[tuple[int, int], _Continuation], given: Mapping[tuple[int, int], Leaves]
    ) -> dict[tuple[int, int], Leaves]:
        if not going:
            return {}
        rows = {self._row(*key): key for key in going}
        actions = self._policy.act(
            {row: going[key].observation for row, key in rows.items()},
            {row: going[key].info for row, key in rows.items()},
            given={self._row(*key): leaves for key, leaves in given.items()},
        )
        return {rows[row]: leaves for row, leaves in actions.items()}

    def _save(self, session: _Session) -> Any:
        return session.saver.save()

    def _put_back(self, session: _Session, state: Any) -> None:
        session.saver.restore(state)

    def _advance_all(
        self, tried: Mapping[int, list[_Continuation]], decided: Mapping[tuple[int, int], Leaves], weight: float
    ) -> None:
        for (i, n), action in decided.items():
            self._advance(self._sessions[i], tried[i][n], action, weight)

    def _advance(self, session: _Session, tried: _Continuation, action: Leaves, weight: float) -> None:
        """One step of a continuation in the session's own world; `weight` is the discount so far."""
        session.saver.restore(tried.state)
        env = session.env
        seen, reward, terminated, truncated, info = env.step(unflatten(action, env.action_space, "action"))
        tried.observation, tried.info = copy.deepcopy(seen), {**info, LAST_REWARD: float(reward)}
        tried.actions.append(action)
        tried.seen.append(flatten(tried.observation, "observation"))
        tried.value += weight * float(reward)
        if self._by_success and info.get("success"):
            tried.success = max(tried.success, weight)
        tried.over = terminated or truncated
        tried.state = None if tried.over else session.saver.save()
        self.imagined_steps += 1


def _same(one: Leaves, other: Leaves) -> bool:
    return all(np.array_equal(one[path], other[path]) for path in one)
