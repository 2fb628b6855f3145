"""Conversation: a dialogue with an agent that remembers what was said, and what was shown.

    talk = agent.conversation(system="Be brief.")
    talk.show("room.png")
    for piece in talk.say("what colour is the ball?"): print(piece, end="")

The text that the network continues is `gato.corpora.dialogues.dialogue`, the one that it was trained on. Where all of it
does not fit before the reply, the oldest turns are forgotten, the system prompt never.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gato.corpora.dialogues import NAMES, Turn, dialogue, ends_turn
from gato.errors import ObservationError
from gato.tokens import TimestepCodec, Tokens

if TYPE_CHECKING:
    from gato.policy.agent import Agent

LONGEST_NAME = max(map(len, NAMES.values())) + 2  # with the line end before and the colon behind it


class Conversation:
    """What was said so far is `turns`; the picture shown last is what the talk is about."""

    def __init__(self, agent: Agent, system: str = "", image: Any = None):
        self._agent, self.image = agent, image
        self.turns: list[Turn] = [Turn("system", system)] if system else []

    @property
    def is_dialogue(self) -> bool:
        """Whether the agent was trained on dialogues such as this; else it goes on with the text."""
        return bool(self._agent._talks(self.image is not None))

    def show(self, image: Any) -> None:
        """Another picture (or clip) to talk about; None takes it away."""
        self.image = image

    def say(self, text: str, max_tokens: int = 64, temperature: float = 0.7, seed: int = 0) -> Iterator[str]:
        """The reply, piece by piece; both turns are remembered when it has ended."""
        said = ""
        for piece in self._agent.chat_pieces(
            text, max_tokens, temperature, seed, history=list(self.turns), image=self.image
        ):
            said += piece
            yield piece
        self.turns += [Turn("user", text), Turn("gato", said.strip())]


def encode(agent: Agent, turns: Sequence[Turn], image: Any, max_tokens: int) -> tuple[TimestepCodec, Tokens]:
    """What the reply follows. Without dialogues in its training: the texts one after another, or a question about the picture.

    Raises ObservationError where even the last turn leaves no room for a reply.
    """
    shown = image is not None
    talks = agent._talks(shown)
    if not talks and shown:
        task, last = agent._task_with("dialogues or questions", {"image", "question", "reply"}), turns[-1].text
        text = f"Q: {last} A:"
    elif not talks:
        task = agent._task_with("dialogues or texts", {"text"})
        codec = agent.bundle.codec(task)
        return codec, codec.encode_observations({"text": ["\n\n".join(turn.text for turn in turns)]}, 1)
    else:
        task, text = talks[0], dialogue(turns)
    codec = agent.bundle.codec(task)
    leaves: dict[str, Any] = {"image": agent._pictures(task, [image])} if shown else {}
    rooms = (agent.bundle.window(documents=True), agent.bundle.config.token_sequence_length)
    usual, most = (room - min(max_tokens, room // 2) for room in rooms)
    kept = list(turns)
    while True:
        tokens = codec.encode_observations({**leaves, "question": [text], "reply": [""]}, 1)
        if len(tokens) <= usual:
            return codec, tokens
        if not talks or not forget(kept):  # what was said last is read, though training had nothing as long
            if len(tokens) <= most:
                return codec, tokens
            raise ObservationError(f"{len(tokens)} tokens before the reply; there is room for {most}", fix="say less")
        text = dialogue(kept)


def forget(turns: list[Turn]) -> bool:
    """Take the oldest exchange off; False where the last turn stands alone."""
    first = int(turns[0].role == "system")
    if len(turns) - first < 2:
        return False
    end = first + 1
    while end < len(turns) - 1 and turns[end].role != "user":
        end += 1
    del turns[first:end]
    return True


def until_turn(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces up to where they would speak for somebody else. What may become a name is held back until it is none."""
    said, given = "", 0
    for piece in pieces:
        said += piece
        end = ends_turn(said)
        if end is not None:
            if end > given:
                yield said[given:end]
            return
        line = said.rfind("\n")
        safe = line if line >= 0 and len(said) - line <= LONGEST_NAME else len(said)
        if safe > given:
            yield said[given:safe]
            given = safe
    if len(said) > given:
        yield said[given:]
