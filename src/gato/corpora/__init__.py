"""Corpora: files people have (text, captioned images) become the same Episodes that worlds give.

    "Return a key.\\n"           → Episode("text/python-docs", {"text": ["Return a key.\\n"]}, {}, [0.])
    cat.png, "a cat asleep"     → Episode("captions/pets", {"image": (1, 96, 96, 3), "text": [...]}, {}, [0.])

A document, or a captioned image, is an episode of one timestep without actions. Every reader streams, gives the same
episodes in the same order every time, and splits into `train` and `heldout` by a hash of the document's name (paper:
nothing; ours, so that a split needs no list and never changes when documents are added).
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np

from gato.episodes import Episode, Spec, TaskSpec
from gato.errors import UsageError, nearest

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")
HELD_OUT_PERCENT = 8

TEXT_SPEC = TaskSpec({"text": Spec("text", (), "str")}, {})


def caption_spec(height: int, width: int) -> TaskSpec:
    """The spec of captioned images of one size in pixels. `image` sorts before `text`, which tells of it."""
    image = Spec("image", (height, width, 3), "uint8", (0.0,), (255.0,))
    return TaskSpec({"image": image, "text": Spec("text", (), "str")}, {})


def question_spec(height: int, width: int) -> TaskSpec:
    """The spec of questions about images. `image` < `question` < `reply`; of the two texts the reply alone is a target
    (paper, figure 2)."""
    image = Spec("image", (height, width, 3), "uint8", (0.0,), (255.0,))
    return TaskSpec({"image": image, "question": Spec("text", (), "str"), "reply": Spec("text", (), "str")}, {})


def document(task: str, text: str, info: dict[str, Any] | None = None) -> Episode:
    """One text as an Episode."""
    return Episode(task, {"text": [text]}, {}, np.zeros(1, np.float32), info=dict(info or {}))


def captioned(task: str, image: np.ndarray, caption: str, info: dict[str, Any] | None = None) -> Episode:
    """One image (height, width, 3), uint8, and its caption as an Episode."""
    return Episode(task, {"image": image[None], "text": [caption]}, {}, np.zeros(1, np.float32), info=dict(info or {}))


def asked(task: str, image: np.ndarray, question: str, reply: str, info: dict[str, Any] | None = None) -> Episode:
    """One image, a question about it and the reply, written `Q: … A:` and ` …` as in the paper's figure 2."""
    observations = {"image": image[None], "question": [f"Q: {question} A:"], "reply": [f" {reply}"]}
    return Episode(task, observations, {}, np.zeros(1, np.float32), info=dict(info or {}))


def split_of(name: str, held_out_percent: float = HELD_OUT_PERCENT) -> Split:
    """The split that the document (scene, module, file) called `name` belongs to, for ever."""
    number = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
    return "heldout" if number < held_out_percent / 100 * 2**64 else "train"


def check_split(split: str) -> Split:
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}", fix=nearest(split, SPLITS) or f"one of {', '.join(SPLITS)}")
    return split  # type: ignore[return-value]
