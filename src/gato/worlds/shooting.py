"""The Atari expert for a game about which nothing is known: plans tried on saved emulator states, improved, followed.

A plan is a row of actions, each held for a while. At a decision the rest of the last plan is played forward on the
emulator, then a budget of emulator steps is spent on challengers: half of them fresh plans of random holds of
several lengths, half the best plan with a stretch of it replaced. The best plan's states are saved along the way, so
that a challenger is played from where it departs and not from the start. The first steps of the winner are executed.

    value of a plan = Σ discountᵗ (reward ÷ the size of a usual reward) − a cost for every life lost + a little for novelty

Rewards are divided by their usual size because a game's points may come in ones or in thousands, and a life should
cost the same in both. Novelty counts the bytes of the console's memory that end the plan at values which the episode has
not shown yet (the features of iterated width search, Lipovetzky et al. 2015): where no plan earns anything, it leads
somewhere else. The plan is exact where no noise is executed; where the memory is not as foreseen, it is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gato.worlds.atari import EXTENDED_GAMES


@dataclass(frozen=True)
class Search:
    """How hard one game is searched. Lengths are in agent steps (four frames)."""

    horizon: int = 40
    budget: int = 640  # emulator steps per decision
    commit: int = 8  # steps followed before the next decision; 4 costs twice as much and earned no more over ten games
    discount: float = 0.99
    life_cost: float = 10.0  # in usual rewards
    novelty: float = 0.02  # usual rewards for every byte of memory at a new value
    holds: tuple[float, ...] = (1.5, 4.0, 10.0, 25.0)  # mean lengths of random holds, one drawn per plan
    checkpoint: int = 8  # steps between two saved states of the best plan


@dataclass
class _Tried:
    """A plan that was played: `sums[t]` is its value before step t, without novelty."""

    actions: list[int]
    memories: list[bytes]  # before each step
    sums: list[float]
    lives: list[int]
    value: float = -np.inf
    saved: dict[int, Any] = field(default_factory=dict)


class Shooting:
    """policy(observation, info) → action, for one episode of an `AtariEnv`. Same seed and disturbances, same actions."""

    def __init__(self, env: Any, seed: int, search: Search):
        self._env, self._search = env, search
        self._rng = np.random.default_rng([seed, 0x5EA4C4])
        self._num_actions = len(env.action_set)
        self._plan: list[int] = []
        self._expected: list[bytes] = []
        self._followed = 0
        self._shown = np.zeros((128, 256), bool)  # byte, value: what the episode has shown
        self._bytes = np.arange(128)
        self._unit, self._rewards = 0.0, 0  # mean size of the rewards met so far, and how many

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        memory = self._env.state_bytes()
        self._shown[self._bytes, np.frombuffer(memory, np.uint8)] = True
        as_planned = self._followed < len(self._plan) and self._expected[self._followed] == memory
        if not as_planned or self._followed >= self._search.commit:
            self._decide(self._plan[self._followed :] if as_planned else [])
        action = self._plan[self._followed]
        self._followed += 1
        return action

    def _decide(self, rest: list[int]) -> None:
        s, rng = self._search, self._rng
        start = self._env.clone()
        spent = 0
        best = self._play(start, self._fill(rest))
        spent += len(best.actions)
        while spent < s.budget:
            if rng.random() < 0.5:
                departs, challenger = 0, self._fill([])
            else:
                departs = int(rng.integers(len(best.actions)))
                length = int(rng.integers(1, 13))
                stretch = self._holds(length)
                challenger = self._fill(best.actions[:departs] + stretch + best.actions[departs + length :])
            tried, steps = self._challenge(best, start, challenger, departs)
            spent += steps
            if tried.value > best.value:
                best = tried
        self._env.restore(start)
        self._plan, self._expected, self._followed = best.actions, best.memories, 0

    def _fill(self, plan: list[int]) -> list[int]:
        return (plan + self._holds(self._search.horizon - len(plan)))[: self._search.horizon]

    def _holds(self, steps: int) -> list[int]:
        """Random actions, each held for a random while."""
        scale = self._search.holds[int(self._rng.integers(len(self._search.holds)))]
        plan: list[int] = []
        while len(plan) < steps:
            plan += [int(self._rng.integers(self._num_actions))] * int(self._rng.geometric(1 / scale))
        return plan[:steps]

    def _challenge(self, best: _Tried, start: Any, actions: list[int], departs: int) -> tuple[_Tried, int]:
        """The challenger, played from the best plan's last saved state before they part; and the steps that took."""
        at = max((t for t in best.saved if t <= departs), default=0)
        if at == 0:
            tried = self._play(start, actions)
            return tried, len(tried.actions)
        tried = _Tried(actions[:at], best.memories[:at], best.sums[:at], best.lives[:at])
        tried.saved = {t: state for t, state in best.saved.items() if t <= at}
        self._continue(tried, best.saved[at], actions, at, best.sums[at], best.lives[at])
        return tried, len(tried.actions) - at

    def _play(self, start: Any, actions: list[int]) -> _Tried:
        tried = _Tried([], [], [], [])
        self._env.restore(start)
        self._continue(tried, start, actions, 0, 0.0, self._env.ale.lives())
        return tried

    def _continue(self, tried: _Tried, state: Any, actions: list[int], at: int, value: float, lives: int) -> None:
        """Play `actions` from step `at` on, to the horizon or the end of the game, and value the whole."""
        s, env, ale = self._search, self._env, self._env.ale
        if at:
            env.restore(state)
        weight = s.discount**at
        over = False
        for t in range(at, len(actions)):
            if t and t % s.checkpoint == 0 and t not in tried.saved:
                tried.saved[t] = env.clone()
            tried.actions.append(actions[t])
            tried.memories.append(env.state_bytes())
            tried.sums.append(value)
            tried.lives.append(lives)
            reward = env.advance(actions[t])
            if reward:
                value += weight * reward / self._size(reward)
            left = ale.lives()
            if left < lives:
                value -= weight * s.life_cost * (lives - left)
            lives = left
            weight *= s.discount
            if ale.game_over():
                over = True
                break
        new = 0 if over else int((~self._shown[self._bytes, ale.getRAM()]).sum())
        tried.value = value + s.novelty * new

    def _size(self, reward: float) -> float:
        """The usual size of a reward, from the first ten thousand that were met."""
        if self._rewards < 10_000:
            self._rewards += 1
            self._unit += (abs(reward) - self._unit) / self._rewards
        return self._unit


# Half the cost, and over four games (two starts each, 1,200 steps) between 0.7 and 1.2 times the score.
BRISK = Search(commit=16)


def make(env: Any, seed: int) -> Shooting:
    """The searcher for a just reset `AtariEnv`; it lives for one episode. The many extended games are searched briskly."""
    return Shooting(env, seed, BRISK if env.game in EXTENDED_GAMES else Search())
