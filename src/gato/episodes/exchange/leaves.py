"""Recorded columns become leaves with specs: bounds that nobody wrote down, images that are too large, names that differ."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gato.episodes.episode import Episode, Leaves
from gato.episodes.spec import MAX_DISCRETE, Spec, Specs, TaskSpec
from gato.errors import DataError, SpecError, UsageError

AGAIN = "download it again; or leave out what is damaged: --on-bad skip"
PATCH = 16
IMAGE_TOKENS = 256  # of all cameras together, where no size is asked for: a quarter of the paper's window


def action_spec(
    low: np.ndarray, high: np.ndarray, dtype: str, shape: tuple[int, ...], given: Sequence[float] | None
) -> Spec:
    """Continuous actions whose extremes in the data are `low` and `high` (flat). Bounds: those given; [-1, 1] where all
    values lie there; else, for each value, what the data reach. A value that never changes gets 1 either way."""
    if given is not None:
        bounds: tuple[Any, Any] = ((float(given[0]),), (float(given[1]),))
    elif np.abs([low, high]).max(initial=0.0) <= 1.0:
        bounds = ((-1.0,), (1.0,))
    else:
        flat = high <= low
        bounds = tuple(np.where(flat, low - 1, low).tolist()), tuple(np.where(flat, high + 1, high).tolist())
    return Spec("continuous", shape, dtype, *bounds)


def observation_spec(dtype: str, shape: tuple[int, ...]) -> Spec:
    """Continuous observations have no bounds: mu-law takes any size."""
    return Spec("continuous", shape, dtype, (-math.inf,), (math.inf,))


def discrete_spec(low: int, high: int, dtype: str, shape: tuple[int, ...], where: str) -> Spec:
    """From the smallest and largest value in the data; from 0 where nothing is below. Raises SpecError."""
    low = min(int(low), 0)
    if high - low + 1 > MAX_DISCRETE:
        raise SpecError(
            f"a discrete value with {high - low + 1:,} possibilities (at most {MAX_DISCRETE:,})", where=where,
            fix="store it as float32, or split it into digits",
        )  # fmt: skip
    return Spec("discrete", shape, dtype, (float(low),), (float(high),))


def image_spec(height: int, width: int, channels: int, size: tuple[int, int] | None, cameras: int = 1) -> Spec:
    """As recorded, unless a size is given or the cameras together would take more than IMAGE_TOKENS tokens."""
    height, width = size or fitting(height, width, cameras)
    return Spec("image", (height, width, channels), "uint8", (0.0,), (255.0,))


def fitting(height: int, width: int, cameras: int) -> tuple[int, int]:
    """The size itself where it is small enough, else the largest of about its shape that is, in whole patches."""
    room = IMAGE_TOKENS // cameras
    if math.ceil(height / PATCH) * math.ceil(width / PATCH) <= room:
        return height, width
    shrink = math.sqrt(room / ((height / PATCH) * (width / PATCH)))
    rows, columns = (max(1, int(side / PATCH * shrink)) for side in (height, width))
    return rows * PATCH, columns * PATCH


def resized(frame: np.ndarray, spec: Spec) -> np.ndarray:
    """A frame (H, W, C) or (H, W), uint8, at the spec's size."""
    frame = frame[..., None] if frame.ndim == 2 else frame
    height, width, channels = spec.shape
    if frame.shape[2] != channels:
        raise ValueError(f"an image with {frame.shape[2]} channels, expected {channels}")
    if frame.shape[:2] == (height, width):
        return frame
    picture = Image.fromarray(frame[..., 0] if channels == 1 else frame)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).reshape(spec.shape)


def decode_image(stored: Mapping[str, Any]) -> np.ndarray:
    """{"bytes": PNG or JPEG, "path": …}, the way Hugging Face `datasets` stores an image → uint8 (H, W, C)."""
    if not stored or not stored.get("bytes"):
        path = (stored or {}).get("path")
        raise ValueError(f"the image is not in the file, which names {path!r}" if path else "an image without bytes")
    with Image.open(io.BytesIO(stored["bytes"])) as picture:
        frame = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    if frame.dtype != np.uint8:
        raise ValueError(f"an image of {frame.dtype} values")
    return frame[..., None] if frame.ndim == 2 else frame


# -- onto the spec of a world -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matching:
    """Which recorded leaf is which leaf of the world."""

    spec: TaskSpec
    observation: Mapping[str, str]  # the world's path → the recorded one
    action: Mapping[str, str]

    @classmethod
    def identity(cls, spec: TaskSpec) -> Matching:
        return cls(spec, {p: p for p in spec.observation}, {p: p for p in spec.action})

    def apply(self, episode: Episode) -> Episode:
        """The same episode in the world's names; types and bounds are checked by `Episode.check`."""

        def moved(side: Leaves, names: Mapping[str, str], specs: Specs) -> Leaves:
            return {path: _as(specs[path], side[theirs]) for path, theirs in names.items()}

        episode.observations = moved(episode.observations, self.observation, self.spec.observation)
        episode.actions = moved(episode.actions, self.action, self.spec.action)
        if episode.executed is not None:
            episode.executed = moved(episode.executed, self.action, self.spec.action)
        return episode


def _as(spec: Spec, values: Any) -> Any:
    """Discrete values change their type freely (what is out of range is found by the check), as do floats of two sizes."""
    if spec.kind in ("text", "image") or values.dtype == spec.dtype:
        return values
    return values.reshape(len(values), *spec.shape).astype(spec.dtype)


def match(recorded: TaskSpec, wanted: TaskSpec, task: str) -> Matching:
    """Every leaf of the world is found in the recordings: by its name, or because just one is of its kind and shape.
    Raises SpecError."""

    def side(theirs: Specs, ours: Specs, name: str) -> dict[str, str]:
        found = {}
        for path, spec in ours.items():
            alike = [p for p, s in theirs.items() if (s.kind, s.size) == (spec.kind, spec.size)]
            if path in alike:
                alike = [path]
            if len(alike) != 1:
                have = ", ".join(f"{p}: {s}" for p, s in theirs.items())
                what = "none" if not alike else f"{len(alike)}"
                raise SpecError(
                    f"{what} of the recorded {name}s can be {path}, {spec}", where=task,
                    fix=f"recorded: {have}; leave out --world, and the task stands for itself",
                )  # fmt: skip
            found[path] = alike[0]
        return found

    if not wanted.action:
        raise UsageError(f"{task} has no actions", fix="name a control task")
    return Matching(
        wanted,
        side(recorded.observation, wanted.observation, "observation"),
        side(recorded.action, wanted.action, "action"),
    )


def open_parquet(file: Path) -> pq.ParquetFile:
    """A recorded file, pages checked as they are read. Raises DataError naming it."""
    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except FileNotFoundError:
        raise DataError("the file is missing", where=str(file), fix=AGAIN) from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"not a readable Parquet file: {error}", where=str(file), fix=AGAIN) from error
