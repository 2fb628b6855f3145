"""Captioned rooms: a few coloured things in a BabyAI room, seen from above, and the one caption that is true of them.

    #####     one thing      "a red ball at the top left"
    #  o#     two            "a purple key left of a blue box"      ("above", where both are in one column)
    #k> #     three          "a purple key, a red ball and a blue box"
    #  b#
    #####     ordered from left to right and, within a column, from top to bottom: one canonical caption per picture

Tiles are minigrid's own, drawn at 16×16 pixels, so that a cell is one image patch (80×80 pixels, 25 patches). Doors
stand in the wall. The agent (the red triangle) is always somewhere, and never spoken of. A scene is a pure function of
(split, seed, index); the arrangement of its things, not the agent, decides the split: no arrangement is in both.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gato.corpora import SPLITS, Split, asked, caption_spec, captioned, check_split, question_spec, split_of
from gato.episodes import Episode
from gato.errors import SimulatorMissingError
from gato.installed import pip_line

SCENES, QUESTIONS = "captions/scenes", "questions/scenes"
CELLS, TILE = 5, 16  # cells a side, walls included; pixels a cell
SPEC = caption_spec(CELLS * TILE, CELLS * TILE)
QUESTION_SPEC = question_spec(CELLS * TILE, CELLS * TILE)
KINDS = ("ball", "box", "key", "door")
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
COUNT_ODDS = (0.2, 0.5, 0.3)  # of one, two and three things

_INSIDE = tuple(itertools.product(range(1, CELLS - 1), repeat=2))
_IN_WALL = tuple(c for c in itertools.product(range(CELLS), repeat=2) if sum(x in (0, CELLS - 1) for x in c) == 1)


class Thing(NamedTuple):
    """Columns count from the left, rows from the top. Things sort in the order in which captions name them."""

    column: int
    row: int
    colour: str
    kind: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.kind}"


class Scene(NamedTuple):
    """The true state. The agent faces right, down, left or up: direction 0 … 3."""

    things: tuple[Thing, ...]
    agent: tuple[int, int]
    direction: int

    @property
    def split(self) -> Split:
        return split_of(f"scene {[tuple(thing) for thing in self.things]}")


def captions(split: Split, seed: int = 0, start: int = 0, count: int | None = None) -> Iterator[Episode]:
    """Captioned scenes `start`, `start` + 1, … of a split; without end where `count` is None."""
    for index in itertools.count(start) if count is None else range(start, start + count):
        yield scene_episode(split, index, seed)


def scene_episode(split: Split, index: int, seed: int = 0) -> Episode:
    """Scene `index` of a split as an Episode: image uint8 (1, 80, 80, 3) and its caption."""
    state = sample(split, index, seed)
    return captioned(SCENES, draw(state), caption(state), {"seed": seed, "source": "scenes", "split": split})


def question_episode(split: Split, index: int, seed: int = 0) -> Episode:
    """Scene `index` with one question about it and the true reply."""
    state = sample(split, index, seed)
    question, reply = ask(state, np.random.default_rng([seed, 7, SPLITS.index(split), index]))
    return asked(QUESTIONS, draw(state), question, reply, {"seed": seed, "source": "scenes", "split": split})


def ask(state: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """One of four questions, each with a single true reply: how many, what colour, what, and whether."""
    thing = state.things[int(rng.integers(len(state.things)))]
    questions = [("how many things are there?", ("one", "two", "three")[len(state.things) - 1])]
    if sum(t.kind == thing.kind for t in state.things) == 1:
        questions.append((f"what colour is the {thing.kind}?", thing.colour))
    if sum(t.colour == thing.colour for t in state.things) == 1:
        questions.append((f"what is {thing.colour}?", f"the {thing.kind}"))
    if rng.random() < 0.5:
        questions.append((f"is there {thing}?", "yes"))
    else:
        other = Thing(0, 0, COLOURS[int(rng.integers(len(COLOURS)))], KINDS[int(rng.integers(len(KINDS)))])
        there = any((t.colour, t.kind) == (other.colour, other.kind) for t in state.things)
        questions.append((f"is there {other}?", "yes" if there else "no"))
    return questions[int(rng.integers(len(questions)))]


def sample(split: Split, index: int, seed: int = 0) -> Scene:
    """The state of scene `index`."""
    rng = np.random.default_rng([seed, SPLITS.index(check_split(split)), index])
    while (state := _draw_state(rng)).split != split:
        pass
    return state


def _draw_state(rng: np.random.Generator) -> Scene:
    count = 1 + int(rng.choice(len(COUNT_ODDS), p=COUNT_ODDS))
    looks = rng.choice(len(KINDS) * len(COLOURS), count, replace=False)  # no two alike, so that captions are plain
    inside = [_INSIDE[i] for i in rng.permutation(len(_INSIDE))]
    in_wall = [_IN_WALL[i] for i in rng.permutation(len(_IN_WALL))]
    things = []
    for look in looks:
        kind, colour = KINDS[look % len(KINDS)], COLOURS[look // len(KINDS)]
        column, row = (in_wall if kind == "door" else inside).pop()
        things.append(Thing(column, row, colour, kind))
    return Scene(tuple(sorted(things)), inside.pop(), int(rng.integers(4)))


def caption(state: Scene) -> str:
    """The canonical caption."""
    things = state.things
    if len(things) == 1:
        return f"{things[0]} {_place(things[0])}"
    if len(things) == 2:
        relation = "above" if things[0].column == things[1].column else "left of"
        return f"{things[0]} {relation} {things[1]}"
    return f"{', '.join(map(str, things[:-1]))} and {things[-1]}"


def _place(thing: Thing) -> str:
    middle = CELLS // 2
    words = [
        ("top", "", "bottom")[int(np.sign(thing.row - middle)) + 1],
        ("left", "", "right")[int(np.sign(thing.column - middle)) + 1],
    ]
    place = " ".join(filter(None, words))
    return f"at the {place}" if place else "in the middle"


def draw(state: Scene) -> np.ndarray:
    """The picture, uint8 (80, 80, 3). Raises SimulatorMissingError without minigrid."""
    picture = _empty_room().copy()
    for thing in state.things:
        _put(picture, thing.column, thing.row, _tile(thing.kind, thing.colour))
    _put(picture, *state.agent, _tile("agent", "red", state.direction))
    return picture


def _put(picture: np.ndarray, column: int, row: int, tile: np.ndarray) -> None:
    picture[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = tile


@functools.cache
def _empty_room() -> np.ndarray:
    picture = np.empty((CELLS * TILE, CELLS * TILE, 3), np.uint8)
    for column, row in itertools.product(range(CELLS), repeat=2):
        _put(picture, column, row, _tile("floor" if (column, row) in _INSIDE else "wall"))
    return picture


@functools.cache
def _tile(kind: str, colour: str = "grey", direction: int | None = None) -> np.ndarray:
    """One cell as minigrid draws it, uint8 (16, 16, 3)."""
    try:
        from minigrid.core import world_object
        from minigrid.core.grid import Grid
    except ImportError as error:
        raise SimulatorMissingError(
            "captioned scenes need minigrid, not installed", where=SCENES,
            fix=pip_line("babyai"),
        ) from error  # fmt: skip
    empty = kind in ("floor", "agent")
    thing = None if empty else getattr(world_object, kind.capitalize())(colour)
    return Grid.render_tile(thing, agent_dir=direction, tile_size=TILE).astype(np.uint8)
