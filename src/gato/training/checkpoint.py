"""The state to continue a run: weights, optimisers, step, clock. Committed whole or not at all.

RUN/checkpoints/step-000123/{model,optimizer}.safetensors, state.json, MANIFEST.json
RUN/checkpoints/last          the name of the newest, replaced atomically
"""

from __future__ import annotations

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
from gato.model.bundle import load_tensors, load_weights, read_json, save_tensors, write_json
from gato.training.optimizer import Optimizers


@dataclass
class State:
    """Where a run is. The data loader's state is `step` alone."""

    step: int = 0
    tokens: int = 0
    elapsed_seconds: float = 0.0


def save_checkpoint(
    run: Path, model: torch.nn.Module, optimizers: Optimizers, state: State, keep_last: int = 2
) -> Path:
    """Commit a checkpoint and move `last` to it; older ones go only after that."""
    folder = run / "checkpoints" / f"step-{state.step:08d}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = temporary_beside(folder)
        try:
            save_tensors(beside / "model.safetensors", dict(model.state_dict()))
            tensors, scalars = _flatten(optimizers)
            save_tensors(beside / "optimizer.safetensors", tensors)
            write_json(beside / "state.json", {**vars(state), "optimizer": scalars})
            commit_folder(beside, folder, {"step": state.step}, kind="checkpoint")
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    write_file_atomically(folder.parent / "last", folder.name.encode())
    remove_leftovers(folder.parent)  # of savers that were killed
    others = sorted(p for p in folder.parent.glob("step-*") if p != folder)
    for old in others[: max(0, len(others) + 1 - keep_last)]:
        shutil.rmtree(old)
    return folder


def load_checkpoint(run: Path, model: torch.nn.Module, optimizers: Optimizers) -> State:
    """Restore the newest checkpoint of a run, verified first. Raises CheckpointMissingError and its siblings."""
    pointer = run / "checkpoints" / "last"
    if not pointer.is_file():
        raise CheckpointMissingError("no checkpoint here", where=str(run), fix="name the --out folder of a run")
    folder = pointer.parent / pointer.read_text().strip()
    verify_manifest(folder, CheckpointCorruptError)
    load_weights(model, load_tensors(folder / "model.safetensors"), str(folder / "model.safetensors"))
    tensors, record = load_tensors(folder / "optimizer.safetensors"), read_json(folder / "state.json")
    _unflatten(optimizers, tensors, record.pop("optimizer"), str(folder))
    return State(**record)


def _flatten(optimizers: Optimizers) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        for i, entry in optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}/{i}/{key}"] = value.clone()
                else:
                    scalars[f"{name}/{i}/{key}"] = value
    return tensors, scalars


def _unflatten(optimizers: Optimizers, tensors: dict[str, torch.Tensor], scalars: dict[str, Any], where: str) -> None:
    states: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in optimizers}
    for path, value in [*tensors.items(), *scalars.items()]:
        name, i, *rest = path.split("/")
        if name not in states:
            raise CheckpointMismatchError(f"state of an optimizer {name!r} that this recipe does not use", where=where)
        states[name].setdefault(int(i), {})[rest[0]] = value
    for name, optimizer in optimizers.items():
        current = optimizer.state_dict()
        optimizer.load_state_dict({"state": states[name], "param_groups": current["param_groups"]})
