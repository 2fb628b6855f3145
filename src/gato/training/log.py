"""What a run writes down as it goes: log.jsonl, TensorBoard's events, and a tracker where one was asked for.

    {"step": 40, "tokens": 245760, "elapsed_seconds": 6.1, "loss": 3.2, "loss/babyai": 1.1, "loss/kind/discrete": 1.0,
     "learning_rate": 0.003, "grad_norm": 0.8, "tokens_per_second": 39321, "targets_per_second": 2404, "data_wait": 0.03,
     "padding": 0.02, "memory_gb": 1.3}

Losses are means (nats per target) since the line before, `data_wait` and `padding` shares of time and of tokens, memory
the most that the process, or its part of a GPU, has held.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import resource
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gato.episodes.manifest import naming_disk_errors, write_file_atomically
from gato.errors import UsageError
from gato.sequences import Batch, Store
from gato.tokens import KINDS
from gato.training.checkpoint import State
from gato.training.team import Team

LOG_EVERY_SECONDS = 5.0
MOST_WAIT, PATIENCE = 0.1, 3  # of the time, lines in a row (at first files are opened): then data are called slow

Tracker = Literal["wandb", "trackio"]


class Log:
    """Sums over steps, a line now and then. Without a folder (a rank that does not lead) it only counts."""

    def __init__(self, run: Path | None, stores: Sequence[Store], state: State, track: Tracker | None = None):
        self._path = None if run is None else run / "log.jsonl"
        self._domains = sorted({s.domain for s in stores})
        self._domain_of = torch.tensor([self._domains.index(s.domain) for s in stores])
        self._names = [f"loss/{d}" for d in self._domains] + [f"loss/kind/{k}" for k in KINDS]
        self._sum, self._count = np.zeros(len(self._names)), np.zeros(len(self._names))
        self._tokens, self._padding, self.waited = state.tokens, [0, 0], 0.0
        self._at = state.elapsed_seconds
        self._slow = 0  # lines in a row
        self._events, self._tracker = None, None
        if run is None:
            return
        if self._path is not None and self._path.exists():  # a resumed run forgets what came after its checkpoint
            kept = [line for line in self._path.read_text().splitlines() if _step_of(line) <= state.step]
            write_file_atomically(self._path, "".join(line + "\n" for line in kept).encode())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(run / "tensorboard"), purge_step=state.step + 1 if state.step else None)
        if track is not None:
            self._tracker = check_tracker(track)
            self._tracker.init(project="gato", name=run.name)

    def add(self, batch: Batch, losses: torch.Tensor) -> None:
        """Count a part of a step: `losses` (M,) of the batch's M targets."""
        domains, kinds, device = len(self._domains), len(KINDS), losses.device
        for at, size, of in (
            (0, domains, self._domain_of.to(device)[batch.stores]),
            (domains, kinds, batch.kinds.long()),
        ):
            self._sum[at : at + size] += torch.zeros(size, device=device).index_add_(0, of, losses).cpu().numpy()
            self._count[at : at + size] += torch.bincount(of, minlength=size).cpu().numpy()
        self._padding[0] += len(batch.ids) - batch.num_tokens
        self._padding[1] += len(batch.ids)

    def gather(self, team: Team, state: State) -> None:
        """Count what the other ranks have seen too."""
        size = len(self._names)
        total = team.add_up(np.concatenate([self._sum, self._count, self._padding]))
        self._sum, self._count, self._padding = total[:size], total[size : 2 * size], total[2 * size :].tolist()
        if not team.lead:
            self._clear()
            self._at = state.elapsed_seconds  # due on all ranks at once

    def _clear(self) -> None:
        self._sum, self._count = np.zeros(len(self._names)), np.zeros(len(self._names))
        self._padding = [0, 0]

    def due(self, state: State) -> bool:
        return state.elapsed_seconds - self._at >= LOG_EVERY_SECONDS or state.step == 1

    def write(self, state: State, norm: float, rate: float) -> dict[str, Any]:
        """One line, of what has happened since the line before."""
        seconds = max(1e-9, state.elapsed_seconds - self._at)
        domains = len(self._domains)
        targets = self._count[:domains].sum()
        record: dict[str, Any] = {
            "step": state.step, "tokens": state.tokens, "elapsed_seconds": round(state.elapsed_seconds, 2),
            "loss": float(self._sum[:domains].sum() / max(1, targets)), "learning_rate": rate, "grad_norm": norm,
            "tokens_per_second": (state.tokens - self._tokens) / seconds, "targets_per_second": float(targets / seconds),
            "data_wait": self.waited / seconds, "padding": self._padding[0] / max(1, self._padding[1]),
            "memory_gb": round(_memory() / 2**30, 3),
        }  # fmt: skip
        record |= {n: float(s / c) for n, s, c in zip(self._names, self._sum, self._count, strict=True) if c}
        assert self._path is not None and self._events is not None
        values = {k: v for k, v in record.items() if k != "step"}
        with naming_disk_errors(self._path):
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            for name, value in values.items():
                self._events.add_scalar(name, value, state.step)
        if self._tracker is not None:
            self._tracker.log(values, step=state.step)
        waited = record["data_wait"] > MOST_WAIT and state.step > 1
        self._slow = self._slow + 1 if waited or self._slow >= PATIENCE else 0
        if self._slow == PATIENCE:  # once
            print(
                f"{record['data_wait']:.0%} of the time is spent waiting for data; on a CPU fewer --processes help, or a"
                " larger window_tokens, so that a batch has fewer windows",
                file=sys.stderr,
            )
        self._clear()
        self._tokens, self._at, self.waited = state.tokens, state.elapsed_seconds, 0.0
        return record

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
        if self._tracker is not None:
            self._tracker.finish()


def _step_of(line: str) -> float:
    """Of a line of the log; infinity for half a line, which a full disk may leave."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def check_tracker(name: str) -> Any:
    """The module of a tracker. Raises UsageError where it is unknown or not installed."""
    if name not in ("wandb", "trackio"):
        raise UsageError(f"no tracker {name!r}", where="--track", fix="wandb or trackio")
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"{name} is not installed", where="--track", fix=f"pip install {name}")
    return importlib.import_module(name)


def _memory() -> int:
    """Bytes: the most that was allocated on the GPU, if one is in use, or resident in this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
