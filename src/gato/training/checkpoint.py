"""The state to continue a run: weights, optimisers, step, clock. Committed whole or not at all.

RUN/checkpoints/step-000123/{model,optimizer}.safetensors, state.json, MANIFEST.json      of one process
RUN/checkpoints/step-000123/shards/…, state.json, MANIFEST.json                           of many (`gato.training.sharded`)
RUN/checkpoints/last                                                                      the newest's name, moved atomically

Either kind loads at any number of ranks. The manifest, with the SHA-256 of every file, is written last: a folder without
one does not exist. Older checkpoints go only after that; every `keep_every` steps one stays for ever.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gato.episodes.manifest import (
    commit_folder,
    remove_leftovers,
    temporary_beside,
    verify_manifest,
    write_file_atomically,
)
from gato.errors import CheckpointCorruptError, CheckpointMismatchError, CheckpointMissingError
from gato.model.bundle import check_weights, load_tensors, load_weights, read_json, save_tensors, write_json
from gato.training.optimizer import Optimizers
from gato.training.sharding import like


@dataclass
class State:
    """Where a run is. The data loader's state is `step` alone."""

    step: int = 0
    tokens: int = 0
    elapsed_seconds: float = 0.0


@dataclass
class Snapshot:
    """A run at one step, to be written."""

    state: State
    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]  # "adamw/3/exp_avg" → tensor; the number counts the optimiser's parameters
    scalars: dict[str, Any]  # what an optimiser keeps that is no tensor


def snapshot(model: torch.nn.Module, optimizers: Optimizers, state: State, copy: bool = False) -> Snapshot:
    """`copy`: on the CPU, so that training may go on while it is written."""
    moments: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        for i, entry in optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                (moments if isinstance(value, torch.Tensor) else scalars)[f"{name}/{i}/{key}"] = value
    weights = dict(model.state_dict())
    if copy:
        weights, moments = ({k: _copy(v) for k, v in tensors.items()} for tensors in (weights, moments))
    return Snapshot(State(**vars(state)), weights, moments, scalars)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone() if tensor.device.type == "cpu" else tensor.detach().cpu()


def save_checkpoint(
    run: Path, model: torch.nn.Module, optimizers: Optimizers, state: State, keep_last: int = 2, keep_every: int | None = None
) -> Path:  # fmt: skip
    """Write the state of one process, now."""
    return write_checkpoint(run, snapshot(model, optimizers, state), keep_last, keep_every)


def write_checkpoint(run: Path, taken: Snapshot, keep_last: int = 2, keep_every: int | None = None) -> Path:
    def fill(beside: Path) -> None:
        save_tensors(beside / "model.safetensors", taken.weights)
        save_tensors(beside / "optimizer.safetensors", taken.moments)

    folder = folder_of(run, taken.state.step)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = temporary_beside(folder)
        try:
            fill(beside)
            commit_state(beside, folder, taken, {"format": "whole"})
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    make_last(folder, keep_last, keep_every)
    return folder


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def commit_state(beside: Path, folder: Path, taken: Snapshot, facts: dict[str, Any]) -> None:
    """The tensors are in `beside`: add the rest, and the manifest."""
    write_json(beside / "state.json", {**vars(taken.state), "optimizer": taken.scalars})
    commit_folder(beside, folder, {"step": taken.state.step, **facts}, kind="checkpoint")


def make_last(folder: Path, keep_last: int, keep_every: int | None) -> None:
    """Move `last` to a committed checkpoint; then what nobody needs goes: older ones, and what killed savers left."""
    write_file_atomically(folder.parent / "last", folder.name.encode())
    remove_leftovers(folder.parent)
    others = sorted(p for p in folder.parent.glob("step-*") if p != folder)
    if keep_every:
        others = [p for p in others if not _is_kept_for_ever(p, keep_every)]
    for old in others[: max(0, len(others) + 1 - keep_last)]:
        shutil.rmtree(old)


def _is_kept_for_ever(folder: Path, every: int) -> bool:
    number = re.fullmatch(r"step-(\d+)", folder.name)
    return number is not None and int(number[1]) % every == 0 and (folder / "MANIFEST.json").exists()


# -- and back ---------------------------------------------------------------------------------------------------------


def load_checkpoint(run: Path, model: torch.nn.Module, optimizers: Optimizers) -> State:
    """Restore the newest checkpoint of a run, verified first, whatever wrote it. Raises CheckpointMissingError and its
    siblings. On ranks that share a network every one of them calls this."""
    pointer = run / "checkpoints" / "last"
    if not pointer.is_file():
        raise CheckpointMissingError("no checkpoint here", where=str(run), fix="name the --out folder of a run")
    name = pointer.read_bytes().decode(errors="replace").strip()
    if not re.fullmatch(r"step-\d{8,}", name):
        raise CheckpointCorruptError(
            f"not the name of a checkpoint: {name[:40]!r}", where=str(pointer), fix="write the name of one into it"
        )
    folder = pointer.parent / name
    manifest = verify_manifest(folder, CheckpointCorruptError)
    record = read_json(folder / "state.json")
    scalars = record.pop("optimizer")
    # Everything is read before anything is put to use.
    if manifest["facts"].get("format") == "sharded":
        from gato.training.sharded import read_shards

        weights, moments = read_shards(folder, manifest, model, optimizers)
    else:
        weights, moments = (load_tensors(folder / f"{name}.safetensors") for name in ("model", "optimizer"))
    check_weights(model, weights, str(folder / "model.safetensors"))
    states = _by_parameter(optimizers, moments, scalars, str(folder))
    load_weights(model, weights, str(folder / "model.safetensors"), like)
    for name, optimizer in optimizers.items():
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states[name], "param_groups": groups})
    return State(**record)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """In the order that numbers them in `Snapshot.moments`."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def place_of(path: str, optimizers: Optimizers, where: str) -> tuple[str, int, str]:
    """(optimiser, parameter, key) of a moment's name. Raises CheckpointMismatchError where there is none."""
    name, i, key = path.split("/")
    if name not in optimizers:
        raise CheckpointMismatchError(f"state of an optimizer {name!r} that this recipe does not use", where=where)
    if int(i) >= len(parameters_of(optimizers[name])):
        raise CheckpointMismatchError(f"{path}: the network has fewer parameters", where=where)
    return name, int(i), key


def _by_parameter(
    optimizers: Optimizers, moments: dict[str, torch.Tensor], scalars: dict[str, Any], where: str
) -> dict[str, dict[int, dict[str, Any]]]:
    """{optimiser: {parameter's number: {key: value}}}, as its `load_state_dict` takes it."""
    states: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in optimizers}
    parameters = {name: parameters_of(optimizer) for name, optimizer in optimizers.items()}
    values = {place_of(path, optimizers, where): value for path, value in [*moments.items(), *scalars.items()]}
    for (name, i, key), value in values.items():
        p = parameters[name][i]
        if isinstance(value, torch.Tensor) and value.ndim:
            if value.shape != p.shape:
                raise CheckpointMismatchError(
                    f"{name}/{i}/{key} is {tuple(value.shape)}, expected {tuple(p.shape)}", where=where
                )
            value = like(value, p)
        states[name].setdefault(i, {})[key] = value
    return states
