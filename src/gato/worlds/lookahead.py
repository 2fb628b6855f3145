"""The Atari expert of the four games with a rule of thumb: tries things out on saved emulator states, does what went best.

A plan is a row of actions. The candidates at a decision are

    the rest of the last plan · the game's rule of thumb, played forward · one action held for a while, then the rule
    of thumb · random actions held for times of several scales · mutations of the last plan

and each is played on the emulator from the present state. Rewards are discounted, so that earlier ones count more, and a lost
life costs. Among nearly equal plans the one that keeps closest to the rule of thumb wins: the demonstrations are
made to be imitated from pixels, and a purposeful habit is easier to learn than the last point of score is worth.

Rules of thumb read the console's memory (follow the ball, close in and punch, walk on); the other games are searched by
`shooting.py`, whose plans need none. The planner notices when the world is not where its plan said (noise was executed) and plans anew, so
a plan is followed for as long as it comes true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gato.worlds import shooting
from gato.worlds.shooting import Shooting

Memory = np.ndarray  # uint8 (128,), the console's RAM
Rule = Callable[[Memory], int]  # what a plain player would do now, as an index into the game's action set


@dataclass(frozen=True)
class Planning:
    """How one game is planned. Lengths are in agent steps (four frames)."""

    horizon: int = 40
    random_plans: int = 16
    commit: int = 4  # steps followed before planning anew
    discount: float = 0.98
    life_cost: float = 10.0
    habit: float = 0.002  # what a step away from the rule of thumb (or a change of action, without one) must earn
    actions: tuple[str, ...] = ()  # names of those worth trying; () for the whole minimal set
    holds: tuple[int, ...] = ()  # each action is tried for so long, then the rule of thumb
    rule: Callable[[Mapping[str, int]], Rule] | None = None  # made from {action name: index}
    progress: Callable[[Memory], float] | None = None  # a bonus for how far a plan comes
    content: float = float("inf")  # a rule of thumb that earns this much is followed without looking further


# -- rules of thumb ---------------------------------------------------------------------------------------------------


def _freeway(actions: Mapping[str, int]) -> Rule:
    return lambda memory: actions["UP"]


def _freeway_progress(memory: Memory) -> float:
    return float(memory[14]) / 177  # the chicken's height; it jumps back to the kerb after the point is scored


def _pong(actions: Mapping[str, int]) -> Rule:
    def rule(memory: Memory) -> int:
        ball_y, paddle_y = int(memory[54]), int(memory[51])
        if ball_y == 0:  # no ball in play
            return actions["NOOP"]
        below = ball_y - paddle_y - 8
        return actions["LEFT"] if below > 5 else actions["RIGHT"] if below < -5 else actions["NOOP"]  # LEFT is down

    return rule


def _breakout(actions: Mapping[str, int]) -> Rule:
    def rule(memory: Memory) -> int:
        ball_x, ball_y, paddle_x = int(memory[99]), int(memory[101]), int(memory[72])
        if ball_y == 0 or ball_y > 200:
            return actions["FIRE"]
        right = ball_x - paddle_x - 8
        return actions["RIGHT"] if right > 5 else actions["LEFT"] if right < -5 else actions["NOOP"]

    return rule


def _boxing(actions: Mapping[str, int]) -> Rule:
    """Keep a glove's height above or below him (8 to 15 lines) and an arm's length off (21), and punch from there.

    The numbers are the best of a random search with 5 % of random actions mixed in, so that the habit survives mistakes.
    """

    def rule(memory: Memory) -> int:
        right, down = int(memory[33]) - int(memory[32]), int(memory[35]) - int(memory[34])
        towards, away = ("DOWN", "UP") if down > 0 else ("UP", "DOWN")
        move = towards if abs(down) > 15 else away if abs(down) < 8 and abs(right) < 33 else ""
        if abs(right) > 21:
            move += "RIGHT" if right > 0 else "LEFT"
        in_reach = abs(right) < 26 and 8 <= abs(down) < 23
        return actions[move + "FIRE" if in_reach else move or "NOOP"]

    return rule


GAMES: dict[str, Planning] = {
    "boxing": Planning(horizon=16, random_plans=8, habit=0.4, rule=_boxing),
    # Looks one lane ahead and no further: the wait before a car is then to be seen in the picture. A horizon of 10 scores
    # 33 instead of 30, but a small network that imitates it walks straight on (21), against 27 with this one.
    "freeway": Planning(
        horizon=5, random_plans=0, commit=1, habit=0.003, actions=("NOOP", "DOWN"), holds=(1, 2), rule=_freeway,
        progress=_freeway_progress, discount=1.0, content=0.1,
    ),
    "pong": Planning(
        horizon=50, random_plans=4, commit=8, habit=0.005, actions=("NOOP", "RIGHT", "LEFT"), holds=(2, 5, 10), rule=_pong,
    ),
    "breakout": Planning(
        horizon=40, random_plans=4, commit=8, habit=0.005, actions=("NOOP", "RIGHT", "LEFT"), holds=(2, 5, 10), rule=_breakout,
    ),
}  # fmt: skip


def boxing_by_rule(env: Any, seed: int = 0):
    """A demonstrator of Boxing that looks nowhere ahead: policy(observation, info) → action.

    It goes where a punch lands, 16 lines above or below him and 12 to 22 columns off, and punches there. About three
    quarters of the planner's score, but a function of what the picture shows, which is easier to imitate than a plan.
    """
    names = {str(button).rpartition(".")[2]: index for index, button in enumerate(env.unwrapped.action_set)}

    def policy(observation: Any, info: Any = None) -> int:
        memory = env.unwrapped.ale.getRAM()
        x, his_x, y, his_y = (int(memory[k]) for k in (32, 33, 34, 35))
        right, down = his_x - x, his_y - y
        above = (down > 0 and his_y - 16 >= 5) or his_y + 16 > 86  # there must be room on that side of him
        off = down - (16 if above else -16)
        move = "DOWN" if off > 2 else "UP" if off < -2 else ""
        if not 12 <= abs(right) <= 22:
            move += "RIGHT" if (right >= 0) == (abs(right) > 22) else "LEFT"
        in_reach = abs(right) <= 26 and abs(off) <= 6
        return names[move + "FIRE" if in_reach else move or "NOOP"]

    return policy


def make(env: Any, seed: int) -> Lookahead | Shooting:
    """The planner for a just reset `AtariEnv`; it lives for one episode. Same seed and same disturbances, same actions.

    With a rule of thumb where the game has one here, else `shooting.py`, which needs to know nothing.
    """
    return Lookahead(env, seed, GAMES[env.game]) if env.game in GAMES else shooting.make(env, seed)


class Lookahead:
    """policy(observation, info) → action. Looks at the emulator behind `env`, never at the observation."""

    def __init__(self, env: Any, seed: int, planning: Planning):
        self._env, self._planning = env, planning
        self._rng = np.random.default_rng([seed, 0xA7A21])
        names = {str(button).rpartition(".")[2]: index for index, button in enumerate(env.action_set)}
        self._choices = [names[name] for name in planning.actions] or list(names.values())
        self._rule = planning.rule(names) if planning.rule else None
        self._plan: list[int] = []
        self._expected: list[bytes] = []  # the memory before each action of the plan
        self._followed = 0

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        memory = self._env.state_bytes()
        as_planned = self._followed < len(self._plan) and self._expected[self._followed] == memory
        if not as_planned or self._followed >= self._planning.commit:
            self._make_plan(rest=self._plan[self._followed :] if as_planned else [])
        action = self._plan[self._followed]
        self._followed += 1
        return action

    def _make_plan(self, rest: list[int]) -> None:
        start = self._env.clone()
        best = -np.inf
        for candidate in self._candidates(rest):
            value, actions, memories = self._try(candidate)
            self._env.restore(start)
            if value > best + 1e-9:
                best, self._plan, self._expected = value, actions, memories
            if not candidate and value >= self._planning.content:
                break
        self._followed = 0

    def _candidates(self, rest: list[int]):
        """Prefixes of plans; the rule of thumb continues them (or the last action does, without a rule)."""
        if self._rule:
            yield []
            for hold in self._planning.holds:
                for action in self._choices:
                    yield [action] * hold
        if rest:
            yield rest
        for _ in range(self._planning.random_plans):
            yield self._mutation(rest) if rest and self._rng.random() < 0.4 else self._random_plan(self._random_steps())

    def _random_steps(self) -> int:
        """How long to play at random: the whole plan, or a while before the rule of thumb takes over."""
        return int(self._rng.integers(1, self._planning.horizon // 2 + 1)) if self._rule else self._planning.horizon

    def _random_plan(self, steps: int) -> list[int]:
        scale = float(self._rng.choice((2.0, 5.0, 12.0)))
        plan: list[int] = []
        while len(plan) < steps:
            plan += [int(self._rng.choice(self._choices))] * int(self._rng.geometric(1 / scale))
        return plan[:steps]

    def _mutation(self, plan: list[int]) -> list[int]:
        at = int(self._rng.integers(len(plan)))
        changed = self._random_plan(int(self._rng.integers(1, 9)))
        return plan[:at] + changed + plan[at + len(changed) :]

    def _try(self, prefix: list[int]) -> tuple[float, list[int], list[bytes]]:
        """Play a plan from the present state: its value, all its actions, and the memory before each of them."""
        p, ale = self._planning, self._env.ale
        value, weight, lives = 0.0, 1.0, ale.lives()
        if p.progress:
            value -= p.progress(ale.getRAM())
        actions: list[int] = []
        memories: list[bytes] = []
        for step in range(p.horizon):
            memory = ale.getRAM()
            usual = self._rule(memory) if self._rule else (actions[-1] if actions else prefix[0])
            action = prefix[step] if step < len(prefix) else usual
            actions.append(action)
            memories.append(memory.tobytes())
            reward = self._env.advance(action)
            value += weight * reward - p.habit * (action != usual)
            if ale.lives() < lives:
                lives = ale.lives()
                value -= weight * p.life_cost
            weight *= p.discount
            if ale.game_over():
                break
        if p.progress:
            value += weight * p.progress(ale.getRAM())
        return value, actions, memories
