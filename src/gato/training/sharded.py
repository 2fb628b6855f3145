"""Checkpoints of many ranks: torch.distributed.checkpoint, each rank writing what it holds, readable at any number of ranks.

DCP keeps its table of contents, `shards/.metadata`, as a pickle, and PyTorch reads it as one: whoever can put a file there
runs code. Here it is read only after its SHA-256 has matched the manifest, by an unpickler that knows the classes such a
table is made of and no other; what lies in the shards is tensors, read with weights_only, and objects are refused.
"""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.tensor import DTensor

from gato.episodes.manifest import naming_disk_errors, temporary_beside
from gato.errors import CheckpointCorruptError, CheckpointError, CheckpointMismatchError, GatoError
from gato.training.checkpoint import Snapshot, commit_state, folder_of, make_last, parameters_of, place_of
from gato.training.optimizer import Optimizers
from gato.training.team import Torchrun

SHARDS = "shards"
METADATA = ".metadata"
_OF_DCP = "torch.distributed.checkpoint.metadata"
ALLOWED = {
    (_OF_DCP, "Metadata"), (_OF_DCP, "MetadataIndex"), (_OF_DCP, "TensorStorageMetadata"), (_OF_DCP, "TensorProperties"),
    (_OF_DCP, "ChunkStorageMetadata"), (_OF_DCP, "StorageMeta"), (_OF_DCP, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"), ("torch", "Size"), ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"), ("pathlib._local", "PosixPath"),
    *(("torch", name) for name in ("float32", "bfloat16", "float16", "float64", "int64", "int32", "uint8", "bool")),
}  # fmt: skip


# -- writing ----------------------------------------------------------------------------------------------------------


def write_shards(run: Path, taken: Snapshot, team: Torchrun, keep_last: int, keep_every: int | None) -> Path:
    """Every rank calls this, from whichever thread; returns when rank 0 has committed. Raises CheckpointError (or what the
    disk said) on every rank where one of them could not write."""
    folder, name = folder_of(run, taken.state.step), f"checkpoint-{taken.state.step}"

    def prepare() -> str:
        if folder.exists():
            return ""
        folder.parent.mkdir(parents=True, exist_ok=True)
        return temporary_beside(folder).name

    def commit() -> str:
        if beside is not None:
            commit_state(beside, folder, taken, {"format": "sharded", "ranks": team.world})
        make_last(folder, keep_last, keep_every)
        return folder.name

    made = team.first(f"{name}/folder", prepare)
    beside = folder.with_name(made) if made else None
    try:
        if beside is not None:
            _save({**_named("model", taken.weights), **_named("optimizer", taken.moments)}, beside / SHARDS, team)
        team.first(f"{name}/commit", commit)
    except BaseException:
        if team.lead and beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        raise
    return folder


def _save(tensors: dict[str, torch.Tensor], folder: Path, team: Torchrun) -> None:
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=True, sync_files=True)
    try:
        with naming_disk_errors(folder):
            dcp.save(tensors, storage_writer=writer, process_group=team.savers)
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        with naming_disk_errors(folder):
            if isinstance(cause, OSError):
                raise cause from None
        raise CheckpointError(
            f"rank {rank} could not write its shard: {cause}", where=str(folder), fix="is the disk full?"
        ) from error


def _named(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}/{k}": v for k, v in tensors.items()}


# -- reading ----------------------------------------------------------------------------------------------------------


def read_shards(
    folder: Path, manifest: dict[str, Any], model: torch.nn.Module, optimizers: Optimizers
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(weights, moments), sharded as the model's parameters are that they belong to. The model itself is not touched.

    The manifest has been verified. Raises CheckpointCorruptError, CheckpointMismatchError with every difference."""
    reader = SafeReader(folder / SHARDS, {n.removeprefix(f"{SHARDS}/") for n in manifest["files"]})
    entries = reader.read_metadata().state_dict_metadata
    stored = {k: tuple(v.size) for k, v in entries.items() if isinstance(v, TensorStorageMetadata)}
    wanted = _named("model", {k: torch.empty_like(v) for k, v in model.state_dict().items()})
    faults = [f"missing {k}" for k in wanted if k not in stored]
    faults += [f"unexpected {k}" for k in stored if k.startswith("model/") and k not in wanted]
    moments: dict[str, torch.Tensor] = {}
    for path in (k.removeprefix("optimizer/") for k in stored if k.startswith("optimizer/")):
        name, i, _ = place_of(path, optimizers, str(folder))
        p = parameters_of(optimizers[name])[i]
        size = stored[f"optimizer/{path}"]
        moments[path] = torch.zeros_like(p.detach()) if size == tuple(p.shape) else torch.zeros(size)
    wanted |= _named("optimizer", moments)
    faults += [
        f"{k} is {stored[k]}, expected {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in stored and stored[k] != tuple(v.shape)
    ]
    if faults:
        raise CheckpointMismatchError(
            "; ".join(faults), where=str(folder), fix="load it with the config it was saved with"
        )
    alone = not any(isinstance(v, DTensor) for v in wanted.values())
    try:
        dcp.load(wanted, storage_reader=reader, planner=TensorsOnly(), no_dist=alone or not dist.is_initialized())
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, GatoError):
            raise cause from error
        raise CheckpointCorruptError(f"a shard cannot be read: {cause}", where=str(folder)) from error
    weights = {k.removeprefix("model/"): v for k, v in wanted.items() if k.startswith("model/")}
    return weights, {path: wanted[f"optimizer/{path}"] for path in moments}


class SafeReader(dcp.FileSystemReader):
    """Of the files that the manifest lists alone, with a table of contents that can name nothing but itself."""

    def __init__(self, folder: Path, files: set[str]):
        super().__init__(folder)
        self._folder, self._files = folder, files

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        path = self._folder / METADATA
        try:
            metadata = _TableOfContents(io.BytesIO(path.read_bytes()), str(path)).load()
        except GatoError:
            raise
        except Exception as error:  # whatever a damaged pickle may end in
            raise CheckpointCorruptError(f"not a table of contents: {error}", where=str(path)) from error
        if not isinstance(metadata, Metadata):
            raise CheckpointCorruptError("not a table of contents", where=str(path))
        strange = {info.relative_path for info in metadata.storage_data.values()} - self._files
        if strange:
            raise CheckpointCorruptError(f"it names files outside the manifest: {sorted(strange)}", where=str(path))
        metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _TableOfContents(pickle.Unpickler):
    def __init__(self, data: io.BytesIO, where: str):
        super().__init__(data)
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise CheckpointCorruptError(
                f"it asks for {module}.{name}, which no checkpoint needs; nothing of it was run", where=self._where,
                fix="do not use this checkpoint",
            )  # fmt: skip
        return super().find_class(module, name)


class TensorsOnly(DefaultLoadPlanner):
    """PyTorch's would unpickle what is not a tensor."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise CheckpointCorruptError(f"{read_item.dest_index.fqn} is not a tensor", where="shards")
