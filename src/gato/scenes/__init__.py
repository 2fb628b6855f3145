"""Scenes: corpora generated from our own worlds, true by construction.

    state of a world → picture of it, and a caption computed from the state, never from the picture

| corpus | what it holds | made by |
| --- | --- | --- |
| `captions/scenes` | one 5×5 room, one canonical caption | `grid` |
| `captions/rooms` | rooms of many sizes, two views, Sokoban levels; captions in varied words | `rooms`, `wording` |
| `questions/scenes` | four questions about the 5×5 room | `grid` |
| `questions/rooms` | balanced questions about boards | `questions` |
| `dialogues/scenes`, `dialogues/program` | instructions, questions and replies about boards, and about this program | `dialogues` |
| `pages/walkthroughs`, `clips/experts` | experts' episodes as illustrated pages, and as clips with what happened | `walkthroughs` |
| `text/python-docs` | the documentation of the standard library | `gato.corpora.text` |

`generate` writes them as datasets: `captions/scenes` and `text/python-docs`, and the others when asked. An episode is a pure
function of (split, index, seed). No room of one split is in the other, in any of these corpora.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gato.corpora import TEXT_SPEC, Split, check_split
from gato.corpora.text import PYTHON_DOCS, python_docs
from gato.episodes import Episode, TaskSpec
from gato.episodes.columns import encode_chunk
from gato.episodes.manifest import make_folder
from gato.episodes.writer import DatasetWriter
from gato.errors import UnknownNameError, UsageError, nearest
from gato.scenes import dialogues, grid, questions, walkthroughs, wording

__all__ = ["CORPORA", "DEFAULT", "episodes", "generate"]


class Corpus(NamedTuple):
    spec: TaskSpec
    episode: Callable[..., Episode]  # (split, index, seed)
    source: str


MADE = {
    grid.SCENES: Corpus(grid.SPEC, grid.scene_episode, "minigrid scenes"),
    grid.QUESTIONS: Corpus(grid.QUESTION_SPEC, grid.question_episode, "minigrid scenes"),
    wording.ROOM_CAPTIONS: Corpus(wording.SPEC, wording.room_caption_episode, "rooms and levels"),
    questions.ROOM_QUESTIONS: Corpus(questions.SPEC, questions.room_question_episode, "rooms and levels"),
    dialogues.SCENE_TALKS: Corpus(dialogues.SCENE_TALK_SPEC, dialogues.scene_talk, "rooms and levels"),
    dialogues.PROGRAM_TALKS: Corpus(dialogues.PROGRAM_TALK_SPEC, dialogues.program_talk, "the program's own help"),
    walkthroughs.PAGES: Corpus(walkthroughs.PAGE_SPEC, walkthroughs.page_episode, "experts"),
    walkthroughs.CLIPS: Corpus(walkthroughs.CLIP_SPEC, walkthroughs.clip_episode, "experts"),
}
CORPORA = (*MADE, PYTHON_DOCS)
DEFAULT = (grid.SCENES, PYTHON_DOCS)
CHUNK = 512  # episodes made durable together


def episodes(name: str, split: Split, count: int, seed: int = 0) -> Iterator[Episode]:
    """The first `count` episodes of a corpus; of `text/python-docs` at most as many as there are."""
    _check_name(name)
    if name == PYTHON_DOCS:
        yield from (episode for episode, _ in zip(python_docs(split), range(count), strict=False))
    else:
        yield from (MADE[name].episode(check_split(split), index, seed) for index in range(count))


def generate(
    out: Path | str,
    corpora: Iterable[str] = DEFAULT,
    *,
    split: Split = "train",
    scenes: int = 20_000,
    seed: int = 0,
    blank: bool = False,
) -> list[Path]:
    """Write each corpus as a dataset below `out`; what is there already is kept, and topped up.

    `scenes` is how many episodes of each are wanted (text has as many as it has). Evaluation needs no held-out folder: it makes the held-out
    episodes anew (`episodes(name, "heldout", count)`). `blank` blackens the pictures of `questions/rooms`, for a network that learns the
    questions alone. Raises UnknownNameError for an unknown corpus.
    """
    wanted = list(corpora)
    for name in wanted:
        _check_name(name)
        if blank and name != questions.ROOM_QUESTIONS:
            raise UsageError(f"{name} without pictures", fix=f"blank is for {questions.ROOM_QUESTIONS}")
    make_folder(Path(out))  # before the first corpus is gathered
    for name in wanted:
        if name == PYTHON_DOCS:
            documents = list(python_docs(split))
            source = f"{documents[0].info['source']}, {split}"
            _write(Path(out) / name, name, TEXT_SPEC, source, documents.__getitem__, len(documents))
        else:
            corpus = MADE[name]
            options = {"blank": True} if blank else {}
            source = f"{corpus.source}, {split}, seed {seed}" + ", blank pictures" * blank
            make = functools.partial(corpus.episode, split, seed=seed, **options)
            _write(Path(out) / name, name, corpus.spec, source, make, scenes)
    return [Path(out) / name for name in wanted]


def _check_name(name: str) -> None:
    if name not in CORPORA:
        raise UnknownNameError(f"no corpus {name!r}", fix=nearest(name, CORPORA) or f"one of {', '.join(CORPORA)}")


def _write(folder: Path, task: str, spec: TaskSpec, source: str, episode: Callable[[int], Episode], count: int) -> None:
    """Episodes 0 … count - 1 as a dataset: those that are not in it yet."""
    with DatasetWriter(folder, task, spec, {"source": source}) as writer:
        missing = [i for i in range(count) if i not in writer.numbers]
        for numbers in (missing[i : i + CHUNK] for i in range(0, len(missing), CHUNK)):
            made = [episode(i).check(spec, f"{task} episode {i}") for i in numbers]
            writer.add_chunk(encode_chunk(spec, made, numbers), numbers)
