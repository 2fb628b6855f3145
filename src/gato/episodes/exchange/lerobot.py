"""LeRobot datasets of format v3, read from their own files; the `lerobot` package is not needed.

    meta/info.json                               version, frames per second, features (dtype, shape), path templates
    meta/tasks.parquet                           task_index → instruction
    meta/episodes/chunk-000/file-000.parquet     a row per episode: length, tasks, where its frames and films are
    data/chunk-000/file-000.parquet              a row per frame: values, timestamp, episode_index, index, task_index
    videos/KEY/chunk-000/file-000.mp4            the films of many episodes, one behind the other

(huggingface/lerobot, src/lerobot/datasets/utils.py and dataset_reader.py.) An episode's film begins `from_timestamp`
seconds into its file, and a frame is found by its own timestamp, not by counting: a film that lacks one is an error.

`observation.state` becomes the leaf `state`, `observation.images.top` the leaf `images/top`, `action` the action. Where
there are several instructions, `instruction` is a text of every timestep; with one, it is the same for all and says
nothing. `next.reward` and `next.success` are taken where they are; without rewards an episode has zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gato.episodes.episode import Episode, Leaves
from gato.episodes.exchange.leaves import (
    AGAIN,
    action_spec,
    decode_image,
    discrete_spec,
    image_spec,
    observation_spec,
    open_parquet,
    resized,
)
from gato.episodes.spec import Spec, Specs, TaskSpec
from gato.errors import DataError, UsageError
from gato.installed import pip_line

NUMBERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
FLOATS = {"float16", "float32", "float64"}
TOLERANCE_SECONDS = 1e-3  # between a timestamp and the frame that is shown then (LeRobot's default is a tenth of it)


class LeRobotRecordings:
    """The folder that holds `meta/`, `data/` and `videos/`."""

    def __init__(
        self, path: Path, size: tuple[int, int] | None = None, action_bounds: tuple[float, float] | None = None
    ):
        self._root = path
        info = _read_json(path / "meta" / "info.json")
        version = str(info.get("codebase_version", ""))
        if not version.startswith("v3"):
            raise DataError(
                f"LeRobot format {version or 'of no version'}; v3 is read here", where=str(path / "meta" / "info.json"),
                fix="LeRobot converts it: python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=…",
            )  # fmt: skip
        try:
            self._features: dict[str, dict[str, Any]] = dict(info["features"])
            self._data_path, self._video_path = str(info["data_path"]), str(info.get("video_path") or "")
            self._fps = float(info["fps"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"it lacks {error}", where=str(path / "meta" / "info.json"), fix="download it again"
            ) from error
        self._episodes = self._read_index()
        self._tasks = self._read_tasks()
        self.task = f"lerobot/{path.resolve().name}"
        self._columns = self._choose()
        for name in self._columns:
            _check_feature(name, self._features[name], path / "meta" / "info.json")
        self._tables: dict[Path, pa.Table] = {}  # the file last read
        self.spec = self._make_spec(size, action_bounds)
        sizes = {f"{s.shape[0]} × {s.shape[1]} pixels" for s in self.spec.observation.values() if s.kind == "image"}
        self.described = ", ".join(sorted(sizes))

    def __len__(self) -> int:
        return len(self._episodes)

    # -- what there is ------------------------------------------------------------------------------------------------

    def _read_index(self) -> list[dict[str, Any]]:
        files = sorted((self._root / "meta" / "episodes").glob("*/*.parquet"))
        if not files:
            raise DataError(
                "no episodes are listed", where=str(self._root / "meta" / "episodes"), fix="download it again"
            )
        rows: list[dict[str, Any]] = []
        for file in files:
            names = [n for n in open_parquet(file).schema_arrow.names if not n.startswith("stats/")]
            table = _read(file, names)
            for name in ("episode_index", "length", "data/chunk_index", "data/file_index"):
                _column(table, name, file)
            rows += table.to_pylist()
        rows.sort(key=lambda r: r["episode_index"])
        if [r["episode_index"] for r in rows] != list(range(len(rows))):
            raise DataError(
                "episodes are missing from the list", where=str(files[0].parents[1]), fix="download it again"
            )
        return rows

    def _read_tasks(self) -> list[str]:
        """Instruction by task_index. pandas keeps the text as the index, a column of one name or another."""
        file = self._root / "meta" / "tasks.parquet"
        table = _read(file, None)
        texts = [n for n, kind in zip(table.column_names, table.schema.types, strict=True) if _is_string(kind)]
        if "task_index" not in table.column_names or not texts:
            raise DataError(
                f"columns {table.column_names}, no task_index and text", where=str(file), fix="download it again"
            )
        said = dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True))
        return [str(said.get(i, "")) for i in range(max(said, default=-1) + 1)]

    def _choose(self) -> dict[str, tuple[str, str]]:
        """{feature: (side, path)} of what becomes a leaf."""
        chosen = {}
        for name in self._features:
            if name.startswith("observation."):
                chosen[name] = ("observation", name.removeprefix("observation.").replace(".", "/"))
            elif name == "observation" or name == "action":
                chosen[name] = (name, name)
            elif name.startswith("action."):
                chosen[name] = ("action", name.removeprefix("action.").replace(".", "/"))
        sides = {side for side, _ in chosen.values()}
        for side in ("observation", "action"):
            if side not in sides:
                raise DataError(
                    f"no feature is an {side}: {', '.join(self._features)}", where=str(self._root / "meta" / "info.json"),
                    fix=f"name them {side}.… in info.json and in the data",
                )  # fmt: skip
        return chosen

    def _make_spec(self, size: tuple[int, int] | None, action_bounds: tuple[float, float] | None) -> TaskSpec:
        cameras = sum(self._features[name]["dtype"] in ("video", "image") for name in self._columns)
        sides: dict[str, Specs] = {"observation": {}, "action": {}}
        for name, (side, path) in self._columns.items():
            feature, place = self._features[name], f"{self._root} {name}"
            dtype, shape = feature["dtype"], tuple(feature["shape"])
            if dtype in ("video", "image"):
                if (feature.get("info") or {}).get("is_depth_map") or (feature.get("info") or {}).get(
                    "video.is_depth_map"
                ):
                    raise DataError("a depth map", where=place, fix="leave the feature out; colours are read")
                height, width, channels = _image_shape(feature)
                spec = image_spec(height, width, channels, size, cameras)
            elif dtype == "string":
                spec = Spec("text", (), "str")
            elif dtype in FLOATS:
                if side == "observation":
                    spec = observation_spec(dtype, shape)
                else:
                    spec = action_spec(*self._extremes(name, shape), dtype, shape, action_bounds)
            elif dtype == "bool":
                spec = Spec("discrete", shape, "bool", (0.0,), (1.0,))
            elif dtype in NUMBERS:
                low, high = self._extremes(name, shape)
                spec = discrete_spec(int(low.min()), int(high.max()), dtype, shape, place)
            else:
                raise DataError(
                    f"values of type {dtype} cannot become tokens", where=place, fix="leave the feature out"
                )
            if side == "action" and spec.kind in ("image", "text"):
                raise DataError(f"an action of kind {spec.kind}", where=place, fix="leave the feature out")
            sides[side][path] = spec
        if len(self._tasks) > 1:
            sides["observation"]["instruction"] = Spec("text", (), "str")
        return TaskSpec(dict(sorted(sides["observation"].items())), dict(sorted(sides["action"].items())))

    def _extremes(self, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest of each value in the whole dataset, flat. Files that cannot be read are found later, if not
        all are like that. Raises DataError."""
        lows, highs, failed = [], [], None
        for file in self._data_files():
            try:
                values = _numbers(_column(_read(file, [name]), name, file), file, name)
                values = values.reshape(-1, int(np.prod(shape))).astype(np.float64)
            except DataError as error:
                failed = failed or error
            except (ValueError, TypeError) as error:
                failed = failed or DataError(f"no {name} of shape {shape}: {error}", where=str(file), fix=AGAIN)
            else:
                if len(values):
                    lows.append(np.nanmin(values, axis=0))
                    highs.append(np.nanmax(values, axis=0))
        if failed and not lows:
            raise failed
        if not lows or not np.isfinite([lows, highs]).all():
            raise DataError(f"no finite {name} can be read", where=str(self._root / "data"), fix="download it again")
        return np.min(lows, axis=0), np.max(highs, axis=0)

    def _data_files(self) -> list[Path]:
        return sorted({self._data_file(row) for row in self._episodes})

    def _data_file(self, row: dict[str, Any]) -> Path:
        at = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        return self._root / self._filled(self._data_path, at)

    def _filled(self, template: str, at: dict[str, Any]) -> str:
        try:
            return template.format(**at)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"the path {template!r} cannot be filled in: {type(error).__name__}: {error}",
                where=str(self._root / "meta" / "info.json"), fix="download it again",
            ) from error  # fmt: skip

    def place(self, number: int) -> str:
        return f"{self._data_file(self._episodes[number])} episode {number}"

    # -- episodes -----------------------------------------------------------------------------------------------------

    def read(self, numbers: Iterable[int]) -> Iterator[tuple[int, Episode | DataError]]:
        for number in numbers:
            row = self._episodes[number]
            try:
                yield number, self._episode(number, row)
            except DataError as error:
                yield number, error
            except (KeyError, ValueError, TypeError, OSError, pa.ArrowException) as error:
                what = f"cannot be read: {type(error).__name__}: {error}"
                yield number, DataError(what, where=self.place(number), fix=AGAIN)

    def _episode(self, number: int, row: dict[str, Any]) -> Episode:
        file = self._data_file(row)
        frames = self._rows(file, number, int(row["length"]))
        stored = {n for n in self._columns if self._features[n]["dtype"] != "video"}
        for name in ("task_index", *sorted(stored)):
            _column(frames, name, file)
        sides: dict[str, Leaves] = {"observation": {}, "action": {}}
        for name, (side, path) in self._columns.items():
            spec = getattr(self.spec, side)[path]
            place = f"{file} episode {number} {name}"
            if self._features[name]["dtype"] == "video":
                times = _column(frames, "timestamp", file).to_numpy()
                sides[side][path] = self._film(name, row, times, spec, number)
            elif spec.kind == "image":
                images = [
                    _image(stored, spec, f"{place} frame {t}") for t, stored in enumerate(frames[name].to_pylist())
                ]
                sides[side][path] = np.stack(images)
            elif spec.kind == "text":
                sides[side][path] = [str(v) for v in frames[name].to_pylist()]
            else:
                values = _numbers(frames[name], file, name)
                sides[side][path] = values.reshape(len(frames), *spec.shape).astype(spec.dtype)
        info: dict[str, Any] = {}
        told = [self._tasks[i] for i in frames["task_index"].to_pylist()]
        if "instruction" in self.spec.observation:
            sides["observation"]["instruction"] = told
        elif told:
            info["instruction"] = told[0]
        names = set(frames.column_names)
        reward = next((n for n in ("next.reward", "reward") if n in names), None)
        rewards = _numbers(frames[reward], file, reward).ravel() if reward else np.zeros(len(frames))
        if "next.success" in names:
            info["success"] = bool(_numbers(frames["next.success"], file, "next.success").any())
        if "next.done" in names:
            info["terminated"] = bool(_numbers(frames["next.done"], file, "next.done").ravel()[-1])
        return Episode(self.task, sides["observation"], sides["action"], rewards.astype(np.float32), info=info)

    def _rows(self, file: Path, number: int, length: int) -> pa.Table:
        """The rows of one episode, checked to be just these. Raises DataError."""
        if not length:
            raise DataError("an episode of no frames", where=f"{file} episode {number}", fix=AGAIN)
        if file not in self._tables:
            self._tables = {file: _read(file, None)}
        table = self._tables[file]
        found = np.flatnonzero(_column(table, "episode_index", file).to_numpy() == number)
        if len(found) != length or found[-1] - found[0] + 1 != length:
            first = f" row {found[0]}" if len(found) else ""
            raise DataError(
                f"{len(found)} frames, the list of episodes says {length}",
                where=f"{file}{first} episode {number}",
                fix=AGAIN,
            )
        rows = table.slice(int(found[0]), length)
        if "frame_index" in rows.column_names:
            counted = rows["frame_index"].to_numpy()
            if not np.array_equal(counted, np.arange(length)):
                at = int(np.argmax(counted != np.arange(length)))
                what = f"frame {counted[at]} where {at} belongs"
                raise DataError(what, where=f"{file} row {found[0] + at} episode {number}", fix=AGAIN)
        return rows

    def _film(self, key: str, row: dict[str, Any], times: np.ndarray, spec: Spec, number: int) -> np.ndarray:
        """The frames shown at these times of an episode, uint8 (T, H, W, C)."""
        at = {
            "video_key": key,
            "chunk_index": row[f"videos/{key}/chunk_index"],
            "file_index": row[f"videos/{key}/file_index"],
        }
        file = self._root / self._filled(self._video_path, at)
        place = f"{file} episode {number}"
        if not file.is_file():
            raise DataError("the film is missing", where=place, fix=AGAIN)
        wanted = float(row[f"videos/{key}/from_timestamp"]) + times.astype(np.float64)
        found: list[np.ndarray | None] = [None] * len(wanted)
        for seconds, frame in _frames(file, float(wanted[0]), place):
            for t in np.flatnonzero(np.abs(wanted - seconds) <= TOLERANCE_SECONDS):
                found[int(t)] = resized(frame.to_ndarray(format="rgb24"), spec)
            if seconds > wanted[-1] + TOLERANCE_SECONDS:
                break
        missing = [t for t, frame in enumerate(found) if frame is None]
        if missing:
            what = f"no frame is shown at {wanted[missing[0]]:.4f} s (timestep {missing[0]}; {len(missing)} of {len(found)} lack one)"
            raise DataError(what, where=place, fix=AGAIN)
        return np.stack(found)  # type: ignore[arg-type]


def _frames(file: Path, begin: float, place: str) -> Iterator[tuple[float, Any]]:
    """(seconds, frame) from the key frame before `begin` on."""
    try:
        import av
    except ImportError:
        raise UsageError("films are read with PyAV", where=place, fix=pip_line("video")) from None
    try:
        with av.open(str(file)) as film:
            stream = film.streams.video[0]
            film.seek(max(0, int(begin / float(stream.time_base or 1))), stream=stream, backward=True, any_frame=False)
            for frame in film.decode(stream):
                if frame.time is not None:
                    yield float(frame.time), frame
    except (av.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"the film cannot be decoded: {error}", where=place, fix=AGAIN) from error


def _image(stored: Any, spec: Spec, place: str) -> np.ndarray:
    try:
        return resized(decode_image(stored), spec)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"an image cannot be decoded: {error}", where=place, fix=AGAIN) from error


def _image_shape(feature: dict[str, Any]) -> tuple[int, int, int]:
    """Height, width, channels; `names` says which is which, else the channels are the side of 1, 3 or 4."""
    shape, names = tuple(feature["shape"]), [str(n) for n in feature.get("names") or ()]
    first = names[0].startswith("channel") if names else shape[0] in (1, 3, 4) and shape[-1] not in (1, 3, 4)
    return (shape[1], shape[2], shape[0]) if first else shape  # type: ignore[return-value]


def _check_feature(name: str, feature: Any, file: Path) -> None:
    """Raises DataError for a feature of info.json that does not say what it is."""
    known = feature if isinstance(feature, dict) else {}
    dtype, shape = known.get("dtype"), known.get("shape")
    sizes = shape if isinstance(shape, list) and all(isinstance(n, int) for n in shape) else None
    if not isinstance(dtype, str) or sizes is None or (dtype in ("video", "image") and len(sizes) != 3):
        what = f"feature {name} of dtype {dtype!r} and shape {shape!r}"
        raise DataError(what, where=str(file), fix="download it again, or leave the feature out")


def _column(table: pa.Table, name: str, file: Path) -> pa.ChunkedArray:
    """Raises DataError for a column that is not there."""
    if name not in table.column_names:
        raise DataError(f"no column {name}", where=str(file), fix="download it again, or leave the feature out")
    return table[name]


def _numbers(column: pa.ChunkedArray, file: Path, name: str) -> np.ndarray:
    """A column of numbers, or of (nested) lists of numbers, flat."""
    array = column.combine_chunks()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.null_count:
        row = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(f"nothing in column {name}", where=f"{file} row {row}", fix=AGAIN)
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text())
    except FileNotFoundError:
        raise DataError("the file is missing", where=str(file), fix="name the folder that holds meta/") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(file), fix="download it again") from error
    if not isinstance(record, dict):
        raise DataError("not an object", where=str(file), fix="download it again")
    return record


def _read(file: Path, columns: list[str] | None) -> pa.Table:
    try:
        return open_parquet(file).read(columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be decoded: {error}", where=str(file), fix=AGAIN) from error
