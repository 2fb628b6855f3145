"""Sokoban from pixels: rooms carved by a random walk, boxes to be pushed onto targets, and an exact solver as expert.

    #######      every cell is a clean tile of 16×16 pixels (one patch of the paper's), so that 7×7 cells are
    #  ####      a picture of 112×112; the picture is all the agent sees. Four actions: up, down, left, right;
    #  $ .#      moving into a box pushes it. Reward -0.1 per step, +1 for a box pushed onto a target, -1 for
    # @   #      one pushed off, +10 when all are on, as in Racanière et al. 2017 ("Imagination-Augmented
    #######      Agents", which Gato cites for this domain). Solved, the episode ends.

A position is two integers: `boxes`, a bit mask over the cells in reading order, and `player`, a cell. Up to two boxes
the whole level is small, so the distance to the solution is computed for every position at once, by playing backwards.
That gives levels of a wanted length without trial and error, starts anywhere solvable, and an expert whose action
depends on nothing but the picture: the first, in the order of the actions, that is on a shortest solution. With three
boxes and more, levels come from playing backwards at random, and the expert is an A* over pushes.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from gato.errors import ExpertError
from gato.worlds import Policy, Task

TILE = 16
ACTIONS = ("up", "down", "left", "right")
TABLE_BOXES = 2  # up to here every position of a level is tabulated
A_STAR_NODES = 20_000  # a level that needs more is not kept; an expert that needs more gives up
UNREACHABLE = 10_000


class Position(NamedTuple):
    """What moves: the boxes as a bit mask, and the player's cell."""

    boxes: int
    player: int


class Push(NamedTuple):
    """One push of a plan: with `boxes` where they are, the box at `box` goes one cell in direction `action`."""

    boxes: int
    box: int
    action: int


@dataclass(frozen=True)
class Room:
    """What stays: the size, and bit masks of the floor and the targets. The border is always wall."""

    rows: int
    cols: int
    floor: int
    targets: int

    @functools.cached_property
    def offsets(self) -> tuple[int, int, int, int]:
        """How far each action leads in reading order."""
        return (-self.cols, self.cols, -1, 1)

    def move(self, at: Position, action: int) -> Position:
        """The next position; the same one where the way is blocked."""
        offset = self.offsets[action]
        ahead = at.player + offset
        if not self.floor >> ahead & 1:
            return at
        if not at.boxes >> ahead & 1:
            return Position(at.boxes, ahead)
        beyond = ahead + offset
        if not (self.floor & ~at.boxes) >> beyond & 1:
            return at
        return Position(at.boxes ^ (1 << ahead | 1 << beyond), ahead)

    def before(self, at: Position) -> Iterator[tuple[Position, bool]]:
        """The positions from which one move leads here, and whether that move is a push."""
        free = self.floor & ~at.boxes
        for offset in self.offsets:
            came_from = at.player - offset
            if free >> came_from & 1:
                yield Position(at.boxes, came_from), False
                ahead = at.player + offset
                if at.boxes >> ahead & 1:
                    yield Position(at.boxes ^ (1 << ahead | 1 << at.player), came_from), True

    def reach(self, at: Position) -> int:
        """The cells that the player can walk to, as a bit mask."""
        free, reached, grown = self.floor & ~at.boxes, 0, 1 << at.player
        while grown != reached:
            reached = grown
            grown |= (grown << 1 | grown >> 1 | grown << self.cols | grown >> self.cols) & free
        return reached

    def steps_to(self, goal: int, boxes: int) -> dict[int, int]:
        """Walking distance to `goal` from every cell from which it can be reached."""
        free, steps, frontier = self.floor & ~boxes, {goal: 0}, [goal]
        for cell in frontier:
            for offset in self.offsets:
                if free >> cell + offset & 1 and cell + offset not in steps:
                    steps[cell + offset] = steps[cell] + 1
                    frontier.append(cell + offset)
        return steps

    @functools.cached_property
    def pushes_to(self) -> list[dict[int, int]]:
        """For every target: how many pushes an only box needs to it, from every cell from which it can get there."""
        found = []
        for target in cells(self.targets):
            pushes, frontier = {target: 0}, [target]
            for cell in frontier:
                for offset in self.offsets:  # pulled back by one, with room for who pulls
                    back = cell - offset
                    if back not in pushes and self.floor >> back & 1 and self.floor >> back - offset & 1:
                        pushes[back] = pushes[cell] + 1
                        frontier.append(back)
            found.append(pushes)
        return found

    def pushes_left(self, boxes: int) -> int:
        """At least so many pushes to the solution: the cheapest assignment of boxes to targets."""
        rows = [[pushes.get(cell, UNREACHABLE) for pushes in self.pushes_to] for cell in cells(boxes)]
        return min(sum(row[i] for row, i in zip(rows, order, strict=True)) for order in _orders(len(rows)))


@functools.cache
def _orders(count: int) -> list[tuple[int, ...]]:
    return list(itertools.permutations(range(count)))


def cells(mask: int) -> Iterator[int]:
    """The cells of a bit mask, in reading order."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


# -- solving ----------------------------------------------------------------------------------------------------------


def distances(room: Room) -> dict[Position, int]:
    """Moves to the solution for every position that has one, nearest first, by playing backwards from the end."""
    moves = {Position(room.targets, cell): 0 for cell in cells(room.floor & ~room.targets)}
    frontier = list(moves)
    for at in frontier:
        longer = moves[at] + 1
        for earlier, _ in room.before(at):
            if earlier not in moves:
                moves[earlier] = longer
                frontier.append(earlier)
    return moves


def solve(room: Room, start: Position) -> list[Push] | None:
    """A plan with the fewest pushes, or None: no solution, or none within A_STAR_NODES nodes."""
    first = Position(start.boxes, _lowest(room.reach(start)))
    estimates = {start.boxes: room.pushes_left(start.boxes)}
    # Nearly solved ones first among equals; the count keeps the order of the heap the same on every machine.
    heap = [(estimates[start.boxes], estimates[start.boxes], 0, first, start)]
    cost = {first: 0}
    parent: dict[Position, tuple[Position, Push] | None] = {first: None}
    done: set[Position] = set()
    counter = itertools.count(1)
    while heap and len(done) < A_STAR_NODES:
        *_, node, at = heapq.heappop(heap)
        if node in done:
            continue
        done.add(node)
        if at.boxes == room.targets:
            return _trace(parent, node)
        reach, free = room.reach(at), room.floor & ~at.boxes
        for box in cells(at.boxes):
            for action, offset in enumerate(room.offsets):
                if not (reach >> box - offset & 1 and free >> box + offset & 1):
                    continue
                boxes = at.boxes ^ (1 << box | 1 << box + offset)
                if boxes not in estimates:
                    estimates[boxes] = room.pushes_left(boxes)
                if estimates[boxes] >= UNREACHABLE:
                    continue
                pushed = Position(boxes, box)
                key = Position(boxes, _lowest(room.reach(pushed)))
                pushes = cost[node] + 1
                if pushes < cost.get(key, UNREACHABLE):
                    cost[key], parent[key] = pushes, (node, Push(at.boxes, box, action))
                    heapq.heappush(heap, (pushes + estimates[boxes], estimates[boxes], next(counter), key, pushed))
    return None


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _trace(parent: Mapping[Position, tuple[Position, Push] | None], node: Position) -> list[Push]:
    plan: list[Push] = []
    while (link := parent[node]) is not None:
        node = link[0]
        plan.append(link[1])
    return plan[::-1]


def next_move(room: Room, at: Position, push: Push) -> int | None:
    """The first action of the shortest way to `push`; None where its place cannot be reached from here."""
    steps = room.steps_to(push.box - room.offsets[push.action], at.boxes)
    if at.player not in steps:
        return None
    if steps[at.player] == 0:
        return push.action
    nearer = steps[at.player] - 1
    return next(a for a, offset in enumerate(room.offsets) if steps.get(at.player + offset) == nearer)


def walk(room: Room, at: Position, plan: list[Push]) -> list[Position]:
    """Every position on the way through a plan, the first and the last included."""
    way = [at]
    for push in plan:
        while way[-1].boxes == push.boxes:
            action = next_move(room, way[-1], push)
            assert action is not None, "a plan can be walked"
            way.append(room.move(way[-1], action))
    return way


# -- levels -----------------------------------------------------------------------------------------------------------

# What is carved at every step of the random walk, as offsets in rows and columns.
BRUSHES = (
    ((0, -1), (0, 0), (0, 1)),
    ((-1, 0), (0, 0), (1, 0)),
    ((0, 0), (0, 1), (1, 0)),
    ((0, 0), (0, -1), (-1, 0)),
    ((0, 0), (0, 1), (1, 0), (1, 1)),
)
TURN = 0.35  # chance per step that the walk draws a new direction


def carve(rng: np.random.Generator, rows: int, cols: int) -> int:
    """The floor of a room: the track of a random walk with a changing brush, as in Racanière et al. 2017."""
    row, col = int(rng.integers(1, rows - 1)), int(rng.integers(1, cols - 1))
    direction, floor = int(rng.integers(4)), 0
    for brush, turn, turned in zip(*_walk_choices(rng, int(1.7 * (rows + cols))), strict=True):
        direction = turned if turn else direction
        row = min(max(row + (-1, 1, 0, 0)[direction], 1), rows - 2)
        col = min(max(col + (0, 0, -1, 1)[direction], 1), cols - 2)
        for down, right in BRUSHES[brush]:
            if 0 < row + down < rows - 1 and 0 < col + right < cols - 1:
                floor |= 1 << (row + down) * cols + col + right
    return floor


def _walk_choices(rng: np.random.Generator, steps: int) -> tuple[list[int], list[bool], list[int]]:
    return (
        rng.integers(len(BRUSHES), size=steps).tolist(),
        (rng.random(steps) < TURN).tolist(),
        rng.integers(4, size=steps).tolist(),
    )


@dataclass(frozen=True)
class Level:
    """A room and where the episode starts. `moves` is the table of `distances`, where the room is small enough."""

    room: Room
    start: Position
    moves: Mapping[Position, int] | None = None


def make_level(
    rng: np.random.Generator, rows: int, cols: int, num_boxes: int, min_moves: int, max_moves: int, wide: bool = False
) -> Level:
    """A solvable level whose solution takes `min_moves` to `max_moves` moves; with `wide` any solvable position."""
    while True:
        floor = carve(rng, rows, cols)
        room_cells = list(cells(floor))
        if len(room_cells) < 2 * num_boxes + 4:
            continue
        chosen = rng.choice(room_cells, num_boxes, replace=False)
        room = Room(rows, cols, floor, sum(1 << int(cell) for cell in chosen))
        make = _tabulated if num_boxes <= TABLE_BOXES else _played_backwards
        level = make(rng, room, min_moves, max_moves, wide)
        if level is not None:
            return level


def _tabulated(rng: np.random.Generator, room: Room, min_moves: int, max_moves: int, wide: bool) -> Level | None:
    moves = distances(room)
    longest = next(reversed(moves.values()))  # nearest first, so the last is the furthest
    if longest < min_moves:
        return None
    shortest = 1 if wide else min_moves
    starts = [at for at, distance in moves.items() if shortest <= distance <= max_moves]
    return Level(room, starts[rng.integers(len(starts))], moves)


def _played_backwards(rng: np.random.Generator, room: Room, min_moves: int, max_moves: int, wide: bool) -> Level | None:
    free = list(cells(room.floor & ~room.targets))
    at = Position(room.targets, free[rng.integers(len(free))])
    start, most = at, 0
    # Pulls are taken whenever they are drawn, so a few hundred steps carry the boxes through the room.
    for draw in rng.random(6 * room.rows * room.cols).tolist():
        earlier = [step for step, _ in room.before(at)]
        if not earlier:
            return None
        at = earlier[int(draw * len(earlier))]
        if at.boxes != start.boxes and (pushes := room.pushes_left(at.boxes)) > most:
            start, most = at, pushes
    plan = solve(room, start) if most else None
    if plan is None:
        return None
    way = walk(room, start, plan)
    if not min_moves <= len(way) - 1 <= max_moves:
        return None
    return Level(room, _beside(rng, room, way) if wide else start)


def _beside(rng: np.random.Generator, room: Room, way: list[Position]) -> Position:
    """A solvable position some random steps away from somewhere on the way."""
    on = way[rng.integers(len(way) - 1)]
    off = on
    for action in rng.integers(len(ACTIONS), size=rng.integers(12)).tolist():
        off = room.move(off, action)
    solvable = off.boxes != room.targets and solve(room, off) is not None
    return off if solvable else on


# -- pictures ---------------------------------------------------------------------------------------------------------

WALL, FLOOR, TARGET, BOX, BOX_ON_TARGET, PLAYER, PLAYER_ON_TARGET = range(7)


def _draw_tiles() -> np.ndarray:
    """The seven tiles, uint8 (7, TILE, TILE, 3), told apart by colour and by shape."""
    y, x = np.mgrid[:TILE, :TILE] - (TILE - 1) / 2
    ring = np.maximum(np.abs(x), np.abs(y))  # squares around the middle
    diamond, disc = np.abs(x) + np.abs(y), np.hypot(x, y)
    tiles = np.empty((7, TILE, TILE, 3), np.uint8)
    tiles[WALL] = (60, 64, 78)
    tiles[WALL][(y + 7.5) % 8 == 0] = (36, 38, 48)  # courses of bricks
    tiles[FLOOR] = (226, 220, 206)
    tiles[TARGET] = tiles[FLOOR]
    tiles[TARGET][diamond < 6] = (214, 48, 60)
    for box, fill, edge in ((BOX, (201, 138, 62), (112, 68, 24)), (BOX_ON_TARGET, (74, 168, 84), (24, 92, 40))):
        tiles[box] = tiles[FLOOR]
        tiles[box][ring < 7] = edge
        tiles[box][ring < 5.5] = fill
        tiles[box][(np.abs(np.abs(x) - np.abs(y)) < 1) & (ring < 5.5)] = edge
    for player, ground in ((PLAYER, FLOOR), (PLAYER_ON_TARGET, TARGET)):
        tiles[player] = tiles[ground]
        if ground == TARGET:
            tiles[player][diamond < 10] = (214, 48, 60)
        tiles[player][disc < 6] = (38, 84, 196)
        tiles[player][disc < 2.5] = (250, 250, 250)
    return tiles


TILES = _draw_tiles()


def draw(room: Room, at: Position) -> np.ndarray:
    """The picture of a position, uint8 (TILE * rows, TILE * cols, 3)."""
    grid = np.zeros(room.rows * room.cols, np.int64)
    grid[list(cells(room.floor))] = FLOOR
    grid[list(cells(room.targets))] = TARGET
    for cell in cells(at.boxes):
        grid[cell] = BOX_ON_TARGET if room.targets >> cell & 1 else BOX
    grid[at.player] = PLAYER_ON_TARGET if room.targets >> at.player & 1 else PLAYER
    tiles = TILES[grid.reshape(room.rows, room.cols)]  # rows, cols, TILE, TILE, 3
    return tiles.swapaxes(1, 2).reshape(room.rows * TILE, room.cols * TILE, 3)


# -- the environment and its expert -----------------------------------------------------------------------------------


class Sokoban(gymnasium.Env):
    """One level per reset, from the seed. `info["success"]` says whether all boxes are on targets."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}

    def __init__(
        self, rows: int, cols: int, num_boxes: int, min_moves: int, max_steps: int, render_mode: str | None = None
    ):
        self.rows, self.cols, self.num_boxes = rows, cols, num_boxes
        self.min_moves, self.max_steps, self.render_mode = min_moves, max_steps, render_mode
        self.observation_space = spaces.Box(0, 255, (rows * TILE, cols * TILE, 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.level: Level | None = None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        wide = bool((options or {}).get("wide", False))
        # Half of the steps at most, so that a few mistakes can be made good.
        limits = (self.min_moves, self.max_steps // 2)
        self.level = make_level(self.np_random, self.rows, self.cols, self.num_boxes, *limits, wide=wide)
        self.room, self.position, self._steps = self.level.room, self.level.start, 0
        return draw(self.room, self.position), {"success": False}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        covered = (self.position.boxes & self.room.targets).bit_count()
        self.position = self.room.move(self.position, int(action))
        self._steps += 1
        solved = self.position.boxes == self.room.targets
        reward = (self.position.boxes & self.room.targets).bit_count() - covered + 10.0 * solved - 0.1
        truncated = self._steps >= self.max_steps and not solved
        return draw(self.room, self.position), reward, solved, truncated, {"success": solved}

    def render(self) -> np.ndarray:
        return draw(self.room, self.position)

    def save_state(self) -> Any:
        return self.position, self._steps

    def restore_state(self, state: Any) -> None:
        self.position, self._steps = state


def make_expert(env: Sokoban, seed: int) -> Policy:
    """The solver: from the table where there is one, else by A*. Raises ExpertError where the level is lost.

    It reads the position from the environment, so it finds its way back after actions that were not its own.
    """
    assert env.level is not None, "reset first"
    plan: list[Push] = []

    def shortest(observation: Any, info: Mapping[str, Any]) -> int:
        assert env.level is not None and env.level.moves is not None
        moves, room, at = env.level.moves, env.room, env.position
        if at not in moves:
            raise _lost(seed, room)
        return next(a for a in range(len(ACTIONS)) if moves.get(room.move(at, a)) == moves[at] - 1)

    def fewest_pushes(observation: Any, info: Mapping[str, Any]) -> int:
        room, at = env.room, env.position
        if len(plan) > 1 and at.boxes == plan[1].boxes:
            plan.pop(0)
        action = next_move(room, at, plan[0]) if plan and at.boxes == plan[0].boxes else None
        if action is None:  # the first call, or something else was done than planned
            plan[:] = solve(room, at) or []
            if not plan:
                raise _lost(seed, room)
            action = next_move(room, at, plan[0])
            assert action is not None
        return action

    return shortest if env.level.moves is not None else fewest_pushes


def _lost(seed: int, room: Room) -> ExpertError:
    return ExpertError(
        "the boxes cannot all reach targets any more",
        where=f"sokoban {room.rows}x{room.cols} seed {seed}",
        fix="collect with less noise: a push into a corner cannot be undone. Wide starts need no noise",
    )


def _make(
    rows: int, cols: int, num_boxes: int, min_moves: int, max_steps: int, *, render: bool = False
) -> gymnasium.Env:
    return Sokoban(rows, cols, num_boxes, min_moves, max_steps, "rgb_array" if render else None)


LEVELS = {  # name → rows, columns, boxes, moves at least, steps at most
    "7x7-1-box": (7, 7, 1, 6, 60),
    "7x7-2-boxes": (7, 7, 2, 10, 80),
    "8x8-1-box": (8, 8, 1, 8, 80),
    "8x8-2-boxes": (8, 8, 2, 10, 100),
    "9x9-2-boxes": (9, 9, 2, 12, 110),
    "9x9-3-boxes": (9, 9, 3, 12, 120),
    "10x10-3-boxes": (10, 10, 3, 15, 120),
    "10x10-4-boxes": (10, 10, 4, 20, 120),
    "12x12-4-boxes": (12, 12, 4, 20, 160),
}
NOTES = (
    "own levels and pictures; the expert is a solver, the paper's was a Muesli agent. Four actions where gym-sokoban "
    "has nine: no no-op, and moving into a box is pushing it"
)


def tasks() -> list[Task]:
    return [
        Task(
            f"sokoban/{name}",
            functools.partial(_make, *numbers),
            make_expert,
            score="success",
            max_steps=numbers[-1],
            expert_name="shortest solution" if numbers[2] <= TABLE_BOXES else "A* over pushes",
            notes=NOTES,
            meta={"actions": ACTIONS},
        )
        for name, numbers in LEVELS.items()
    ]
