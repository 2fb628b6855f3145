"""JAT's dataset: a folder per task of Parquet files, an episode a row, every column a list over its timesteps.

    mujoco-ant/train-00000-of-00002.parquet, test-00000-of-00001.parquet
    text_observations: list<string>                    discrete_observations: list<list<int64>>
    image_observations: list<{bytes, path}>            continuous_observations: list<list<float>>
    discrete_actions: list<int64>                      continuous_actions: list<list<float>>         rewards: list<float>

(huggingface/jat, data/envs/*/create_*_dataset.py; what `datasets` pushes.) A task has those of the columns that it needs.
`continuous_observations` becomes the leaf `continuous`, and so on; the action is the leaf `action`. The observation after
the last action is not stored, as with us. Neither bounds nor numbers of values are: they are taken from the data, and
the numbers of values of a leaf are the same for all its elements. Atari's frames are stacks of four, stored as RGBA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
from gato.errors import DataError

OBSERVATIONS = {f"{kind}_observations": kind for kind in ("continuous", "discrete", "image", "text")}
ACTIONS = ("continuous_actions", "discrete_actions")


def _files(path: Path, split: str = "all") -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    words = {"train": "train", "heldout": "test"}
    named = [f for f in files if f.name.startswith(("train-", "test-"))]
    return [f for f in files if split == "all" or f not in named or f.name.startswith(words[split] + "-")]


def looks_like_jat(path: Path) -> bool:
    files = [f for f in _files(path) if f.suffix == ".parquet"]
    if not files:
        return False
    try:
        names = set(pq.read_schema(files[0]).names)
    except (OSError, pa.ArrowException):
        return False
    return "rewards" in names and bool(names.intersection(ACTIONS))


class JatRecordings:
    """One task's folder, or one of its files."""

    def __init__(
        self,
        path: Path,
        size: tuple[int, int] | None = None,
        action_bounds: tuple[float, float] | None = None,
        split: str = "train",
    ):
        self._files = _files(path, split)
        if not self._files:
            below = sorted(f.parent.name for f in path.glob("*/*.parquet"))
            fix = f"name one task's folder: {', '.join(dict.fromkeys(below))}" if below else "name a task's folder"
            raise DataError(f"no Parquet file of the split {split}", where=str(path), fix=fix)
        self._opened = [open_parquet(file) for file in self._files]
        # The spec is that of all files, so that the splits of a task have one.
        self._surveyed = [open_parquet(file) for file in _files(path)] if split != "all" else self._opened
        self._lengths = [file.metadata.num_rows for file in self._opened]
        names = set(self._opened[0].schema_arrow.names)
        self._leaves = {column: leaf for column, leaf in OBSERVATIONS.items() if column in names}
        acts = [column for column in ACTIONS if column in names]
        if not self._leaves or len(acts) != 1 or "rewards" not in names:
            raise DataError(
                f"columns {', '.join(sorted(names))}; observations, one kind of actions and rewards are needed",
                where=str(self._files[0]), fix="name a control task's folder",
            )  # fmt: skip
        [self._action] = acts
        self.task = f"jat/{path.resolve().stem if path.is_file() else path.resolve().name}"
        self.spec = self._make_spec(size, action_bounds)
        shown = self.spec.observation.get("image")
        self.described = f"{split} split" + (f", {shown.shape[0]} × {shown.shape[1]} pixels" if shown else "")

    def __len__(self) -> int:
        return sum(self._lengths)

    def _make_spec(self, size: tuple[int, int] | None, action_bounds: tuple[float, float] | None) -> TaskSpec:
        observed: Specs = {}
        for column, leaf in sorted(self._leaves.items(), key=lambda item: item[1]):
            where = f"{self._files[0]} {column}"
            if leaf == "text":
                observed[leaf] = Spec("text", (), "str")
            elif leaf == "image":
                height, width, channels = self._first_image(column).shape
                observed[leaf] = image_spec(height, width, channels, size)
            elif leaf == "continuous":
                observed[leaf] = observation_spec("float32", (self._width(column),))
            else:
                low, high = self._extremes(column)
                observed[leaf] = discrete_spec(int(low.min()), int(high.max()), "int64", (self._width(column),), where)
        low, high = self._extremes(self._action)
        if self._action == "discrete_actions":
            acted = discrete_spec(int(low.min()), int(high.max()), "int64", (), f"{self._files[0]} {self._action}")
        else:
            acted = action_spec(low, high, "float32", (len(low),), action_bounds)
        return TaskSpec(observed, {"action": acted})

    def _lists(self, column: str) -> Iterator[pa.Array]:
        """What a column holds, episode by episode; nothing of damaged ones, which are met again when they are read."""
        for file in self._surveyed:
            for group in range(file.num_row_groups):
                try:
                    rows = file.read_row_group(group, columns=[column], use_threads=False)[column]
                except (OSError, pa.ArrowException):
                    continue
                yield from (steps.values for steps in rows if steps.is_valid and len(steps))

    def _width(self, column: str) -> int:
        for steps in self._lists(column):
            if first := steps[0].as_py():
                return len(first)
        raise self._nothing(column)

    def _first_image(self, column: str) -> np.ndarray:
        for steps in self._lists(column):
            try:
                return decode_image(steps[0].as_py())
            except (OSError, ValueError, SyntaxError):
                continue
        raise self._nothing(column)

    def _extremes(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest of each value, flat: of one-dimensional lists (1,). Episodes that are not whole do not count;
        they are refused by name when they are read."""
        width = 1 if self._action == "discrete_actions" == column else self._width(column)
        lows, highs = [], []
        for steps in self._lists(column):
            try:
                rows = _flat(steps).reshape(len(steps), width).astype(np.float64)
            except ValueError:
                continue
            if np.isfinite(rows).all():
                lows.append(rows.min(axis=0))
                highs.append(rows.max(axis=0))
        if not lows:
            raise self._nothing(column)
        return np.min(lows, axis=0), np.max(highs, axis=0)

    def _nothing(self, column: str) -> DataError:
        return DataError(f"no {column} can be read", where=str(self._files[0]), fix="download it again")

    # -- episodes -----------------------------------------------------------------------------------------------------

    def read(self, numbers: Iterable[int]) -> Iterator[tuple[int, Episode | DataError]]:
        held: tuple[int, int] | None = None
        table: pa.Table | DataError | None = None
        for number in sorted(numbers):
            f, row = self._row_of(number)
            group, first = self._group_of(f, row)
            place = self.place(number)
            if held != (f, group):
                held, table = (f, group), self._read_group(f, group)
            if isinstance(table, DataError):
                yield number, DataError(table.what, where=place, fix=AGAIN)
                continue
            assert table is not None
            try:
                yield number, self._episode({c: table[c][row - first] for c in table.column_names})
            except (OSError, ValueError, TypeError, SyntaxError, pa.ArrowException) as error:
                yield number, DataError(f"cannot be read: {error}", where=place, fix=AGAIN)

    def place(self, number: int) -> str:
        f, row = self._row_of(number)
        return f"{self._files[f]} row {row}"

    def _row_of(self, number: int) -> tuple[int, int]:
        starts = np.concatenate([[0], np.cumsum(self._lengths)])
        f = int(np.searchsorted(starts, number, side="right")) - 1
        return f, number - int(starts[f])

    def _group_of(self, f: int, row: int) -> tuple[int, int]:
        first = 0
        for group in range(self._opened[f].num_row_groups):
            rows = self._opened[f].metadata.row_group(group).num_rows
            if row < first + rows:
                return group, first
            first += rows
        raise AssertionError(row)

    def _read_group(self, f: int, group: int) -> pa.Table | DataError:
        try:
            return self._opened[f].read_row_group(
                group, columns=[*self._leaves, self._action, "rewards"], use_threads=False
            )
        except (OSError, pa.ArrowException, KeyError) as error:
            return DataError(f"row group {group} cannot be decoded: {error}", where=str(self._files[f]))

    def _episode(self, row: dict[str, Any]) -> Episode:
        """One row. Raises ValueError for what is not whole."""
        empty = [column for column, value in row.items() if not value.is_valid]
        if empty:
            raise ValueError(f"nothing in column {empty[0]}")
        rewards = _flat(row["rewards"].values).astype(np.float32)
        observed: Leaves = {}
        for column, leaf in self._leaves.items():
            spec, steps = self.spec.observation[leaf], row[column].values
            if len(steps) != len(rewards):
                raise ValueError(f"{len(steps)} {column} for {len(rewards)} rewards")
            if leaf == "text":
                observed[leaf] = [str(text) for text in steps.to_pylist()]
            elif leaf == "image":
                observed[leaf] = np.stack([resized(decode_image(stored), spec) for stored in steps.to_pylist()])
            else:
                observed[leaf] = self._rows(steps, spec, column)
        spec = self.spec.action["action"]
        return Episode(
            self.task, observed, {"action": self._rows(row[self._action].values, spec, self._action)}, rewards
        )

    def _rows(self, steps: pa.Array, spec: Spec, column: str) -> np.ndarray:
        values = _flat(steps)
        if len(values) != len(steps) * spec.size:
            raise ValueError(
                f"{len(values)} values in {len(steps)} timesteps of {column}, expected {spec.size} in each"
            )
        return values.reshape(len(steps), *spec.shape).astype(spec.dtype)


def _flat(array: pa.Array) -> np.ndarray:
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    if array.null_count:
        raise ValueError("a value is missing")
    return array.to_numpy(zero_copy_only=False)
