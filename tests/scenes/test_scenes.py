"""Scenes: captions are true of the pixels, splits share nothing, and an index is one scene for ever."""

import collections
import hashlib
import time

import numpy as np
import pytest

pytest.importorskip("minigrid")

from gato.corpora.text import PYTHON_DOCS, python_docs
from gato.episodes.repair import verify
from gato.episodes.store import Dataset
from gato.errors import OutputExistsError, UnknownNameError
from gato.scenes import generate
from gato.scenes.grid import (
    CELLS,
    COLOURS,
    KINDS,
    SCENES,
    SPEC,
    TILE,
    Scene,
    Thing,
    caption,
    captions,
    draw,
    question_episode,
    sample,
    scene_episode,
)  # fmt: skip

GOLDEN_CAPTIONS = [
    "a purple box, a purple key and a yellow key",
    "a blue door left of a green box",
    "a purple key at the top right",
]
GOLDEN_STATES = "47e5352d50065840"


def cells(picture: np.ndarray) -> np.ndarray:
    return picture.reshape(CELLS, TILE, CELLS, TILE, 3).swapaxes(1, 2)  # row, column, TILE, TILE, 3


def read(picture: np.ndarray) -> str:
    """A caption from the pixels alone, by tiles learned from pictures of one thing each."""
    tiles = {}
    for kind in KINDS:
        for colour in COLOURS:
            row = 0 if kind == "door" else 2
            alone = Scene((Thing(2, row, colour, kind),), (1, 1), 0)
            tiles[cells(draw(alone))[row, 2].tobytes()] = colour, kind
    assert len(tiles) == len(KINDS) * len(COLOURS)  # no two look alike
    grid = cells(picture)
    things = sorted(
        Thing(column, row, *tiles[grid[row, column].tobytes()])
        for row in range(CELLS)
        for column in range(CELLS)
        if grid[row, column].tobytes() in tiles
    )
    return caption(Scene(tuple(things), (0, 0), 0))


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_captions_are_true_of_the_pixels(split):
    for episode in captions(split, count=60):
        episode.check(SPEC)
        assert read(episode.observations["image"][0]) == episode.observations["text"][0]


def test_the_captions_words():
    red_ball, grey_key, blue_door = Thing(1, 1, "red", "ball"), Thing(1, 3, "grey", "key"), Thing(2, 4, "blue", "door")

    def say(*things):
        return caption(Scene(things, (2, 2), 0))

    assert say(red_ball) == "a red ball at the top left"
    assert say(blue_door) == "a blue door at the bottom"
    assert say(Thing(2, 2, "red", "box")) == "a red box in the middle"
    assert say(red_ball, grey_key) == "a red ball above a grey key"
    assert say(grey_key, blue_door) == "a grey key left of a blue door"
    assert say(red_ball, grey_key, blue_door) == "a red ball, a grey key and a blue door"


def test_an_index_is_a_scene_whatever_was_made_before():
    five = list(captions("train", seed=3, start=5, count=2))
    again = scene_episode("train", 6, seed=3)
    np.testing.assert_array_equal(five[1].observations["image"], again.observations["image"])
    assert five[1].observations["text"] == again.observations["text"]
    others = [sample("train", 7, 3), sample("train", 6, 4), sample("heldout", 6, 3)]
    assert all(sample("train", 6, 3) != other for other in others)


def test_the_scenes_are_those_of_yesterday():
    """Golden: what was measured on held-out scenes stays comparable."""
    said = [caption(sample("heldout", i)) for i in range(3)]
    assert said == GOLDEN_CAPTIONS
    states = repr([tuple(sample("train", i)) for i in range(50)])
    assert hashlib.sha256(states.encode()).hexdigest()[:16] == GOLDEN_STATES


def test_splits_share_no_arrangement():
    train, heldout = ({sample(split, i).things for i in range(1500)} for split in ("train", "heldout"))
    assert not train & heldout and len(heldout) > 1000
    assert {len(things) for things in heldout} == {1, 2, 3}


def test_scenes_cover_everything():
    states = [sample("train", i) for i in range(1500)]
    things = [thing for state in states for thing in state.things]
    assert {(t.colour, t.kind) for t in things} == {(c, k) for c in COLOURS for k in KINDS}
    assert {state.direction for state in states} == set(range(4))
    assert all(state.agent not in {t[:2] for t in state.things} for state in states)
    assert all((t.kind == "door") == (t.column in (0, 4) or t.row in (0, 4)) for t in things)


def test_scenes_are_quick():
    scene_episode("train", 0)
    begun = time.process_time()
    assert len(list(captions("heldout", count=200))) == 200
    assert time.process_time() - begun < 200 * 0.008


def test_generate_writes_both_corpora_and_tops_up(tmp_path):
    folders = generate(tmp_path, scenes=30)
    assert [f.relative_to(tmp_path).as_posix() for f in folders] == [SCENES, PYTHON_DOCS]
    assert generate(tmp_path, [SCENES], scenes=700) == folders[:1]
    scenes, documents = map(Dataset.open, folders)
    assert len(scenes) == 700 and len(documents) == len(list(python_docs("train")))
    assert all(verify(folder).ok for folder in folders)
    np.testing.assert_array_equal(scenes[650].observations["image"], scene_episode("train", 650).observations["image"])
    for stored, made in zip(documents, python_docs("train"), strict=True):
        assert stored.observations == made.observations
    generate(tmp_path, [SCENES], scenes=700)
    assert len(Dataset.open(folders[0])) == 700


def test_generate_refuses_what_it_cannot_mix(tmp_path):
    generate(tmp_path, [SCENES], scenes=5)
    with pytest.raises(OutputExistsError, match="seed 0"):
        generate(tmp_path, [SCENES], scenes=5, seed=1)
    with pytest.raises(OutputExistsError):
        generate(tmp_path, [SCENES], scenes=5, split="heldout")
    with pytest.raises(UnknownNameError, match="captions/scenes"):
        generate(tmp_path, ["captions/scene"])


def test_replies_are_true_and_every_kind_of_question_is_asked():
    """Read back from the state by other words than those that made them."""
    seen = collections.Counter()
    for index in range(400):
        state = sample("train", index)
        episode = question_episode("train", index)
        asked, reply = (str(episode.observations[k][0]) for k in ("question", "reply"))
        words = asked.removeprefix("Q: ").removesuffix("? A:").split()
        things = [(t.colour, t.kind) for t in state.things]
        match words:
            case ["how", "many", *_]:
                true = {1: "one", 2: "two", 3: "three"}[len(things)]
            case ["what", "colour", "is", "the", kind]:
                (true,) = [c for c, k in things if k == kind]
            case ["what", "is", colour]:
                (kind,) = [k for c, k in things if c == colour]
                true = f"the {kind}"
            case ["is", "there", "a", colour, kind]:
                true = "yes" if (colour, kind) in things else "no"
        assert reply == f" {true}", asked
        seen[" ".join(words[:2]), reply if words[0] == "is" else ""] += 1
        assert np.array_equal(episode.observations["image"][0], draw(state))
    assert set(seen) == {
        ("how many", ""),
        ("what colour", ""),
        ("what is", ""),
        ("is there", " yes"),
        ("is there", " no"),
    }
    assert min(seen.values()) > 20
