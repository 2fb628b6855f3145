"""Clips: several frames of a film, or of an episode, and what happened in them.

    films/pour.mp4  films/pour.txt      →  Episode("clips/films", {"clip": (1, 8, 176, 176, 3), "text": [...]}, {}, [0.])

A clip is `frames` images, every `stride`-th from the beginning on; where a film is shorter, its last image stands for the
rest. It is an observation like any other: frames × patches tokens, in the order of time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gato.corpora import clip, clip_spec, split_of
from gato.corpora.images import MAX_PIXELS, check_size
from gato.corpora.reading import SKIP_FIX, Place, Reader, check_unicode, find_files, naming_read_errors
from gato.episodes import Episode
from gato.errors import DataError, UsageError
from gato.installed import pip_line

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
MOST_FRAMES = 4096


class Clips(Reader):
    """One Episode per film below `path` with a text of the same name (pour.mp4, pour.txt) beside it, in name order."""

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int],
        frames: int = 8,
        stride: int = 4,
        task: str = "clips/films",
        **options: Any,
    ):
        self._root = Path(path)
        super().__init__(find_files(self._root, [f"*{s}" for s in SUFFIXES], "films"), **options)
        self.size, self.frames, self.stride, self.task = check_size(size), frames, stride, task
        check_sampling(frames, stride)
        self.spec = clip_spec(frames, *size)

    def _records(self, n: int, begin: Place) -> Iterator[tuple[Place, Any]]:
        yield Place(n + 1), self.files[n]

    def _episode(self, n: int, record: Path) -> Episode | None:
        name = record.relative_to(self._root).as_posix() if self._root.is_dir() else record.name
        if self.split is not None and split_of(name) != self.split:
            return None
        caption = record.with_suffix(".txt")
        with naming_read_errors(caption):
            if caption.stat().st_size > self.max_record_bytes:
                raise DataError("a caption that long", where=str(caption), fix="raise max_record_bytes")
            try:
                text = caption.read_text("utf-8").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"not UTF-8 text ({error.reason})", where=str(caption), fix=SKIP_FIX) from error
        shown = read_film(record, self.frames, self.stride, self.size)
        return clip(self.task, shown, check_unicode(text, str(caption)), {"document": name, "split": split_of(name)})


def check_sampling(frames: int, stride: int) -> None:
    if frames < 1 or stride < 1:
        raise UsageError(f"clips of {frames} frames, every {stride}th", fix="frames and stride are at least 1")


def read_film(file: Path, frames: int, stride: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 (frames, height, width, 3). No more is decoded than is needed.

    Raises UsageError without PyAV, DataError for what is no film, is cut short, or claims more than 50 million pixels.
    """
    out = list(itertools.islice(_pictures(file, size, stride), frames))
    return np.stack(out + out[-1:] * (frames - len(out)))


def sample_film(file: Path, frames: int, size: tuple[int, int]) -> np.ndarray:
    """The same number of pictures from all over a film, its first and last among them; of a very long one, of its first
    MOST_FRAMES."""
    shown = list(itertools.islice(_pictures(file, size, 1), MOST_FRAMES))
    return evenly(np.stack(shown), frames)


def evenly(pictures: np.ndarray, count: int) -> np.ndarray:
    """`count` of (pictures, …) from the first to the last; some twice where there are fewer."""
    return pictures[np.linspace(0, len(pictures) - 1, count).round().astype(int)]


def _pictures(file: Path, size: tuple[int, int], stride: int) -> Iterator[np.ndarray]:
    """Every `stride`-th picture of a film, uint8 (height, width, 3); at least one. Raises as `read_film` does."""
    try:
        import av
    except ImportError as error:
        raise UsageError("films are read with PyAV, not installed", fix=pip_line("video")) from error
    fix = "copy the film again"
    found = False
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise DataError("no film in this file", where=str(file), fix=fix)
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                what = f"the film claims {stream.width:,} × {stream.height:,} pixels; at most {MAX_PIXELS:,} are read"
                raise DataError(what, where=str(file), fix="make it smaller first")
            for number, frame in enumerate(container.decode(stream)):
                if number % stride == 0:
                    found = True
                    yield resized(frame.to_ndarray(format="rgb24"), size)
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"not a readable film: {error}", where=str(file), fix=fix) from error
    if not found:
        raise DataError("a film without a picture", where=str(file), fix=fix)


def resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (height, width, 1, 3 or 4) as RGB of `size`."""
    if frame.shape[-1] == 1:
        frame = np.repeat(frame, 3, axis=-1)
    frame = frame[..., :3]
    if frame.shape[:2] == size:
        return np.ascontiguousarray(frame)
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0))


def clips_of(
    episodes: Iterable[Episode],
    path: str,
    caption: Callable[[Episode], str],
    *,
    size: tuple[int, int],
    frames: int = 8,
    stride: int = 4,
    task: str = "clips/episodes",
) -> Iterator[Episode]:
    """The images at `path` of each episode as a clip, with what `caption` says happened. Raises DataError without images."""
    check_size(size)
    check_sampling(frames, stride)
    for episode in episodes:
        leaf = episode.observations.get(path)
        if not isinstance(leaf, np.ndarray) or leaf.ndim != 4 or leaf.dtype != np.uint8:
            raise DataError(
                f"no images at {path!r}", where=episode.task, fix=f"there are {', '.join(episode.observations)}"
            )
        chosen = [resized(frame, size) for frame in leaf[: frames * stride : stride]]
        shown = np.stack(chosen + chosen[-1:] * (frames - len(chosen)))
        yield clip(task, shown, caption(episode), {"episode_task": episode.task, **episode.info})
