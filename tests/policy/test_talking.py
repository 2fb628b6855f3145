"""Talking: one form of a dialogue for training and for chat, replies that end in time, and whatever a person shows."""

import numpy as np
import pytest
import torch
from PIL import Image

from gato.corpora import TEXT_SPEC, caption_spec, clip_spec, question_spec
from gato.corpora.clips import evenly
from gato.corpora.dialogues import TALK_SPEC, Turn, dialogue, spoken
from gato.errors import DataError, ObservationError, UnknownNameError
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.policy.conversation import encode, forget, until_turn
from gato.policy.sight import clip as clip_of
from gato.policy.sight import frames_in, is_clip, picture, shown_in

TALKS = {"dialogues/scenes": question_spec(32, 32), "dialogues/program": TALK_SPEC}
OTHERS = {
    "captions/rooms": caption_spec(32, 32), "questions/rooms": question_spec(32, 32), "clips/experts": clip_spec(4, 16, 16),
    "text/docs": TEXT_SPEC,
}  # fmt: skip
GREY = np.full((32, 32, 3), 90, np.uint8)


def make(tokenizer, specs, window=256):
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size, token_sequence_length=window,
    )  # fmt: skip
    cards = {task: TaskCard(spec, 1) for task, spec in specs.items()}
    return Agent(Bundle(config, Gato(config).eval(), tokenizer, cards, {}, {}))


@pytest.fixture(scope="module")
def agent(tokenizer):
    return make(tokenizer, {**TALKS, **OTHERS})


@pytest.mark.parametrize("image", [None, GREY])
def test_chat_reads_what_training_read(agent, image):
    """Token for token: the dialogue before the reply, encoded for chat and as an episode."""
    turns = [Turn("system", "Be brief."), Turn("user", "what is red?"), Turn("gato", "ball"), Turn("user", "and blue?")]
    codec, tokens = encode(agent, turns, image, 16)
    episode = spoken(codec.task, turns, "key", image)
    trained = codec.encode(episode)
    reply = int(trained.targets.sum())  # its tokens and the end mark
    assert len(trained) - reply == len(tokens) - 1  # chat's last is the end mark of the reply that is not there yet
    np.testing.assert_array_equal(trained.ids[:-reply], tokens.ids[:-1])
    np.testing.assert_array_equal(trained.patches[:-reply] >= 0, tokens.patches[:-1] >= 0)
    assert codec.task == ("dialogues/program" if image is None else "dialogues/scenes")
    assert not trained.targets[:-reply].any() and trained.ids[-1] == agent.bundle.tokenizer.eos_id


def test_a_conversation_remembers(agent):
    talk = agent.conversation("Be brief.")
    first = "".join(talk.say("what is red?", 8))
    talk.show(GREY)
    second = "".join(talk.say("and blue?", 8, seed=3))
    assert [t.role for t in talk.turns] == ["system", "user", "gato", "user", "gato"]
    history = [Turn("system", "Be brief."), Turn("user", "what is red?"), Turn("gato", first.strip())]
    assert second.strip() == agent.chat("and blue?", 8, seed=3, history=history, image=GREY)
    assert agent.chat("and blue?", 8, seed=3) == agent.chat("and blue?", 8, seed=3)
    assert agent.chat("and blue?", 12, seed=3, history=history) != agent.chat("and blue?", 12, seed=3)


def test_streamed_is_what_is_said(agent):
    pieces = list(agent.chat_pieces("hello", 20, seed=1))
    assert len(pieces) > 1 and "".join(pieces).strip() == agent.chat("hello", 20, seed=1)


def test_what_is_said_holds_no_control_characters(agent, monkeypatch):
    """Every byte by itself, as of a network that takes the text for a world, and one character that two of them make."""
    raw = [*range(128), 0xC2, 0x85, *"é".encode()]
    ids = [agent.bundle.tokenizer._processor.piece_to_id(f"<0x{byte:02X}>") for byte in raw]
    monkeypatch.setattr(Agent, "_continue", lambda *_: iter([{0: each} for each in ids]))
    image = np.zeros((32, 32, 3), np.uint8)
    whole = "\t\n" + "".join(map(chr, range(32, 127))) + "é"
    assert agent.caption(image) == whole and agent.answer(image, "what?") == whole.strip()
    assert whole.strip() == agent.chat("hello") == "".join(agent.chat_pieces("hello")).strip()


def test_the_oldest_turns_are_forgotten_and_the_system_prompt_is_not(tokenizer):
    agent = make(tokenizer, TALKS, window=96)
    turns = [Turn("system", "Be brief.")]
    for i in range(12):
        turns += [Turn("user", f"question number {i}?"), Turn("gato", f"reply {i}")]
    turns.append(Turn("user", "the last?"))
    _, tokens = encode(agent, turns, GREY, 16)
    assert len(tokens) <= 96 - 16 and (tokens.patches >= 0).sum() == 4  # the picture stays too
    text = agent.bundle.tokenizer.decode(tokens.ids[tokens.patches < 0])
    assert (
        text.startswith("System: Be brief.\nUser: question number ") and "number 11" in text and "number 0?" not in text
    )
    assert text.endswith("User: the last?\nGato:")
    with pytest.raises(ObservationError, match="say less"):
        encode(agent, [Turn("user", "word " * 300)], None, 16)
    agent.bundle.card = {"recipe": {"window_tokens": 80, "document_tokens": 48}}  # so much it has read together
    _, short = encode(agent, turns, GREY, 16)
    assert len(short) <= 48 - 16 < len(tokens) and (short.patches >= 0).sum() == 4
    _, long = encode(agent, [Turn("user", "word " * 20)], None, 16)  # one turn is read as far as the context goes
    assert 48 - 16 < len(long) <= 96 - 16
    alone = [Turn("user", "a")]
    assert not forget(alone) and alone == [Turn("user", "a")]


def test_a_reply_ends_where_somebody_else_would_speak():
    def said(*pieces):
        return list(until_turn(iter(pieces)))

    assert "".join(said(" yes", "\nUs", "er: and", " more")) == " yes"
    assert "".join(said(" one\n", "two\nUsual")) == " one\ntwo\nUsual"
    assert said(" yes", ", it", " is") == [" yes", ", it", " is"]  # nothing is held back without need
    assert "".join(said("a\nGato: b")) == "a"


def test_without_dialogues_texts_go_on_and_questions_are_answered(tokenizer):
    agent = make(tokenizer, OTHERS)
    assert agent.chat("Return a", 8, seed=2) == agent.complete("Return a", 8, seed=2)
    history = [Turn("user", "one"), Turn("gato", "two")]
    assert agent.chat("three", 8, seed=2, history=history) == agent.complete("one\n\ntwo\n\nthree", 8, seed=2)
    assert agent.chat("what is red?", 8, 0.0, image=GREY).strip() == agent.answer(GREY, "what is red?", 8)
    assert not agent.talks_about_pictures and make(tokenizer, TALKS).talks_about_pictures
    with pytest.raises(UnknownNameError, match="dialogues"):
        make(tokenizer, {"captions/rooms": caption_spec(32, 32)}).chat("hello")


def test_questions_are_asked_as_questions_where_dialogues_are_known_too(agent):
    assert agent._task_with("questions", {"image", "question", "reply"}) == "questions/rooms"


# -- what is shown ----------------------------------------------------------------------------------------------------


@pytest.fixture
def frames(tmp_path):
    """Ten frames, growing brighter, under names that sort wrongly as texts."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(1, 11):
        Image.fromarray(np.full((20, 20, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


def test_a_folder_of_frames_is_a_clip(frames):
    assert [f.name for f in frames_in(frames)] == [f"{i}.png" for i in range(1, 11)]
    shown = clip_of(frames, 4, 16, 16)
    assert shown.shape == (4, 16, 16, 3) and shown[:, 0, 0, 0].tolist() == [20, 80, 140, 200]
    assert picture(frames, 16, 16)[0, 0, 0] == 200  # the last
    assert is_clip(frames) and is_clip(str(frames)) and not is_clip(frames / "1.png") and is_clip([GREY, GREY])
    assert evenly(np.arange(2), 4).tolist() == [0, 0, 1, 1]
    (frames.parent / "none").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        frames_in(frames.parent / "none")


def test_a_film_is_a_clip(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = clip_of(tmp_path / "film.mp4", 4, 16, 16)
    assert shown.shape == (4, 16, 16, 3)
    np.testing.assert_allclose(shown.mean((1, 2, 3)), [0, 80, 152, 232], atol=12)  # frames 0, 10, 19, 29


def test_pictures_and_clips_are_captioned_together(agent, frames):
    said = agent.captions([GREY, frames, frames / "3.png", [GREY, GREY]], 6)
    assert said[0] == agent.caption(GREY, 6) and said[1] == agent.caption(frames, 6)
    assert said[2] == agent.caption(Image.open(frames / "3.png"), 6)
    assert said[3] == agent.caption(np.stack([GREY] * 4), 6)
    assert len(agent.answers([frames, GREY], ["what?", "what?"], 4)) == 2


def test_a_bundle_without_clips_captions_the_last_picture(tokenizer, frames):
    agent = make(tokenizer, {"captions/rooms": caption_spec(32, 32)})
    assert agent.caption(frames, 6) == agent.caption(frames / "10.png", 6)


def test_what_is_in_folders(frames):
    (frames / "notes.txt").write_text("no picture")
    assert [p.name for p in shown_in([frames])][:3] == ["1.png", "10.png", "2.png"]
    assert list(shown_in([frames], clips=True)) == [frames]
    with pytest.raises(UnknownNameError, match="no such file"):
        list(shown_in([frames / "x.png"]))


def test_dialogue_is_the_one_form():
    assert dialogue([Turn("user", "hi")]) == "User: hi\nGato:"
