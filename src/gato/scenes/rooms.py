"""Boards: rooms of several sizes and Sokoban levels, seen in three views, each picture 80×80 pixels.

    above      a BabyAI room of 3 to 6 cells a side inside, with one to four coloured things; 16, 13, 11 or 10 pixels a cell
    ahead      the 5×5 cells before the agent of such a room, turned so that it looks up, 16 pixels a cell
    sokoban    a level of 5 to 7 cells a side with one or two boxes, scaled to the picture

What is said of a picture (`wording`, `questions`) is computed from its `Board`: what can be seen of the true state, in
the cells of the picture. A board is a pure function of (split, seed, index). The room decides the split, whatever the view
and wherever the agent stands, by the rule of `scenes.grid`: no room is in both splits of any of these corpora.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from gato.corpora import SPLITS, Split, check_split, split_of
from gato.errors import SimulatorMissingError
from gato.installed import pip_line
from gato.scenes.grid import COLOURS, KINDS, Thing
from gato.worlds import sokoban

View = Literal["above", "ahead", "sokoban"]
Look = tuple[str, str]  # colour, kind
PIXELS = 80  # a side
INSIDE = (3, 4, 5, 6)  # cells a side of a room, walls not counted
INSIDE_ODDS = (0.58, 0.14, 0.14, 0.14)  # of a square of 3, or of each side's length where it is none
VIEW_ODDS = {"above": 0.6, "ahead": 0.2, "sokoban": 0.2}
COUNT_ODDS = (0.25, 0.3, 0.25, 0.2)  # of one to four things
SPAN = 5  # cells a side of what is ahead
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))  # by direction: right, down, left, up
BOX, TARGET, PLAYER = "box", "target", "player"


class Board(NamedTuple):
    """What a picture shows. Cells count from its top left, walls included; `things` are sorted as in `scenes.grid`.

    `agent` is who acts there (Sokoban's player); of a Sokoban level the colours are empty. `name` decides the split.
    """

    view: View
    columns: int
    rows: int
    things: tuple[Thing, ...]
    agent: tuple[int, int]
    direction: int  # right, down, left, up; 0 in Sokoban
    name: str
    level: tuple[sokoban.Room, sokoban.Position] | None = None
    room: Any = None  # of what is ahead: the whole Board, seen from above

    @property
    def split(self) -> Split:
        return split_of(self.name)


def board(split: Split, index: int, seed: int = 0) -> Board:
    """Board `index` of a split."""
    rng = np.random.default_rng([seed, 11, SPLITS.index(check_split(split)), index])
    while (made := draw_board(rng, _choose(rng, VIEW_ODDS))).split != split:
        pass
    return made


def draw_board(rng: np.random.Generator, view: View, must: Sequence[Look] = (), count: int | None = None) -> Board:
    """A random board. Of a room: `must` are looks (colour, kind) that are among its things, `count` is how many it has."""
    if view == "sokoban":
        return _level(rng)
    while True:
        made = _room(rng, must, count)
        if view == "above":
            return made
        if (seen := ahead(made)).things:
            return seen


def _choose(rng: np.random.Generator, odds: dict[str, float]) -> View:
    at = int(np.searchsorted(np.cumsum(list(odds.values())), rng.random() * sum(odds.values()), side="right"))
    return list(odds)[at]  # type: ignore[return-value]


def _room(rng: np.random.Generator, must: Sequence[Look], count: int | None) -> Board:
    if rng.random() < INSIDE_ODDS[0]:
        width = height = INSIDE[0]
    else:
        width, height = (INSIDE[int(i)] for i in rng.integers(len(INSIDE), size=2))
    if count is None:
        count = 1 + int(np.searchsorted(np.cumsum(COUNT_ODDS), rng.random(), side="right"))
    own = [KINDS.index(kind) + len(KINDS) * COLOURS.index(colour) for colour, kind in must]
    looks = rng.permutation(len(KINDS) * len(COLOURS)).tolist()  # no two alike: each thing has a name of its own
    if own:
        count = max(count, len(own))
        looks = own + [look for look in looks if look not in own]
    inside = [(1 + i % width, 1 + i // width) for i in rng.permutation(width * height).tolist()]
    sides = [(x, y) for x in range(1, width + 1) for y in (0, height + 1)]
    sides += [(x, y) for y in range(1, height + 1) for x in (0, width + 1)]
    walls = [sides[i] for i in rng.permutation(len(sides)).tolist()]
    things = []
    for look in looks[:count]:
        kind, colour = KINDS[look % len(KINDS)], COLOURS[look // len(KINDS)]
        column, row = (walls if kind == "door" else inside).pop()
        things.append(Thing(column, row, colour, kind))
    return room_board(width + 2, height + 2, things, inside.pop(), int(rng.integers(4)))


def room_board(columns: int, rows: int, things: list[Thing], agent: tuple[int, int], direction: int) -> Board:
    """A room seen from above."""
    placed = tuple(sorted(things))
    small = columns == rows == 5  # the rooms of `scenes.grid`, which are in the same split there
    name = f"scene {[tuple(t) for t in placed]}" if small else f"room {columns} {rows} {[tuple(t) for t in placed]}"
    return Board("above", columns, rows, placed, agent, direction, name)


def ahead(room: Board) -> Board:
    """What the agent has before it: itself in the middle of the lowest row, looking up."""
    x, y = room.agent
    fx, fy = AHEAD[room.direction]
    rx, ry = -fy, fx  # to its right
    seen = []
    for thing in room.things:
        dx, dy = thing.column - x, thing.row - y
        column, row = SPAN // 2 + dx * rx + dy * ry, SPAN - 1 - (dx * fx + dy * fy)
        if 0 <= column < SPAN and 0 <= row < SPAN:
            seen.append(thing._replace(column=column, row=row))
    return room._replace(
        view="ahead", columns=SPAN, rows=SPAN, things=tuple(sorted(seen)), agent=(SPAN // 2, SPAN - 1), direction=3,
        room=room,
    )  # fmt: skip


def _level(rng: np.random.Generator) -> Board:
    rows, columns = (int(n) for n in rng.integers(5, 8, size=2))
    boxes = 2 if rows * columns > 30 and rng.random() < 0.25 else 1
    made = sokoban.make_level(rng, rows, columns, boxes, 1, 40, wide=True)
    return level_board(made.room, made.start)


def level_board(room: sokoban.Room, at: sokoban.Position) -> Board:
    """A Sokoban level. Boxes are named before targets, and one that stands on a target is there as both."""
    things = [Thing(c % room.cols, c // room.cols, "", BOX) for c in sokoban.cells(at.boxes)]
    things += [Thing(c % room.cols, c // room.cols, "", TARGET) for c in sokoban.cells(room.targets)]
    player = at.player % room.cols, at.player // room.cols
    name = f"sokoban {room.rows} {room.cols} {room.floor} {room.targets}"
    return Board("sokoban", room.cols, room.rows, tuple(sorted(things)), player, 0, name, (room, at))


# -- pictures ---------------------------------------------------------------------------------------------------------


def draw(board: Board, pixels: int = PIXELS) -> np.ndarray:
    """The picture, uint8 (pixels, pixels, 3). Raises SimulatorMissingError without minigrid (but for Sokoban)."""
    if board.view == "sokoban":
        assert board.level is not None
        return _fitted(sokoban.draw(*board.level), pixels)
    tile = pixels // max(board.columns, board.rows)
    canvas = np.zeros((pixels, pixels, 3), np.uint8)
    left, top = (pixels - tile * board.columns) // 2, (pixels - tile * board.rows) // 2
    picture = canvas[top : top + tile * board.rows, left : left + tile * board.columns]
    ground = _ground_ahead(board) if board.view == "ahead" else _ground_above(board)
    things = {(t.column, t.row): t for t in board.things}
    for row in range(board.rows):
        for column in range(board.columns):
            thing = things.get((column, row))
            if (column, row) == board.agent:
                drawn = _tile(tile, "agent", "red", board.direction)
            elif thing is not None:
                drawn = _tile(tile, thing.kind, thing.colour)
            elif ground[row][column] is None:
                continue
            else:
                drawn = _tile(tile, ground[row][column])
            picture[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile] = drawn
    return canvas


def _ground_above(board: Board) -> list[list[str | None]]:
    def at(column: int, row: int) -> str:
        return "wall" if column in (0, board.columns - 1) or row in (0, board.rows - 1) else "floor"

    return [[at(column, row) for column in range(board.columns)] for row in range(board.rows)]


def _ground_ahead(board: Board) -> list[list[str | None]]:
    room: Board = board.room
    whole = _ground_above(room)
    fx, fy = AHEAD[room.direction]
    rx, ry = -fy, fx
    out: list[list[str | None]] = []
    for row in range(SPAN):
        out.append([])
        for column in range(SPAN):
            forward, right = SPAN - 1 - row, column - SPAN // 2
            x, y = room.agent[0] + forward * fx + right * rx, room.agent[1] + forward * fy + right * ry
            out[-1].append(whole[y][x] if 0 <= x < room.columns and 0 <= y < room.rows else None)
    return out


def _fitted(picture: np.ndarray, pixels: int) -> np.ndarray:
    """Scaled so that its longer side fills the square; black beside it."""
    height, width = picture.shape[:2]
    scale = pixels / max(height, width)
    size = (round(width * scale), round(height * scale))
    canvas = Image.new("RGB", (pixels, pixels))
    canvas.paste(
        Image.fromarray(picture).resize(size, Image.Resampling.BOX), ((pixels - size[0]) // 2, (pixels - size[1]) // 2)
    )
    return np.asarray(canvas)


@functools.cache
def _tile(pixels: int, kind: str, colour: str = "grey", direction: int | None = None) -> np.ndarray:
    """One cell as minigrid draws it, uint8 (pixels, pixels, 3)."""
    try:
        from minigrid.core import world_object
        from minigrid.core.grid import Grid
    except ImportError as error:
        raise SimulatorMissingError("pictures of rooms need minigrid, not installed", fix=pip_line("babyai")) from error
    empty = kind in ("floor", "agent")
    thing = None if empty else getattr(world_object, kind.capitalize())(colour)
    return Grid.render_tile(thing, agent_dir=direction, tile_size=pixels).astype(np.uint8)
