"""Scenes: corpora generated from our own worlds, true by construction.

    state of a world → picture of it, and a caption computed from the state, never from the picture

`generate` writes the default corpora as datasets, `captions/scenes` and `text/python-docs`, and `questions/scenes` when
asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

from gato.corpora import TEXT_SPEC, Split
from gato.corpora.text import PYTHON_DOCS, python_docs
from gato.episodes import Episode, TaskSpec
from gato.episodes.store import DatasetWriter, encode_chunk
from gato.errors import UnknownNameError, nearest
from gato.scenes.grid import QUESTION_SPEC, QUESTIONS, SCENES, SPEC, question_episode, scene_episode

__all__ = ["CORPORA", "DEFAULT", "generate"]

CORPORA = (SCENES, PYTHON_DOCS, QUESTIONS)
DEFAULT = (SCENES, PYTHON_DOCS)
CHUNK = 512  # episodes made durable together


def generate(
    out: Path | str,
    corpora: Iterable[str] = DEFAULT,
    *,
    split: Split = "train",
    scenes: int = 20_000,
    seed: int = 0,
) -> list[Path]:
    """Write each corpus as a dataset below `out`; what is there already is kept, and topped up.

    `scenes` is how many scenes with captions, or with questions, are wanted. Evaluation needs no held-out folder: it makes the held-out
    episodes anew (`captions("heldout")`, `python_docs("heldout")`). Raises UnknownNameError for an unknown corpus.
    """
    wanted = list(corpora)
    for name in wanted:
        if name not in CORPORA:
            raise UnknownNameError(f"no corpus {name!r}", fix=nearest(name, CORPORA) or f"one of {', '.join(CORPORA)}")
    for name in wanted:
        if name == PYTHON_DOCS:
            documents = list(python_docs(split))
            source = f"{documents[0].info['source']}, {split}"
            _write(Path(out) / name, name, TEXT_SPEC, source, documents.__getitem__, len(documents))
        else:
            spec, make = (SPEC, scene_episode) if name == SCENES else (QUESTION_SPEC, question_episode)
            source = f"minigrid scenes, {split}, seed {seed}"
            _write(Path(out) / name, name, spec, source, functools.partial(make, split, seed=seed), scenes)
    return [Path(out) / name for name in wanted]


def _write(folder: Path, task: str, spec: TaskSpec, source: str, episode: Callable[[int], Episode], count: int) -> None:
    """Episodes 0 … count - 1 as a dataset: those that are not in it yet."""
    with DatasetWriter(folder, task, spec, {"source": source}) as writer:
        missing = [i for i in range(count) if i not in writer.numbers]
        for numbers in (missing[i : i + CHUNK] for i in range(0, len(missing), CHUNK)):
            episodes = [episode(i).check(spec, f"{task} episode {i}") for i in numbers]
            writer.add_chunk(encode_chunk(spec, episodes, numbers), numbers)
