"""Questions about boards, with the one true reply, balanced: the question alone tells nothing.

First a question's words are drawn, then the reply, evenly from all that this question can have, and only then boards until
one gives this reply to this question. So for every question that is ever asked its replies are equally frequent, by
construction, and who has not seen the picture is right in one of `len(options)`.

| type | asked | replies |
| --- | --- | --- |
| existence | is there a red ball? | yes, no |
| colour | what colour is the ball? · what is red? | six colours · four kinds |
| count | how many things (balls, red things) are there? | numbers from zero or one up |
| side | is the red ball left or right of the blue box? (above or below) | the two |
| nearest | what is nearest to the agent? · what colour is it that is nearest …? | four kinds · six colours |
| next | what should the agent do next to reach the red ball? (Sokoban: where should the player go next?) | what an expert does |

An episode of the training split asks up to MORE further questions about its board, whose types and replies are as the board has
them, and so less even. A held-out board is asked the one question that it was found for.

"Nearest" is by steps along rows and columns. What the agent does next is the first action of the one shortest way on which
it ends before the thing and faces it; boards with two shortest ways that begin differently are not asked about.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from gato.corpora import SPLITS, Split, asked_of, check_split, questions_spec
from gato.episodes import Episode
from gato.scenes.grid import COLOURS, KINDS
from gato.scenes.rooms import AHEAD, BOX, PIXELS, TARGET, Board, Look, View, draw, draw_board
from gato.scenes.wording import NUMBERS, number_of, related
from gato.worlds import sokoban

ROOM_QUESTIONS = "questions/rooms"
SPEC = questions_spec(PIXELS, PIXELS)
TYPES = ("existence", "colour", "count", "side", "nearest", "next")
TURNS = ("turn left", "turn right", "go forward", "stop")
MORE = 2  # further questions about a board
TRIES = 40  # of a type, to find one that the board has a reply to


class Question(NamedTuple):
    """A question's words and what decides its reply. `reply` is None for a board that it cannot be asked about."""

    type: str  # of TYPES
    text: str
    options: tuple[str, ...]  # every reply it can have, equally likely
    reply: Callable[[Board], str | None]
    views: tuple[View, ...] = ("above", "above", "above", "ahead")
    must: Callable[[str], tuple[Look, ...]] = (
        lambda reply: ()
    )  # looks that a board with this reply has: a help to find one
    number: Callable[[str], int | None] = lambda reply: None  # how many things such a board has, where that is known


def draw_question(rng: np.random.Generator, types: Sequence[str] = TYPES, about: Look | None = None) -> Question:
    """Words of a question, before there is a board. `about`: the look that it asks for, where it asks for one."""

    def pick(options):
        return options[int(rng.integers(len(options)))]

    look = about or (pick(COLOURS), pick(KINDS))
    match pick(types):
        case "existence":
            return _existence(look)
        case "colour":
            return _colour(look[1]) if rng.random() < 0.6 else _kind(look[0])
        case "count":
            return _count(pick(("things", "things", _many(look[1]), f"{look[0]} things")))
        case "side":
            if rng.random() < 0.15:
                return _side(BOX, TARGET, pick((0, 1)), ("sokoban",))
            other = look
            while other == look:
                other = pick(COLOURS), pick(KINDS)
            return _side(" ".join(look), " ".join(other), pick((0, 1)), ("above", "above", "above", "ahead"))
        case "nearest":
            return _nearest(pick((0, 1)))
        case _:
            return _push() if rng.random() < 0.25 else _next(look)


def _existence(look: Look) -> Question:
    def reply(board: Board) -> str:
        return "yes" if any((t.colour, t.kind) == look for t in board.things) else "no"

    text = f"is there a {' '.join(look)}?"
    return Question("existence", text, ("yes", "no"), reply, must=lambda said: (look,) if said == "yes" else ())


def _colour(kind: str) -> Question:
    def reply(board: Board) -> str | None:
        found = [t.colour for t in board.things if t.kind == kind]
        return found[0] if len(found) == 1 else None

    return Question("colour", f"what colour is the {kind}?", COLOURS, reply, must=lambda said: ((said, kind),))


def _kind(colour: str) -> Question:
    def reply(board: Board) -> str | None:
        found = [t.kind for t in board.things if t.colour == colour]
        return found[0] if len(found) == 1 else None

    return Question("colour", f"what is {colour}?", KINDS, reply, must=lambda said: ((colour, said),))


def _many(kind: str) -> str:
    return f"{kind}es" if kind == "box" else f"{kind}s"


def _count(of: str) -> Question:
    options = NUMBERS[1:5] if of == "things" else NUMBERS[:4]

    def reply(board: Board) -> str | None:
        said = NUMBERS[number_of(board, of)]
        return said if said in options else None

    def must(said: str) -> tuple[Look, ...]:
        number, (*colour, noun) = NUMBERS.index(said), of.split()
        if of == "things":
            return ()
        if colour:
            return tuple((colour[0], kind) for kind in KINDS[:number])
        return tuple((c, next(k for k in KINDS if _many(k) == noun)) for c in COLOURS[:number])

    text = f"how many {of} are there?"
    number: Callable[[str], int | None] = (lambda said: NUMBERS.index(said)) if of == "things" else (lambda said: None)
    return Question("count", text, options, reply, must=must, number=number)


def _side(name: str, other: str, axis: int, views: tuple[View, ...]) -> Question:
    options = (("left", "right"), ("above", "below"))[axis]

    def reply(board: Board) -> str | None:
        cells: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
        for thing in board.things:
            cells[f"{thing.colour} {thing.kind}".strip()].append((thing.column, thing.row))
        a, b = cells.get(name, []), cells.get(other, [])
        if len(a) != 1 or len(b) != 1 or a[0][axis] == b[0][axis]:
            return None
        return options[not related(a[0], "left of" if axis == 0 else "above", b[0])]

    words = "left or right of" if axis == 0 else "above or below"
    text = f"is the {name} {words} the {other}?"
    looks: tuple[Look, ...] = () if views == ("sokoban",) else (_look(name), _look(other))
    return Question("side", text, options, reply, views, must=lambda said: looks)


def _look(name: str) -> Look:
    colour, _, kind = name.partition(" ")
    return colour, kind


def _nearest(what: int) -> Question:
    def reply(board: Board) -> str | None:
        x, y = board.agent
        order = sorted((abs(t.column - x) + abs(t.row - y), t.kind, t.colour) for t in board.things)
        if not order or (len(order) > 1 and order[0][0] == order[1][0]):
            return None
        _, kind, colour = order[0]
        return colour if what else kind

    text = ("what is nearest to the agent?", "what colour is the thing nearest to the agent?")[what]
    return Question("nearest", text, (KINDS, COLOURS)[what], reply)


def _next(look: Look) -> Question:
    text = f"what should the agent do next to reach the {' '.join(look)}?"
    return Question("next", text, TURNS, lambda board: next_action(board, look), ("above",), must=lambda said: (look,))


def next_action(board: Board, look: Look) -> str | None:
    """The first action of the one shortest way to stand before the thing of this look and face it; "stop" where the agent
    does; None where there is no such way, or several that begin differently."""
    goals = [(t.column, t.row) for t in board.things if (t.colour, t.kind) == look]
    if len(goals) != 1 or board.view != "above":
        return None
    taken = {(t.column, t.row) for t in board.things}

    def free(x: int, y: int) -> bool:
        return 0 < x < board.columns - 1 and 0 < y < board.rows - 1 and (x, y) not in taken

    steps = {}
    for d, (dx, dy) in enumerate(AHEAD):
        x, y = goals[0][0] - dx, goals[0][1] - dy
        if free(x, y):
            steps[x, y, d] = 0
    frontier = collections.deque(steps)
    while frontier:  # backwards: from where could one have come?
        x, y, d = here = frontier.popleft()
        dx, dy = AHEAD[d]
        for before in ((x, y, (d + 1) % 4), (x, y, (d - 1) % 4), (x - dx, y - dy, d)):
            if free(*before[:2]) and before not in steps:
                steps[before] = steps[here] + 1
                frontier.append(before)
    (x, y), d = board.agent, board.direction
    now = steps.get((x, y, d))
    if not now:
        return "stop" if now == 0 else None
    after = ((x, y, (d - 1) % 4), (x, y, (d + 1) % 4), (x + AHEAD[d][0], y + AHEAD[d][1], d))
    best = [word for word, state in zip(TURNS, after, strict=False) if steps.get(state) == now - 1]
    return best[0] if len(best) == 1 else None


def _push() -> Question:
    return Question("next", "where should the player go next?", sokoban.ACTIONS, next_push, ("sokoban",))


def next_push(board: Board) -> str | None:
    """The move on every shortest solution of a Sokoban level; None where several are as good."""
    if board.level is None:
        return None
    room, at = board.level
    if board.view != "sokoban" or room.targets.bit_count() > 1:
        return None
    moves = sokoban.distances(room)
    best = [a for i, a in enumerate(sokoban.ACTIONS) if moves.get(room.move(at, i)) == moves.get(at, 0) - 1]
    return best[0] if len(best) == 1 else None


# -- as episodes ------------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    board: Board
    question: Question
    reply: str


def ask(split: Split, index: int, seed: int = 0) -> Asked:
    """Question `index` of a split, its board and its reply."""
    rng = np.random.default_rng([seed, 13, SPLITS.index(check_split(split)), index])
    question = draw_question(rng)
    reply = question.options[int(rng.integers(len(question.options)))]
    return Asked(find_board(split, question, reply, rng), question, reply)


def find_board(split: Split, question: Question, reply: str, rng: np.random.Generator) -> Board:
    """A random board of the split on which this is the reply."""
    while True:
        view = question.views[int(rng.integers(len(question.views)))]
        found = draw_board(rng, view, question.must(reply), question.number(reply))
        if found.split == split and question.reply(found) == reply:
            return found


def more_questions(board: Board, asked: Collection[str], rng: np.random.Generator, count: int = MORE) -> list[Asked]:
    """Up to `count` further questions about a board, with their replies, none of which are among the texts `asked`."""
    out: list[Asked] = []
    known = set(asked)
    for _ in range(count):
        type = TYPES[int(rng.integers(len(TYPES)))]
        for _ in range(TRIES):
            thing = board.things[int(rng.integers(len(board.things)))] if board.things and rng.random() < 0.5 else None
            question = draw_question(rng, (type,), (thing.colour, thing.kind) if thing and thing.colour else None)
            wanted = question.options[int(rng.integers(len(question.options)))]
            if board.view in question.views and question.text not in known and question.reply(board) == wanted:
                out.append(Asked(board, question, wanted))
                known.add(question.text)
                break
    return out


def room_question_episode(split: Split, index: int, seed: int = 0, *, blank: bool = False) -> Episode:
    """Question `index` as an Episode, and of the training split MORE about the same picture. `blank` blackens the picture: for
    a network that shall know the questions alone."""
    found = [ask(split, index, seed)]
    picture = np.zeros((PIXELS, PIXELS, 3), np.uint8) if blank else draw(found[0].board)
    if split == "train":
        rng = np.random.default_rng([seed, 29, index])
        found += more_questions(found[0].board, [found[0].question.text], rng)
        found = [found[i] for i in rng.permutation(len(found))]
    types, options = [each.question.type for each in found], [len(each.question.options) for each in found]
    info = {
        "seed": seed, "source": "rooms", "split": split, "question_type": types if len(found) > 1 else types[0],
        "options": options if len(found) > 1 else options[0],
    }  # fmt: skip
    return asked_of(ROOM_QUESTIONS, picture, [(each.question.text, each.reply) for each in found], info)
