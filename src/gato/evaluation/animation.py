"""Pictures: frames become a small animated file, and a task that cannot be drawn becomes a plot of its state.

    animate(frames)                       # (T, H, W, 3) uint8 → bytes of an animated WebP, under 300 kB
    plot_episode(observations, rewards)   # {path: (T, …)}, (T,) → bytes of a PNG
    picture(image)                        # (H, W, 3) uint8 → bytes of a PNG
    write_mp4(frames, file)               # needs PyAV: pip install "gato-agent[video]"
    write_film(frames, file)              # any of them, whole, by the ending of the name

Nothing here opens a window, imports a simulator or touches matplotlib's global state.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from gato.errors import ObservationError, UsageError

MAX_BYTES = 300_000
FILM_QUALITY = 82  # of a WebP with text in it
LAST_FRAME_SECONDS = 1.0  # the end is held, so that the eye sees how it came out

# (quality, share of the frames) from the best to the smallest. Coarse at the start: each rung costs a whole encoding.
_LADDER = ((80, 1.0), (50, 1.0), (30, 0.7), (25, 0.5), (20, 0.35), (20, 0.2), (10, 0.1))

# Ink that reads on white and on black paper, since the report has both.
_INK, _GRID = "#7d838c", "#8d939c40"
_LINES = ("#2a7f9e", "#c2703d", "#6a8f3c", "#9a5f9e", "#b3913a", "#5a74b8")


def animate(
    frames: np.ndarray | Sequence[np.ndarray],
    *,
    fps: float = 20.0,
    max_frames: int = 120,
    max_side: int = 240,
    max_bytes: int = MAX_BYTES,
    format: Literal["webp", "gif", "png"] = "webp",
) -> bytes:
    """An endlessly looping film of (T, H, W, 3) uint8 frames taken at `fps`, in real time and at most `max_bytes`.

    Frames are thinned evenly (the first and the last are kept) and shrunk to `max_side` pixels. Small frames are kept
    exact where that fits, since lossy coding smears pixel art. While the file is too large, quality falls first, then
    frames, then size. Raises ObservationError for anything but uint8 RGB frames.
    """
    frames = _checked(frames)
    seconds = len(frames) / fps
    exact = ((100, 1.0),) if format == "webp" and max(frames.shape[1:3]) <= 128 else ()
    data = b""
    for quality, keep in (*exact, *_LADDER):
        kept = thin(frames, max(2, round(max_frames * keep)))
        images = [_fit(frame, max(16, round(max_side * min(1.0, 1.4 * keep)))) for frame in kept]
        data = _encode(images, seconds, quality, format)
        if len(data) <= max_bytes:
            break
    return data


def thin(frames: np.ndarray, max_frames: int) -> np.ndarray:
    """At most `max_frames` of the frames, evenly, the first and the last among them."""
    if len(frames) <= max_frames:
        return frames
    return frames[np.unique(np.linspace(0, len(frames) - 1, max_frames).round().astype(int))]


def picture(image: np.ndarray, max_side: int = 480) -> bytes:
    """One (H, W, 3) uint8 image as PNG."""
    stream = io.BytesIO()
    _fit(_checked(np.asarray(image)[None])[0], max_side).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def plot_episode(
    observations: Mapping[str, Any], rewards: np.ndarray, *, max_lines: int = 6, side_pixels: int = 480
) -> bytes:
    """An episode without pictures: each numeric observation (T, …) over time, and the reward so far, as a square PNG.

    The liveliest `max_lines` elements of each observation are drawn. The ground is transparent. Raises UsageError
    where matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("plots need matplotlib, not installed", fix='pip install "gato-agent[viz]" -c constraints.txt')
    from matplotlib.figure import Figure

    lines = {path: _lines(values, max_lines) for path, values in observations.items() if _is_plottable(values)}
    panels = [*list(lines.items())[:3], ("return so far", np.cumsum(np.asarray(rewards, np.float64))[:, None])]
    figure = Figure(figsize=(2.3, 2.3), dpi=side_pixels / 2.3, layout="constrained")
    figure.patch.set_alpha(0.0)
    heights = [2.0] * (len(panels) - 1) + [1.0]
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (title, values) in zip(axes, panels, strict=True):
        last = ax is axes[-1]
        for i in range(values.shape[1]):
            ax.plot(values[:, i], color=_INK if last else _LINES[i % len(_LINES)], linewidth=1.0)
        ax.set_title(title, fontsize=7, color=_INK, loc="left", pad=3)
        ax.tick_params(colors=_INK, labelsize=6, length=2, width=0.5)
        ax.grid(color=_GRID, linewidth=0.5)
        ax.patch.set_alpha(0.0)
        ax.margins(x=0)
        for side, spine in ax.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set(color=_INK, linewidth=0.5)
    axes[-1].set_xlabel("timestep", fontsize=7, color=_INK)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def write_mp4(frames: np.ndarray | Sequence[np.ndarray], file: Path, *, fps: float = 20.0) -> Path:
    """All frames as H.264. Raises UsageError where PyAV is missing."""
    if importlib.util.find_spec("av") is None:
        raise UsageError(
            "an MP4 needs PyAV, not installed", where=str(file), fix='pip install "gato-agent[video]", or name it .webp'
        )
    import av

    frames = _checked(frames)
    height, width = (side - side % 2 for side in frames.shape[1:3])  # 4:2:0 wants even sides
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            shown = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())
    return file


def write_film(frames: Sequence[np.ndarray], file: Path, *, fps: float = 20.0) -> Path:
    """All frames, in the format that the file's ending names: .mp4 (needs PyAV), .webp, .gif or .png, at full size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = file.suffix.lower().removeprefix(".")
    if kind == "mp4":
        return write_mp4(frames, file, fps=fps)
    if kind not in ("webp", "gif", "png"):
        raise UsageError(f"{file}: the ending says the format", fix="a name that ends in .mp4, .webp, .gif or .png")
    images = [Image.fromarray(frame) for frame in _checked(frames)]
    if kind == "gif":  # an octree keeps the colours of the kinds apart; dither would blur words
        images = [i.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for i in images]
    file.write_bytes(_encode(images, len(images) / fps, FILM_QUALITY, kind))
    return file


def _checked(frames: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ObservationError(
            f"frames are {frames.dtype} {frames.shape}, expected uint8 (T, H, W, 3)", where="animation"
        )
    return frames


def _fit(frame: np.ndarray, max_side: int) -> Image.Image:
    """Shrunk so that the longer side is at most `max_side`; never enlarged (the page does that, and crisply)."""
    image = Image.fromarray(frame)
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    return image.resize([max(1, round(s * scale)) for s in image.size], Image.Resampling.LANCZOS)


def _encode(images: list[Image.Image], seconds: float, quality: int, format: str) -> bytes:
    """All images, lasting `seconds` and then holding the last one."""
    each = max(20, round(1000 * seconds / len(images)))  # browsers slow down what is under 20 ms
    options: dict[str, Any] = {"optimize": images[0].mode != "P"} if format == "gif" else {}
    if format == "webp":
        options = {"quality": quality, "method": 1, "lossless": quality == 100}  # 1: fast
    durations = [each] * (len(images) - 1) + [each + round(1000 * LAST_FRAME_SECONDS)]
    stream = io.BytesIO()
    images[0].save(
        stream, format.upper(), save_all=True, append_images=images[1:], duration=durations, loop=0, **options
    )
    return stream.getvalue()


def _is_plottable(values: Any) -> bool:
    """Numbers over time, and few enough to be readings: not text, not an image."""
    if not isinstance(values, np.ndarray) or not (np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_):
        return False
    return values.ndim <= 2 or (values.dtype != np.uint8 and math.prod(values.shape[1:]) <= 256)


def _lines(values: np.ndarray, max_lines: int) -> np.ndarray:
    """(T, …) → (T, at most max_lines): the elements that move most for their size, in their own order."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    liveliest = np.argsort(-flat.std(axis=0), kind="stable")[:max_lines]
    return flat[:, np.sort(liveliest)]
