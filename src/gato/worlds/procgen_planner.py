"""The Procgen expert: it tries plans out on copies of the present state and follows the one that went best.

    plans (rows of actions, with one column per step) → played on a vector of copies → value of each

    value = discounted rewards - a price for dying + how promising the state at the end is

The plans are the rest of the last one, mutations of it, every action held, and random actions held for times of several
scales. How promising a state is says one short function per game, read from the saved state: walking distance to the
goal, the boss's health, and so on. Where no plan gets anywhere, longer ones are tried as well. A plan that completes the
level is followed to its end; others for a few steps. If something else was executed than planned (noise), all is planned anew.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gato.worlds.procgen import STAY, ProcgenEnv

LEFT, DOWN, UP, RIGHT = 1, 3, 5, 7
FIRE, FIRE_BACK = 9, 10  # the other buttons do the same, or nothing, in all games but ninja
MOVES = (0, 1, 2, 3, 4, 5, 6, 7, 8)
FOUR = (LEFT, DOWN, UP, RIGHT)

# -- what a saved state says ------------------------------------------------------------------------------------------

WORD = 4  # bytes; a state is a row of 32-bit integers and floats, with strings that begin with their length
ENTITY_WORDS = 31
X, Y, RX, RY, TYPE, THEME, HEALTH = 0, 1, 4, 5, 6, 8, 26  # places within an entity
PLAYER, SPACE, WALL = 0, 100, 51


@dataclass(frozen=True)
class State:
    """One saved state, read. Positions count cells from the bottom left."""

    floats: np.ndarray  # float32 (entities, ENTITY_WORDS)
    ints: np.ndarray  # the same words as int32
    grid: np.ndarray  # int32 (rows, columns), row 0 lowest
    raw: bytes

    @property
    def agent(self) -> np.ndarray:
        return self.floats[self.ints[:, TYPE] == PLAYER][0]

    def of_type(self, *types: int) -> np.ndarray:
        """The entities of some types, float32 (any, ENTITY_WORDS)."""
        return self.floats[np.isin(self.ints[:, TYPE], types)]


def read_state(state: bytes) -> State:
    """The entities and the grid out of the bytes that Procgen saves (its version 0; the order is that of its sources)."""

    def after_string(at: int) -> int:
        return at + WORD + struct.unpack_from("<i", state, at)[0]

    at = after_string(WORD)  # version, name
    at += WORD * (12 + 5)  # options; grid step, levels, type
    for _ in range(2):  # two random generators
        at = after_string(at + WORD)
    at += WORD * (15 + 1)  # reward, clock, levels; size of the grid
    (num,) = struct.unpack_from("<i", state, at)
    at += WORD
    floats = np.frombuffer(state, "<f4", num * ENTITY_WORDS, at).reshape(num, ENTITY_WORDS)
    at += WORD * num * ENTITY_WORDS
    at = after_string(at + WORD * (19 + 1))  # background, speeds; a third generator
    at += WORD * (3 + 6)
    width, height, cells = struct.unpack_from("<iii", state, at)
    assert cells == width * height, "not a state as version 0 of Procgen saves it"
    grid = np.frombuffer(state, "<i4", cells, at + 3 * WORD).reshape(height, width)
    return State(floats, floats.view("<i4"), grid, state)


@functools.lru_cache(maxsize=512)
def _walk(free: bytes, goals: bytes, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = shape
    free_cells = np.zeros((rows + 2, columns + 2), bool)
    free_cells[1:-1, 1:-1] = np.frombuffer(free, bool).reshape(shape)
    frontier = np.zeros_like(free_cells)
    frontier[1:-1, 1:-1] = np.frombuffer(goals, bool).reshape(shape)
    steps = np.full(free_cells.shape, float(rows + columns) * 2, np.float32)
    reached, step = frontier.copy(), 0
    while frontier.any():
        steps[frontier] = step
        grown = np.zeros_like(frontier)
        grown[1:] |= frontier[:-1]
        grown[:-1] |= frontier[1:]
        grown[:, 1:] |= frontier[:, :-1]
        grown[:, :-1] |= frontier[:, 1:]
        frontier = grown & free_cells & ~reached
        reached |= frontier
        step += 1
    return steps[1:-1, 1:-1]


def walking(free: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Steps from each cell to the nearest goal through free cells; twice the two sides together where there is no way."""
    return _walk(np.ascontiguousarray(free).tobytes(), np.ascontiguousarray(goals).tobytes(), free.shape)


def _cell(shape: tuple[int, int], x: float, y: float, scale: float = 1.0) -> tuple[int, int]:
    return min(max(int(y * scale), 0), shape[0] - 1), min(max(int(x * scale), 0), shape[1] - 1)


def _marked(shape: tuple[int, int], entities: np.ndarray, scale: float = 1.0) -> np.ndarray:
    marks = np.zeros(shape, bool)
    for entity in entities:
        marks[_cell(shape, entity[X], entity[Y], scale)] = True
    return marks


def _way(state: State, free: np.ndarray, goals: np.ndarray) -> float:
    """Walking distance from the agent to the nearest goal; zero without one."""
    if not goals.any():
        return 0.0
    agent = state.agent
    return float(walking(free, goals)[_cell(free.shape, agent[X], agent[Y])])


def _nearest(state: State, others: np.ndarray) -> float:
    agent = state.agent
    return float(np.hypot(others[:, X] - agent[X], others[:, Y] - agent[Y]).min()) if len(others) else 0.0


# -- how promising a state is, game by game ---------------------------------------------------------------------------


def _maze(state: State) -> float:
    return -0.1 * _way(state, state.grid != WALL, state.grid == 2)


def _heist(state: State) -> float:
    """The exit if the way is open; else the next key. A door counts as open once its key has been picked up."""
    keys, doors = state.of_type(2), state.of_type(1)
    waiting = {int(theme) for theme in keys[:, THEME].view("<i4")} if len(keys) else set()
    free = state.grid != WALL
    shut = np.array([int(theme) in waiting for theme in doors[:, THEME].view("<i4")], bool)
    free = free & ~_marked(free.shape, doors[shut])
    nowhere = 2.0 * sum(free.shape)
    exits = _marked(free.shape, state.of_type(9))
    distance = _way(state, free, exits)
    if distance >= nowhere:
        distance = min(_way(state, free, _marked(free.shape, keys)), nowhere)
    return -3.0 * len(keys) - 0.1 * distance


def _coinrun(state: State) -> float:
    return 0.1 * float(state.agent[X]) + 0.01 * float(state.agent[Y])


def _ninja(state: State) -> float:
    goal, agent = state.of_type(1)[0], state.agent
    return -0.1 * abs(float(goal[X] - agent[X])) - 0.02 * abs(float(goal[Y] - agent[Y]))


def _jumper(state: State) -> float:
    walls = np.isin(state.grid, (6, 7, WALL))
    return -0.1 * _way(state, ~walls, _marked(walls.shape, state.of_type(1)))


def _climber(state: State) -> float:
    """The lowest coin first, so that none is left behind."""
    coins = state.of_type(1)
    if not len(coins):
        return 0.0
    walls = np.isin(state.grid, (15, 16))
    return -0.1 * _way(state, ~walls, _marked(walls.shape, coins[[int(np.argmin(coins[:, Y]))]]))


def _caveflyer(state: State) -> float:
    walls = state.grid == 8
    return -0.1 * _way(state, ~walls, _marked(walls.shape, state.of_type(1)))


def _leaper(state: State) -> float:
    """Half outside the field the frog is stuck for good: a log may carry it there."""
    agent, columns = state.agent, state.grid.shape[1]
    stuck = not agent[RX] - 0.01 <= agent[X] <= columns - agent[RX] + 0.01
    return 0.3 * float(agent[Y]) - 5.0 * stuck


def _miner(state: State) -> float:
    boulders, diamonds = np.isin(state.grid, (1, 3)), np.isin(state.grid, (2, 4))
    goals = diamonds if diamonds.any() else _marked(state.grid.shape, state.of_type(6))
    return -0.05 * _way(state, ~boulders, goals)


def _chaser(state: State) -> float:
    orbs = state.grid == 1002
    return -0.1 * _way(state, state.grid != 5, orbs)


def _bigfish(state: State) -> float:
    fish, agent = state.of_type(2), state.agent
    eatable = fish[(fish[:, RX] <= agent[RX]) & (fish[:, X] > 0.5) & (fish[:, X] < 19.5)]
    return -0.05 * _nearest(state, eatable)


def _bossfight(state: State) -> float:
    boss = state.of_type(2)
    return -0.2 * float(boss[0, HEALTH]) - 0.01 * abs(float(boss[0, X] - state.agent[X])) if len(boss) else 0.0


DODGEBALL_SCALE = 2  # cells of the walking grid per unit


def _dodgeball(state: State) -> float:
    """To the nearest enemy, and to the door when there is none, around the walls and as far from them as the agent is wide."""
    enemies, agent = state.of_type(4), state.agent
    shape = (state.grid.shape[0] * DODGEBALL_SCALE, state.grid.shape[1] * DODGEBALL_SCALE)
    y, x = (np.mgrid[: shape[0], : shape[1]] + 0.5) / DODGEBALL_SCALE
    free = np.ones(shape, bool)
    for wall in state.of_type(1):
        free &= (abs(x - wall[X]) > wall[RX] + agent[RX]) | (abs(y - wall[Y]) > wall[RY] + agent[RY])
    here = _cell(shape, agent[X], agent[Y], DODGEBALL_SCALE)
    goals = _marked(shape, enemies if len(enemies) else state.of_type(5), DODGEBALL_SCALE)
    return -0.04 * float(walking(free | goals, goals)[here]) / DODGEBALL_SCALE


def _plunder(state: State) -> float:
    (juice,) = struct.unpack_from("<f", state.raw, len(state.raw) - 6 * WORD)
    return 3.0 * min(juice, 0.9)


def _nothing(state: State) -> float:
    return 0.0


@dataclass(frozen=True)
class Planning:
    """How one game is planned. Lengths are in steps."""

    actions: tuple[int, ...]
    promise: Callable[[State], float] = _nothing
    horizon: int = 30
    plans: int = 32
    commit: int = 4  # steps followed before planning anew
    discount: float = 0.99
    death: float = 10.0
    reward: float = 1.0  # what a point is worth beside `promise`
    holds: tuple[float, ...] = (1.5, 4.0, 10.0)  # for how long an action is held, on average
    tries: int = 1  # rounds of planning, the later ones with longer plans, while nothing is gained
    gain: float = 0.1  # less than this is nothing


PLATFORMS = (LEFT, 2, STAY, UP, RIGHT, 8)
GAMES: dict[str, Planning] = {
    "bigfish": Planning(MOVES, _bigfish, horizon=25),
    "bossfight": Planning((LEFT, RIGHT, UP, DOWN, STAY, FIRE), _bossfight, holds=(1.5, 4.0)),
    "caveflyer": Planning((LEFT, RIGHT, UP, 2, 8, STAY, FIRE), _caveflyer, horizon=30, plans=48, tries=3),
    "chaser": Planning(FOUR, _chaser, horizon=24, plans=32, reward=25.0, death=30.0, holds=(2.0, 4.0, 8.0)),
    "climber": Planning(PLATFORMS, _climber, horizon=30, plans=48, tries=3),
    "coinrun": Planning(PLATFORMS, _coinrun, horizon=30, plans=48, tries=3, gain=0.3),
    "dodgeball": Planning((LEFT, RIGHT, UP, DOWN, FIRE), _dodgeball, horizon=30, plans=40, holds=(1.5, 4.0, 8.0)),
    "fruitbot": Planning((LEFT, RIGHT, STAY, FIRE), horizon=40, plans=32),
    "heist": Planning(FOUR, _heist, horizon=24, plans=40, holds=(2.0, 4.0), tries=3),
    "jumper": Planning(PLATFORMS, _jumper, horizon=30, plans=48, tries=4, gain=0.3),
    "leaper": Planning((*FOUR, STAY), _leaper, horizon=30, plans=40, holds=(3.0, 6.0, 12.0), tries=3),
    "maze": Planning(FOUR, _maze, horizon=20, plans=32, commit=10, holds=(1.5, 3.0), tries=3),
    "miner": Planning(FOUR, _miner, horizon=20, plans=40, holds=(1.5, 3.0), tries=3),
    "ninja": Planning((*PLATFORMS, FIRE), _ninja, horizon=40, plans=48, tries=4, gain=0.3),
    "plunder": Planning((LEFT, RIGHT, STAY, FIRE), _plunder, horizon=30, plans=32, holds=(1.2, 3.0)),
    "starpilot": Planning((*MOVES, FIRE, FIRE_BACK), horizon=24, plans=40, holds=(1.2, 3.0)),
}


def make(env: ProcgenEnv, seed: int) -> Lookahead:
    """The planner for a just reset `ProcgenEnv`; it lives for one episode. Same seed and same disturbances, same actions."""
    return Lookahead(env, seed, GAMES[env.game])


class Lookahead:
    """policy(observation, info) → action. Looks at the game behind `env`, never at the observation."""

    def __init__(self, env: ProcgenEnv, seed: int, planning: Planning):
        self._env, self._planning = env, planning
        self._rng = np.random.default_rng([seed, 0x9C06E])
        self._plan: list[int] = []
        self._followed = self._until = 0

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        as_planned = self._followed == 0 or self._env.last_action == self._plan[self._followed - 1]
        if not as_planned or self._followed >= min(self._until, len(self._plan)):
            self._make_plan(rest=self._plan[self._followed :])
        action = self._plan[self._followed]
        self._followed += 1
        return action

    def _make_plan(self, rest: list[int]) -> None:
        p, start = self._planning, self._env.clone()
        nothing_gained = p.promise(read_state(start)) + p.gain
        best, horizon = -np.inf, p.horizon
        for _ in range(p.tries):
            plans = self._candidates(rest, horizon)
            values, ends, complete = self._try(start, plans)
            winner = int(np.argmax(values))
            if values[winner] > best:
                best = float(values[winner])
                self._plan = plans[winner, : ends[winner]].tolist()
                self._until = int(ends[winner]) if complete[winner] else p.commit
                rest = self._plan
            if best > nothing_gained:
                break
            horizon = int(1.5 * horizon)
        self._followed = 0

    def _candidates(self, rest: list[int], horizon: int) -> np.ndarray:
        """int (plans, horizon): the rest of the last plan, every action held, mutations and random ones."""
        p = self._planning
        plans = [rest + self._random(horizon)] if rest else []
        plans += [[action] * horizon for action in p.actions]
        while len(plans) < p.plans:
            plan = self._random(horizon)
            if rest and self._rng.random() < 0.4:
                at, length = int(self._rng.integers(len(rest))), int(self._rng.integers(1, 9))
                plan = rest[:at] + plan[:length] + rest[at + length :] + plan[length:]
            plans.append(plan)
        return np.array([plan[:horizon] for plan in plans])

    def _random(self, steps: int) -> list[int]:
        scale = float(self._rng.choice(self._planning.holds))
        plan: list[int] = []
        while len(plan) < steps:
            plan += [int(self._rng.choice(self._planning.actions))] * int(self._rng.geometric(1 / scale))
        return plan[:steps]

    def _try(self, start: bytes, plans: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Play the plans: the value of each, the steps until its end, and whether it completed the level."""
        p = self._planning
        num, horizon = plans.shape
        copies = self._env.copies(num)
        copies.set_state([start] * num)
        values, ends = np.zeros(num), np.full(num, horizon)
        alive, complete = np.ones(num, bool), np.zeros(num, bool)
        weight = p.reward
        for step in range(horizon):
            # A copy whose level ended has begun it anew; there it stands still, since new levels take long to make.
            copies.act(np.where(alive, plans[:, step], STAY))
            rewards, _, first = copies.observe()
            values += np.where(alive, weight * rewards, 0.0)
            over = alive & first
            if over.any():
                info = copies.get_info()
                complete |= over & np.array([bool(i["prev_level_complete"]) for i in info])
                ends[over] = step + 1
                values[over & ~complete] -= p.death * (2.0 - step / horizon)  # better later than now
                values[over & complete] += p.reward * 10.0 - 0.02 * step
                alive &= ~over
                if not alive.any():
                    break
            weight *= p.discount
        if p.promise is not _nothing:
            states = copies.get_state()
            for i in np.flatnonzero(alive):
                values[i] += p.promise(read_state(states[i]))
        # Of nearly equal plans the steadiest: demonstrations are made to be imitated.
        values -= 0.002 * (plans[:, 1:] != plans[:, :-1]).sum(1)
        return values, ends, complete
