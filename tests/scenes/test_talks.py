"""Dialogues, pages and clips: what they tell of boards, of this program and of experts is so."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("minigrid")

from gato import cli, worlds
from gato.corpora import split_of
from gato.corpora.dialogues import Turn, dialogue, ends_turn, talk_spec
from gato.errors import UsageError
from gato.scenes.dialogues import program_talk, scene_talk
from gato.scenes.manual import FIRST_WORDS, first_sayings, sayings, verbs
from gato.scenes.rooms import draw
from gato.scenes.walkthroughs import FRAME, FRAMES, clip_episode, page_episode, runs, told, walk


def test_the_form_of_a_dialogue():
    turns = [Turn("system", "Be brief."), Turn("user", "what is red? "), Turn("gato", "ball"), Turn("user", "sure?")]
    assert dialogue(turns) == "System: Be brief.\nUser: what is red?\nGato: ball\nUser: sure?\nGato:"
    assert ends_turn(" yes\nUser: and") == 4 and ends_turn(" yes\nUsers") is None
    for wrong in ([], turns[:3], [Turn("human", "x")]):
        with pytest.raises(UsageError):
            dialogue(wrong)
    assert set(talk_spec().observation) == {"question", "reply"} and "image" in talk_spec(80, 80).observation


def test_dialogues_about_boards_are_of_the_form():
    for i in range(40):
        leaves = scene_talk("train", i).observations
        text, reply = leaves["question"][0], leaves["reply"][0]
        assert text.endswith("\nGato:") and reply.startswith(" ") and reply.strip() and leaves["image"].any()
        roles = [line.split(":")[0] for line in text.splitlines()]
        assert set(roles) <= {"System", "User", "Gato"} and roles[-2:] == ["User", "Gato"]


def flags_of(verb: str) -> set[str]:
    found = cli.VERBS
    for word in verb.split()[1:]:
        found = found[word]
    return {f"--{f.name.replace('_', '-')}": f for f in dataclasses.fields(found) if "Positional" not in str(f.type)}


def test_what_is_said_of_the_program_is_so():
    """Against the running command line, which the manual never imports."""
    names = [verb.name for verb in verbs()]
    known = [f"gato {a}" if not isinstance(b, dict) else f"gato {a} {c}" for a, b in cli.VERBS.items() for c in (b if isinstance(b, dict) else [""])]  # fmt: skip
    assert names == known
    said = {s.question: s.reply for s in sayings()}
    assert len(said) == len(sayings()) > 1000  # no question is asked twice, so none has two replies
    for verb in verbs():
        flags = flags_of(verb.name)
        assert {flag.name for flag in verb.flags} == set(flags), verb.name
        for flag in verb.flags:
            own = flags[flag.name]
            if flag.default and isinstance(own.default, str | int | float | bool | type(None)):
                assert flag.default == str(own.default), (verb.name, flag)
    for question, reply in said.items():
        words = question.rstrip("?").split()
        if words[0] == "has":
            assert (words[-1] in flags_of(" ".join(words[1 : words.index("a")]))) == (reply == "yes"), question
        if reply.startswith("gato ") and " --" in reply:
            verb = reply.split(" --")[0].split()[:2]
            assert {w for w in reply.split() if w.startswith("--")} <= set(flags_of(" ".join(verb))), reply
    assert said["how is babyai/go-to-local scored?"] == f"by {worlds.find('babyai/go-to-local').score}"
    assert said["what is the exit code of an error usage?"] == str(UsageError.exit_code)


def test_yes_and_no_are_even_of_flags():
    replies = [s.reply for s in sayings() if s.question.startswith("has ")]
    assert abs(replies.count("yes") - replies.count("no")) <= 0.1 * len(replies)


def test_no_saying_is_in_both_splits():
    def questions(split, count):
        texts = (program_talk(split, i).observations["question"][0] for i in range(count))
        lines = {
            line.removeprefix("User: ").lower()
            for text in texts
            for line in text.splitlines()
            if line.startswith("User")
        }
        return {line.partition(": ")[2] or line if line.startswith(("please", "i want", "a question")) else line for line in lines}  # fmt: skip

    train, held_out = questions("train", 800), questions("heldout", 200)
    assert not train & held_out and len(held_out) > 80


def test_a_stranger_is_answered():
    asked = {s.question: s.reply for s in first_sayings()}
    talks = [program_talk("train", i).observations for i in range(400)]
    last = [
        (t["question"][0].rpartition("User: ")[2].removesuffix("\nGato:").lower(), t["reply"][0].strip()) for t in talks
    ]
    low = {question.lower(): reply for question, reply in asked.items()}
    first = [(question, reply) for question, reply in last if question in low]
    assert 0.22 < len(first) / len(last) < 0.4 and all(low[question] == reply for question, reply in first)
    assert {s.split()[1] for s in asked.values() if s.startswith("gato ")} <= set(cli.VERBS)
    for reply, questions in FIRST_WORDS.items():  # in each split's hash, so that all are learned
        assert any(split_of(question) == "train" for question in questions), reply
    said = {s.question: s.reply for s in sayings()}
    assert said["how many tasks has babyai?"] == str(len(worlds.select("babyai/*")))
    assert not any("`" in s.reply or "](" in s.reply for s in sayings() if s.question.startswith("what is "))


def test_walks_are_solved_and_told_as_they_went():
    for i in range(12):
        made = walk("train", i)
        assert len(made.deeds) == len(made.boards) - 1 and all(b.split == "train" for b in made.boards)
        here = made.boards[0]
        for deed, after in zip(made.deeds, made.boards[1:], strict=True):
            if deed.startswith("turns"):
                assert after.agent == here.agent and (after.direction - here.direction) % 4 == (
                    1 if "right" in deed else 3
                )
            else:
                assert sum(abs(a - b) for a, b in zip(after.agent, here.agent, strict=True)) == 1
            assert after.things == here.things or "pushes" in deed
            here = after
        assert sum(steps for _, steps in runs(made.deeds)) == len(made.deeds)
        if made.who == "agent":  # the mission's thing is before it
            look = tuple(made.mission.split()[-2:])
            dx, dy = ((1, 0), (0, 1), (-1, 0), (0, -1))[here.direction]
            ahead = (here.agent[0] + dx, here.agent[1] + dy)
            assert any((t.column, t.row) == ahead and (t.colour, t.kind) == look for t in here.things), made.mission
        else:
            boxes = {t[:2] for t in here.things if t.kind == "box"}
            assert boxes == {t[:2] for t in here.things if t.kind == "target"}


def test_pages_and_clips_show_the_walk():
    made = walk("train", 4)
    leaves = page_episode("train", 4).observations
    shown = leaves["image"][leaves["marks"][:, 0] == 1]
    np.testing.assert_array_equal(shown[0], draw(made.boards[0]))
    np.testing.assert_array_equal(shown[-1], draw(made.boards[-1]))
    assert len(shown) <= 5 and leaves["text"][-1].endswith("Done.") and leaves["marks"][:, 1].tolist() == [0] * (len(leaves["text"]) - 1) + [1]  # fmt: skip
    seen = clip_episode("train", 4).observations
    assert seen["clip"].shape == (1, FRAMES, FRAME, FRAME, 3) and seen["text"] == [told(made)]
    np.testing.assert_array_equal(seen["clip"][0, -1], draw(made.boards[-1], FRAME))
    assert {walk("heldout", i).boards[0].split for i in range(3)} == {"heldout"}
