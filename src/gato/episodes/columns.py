"""Episodes as columns of Parquet, and back: the bytes of one file of a dataset, and of its index.

Numbers are fixed-size lists, frames fixed-size binary, text strings; zstd, with a checksum in every page. A row group holds whole
short episodes, or at most 64 timesteps of a long one, so a window reads one or two groups.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gato.episodes.episode import Episode, facts_as_json
from gato.episodes.manifest import sha256_of_file
from gato.episodes.spec import Spec, Specs, TaskSpec
from gato.errors import DatasetCorruptError

GROUP_STEPS = 64  # at most this many timesteps of a long episode in a row group
GROUP_BYTES = 2**18  # short episodes share a row group up to this size, uncompressed
HASH_DIGITS = 32  # of the content's SHA-256 in a pending file's name
REMEDY = "gato data verify shows the extent; restore the file, or gato data repair DIR --out DIR keeps what is whole"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the index. `total_return` is the sum of rewards; `file` and `row` say where the timesteps begin."""

    number: int
    seed: int | None
    source: str
    steps: int
    total_return: float
    success: bool | None
    info: dict[str, Any]
    executed: bool = False
    file: str = ""
    row: int = 0


# -- one leaf as a column ---------------------------------------------------------------------------------------------


def _arrow_type(spec: Spec) -> pa.DataType:
    if spec.kind == "text":
        return pa.string()
    if spec.kind == "image":
        return pa.binary(spec.size)
    value = pa.uint8() if spec.dtype == "bool" else pa.from_numpy_dtype(np.dtype(spec.dtype))
    return value if spec.shape == () else pa.list_(pa.field("element", value, nullable=False), spec.size)


def _encode(spec: Spec, values: np.ndarray | list[str]) -> pa.Array:
    """(T, *shape) or T strings → a column of T rows."""
    kind = _arrow_type(spec)
    if spec.kind == "text":
        return pa.array(values, kind)
    array = np.ascontiguousarray(values)
    if spec.kind == "image":
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(array), [None, pa.py_buffer(array)])
    flat = pa.array(array.ravel().view(np.uint8) if array.dtype == np.bool_ else array.ravel())
    return flat if spec.shape == () else pa.FixedSizeListArray.from_arrays(flat, type=kind)


def decode(spec: Spec, column: pa.ChunkedArray) -> np.ndarray | list[str]:
    """The inverse of `_encode`; arrays may be views of Arrow's read-only memory."""
    if spec.kind == "text":
        return column.to_pylist()
    array = column.combine_chunks()
    steps = len(array)
    if spec.kind == "image":
        frames = array.buffers()[1] if steps else b""
        flat = np.frombuffer(frames, np.uint8, steps * spec.size, array.offset * spec.size)
    else:
        flat = (array if spec.shape == () else array.flatten()).to_numpy()
        flat = flat.view(np.bool_) if spec.dtype == "bool" else flat
    return flat.reshape(steps, *spec.shape)


def row_bytes_of(spec: TaskSpec) -> int:
    """Rough size of a timestep, uncompressed."""

    def leaf(s: Spec) -> int:
        return 100 if s.kind == "text" else s.size * np.dtype(s.dtype).itemsize

    return 16 + sum(leaf(s) for side in (spec.observation, spec.action, spec.action) for s in side.values())


def fields_of(spec: TaskSpec, executed: bool) -> list[tuple[str, str, Specs]]:
    """(Episode field, column prefix, specs) of each side that is stored."""
    sides = [("observations", "observation", spec.observation), ("actions", "action", spec.action)]
    return sides + [("executed", "executed", spec.action)] * executed


def stored(specs: Specs) -> Iterator[tuple[str, Spec]]:
    return ((path, s) for path, s in specs.items() if s.kind == "text" or s.size)  # an empty leaf needs no column


def schema_of(spec: TaskSpec, executed: bool) -> pa.Schema:
    columns = [
        pa.field(f"{prefix}:{path}", _arrow_type(s), nullable=False)
        for _, prefix, specs in fields_of(spec, executed)
        for path, s in stored(specs)
    ]
    numbers = [("reward", pa.float32()), ("episode", pa.int64()), ("step", pa.int32())]
    return pa.schema(columns + [pa.field(name, kind, nullable=False) for name, kind in numbers])


def to_table(spec: TaskSpec, episodes: Sequence[Episode], numbers: Sequence[int], executed: bool) -> pa.Table:
    """All timesteps of some episodes. With `executed`, the actions of those without stand for both."""
    schema = schema_of(spec, executed)
    if not episodes:
        return schema.empty_table()
    columns = []
    for name, _, specs in fields_of(spec, executed):
        sides = [e.actions if name == "executed" and e.executed is None else getattr(e, name) for e in episodes]
        for path, s in stored(specs):
            leaves = [side[path] for side in sides]
            columns.append(_encode(s, list(chain(*leaves)) if s.kind == "text" else np.concatenate(leaves)))
    lengths = [len(e) for e in episodes]
    columns.append(pa.array(np.concatenate([e.rewards for e in episodes])))
    columns.append(pa.array(np.repeat(np.asarray(numbers, np.int64), lengths)))
    columns.append(pa.array(np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])))
    return pa.Table.from_arrays(columns, schema=schema)


def _row_groups(steps: Iterable[int], row_bytes: int) -> Iterator[int]:
    """Lengths of the row groups for episodes of these lengths."""
    together = max(GROUP_STEPS, GROUP_BYTES // row_bytes)
    held = 0
    for length in steps:
        if held and (length > GROUP_STEPS or held + length > together):
            yield held
            held = 0
        if length > GROUP_STEPS:
            yield from [GROUP_STEPS] * (length // GROUP_STEPS)
            if length % GROUP_STEPS:
                yield length % GROUP_STEPS
        else:
            held += length
    if held:
        yield held


def parquet_writer(sink: pa.BufferOutputStream, schema: pa.Schema) -> pq.ParquetWriter:
    texts = [f.name for f in schema if f.type == pa.string()]
    return pq.ParquetWriter(
        sink, schema, compression="zstd", write_page_checksum=True, use_dictionary=texts, write_statistics=False
    )


def write_groups(writer: pq.ParquetWriter, table: pa.Table, steps: Iterable[int], row_bytes: int) -> None:
    start = 0
    for rows in _row_groups(steps, row_bytes):
        writer.write_table(table.slice(start, rows), row_group_size=rows)
        start += rows
    assert start == table.num_rows


# -- pending files ----------------------------------------------------------------------------------------------------


def encode_chunk(
    spec: TaskSpec, episodes: Sequence[Episode], numbers: Sequence[int], failed: Mapping[int, str] | None = None
) -> bytes:
    """Some checked episodes as the bytes of one pending file; `failed` maps numbers to why no episode came of them."""
    order = np.argsort(numbers, kind="stable")
    episodes, numbers = [episodes[i] for i in order], [int(numbers[i]) for i in order]
    records, row = [], 0
    for number, episode in zip(numbers, episodes, strict=True):
        info = dict(episode.info)
        records.append(
            [number, info.pop("seed", None), info.pop("source", ""), len(episode), episode.total_return,
             info.pop("success", None), info, episode.executed is not None, row]
        )  # fmt: skip
        row += len(episode)
    table = to_table(spec, episodes, numbers, any(e.executed is not None for e in episodes))
    facts = {"gato:index": facts_as_json(records), "gato:failed": facts_as_json(dict(failed or {}))}
    sink = pa.BufferOutputStream()
    with parquet_writer(sink, table.schema.with_metadata(facts)) as writer:
        write_groups(writer, table.replace_schema_metadata(facts), map(len, episodes), row_bytes_of(spec))
    return sink.getvalue().to_pybytes()


def read_chunk(folder: Path, name: str) -> tuple[list[Entry], dict[int, str]]:
    """Index and failures of one pending file, its hash verified."""
    path = folder / name
    if sha256_of_file(path)[:HASH_DIGITS] != path.stem.rsplit("-", 1)[-1]:
        raise DatasetCorruptError("changed since it was written (SHA-256 differs)", where=str(path), fix=REMEDY)
    metadata = pq.read_schema(path).metadata
    entries = [Entry(*r[:-1], name, r[-1]) for r in json.loads(metadata[b"gato:index"])]  # type: ignore[call-arg]
    return entries, {int(k): v for k, v in json.loads(metadata[b"gato:failed"]).items()}


# -- index shards -----------------------------------------------------------------------------------------------------


def encode_index(entries: Sequence[Entry]) -> pa.Buffer:
    columns = {
        "number": pa.array([e.number for e in entries], pa.int64()),
        "seed": pa.array([e.seed for e in entries], pa.int64()),
        "source": pa.array([e.source for e in entries], pa.string()),
        "steps": pa.array([e.steps for e in entries], pa.int64()),
        "return": pa.array([e.total_return for e in entries], pa.float64()),
        "success": pa.array([e.success for e in entries], pa.bool_()),
        "info": pa.array([facts_as_json(e.info) for e in entries], pa.string()),
        "executed": pa.array([e.executed for e in entries], pa.bool_()),
        "row": pa.array([e.row for e in entries], pa.int64()),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def read_index(folder: Path, name: str) -> list[Entry]:
    columns = pq.read_table(folder / name, page_checksum_verification=True, use_threads=False).to_pydict().values()
    infos: dict[str, dict[str, Any]] = {}  # most episodes of a dataset have the same few

    def info(text: str) -> dict[str, Any]:
        if text not in infos:
            infos[text] = json.loads(text)
        return dict(infos[text])

    file = name.replace("index/", "data/")
    return [Entry(*r[:6], info(r[6]), r[7], file, r[8]) for r in zip(*columns, strict=True)]  # type: ignore[call-arg]


def by_size(entries: Iterable[Entry], row_bytes: int, limit: int = 2**24) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    held = 0
    for entry in entries:
        batch.append(entry)
        held += entry.steps * row_bytes
        if held >= limit:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
