"""Pictures: frames become a small animated file, and a task that cannot be drawn becomes a plot of its state.

    animate(frames)                       # (T, H, W, 3) uint8 → bytes of an animated WebP, under 300 kB
    plot_episode(observations, rewards)   # {path: (T, …)}, (T,) → bytes of a PNG
    picture(image)                        # (H, W, 3) uint8 → bytes of a PNG
    write_film(frames, file)              # whole, as the ending says: .webp, .gif, .png, or .mp4 with "gato-agent[video]"
    with Film(file) as film: film.add(frame)    # the same, frame after frame

Nothing here opens a window, imports a simulator or touches matplotlib's global state.
"""

from __future__ import annotations

import importlib.util
import io
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from gato.errors import ObservationError, UsageError
from gato.installed import pip_line
from gato.policy.jobs import make_place

MAX_BYTES = 300_000
FILM_QUALITY = 82  # of a WebP with text in it
LAST_FRAME_SECONDS = 1.0  # the end is held, so that the eye sees how it came out
HELD = {"gif": 600, "png": 300}  # most frames of a film: Pillow holds all of them unpacked, of 720p up to a gigabyte

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
        raise UsageError("plots need matplotlib, not installed", fix=pip_line("viz"))
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


class Film:
    """A film of all the frames that it is given, at full size, in the format that the file's ending names: .mp4 (needs PyAV),
    .webp, .gif or .png. It is there when the `with` ends, and not where an error ends it.

    An MP4 is written frame by frame. The frames of the others are kept packed until the end; a long GIF or PNG is thinned.
    Raises UsageError for another ending, without PyAV, and where nothing can be written.
    """

    def __init__(self, file: Path, *, fps: float = 20.0):
        self._kind = file.suffix.lower().removeprefix(".")
        if self._kind not in ("mp4", "webp", "gif", "png"):
            raise UsageError(f"{file}: the ending says the format", fix="a name that ends in .mp4, .webp, .gif or .png")
        if self._kind == "mp4" and importlib.util.find_spec("av") is None:
            raise UsageError(
                "an MP4 needs PyAV, not installed", where=str(file),
                fix=f"{pip_line('video')}, or name it .webp",
            )  # fmt: skip
        self.file, self._fps, self.frames = make_place(file), fps, 0
        self._packed: list[bytes] = []
        self._shape: tuple[int, ...] = ()
        self._written: Any = None  # PyAV's container and stream

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._end()
        elif self._written is not None:
            self._written[0].close()
            self._part.unlink(missing_ok=True)  # not there before the first picture is encoded

    def add(self, frame: np.ndarray, times: int = 1) -> None:
        """uint8 (H, W, 3), as large as the first. Raises ObservationError."""
        frame = _checked(frame[None])[0]
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise ObservationError(f"a frame of {frame.shape} after some of {self._shape}", where="animation")
        self.frames += times
        if self._kind == "mp4":
            self._encode(frame, times)
        else:
            self._packed += [zlib.compress(frame.tobytes(), 1)] * times

    @property
    def _part(self) -> Path:
        return self.file.with_name(f".{self.file.name}.part")

    def _encode(self, frame: np.ndarray, times: int) -> None:
        import av

        height, width = (side - side % 2 for side in frame.shape[:2])  # 4:2:0 wants even sides
        if self._written is None:
            container = av.open(str(self._part), "w", format="mp4")
            stream = container.add_stream("libx264", rate=round(self._fps))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            self._written = container, stream
        container, stream = self._written
        shown = np.ascontiguousarray(frame[:height, :width])
        for _ in range(times):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))

    def _end(self) -> None:
        if not self.frames:
            raise ObservationError("a film without frames", where="animation")
        if self._kind == "mp4":
            container, stream = self._written
            container.mux(stream.encode())
            container.close()
            self._part.replace(self.file)
            return
        packed = [self._packed[i] for i in thin(np.arange(self.frames), HELD.get(self._kind, self.frames))]
        images = [self._unpack(packed[0]), *([_Reel(packed[1:], self._unpack)] if packed[1:] else [])]
        self.file.write_bytes(_encode(images, self.frames / self._fps, FILM_QUALITY, self._kind))

    def _unpack(self, packed: bytes) -> Image.Image:
        image = Image.fromarray(np.frombuffer(zlib.decompress(packed), np.uint8).reshape(self._shape))
        if self._kind == "gif":  # an octree keeps the colours of the kinds apart; dither would blur words
            return image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        return image


class _Reel:
    """Packed frames as Pillow reads a picture of many: one is there at a time."""

    def __init__(self, packed: Sequence[bytes], unpack: Callable[[bytes], Image.Image]):
        self._packed, self._unpack, self.n_frames = packed, unpack, len(packed)
        self.seek(0)

    def seek(self, number: int) -> None:
        if number >= self.n_frames:
            raise EOFError
        self._shown = self._unpack(self._packed[number])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)


def write_film(frames: Iterable[np.ndarray], file: Path, *, fps: float = 20.0) -> Path:
    """All frames as a `Film`."""
    with Film(file, fps=fps) as film:
        for frame in frames:
            film.add(frame)
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


def _encode(images: Sequence[Any], seconds: float, quality: int, format: str) -> bytes:
    """All images, lasting `seconds` and then holding the last one. Behind the first there may be a `_Reel`."""
    count = sum(getattr(image, "n_frames", 1) for image in images)
    each = max(20, round(1000 * seconds / count))  # browsers slow down what is under 20 ms
    options: dict[str, Any] = {"optimize": images[0].mode != "P"} if format == "gif" else {}
    if format == "webp":
        options = {"quality": quality, "method": 1, "lossless": quality == 100}  # 1: fast
    durations = [each] * (count - 1) + [each + round(1000 * LAST_FRAME_SECONDS)]
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
