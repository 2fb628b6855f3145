"""Boards: what is said of a picture is true of its pixels and of no other state, and no room is in both splits."""

import hashlib

import numpy as np
import pytest

pytest.importorskip("minigrid")

from gato.scenes import CORPORA, MADE, episodes, generate, grid
from gato.scenes.rooms import PIXELS, ahead, board, draw, draw_board, room_board
from gato.scenes.wording import (
    FORMS,
    PLACES,
    RELATIONS,
    All,
    Count,
    Facing,
    On,
    Place,
    Relation,
    Size,
    caption,
    facts,
    holds,
    is_true,
    read,
    room_caption_episode,
    say,
)

GOLDEN = "c3b568f1bf570e4d"


@pytest.fixture(scope="module")
def boards():
    return [board("train", i) for i in range(300)]


def test_every_view_and_size(boards):
    assert {b.view for b in boards} == {"above", "ahead", "sokoban"}
    assert {(b.columns - 2, b.rows - 2) for b in boards if b.view == "above"} >= {(3, 3), (3, 6), (5, 4)}
    for made in boards[:60]:
        picture = draw(made)
        assert picture.shape == (PIXELS, PIXELS, 3) and picture.dtype == np.uint8 and len(np.unique(picture)) > 4


def test_small_rooms_look_as_in_the_first_corpus(boards):
    """So what is true of their pixels there (test_scenes reads them back) is so here."""
    small = [b for b in boards if b.view == "above" and b.columns == b.rows == 5]
    assert len(small) > 50
    for made in small[:40]:
        scene = grid.Scene(made.things, made.agent, made.direction)
        np.testing.assert_array_equal(draw(made), grid.draw(scene))
        assert made.split == scene.split


def test_what_is_ahead():
    """By hand: the agent at (1, 3) looks right, so right is ahead and down is to its right."""
    room = room_board(6, 6, [grid.Thing(3, 3, "red", "ball"), grid.Thing(1, 4, "blue", "key"), grid.Thing(1, 1, "grey", "box")], (1, 3), 0)  # fmt: skip
    seen = ahead(room)
    assert seen.things == (grid.Thing(0, 4, "grey", "box"), grid.Thing(2, 2, "red", "ball"), grid.Thing(3, 4, "blue", "key"))  # fmt: skip
    assert seen.agent == (2, 4) and seen.name == room.name
    assert is_true("a red ball above the agent", seen) and is_true("a blue key to the right of the agent", seen)


def test_captions_are_true_and_vary(boards):
    said = [caption(b, np.random.default_rng(i)) for i, b in enumerate(boards)]
    assert all(is_true(text, b) for text, b in zip(said, boards, strict=True))
    assert np.mean([is_true(text, b) for text, b in zip(said, boards[1:], strict=False)]) < 0.15
    kinds = {type(fact) for text in said for fact in read(text)}
    assert kinds == set(FORMS)
    many = {caption(boards[0], np.random.default_rng(i)) for i in range(60)}
    assert len(many) > 20


def test_every_fact_that_is_said_is_read_back(boards):
    rng = np.random.default_rng(0)
    for made in boards[:80]:
        for fact in (f for group in facts(made) for f in group):
            assert holds(fact, made)
            assert read(say(fact, rng)) == [fact], fact


def test_what_is_not_so_is_not_true():
    room = room_board(5, 6, [grid.Thing(1, 1, "red", "ball"), grid.Thing(3, 4, "red", "key")], (2, 2), 1)
    for text, true in {
        "a red ball at the top left": True,
        "a red ball at the top right": False,
        "a blue ball at the top left": False,
        "a red ball left of a red key": True,
        "a red key left of a red ball": False,
        "a red ball higher than a red key; two things": True,
        "a red ball higher than a red key; three things": False,
        "a red key and a red ball": True,
        "a red ball": False,  # there is more
        "there are two red things": True,
        "the agent looks down": True,
        "the agent looks up": False,
        "a room of three by four cells": True,
        "a red ball of the king": False,
        "": False,
    }.items():
        assert is_true(text, room) is true, text


def test_true_is_what_holds_exhaustively(boards):
    """Of all places and relations of a board exactly those hold that its coordinates say, counted another way."""
    for made in [b for b in boards if b.view == "above"][:30]:
        for t in made.things:
            name = f"{t.colour} {t.kind}"
            assert sum(holds(Place(name, place), made) for place in PLACES) == 1
            for o in made.things:
                other = f"{o.colour} {o.kind}"
                true = {r for r in RELATIONS if holds(Relation(name, r, other), made)}
                assert ("left of" in true) == (t.column < o.column) and ("below" in true) == (t.row > o.row)
        assert holds(All(tuple(f"{t.colour} {t.kind}" for t in made.things)), made)
        assert [n for n in range(6) if holds(Count(n, "things"), made)] == [len(made.things)]
        assert sum(holds(Facing(d), made) for d in ("right", "down", "left", "up")) == 1
        assert not holds(Size(made.rows, made.columns), made)
        assert not holds(On(1, 1), made)


def test_boards_are_those_of_yesterday():
    """Golden: what was measured on held-out boards stays comparable."""
    told = repr([(b.name, b.agent, b.direction, b.view) for b in (board("heldout", i) for i in range(20))])
    told += repr([room_caption_episode("heldout", i).observations["text"] for i in range(20)])
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == GOLDEN


def test_no_room_is_in_both_splits():
    train, held_out = ({board(split, i).name for i in range(n)} for split, n in (("train", 1500), ("heldout", 250)))
    assert not train & held_out and len(held_out) > 150
    assert all(draw_board(np.random.default_rng(i), "ahead").things for i in range(20))


@pytest.mark.parametrize("name", [name for name in CORPORA if not name.startswith("text/")])
def test_every_corpus_is_written_and_topped_up(name, tmp_path):
    from gato.episodes.repair import verify
    from gato.episodes.store import Dataset

    generate(tmp_path, [name], scenes=3)
    (folder,) = generate(tmp_path, [name], scenes=5)
    made = Dataset.open(folder)
    assert len(made) == 5 and verify(folder).ok and made.spec == MADE[name].spec
    for stored, again in zip(made, episodes(name, "train", 5), strict=True):
        for path, leaf in again.observations.items():
            np.testing.assert_array_equal(stored.observations[path], leaf)
