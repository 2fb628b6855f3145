"""Dialogues: what was said so far, as the one text that is learned from and that `chat` continues.

    System: Answer in one word.
    User: what colour is the ball?
    Gato: red
    User: is there a grey key?
    Gato:                                   ← up to here no target; " no" and an end mark are

One reply is an Episode of one timestep, `question` all before it and `reply`, with the picture that it is about before
both where there is one. A dialogue of three replies is three Episodes: what chat does, which reads everything anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from gato.corpora import question_spec
from gato.episodes import Episode, Spec, TaskSpec
from gato.errors import UsageError, nearest

Role = Literal["system", "user", "gato"]
DOMAIN = "dialogues"
TALK_SPEC = TaskSpec({"question": Spec("text", (), "str"), "reply": Spec("text", (), "str")}, {})
NAMES = {"system": "System", "user": "User", "gato": "Gato"}


class Turn(NamedTuple):
    role: Role
    text: str


def talk_spec(height: int | None = None, width: int | None = None) -> TaskSpec:
    """The spec of dialogues, or of those about images of one size in pixels."""
    return TALK_SPEC if height is None or width is None else question_spec(height, width)


def dialogue(turns: Sequence[Turn]) -> str:
    """What the next reply follows. Line ends inside a turn stay; a turn that is no role's is a UsageError.

    The last turn must not be Gato's own: there would be nothing to reply to.
    """
    for turn in turns:
        if turn.role not in get_args(Role):
            raise UsageError(f"no role {turn.role!r}", fix=nearest(turn.role, get_args(Role)) or "system, user or gato")
    if not turns or turns[-1].role == "gato":
        raise UsageError("nothing to reply to", fix="end with what the user says")
    return "".join(f"{NAMES[turn.role]}: {turn.text.strip()}\n" for turn in turns) + f"{NAMES['gato']}:"


def ends_turn(text: str) -> int | None:
    """Where a reply ends that goes on into somebody else's turn; None where it does not."""
    found = [at for name in NAMES.values() if (at := text.find(f"\n{name}:")) >= 0]
    return min(found) if found else None


def spoken(
    task: str, turns: Sequence[Turn], reply: str, image: np.ndarray | None = None, info: dict[str, Any] | None = None
) -> Episode:
    """One reply to a dialogue so far as an Episode. `image` is uint8 (height, width, 3)."""
    observations: dict[str, Any] = {"question": [dialogue(turns)], "reply": [f" {reply.strip()}"]}
    if image is not None:
        observations = {"image": image[None], **observations}
    return Episode(task, observations, {}, np.zeros(1, np.float32), info=dict(info or {}))
