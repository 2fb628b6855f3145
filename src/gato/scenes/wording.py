"""Captions in many words: a small grammar over facts of a board, and a reader that says whether a caption is true of one.

    caption(board, rng)   "there is a red ball to the left of a blue box; the agent looks up"
    read(text)            [Relation("red ball", "left of", "blue box"), Facing("up")], or None for what is no caption
    is_true(text, board)  whether every one of its facts holds

Of the facts that hold on a board one or two are drawn, and for each of them a form of words. Reading goes the other way
through the same forms, so a network that words its caption in its own way is judged by what it says. What is not of the
grammar is not true.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import NamedTuple

import numpy as np

from gato.corpora import SPLITS, Split, caption_spec, captioned
from gato.episodes import Episode
from gato.scenes.grid import COLOURS, KINDS
from gato.scenes.rooms import BOX, PIXELS, PLAYER, TARGET, Board, board, draw

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")
DIRECTIONS = ("right", "down", "left", "up")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
RELATIONS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
}


ROOM_CAPTIONS = "captions/rooms"
SPEC = caption_spec(PIXELS, PIXELS)


class Place(NamedTuple):
    name: str
    place: str  # of PLACES: where it is in the whole picture of the room


class Relation(NamedTuple):
    name: str
    relation: str  # a key of RELATIONS; left and right compare columns alone, above and below rows alone
    other: str


class All(NamedTuple):
    """Everything there is, the agent left out."""

    names: tuple[str, ...]


class Count(NamedTuple):
    number: int
    of: str  # "things", "balls", "red things", "boxes", …: exactly so many


class Facing(NamedTuple):
    direction: str


class Size(NamedTuple):
    columns: int  # inside the walls
    rows: int


class On(NamedTuple):
    """How many boxes of a Sokoban level stand on targets."""

    number: int
    boxes: int


Fact = Place | Relation | All | Count | Facing | Size | On


# -- what holds -------------------------------------------------------------------------------------------------------


def names(board: Board) -> dict[str, list[tuple[int, int]]]:
    """{"red ball": [(column, row)], …, "agent" or "player": […]}."""
    found: dict[str, list[tuple[int, int]]] = {}
    for thing in board.things:
        found.setdefault(f"{thing.colour} {thing.kind}".strip(), []).append((thing.column, thing.row))
    found[PLAYER if board.view == "sokoban" else "agent"] = [board.agent]
    return found


def place_of(cell: tuple[int, int], board: Board) -> str:
    """In which ninth of the board a cell is; "middle" is the middle row or column alone, and an even side has none."""
    column = int(np.sign(2 * cell[0] + 1 - board.columns))
    row = int(np.sign(2 * cell[1] + 1 - board.rows))
    return PLACES[3 * (row + 1) + column + 1]


def related(a: tuple[int, int], relation: str, b: tuple[int, int]) -> bool:
    axis, sign = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}[relation]
    return sign * (b[axis] - a[axis]) > 0


def number_of(board: Board, of: str) -> int:
    """How many "things", "balls", "red things", … there are."""
    *colour, noun = of.split()
    kinds = {_plural(kind): kind for kind in (*KINDS, TARGET)}
    return sum(
        (noun == "things" or t.kind == kinds.get(noun)) and (not colour or t.colour == colour[0]) for t in board.things
    )


def holds(fact: Fact, board: Board) -> bool:
    """Whether a fact is true of a board."""
    there = names(board)
    match fact:
        case Place(name, place):
            return any(place_of(cell, board) == place for cell in there.get(name, ()))
        case Relation(name, relation, other):
            pairs = itertools.product(there.get(name, ()), there.get(other, ()))
            return any(related(a, relation, b) for a, b in pairs if a is not b)
        case All(listed):
            return sorted(listed) == sorted(f"{t.colour} {t.kind}".strip() for t in board.things)
        case Count(number, of):
            return number_of(board, of) == number
        case Facing(direction):
            return board.view == "above" and DIRECTIONS[board.direction] == direction
        case Size(columns, rows):
            return board.view == "above" and (board.columns - 2, board.rows - 2) == (columns, rows)
        case On(number, boxes):
            on = _on_targets(board)
            return board.view == "sokoban" and on == (number, boxes)
    return False


def _on_targets(board: Board) -> tuple[int, int]:
    targets = {t[:2] for t in board.things if t.kind == TARGET}
    boxes = [t[:2] for t in board.things if t.kind == BOX]
    return sum(box in targets for box in boxes), len(boxes)


def facts(board: Board) -> list[list[Fact]]:
    """The facts that are worth saying of a board, by kind of fact."""
    there = names(board)
    alone = {name: cells[0] for name, cells in there.items() if len(cells) == 1}
    shown = [f"{t.colour} {t.kind}".strip() for t in board.things]
    places: list[Fact] = [Place(name, place_of(cell, board)) for name, cell in alone.items() if name != "agent"]
    relations: list[Fact] = [
        Relation(a, relation, b)
        for (a, at), (b, other) in itertools.permutations(alone.items(), 2)
        for relation in RELATIONS
        if a not in ("agent",) and related(at, relation, other)
    ]
    groups: list[list[Fact]] = [places, relations]
    if board.view == "sokoban":
        groups.append([On(*_on_targets(board))])
        return [group for group in groups if group]
    groups.append([All(tuple(shown))])
    counts: list[Fact] = [Count(len(shown), "things")]
    for of in (*map(_plural, KINDS), *(f"{colour} things" for colour in COLOURS)):
        if (number := number_of(board, of)) > 1:
            counts.append(Count(number, of))
    groups.append(counts)
    if board.view == "above":
        groups += [[Facing(DIRECTIONS[board.direction])], [Size(board.columns - 2, board.rows - 2)]]
    return [group for group in groups if group]


def room_caption_episode(split: Split, index: int, seed: int = 0) -> Episode:
    """Board `index` of a split as an Episode: image uint8 (1, 80, 80, 3) and a caption that is true of it."""
    seen = board(split, index, seed)
    words = caption(seen, np.random.default_rng([seed, 29, SPLITS.index(split), index]))
    info = {"seed": seed, "source": "rooms", "split": split, "view": seen.view, "index": index}
    return captioned(ROOM_CAPTIONS, draw(seen), words, info)


# -- into words -------------------------------------------------------------------------------------------------------

FORMS: dict[type, tuple[str, ...]] = {
    Place: ("{a} {place}", "{a} is {place}", "there is {a} {place}", "{place} there is {a}", "{place} is {a}"),
    Relation: ("{a} {rel} {b}", "{a} is {rel} {b}", "there is {a} {rel} {b}", "{rel} {b} there is {a}"),
    All: ("{list}", "a room with {list}", "we see {list}", "nothing but {list}"),
    Count: ("{n} {of}", "there are {n} {of}", "we see {n} {of}"),
    Facing: ("the agent looks {dir}", "the agent faces {dir}", "the agent is turned {dir}"),
    Size: ("a room of {w} by {h} cells", "the room is {w} cells wide and {h} high"),
    On: ("the box is on the target", "the box is not on the target", "{n} of {m} boxes on targets"),
}
ODDS = {Place: 3.0, Relation: 3.0, All: 3.0, Count: 1.0, Facing: 1.0, Size: 0.7, On: 1.0}


def caption(board: Board, rng: np.random.Generator) -> str:
    """One or two true facts in varied words."""
    groups = facts(board)
    odds = np.array([ODDS[type(group[0])] for group in groups])
    number = 2 if len(groups) > 1 and rng.random() < 0.35 else 1
    chosen = rng.choice(len(groups), number, replace=False, p=odds / odds.sum())
    return "; ".join(say(groups[g][int(rng.integers(len(groups[g])))], rng) for g in chosen)


def say(fact: Fact, rng: np.random.Generator) -> str:
    """A fact in words drawn from its forms."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    match fact:
        case Place(name, place):
            middle = ("in the middle", "in the centre")
            where = pick(middle) if place == "middle" else pick((f"at the {place}", f"on the {place} side"))
            return pick(FORMS[Place]).format(a=_named(name), place=where)
        case Relation(name, relation, other):
            return pick(FORMS[Relation]).format(a=_named(name), rel=pick(RELATIONS[relation]), b=_named(other))
        case All(listed):
            return pick(FORMS[All]).format(list=_listed(listed))
        case Count(number, of):
            if number == 1:
                return f"{NUMBERS[1]} {_singular(of)}"
            return pick(FORMS[Count]).format(n=NUMBERS[number], of=of)
        case Facing(direction):
            return pick(FORMS[Facing]).format(dir=direction)
        case Size(columns, rows):
            return pick(FORMS[Size]).format(w=NUMBERS[columns], h=NUMBERS[rows])
        case On(number, boxes):
            if boxes == 1:
                return FORMS[On][number == 0]
            return FORMS[On][2].format(n=NUMBERS[number], m=NUMBERS[boxes])
    raise AssertionError(fact)


def _named(name: str) -> str:
    return f"the {name}" if name in (BOX, TARGET, PLAYER, "agent") else f"a {name}"


def _listed(listed: tuple[str, ...]) -> str:
    *first, last = map(_named, listed)
    return f"{', '.join(first)} and {last}" if first else last


def _plural(noun: str) -> str:
    return f"{noun}es" if noun == BOX else f"{noun}s"


def _singular(of: str) -> str:
    return of.removesuffix("es") if of.endswith("xes") else of.removesuffix("s")


# -- and back ---------------------------------------------------------------------------------------------------------

_COLOUR, _KIND = "|".join(COLOURS), "|".join(KINDS)
_NAME = rf"(?:a (?:{_COLOUR}) (?:{_KIND})|the (?:{BOX}|{TARGET}|{PLAYER}|agent))"
_SLOTS = {
    "a": _NAME,
    "b": _NAME,
    "place": rf"(?:in the (?:middle|centre)|at the (?:{'|'.join(p for p in PLACES if p != 'middle')})"
    rf"|on the (?:{'|'.join(p for p in PLACES if p != 'middle')}) side)",
    "rel": "|".join(form for forms in RELATIONS.values() for form in forms),
    "list": rf"{_NAME}(?:, {_NAME})*(?: and {_NAME})?",
    "n": "|".join(NUMBERS),
    "m": "|".join(NUMBERS),
    "w": "|".join(NUMBERS),
    "h": "|".join(NUMBERS),
    "of": rf"things|(?:{'|'.join(map(_plural, KINDS))})|(?:{_COLOUR}) things",
    "dir": "|".join(DIRECTIONS),
}


@functools.cache
def _readers() -> list[tuple[type, re.Pattern[str]]]:
    out = []
    for kind, forms in FORMS.items():
        for form in forms:
            pattern = re.escape(form).replace(r"\ ", " ")
            for slot, inside in _SLOTS.items():
                pattern = pattern.replace(rf"\{{{slot}\}}", f"(?P<{slot}>{inside})")
            out.append((kind, re.compile(pattern if "(?P<" in pattern else f"(?P<on>{pattern})")))
    one = rf"(?P<n>one) (?P<of>thing|{_KIND}|(?:{_COLOUR}) thing)"
    return [*out, (Count, re.compile(one))]


def read(text: str) -> list[Fact] | None:
    """The facts that a caption states; None where a part of it is not of the grammar."""
    found = [_read_one(part.strip()) for part in text.strip().split(";")]
    return None if None in found else found  # type: ignore[return-value]


def _read_one(text: str) -> Fact | None:
    for kind, pattern in _readers():
        if (got := pattern.fullmatch(text)) is not None:
            return _fact(kind, got.groupdict())
    return None


def _fact(kind: type, got: dict[str, str]) -> Fact:
    def bare(name: str) -> str:
        return name.removeprefix("a ").removeprefix("the ")

    if kind is Place:
        words = got["place"].removeprefix("at the ").removeprefix("on the ").removeprefix("in the ")
        return Place(bare(got["a"]), words.removesuffix(" side").replace("centre", "middle"))
    if kind is Relation:
        relation = next(key for key, forms in RELATIONS.items() if got["rel"] in forms)
        return Relation(bare(got["a"]), relation, bare(got["b"]))
    if kind is All:
        return All(tuple(map(bare, re.split(r", | and ", got["list"]))))
    if kind is Count:
        of = got["of"] if got["of"].endswith("s") else _plural(got["of"])
        return Count(NUMBERS.index(got["n"]), of)
    if kind is Facing:
        return Facing(got["dir"])
    if kind is Size:
        return Size(NUMBERS.index(got["w"]), NUMBERS.index(got["h"]))
    if "n" not in got:
        return On(int("not" not in got["on"]), 1)
    return On(NUMBERS.index(got["n"]), NUMBERS.index(got["m"]))


def is_true(text: str, board: Board) -> bool:
    """Whether a caption is true of a board: of the grammar, and every fact holds."""
    said = read(text)
    return said is not None and all(holds(fact, board) for fact in said)
