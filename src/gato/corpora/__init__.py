"""Corpora: files people have (text, images, clips, pages) become the same Episodes that worlds give.

    "Return a key.\\n"           → Episode("text/python-docs", {"text": ["Return a key.\\n"]}, {}, [0.])
    cat.png, "a cat asleep"     → Episode("captions/pets", {"image": (1, 96, 96, 3), "text": [...]}, {}, [0.])

A document, or a captioned image, is an episode of one timestep without actions, a page one of several. Every reader streams, gives the same
episodes in the same order every time, and splits into `train` and `heldout` by a hash of the document's name (paper:
nothing; ours, so that a split needs no list and never changes when documents are added).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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


def questions_spec(height: int, width: int) -> TaskSpec:
    """The spec of several questions about each image: `marks` as in pages, whether the image is shown and the reply ends."""
    page, text = page_spec(height, width).observation, Spec("text", (), "str")
    return TaskSpec({"image": page["image"], "marks": page["marks"], "question": text, "reply": text}, {})


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


def asked_of(
    task: str, image: np.ndarray, said: Sequence[tuple[str, str]], info: dict[str, Any] | None = None
) -> Episode:
    """One image, and several questions about it with their replies. The image is shown before the first alone; every window
    that is trained on begins with an image (`TokenStore.window`)."""
    marks = np.array([[i == 0, 1] for i in range(len(said))], np.int8)
    observations = {
        "image": np.broadcast_to(image, (len(said), *image.shape)), "marks": marks,
        "question": [f"Q: {question} A:" for question, _ in said], "reply": [f" {reply}" for _, reply in said],
    }  # fmt: skip
    return Episode(task, observations, {}, np.zeros(len(said), np.float32), info=dict(info or {}))


def page_spec(height: int, width: int) -> TaskSpec:
    """The spec of pages that mix text and images. A timestep is an image and the text that follows it, or either alone.

    `marks` says two things of each timestep, neither of them a token: whether its image is shown, and whether the page
    ends with it (which puts the end mark there, and nowhere else).
    """
    image = Spec("image", (height, width, 3), "uint8", (0.0,), (255.0,))
    marks = Spec("discrete", (2,), "int8", (0.0,), (1.0,))
    return TaskSpec({"image": image, "marks": marks, "text": Spec("text", (), "str")}, {})


def clip_spec(frames: int, height: int, width: int) -> TaskSpec:
    """The spec of clips, several images in the order of time, and what happened in them. `clip` sorts before `text`."""
    clip = Spec("image", (frames, height, width, 3), "uint8", (0.0,), (255.0,))
    return TaskSpec({"clip": clip, "text": Spec("text", (), "str")}, {})


def page(
    task: str,
    parts: Sequence[str | np.ndarray],
    size: tuple[int, int],
    info: dict[str, Any] | None = None,
    *,
    between: str = "\n\n",
) -> Episode | None:
    """A page's texts and images, in order, as one Episode; None where there is nothing. Texts in a row are joined."""
    images: list[np.ndarray | None] = []
    texts: list[str] = []
    for part in parts:
        if isinstance(part, np.ndarray):
            images.append(part)
            texts.append("")
        elif not texts:
            images.append(None)
            texts.append(part)
        else:
            texts[-1] += (between if texts[-1] else "") + part
    if not texts:
        return None
    blank = np.zeros((*size, 3), np.uint8)
    marks = np.zeros((len(texts), 2), np.int8)
    marks[:, 0] = [image is not None for image in images]
    marks[-1, 1] = 1
    shown = np.stack([blank if image is None else image for image in images])
    observations = {"image": shown, "marks": marks, "text": texts}
    return Episode(task, observations, {}, np.zeros(len(texts), np.float32), info=dict(info or {}))


def clip(task: str, frames: np.ndarray, caption: str, info: dict[str, Any] | None = None) -> Episode:
    """Images (frames, height, width, 3), uint8, and what happened in them as an Episode of one timestep."""
    return Episode(task, {"clip": frames[None], "text": [caption]}, {}, np.zeros(1, np.float32), info=dict(info or {}))


def joined(episodes: Sequence[Episode]) -> Episode:
    """Episodes without actions after one another as one: five captioned images (paper: how an episode is formed).

    What their `info` say becomes a list for each key, but for a `split` that they share.
    """
    first = episodes[0]
    observations = {
        path: [text for e in episodes for text in e.observations[path]]
        if isinstance(leaf, list)
        else np.concatenate([e.observations[path] for e in episodes])
        for path, leaf in first.observations.items()
    }
    info: dict[str, Any] = {key: [e.info.get(key) for e in episodes] for key in first.info}
    if "split" in info and len(set(info["split"])) == 1:
        info["split"] = first.info["split"]
    return Episode(first.task, observations, {}, np.concatenate([e.rewards for e in episodes]), info=info)


def split_of(name: str, held_out_percent: float = HELD_OUT_PERCENT) -> Split:
    """The split that the document (scene, module, file) called `name` belongs to, for ever."""
    number = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
    return "heldout" if number < held_out_percent / 100 * 2**64 else "train"


def check_split(split: str) -> Split:
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}", fix=nearest(split, SPLITS) or f"one of {', '.join(SPLITS)}")
    return split  # type: ignore[return-value]
