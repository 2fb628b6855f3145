"""Dialogues that are true by construction: about boards, with the picture, and about the program itself, without.

    dialogues/scenes     instructions ("describe the picture"), questions and replies about one board, up to three of them
    dialogues/program    verbs, flags, defaults, tasks and errors, as `manual` reads them from the program; a third of what is
                         asked is what a stranger asks first

The last reply of a dialogue about a board is balanced as in `questions`; what was said before it is as true.
"""

from __future__ import annotations

import functools

import numpy as np

from gato.corpora import SPLITS, Split, check_split, split_of
from gato.corpora.dialogues import TALK_SPEC, Turn, spoken, talk_spec
from gato.episodes import Episode
from gato.scenes.manual import Said, first_sayings, sayings
from gato.scenes.questions import draw_question, find_board
from gato.scenes.rooms import PIXELS, Board, board, draw
from gato.scenes.wording import caption

SCENE_TALKS, PROGRAM_TALKS = "dialogues/scenes", "dialogues/program"
SCENE_TALK_SPEC, PROGRAM_TALK_SPEC = talk_spec(PIXELS, PIXELS), TALK_SPEC
SYSTEM = ("", "", "You look at a small world.", "Answer what is asked about the picture.", "Be brief.")
DESCRIBE = ("describe the picture", "what do you see?", "say something about this picture", "what is there?")
ABOUT = ("", "", "You know the command line of gato.", "Answer questions about this program.", "Be brief.")
FIRST = 0.3  # the share of what a stranger asks first, in dialogues about the program
CAPITAL = 0.3  # of questions that begin with a capital letter, as people write
OPENINGS = ("{}", "{}", "{}", "please tell me: {}", "I want to know: {}", "a question: {}")


def scene_talk(split: Split, index: int, seed: int = 0) -> Episode:
    """Dialogue `index` about a board of a split."""
    rng = np.random.default_rng([seed, 17, SPLITS.index(check_split(split)), index])

    def pick(options):
        return options[int(rng.integers(len(options)))]

    if rng.random() < 0.25:
        seen = board(split, index, seed + 1)
        last, reply = pick(DESCRIBE), caption(seen, rng)
    else:
        question = draw_question(rng)
        reply = pick(question.options)
        seen, last = find_board(split, question, reply, rng), question.text
    turns = [Turn("system", text)] if (text := pick(SYSTEM)) else []
    for _ in range(int(rng.choice(3, p=(0.6, 0.25, 0.15)))):
        turns += _exchange(seen, last, rng)
    info = {"seed": seed, "source": "rooms", "split": split}
    return spoken(SCENE_TALKS, [*turns, Turn("user", last)], reply, draw(seen), info)


def _exchange(seen: Board, last: str, rng: np.random.Generator) -> list[Turn]:
    """Something else that was said of the board before; nothing where what was drawn cannot be asked of it."""
    if rng.random() < 0.3:
        return [Turn("user", DESCRIBE[int(rng.integers(len(DESCRIBE)))]), Turn("gato", caption(seen, rng))]
    for _ in range(4):
        question = draw_question(rng)
        reply = question.reply(seen) if seen.view in question.views and question.text != last else None
        if reply is not None:
            return [Turn("user", question.text), Turn("gato", reply)]
    return []


@functools.cache
def _sayings(split: Split) -> tuple[tuple[Said, ...], tuple[Said, ...]]:
    """What is asked first, and everything."""
    first, every = (tuple(s for s in said if split_of(s.question) == split) for said in (first_sayings(), sayings()))
    return first, every


def program_talk(split: Split, index: int, seed: int = 0) -> Episode:
    """Dialogue `index` about the program. No question of one split is in the other, also not earlier in a dialogue."""
    rng = np.random.default_rng([seed, 19, SPLITS.index(check_split(split)), index])
    first, every = _sayings(split)

    def one() -> Said:
        known = first if rng.random() < FIRST else every
        question, reply = known[int(rng.integers(len(known)))]
        if known is every:
            question = OPENINGS[int(rng.integers(len(OPENINGS)))].format(question)
        return Said(question[:1].upper() + question[1:] if rng.random() < CAPITAL else question, reply)

    system = ABOUT[int(rng.integers(len(ABOUT)))]
    turns = [Turn("system", system)] if system else []
    for _ in range(int(rng.choice(3, p=(0.7, 0.2, 0.1)))):
        question, reply = one()
        turns += [Turn("user", question), Turn("gato", reply)]
    question, reply = one()
    info = {"seed": seed, "source": "program", "split": split}
    return spoken(PROGRAM_TALKS, [*turns, Turn("user", question)], reply, info=info)
