"""Questions: every reply is true, and the questions alone tell nothing."""

import collections
import itertools

import numpy as np
import pytest

pytest.importorskip("minigrid")

from gato.errors import UsageError
from gato.evaluation.language import prior
from gato.scenes import generate
from gato.scenes.grid import COLOURS, KINDS, Thing
from gato.scenes.questions import (
    TYPES,
    ask,
    draw_question,
    more_questions,
    next_action,
    next_push,
    room_question_episode,
)
from gato.scenes.rooms import room_board
from gato.worlds import sokoban

ONE = {"none": 0, "one": 1, "two": 2, "three": 3, "four": 4}


@pytest.fixture(scope="module")
def questions():
    return [ask("train", i) for i in range(2400)]


def test_replies_are_true(questions):
    """Found again from the words of the question by other means."""
    rng = np.random.default_rng(0)
    more = [m for board, question, _ in questions[:300] for m in more_questions(board, [question.text], rng, count=6)]
    assert len(more) > 1_000
    for board, question, reply in [*questions[:1200], *more]:
        things = [(t.colour, t.kind) for t in board.things]
        at = {f"{t.colour} {t.kind}".strip(): (t.column, t.row) for t in board.things}
        match question.text.rstrip("?").split():
            case ["is", "there", "a", colour, kind]:
                true = "yes" if (colour, kind) in things else "no"
            case ["what", "colour", "is", "the", kind]:
                (true,) = [c for c, k in things if k == kind]
            case ["what", "is", colour] if colour in COLOURS:
                (true,) = [k for c, k in things if c == colour]
            case ["how", "many", "things", *_]:
                true = next(word for word, n in ONE.items() if n == len(things))
            case ["how", "many", colour, "things", *_]:
                true = next(word for word, n in ONE.items() if n == sum(c == colour for c, _ in things))
            case ["how", "many", kinds, *_]:
                number = sum(kinds in (f"{k}s", f"{k}es") for _, k in things)
                true = next(word for word, n in ONE.items() if n == number)
            case ["is", "the", *rest] if "left" in rest:
                a, b = " ".join(rest).replace(" left or right of the ", "|").split("|")
                true = "left" if at[a][0] < at[b][0] else "right"
                assert at[a][0] != at[b][0]
            case ["is", "the", *rest]:
                a, b = " ".join(rest).replace(" above or below the ", "|").split("|")
                true = "above" if at[a][1] < at[b][1] else "below"
                assert at[a][1] != at[b][1]
            case ["what", *_, "agent"]:
                steps = {(abs(x - board.agent[0]) + abs(y - board.agent[1])): name for name, (x, y) in at.items()}
                true = steps[min(steps)].split()[question.options == KINDS]
            case _:
                continue  # what to do next: below
        assert reply == true, (question.text, board)


def test_the_next_action_leads_there_and_no_shorter(questions):
    """Played on: what it says is followed until it says stop; then the thing is before the agent."""
    tried = 0
    for board, question, reply in [q for q in questions if q.question.type == "next" and q.board.view == "above"][:120]:
        look = tuple(question.text.removesuffix("?").split()[-2:])
        (goal,) = [(t.column, t.row) for t in board.things if (t.colour, t.kind) == look]
        here = board
        for _ in range(40):
            action = reply if here is board else next_action(here, look)
            if action in ("stop", None):
                break
            (x, y), d = here.agent, here.direction
            dx, dy = ((1, 0), (0, 1), (-1, 0), (0, -1))[d]
            if action == "go forward":
                here = here._replace(agent=(x + dx, y + dy))
                assert here.agent not in {t[:2] for t in here.things}
            else:
                here = here._replace(direction=(d + (1 if action == "turn right" else -1)) % 4)
        if action == "stop":
            (x, y), d = here.agent, here.direction
            dx, dy = ((1, 0), (0, 1), (-1, 0), (0, -1))[d]
            assert (x + dx, y + dy) == goal
            tried += 1
    assert tried > 40


def test_next_by_hand():
    ball = Thing(3, 1, "red", "ball")
    assert next_action(room_board(5, 5, [ball], (1, 1), 0), ("red", "ball")) == "go forward"
    assert next_action(room_board(5, 5, [ball], (2, 1), 0), ("red", "ball")) == "stop"
    assert next_action(room_board(5, 5, [ball], (2, 1), 3), ("red", "ball")) == "turn right"
    assert next_action(room_board(5, 5, [ball], (2, 1), 2), ("red", "ball")) is None  # either turn
    walled = [ball, Thing(2, 1, "grey", "box"), Thing(3, 2, "grey", "key")]
    assert next_action(room_board(5, 5, walled, (1, 1), 0), ("red", "ball")) is None


def test_pushes_are_the_solvers(questions):
    found = [q for q in questions if q.board.view == "sokoban" and q.question.type == "next"]
    assert len(found) > 60
    for board, _, reply in found[:40]:
        room, at = board.level
        left = {a: sokoban.distances(room).get(room.move(at, i), 10**6) for i, a in enumerate(sokoban.ACTIONS)}
        assert min(left, key=left.get) == reply == next_push(board)
        assert sorted(left.values())[0] < sorted(left.values())[1]


def test_the_question_alone_scores_at_chance(questions):
    """The best that can be made of words alone, learned from half and tried on the other half, type by type."""
    half = len(questions) // 2
    guess = prior((q.question.text, q.reply) for q in questions[:half])
    by_type = collections.defaultdict(list)
    for _, question, reply in questions[half:]:
        by_type[question.type].append((guess(question.text) == reply, 1 / len(question.options)))
    assert set(by_type) == set(TYPES)
    for kind, found in by_type.items():
        right, chance = np.array(found).T
        error = np.sqrt((chance * (1 - chance)).sum()) / len(found)
        assert right.mean() < chance.mean() + 3.5 * error, (kind, right.mean(), chance.mean())


def test_replies_are_even_for_every_question(questions):
    """Of each question's words that come often, and of all together, by a chi-square test."""
    counts = collections.defaultdict(collections.Counter)
    for _, question, reply in questions:
        counts[question.text, question.options][reply] += 1
    total = degrees = 0
    for (_, options), found in counts.items():
        number = sum(found.values())
        if number >= 5 * len(options):
            expected = number / len(options)
            total += sum((found[o] - expected) ** 2 / expected for o in options)
            degrees += len(options) - 1
    assert degrees > 50
    assert total < degrees + 4 * np.sqrt(2 * degrees)


def test_splits_share_no_room(questions):
    held_out = {ask("heldout", i).board.name for i in range(100)}
    assert not held_out & {q.board.name for q in questions}
    assert all(ask("heldout", i).board.split == "heldout" for i in range(20))


def test_further_questions_are_for_learning_alone():
    for i in range(40):
        learned, held_out = room_question_episode("train", i), room_question_episode("heldout", i)
        texts, pictures = learned.observations["question"], learned.observations["image"]
        assert len(held_out) == 1 and held_out.info["options"] == len(ask("heldout", i).question.options)
        assert f"Q: {ask('train', i).question.text} A:" in texts
        assert len(set(texts)) == len(texts) and (pictures == pictures[0]).all()
    assert len(learned.info["question_type"]) == len(learned) > 1


def test_blank_pictures(tmp_path):
    seen, blank = room_question_episode("train", 3), room_question_episode("train", 3, blank=True)
    assert not blank.observations["image"].any() and seen.observations["image"].any()
    assert seen.observations["question"] == blank.observations["question"]
    (folder,) = generate(tmp_path, ["questions/rooms"], scenes=4, blank=True)
    assert folder.is_dir()
    with pytest.raises(UsageError, match="blank"):
        generate(tmp_path / "b", ["captions/rooms"], scenes=4, blank=True)


def test_options_are_what_can_be_said():
    drawn = [draw_question(np.random.default_rng(i)) for i in range(300)]
    assert {q.type for q in drawn} == set(TYPES)
    assert all(len(set(q.options)) == len(q.options) >= 2 for q in drawn)
    assert len({q.text for q in itertools.islice(drawn, 200)}) > 70
