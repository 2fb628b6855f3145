"""When a run saves, and on which thread: the training one copies, one beside it writes, hashes and commits.

At most one checkpoint is on its way; the next waits for it. What goes wrong in the writer is raised in the loop, at the next
step or save, or at the end. A kill at any moment leaves the last committed checkpoint.
"""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from gato.training.checkpoint import Snapshot, State, snapshot, write_checkpoint
from gato.training.optimizer import Optimizers
from gato.training.recipe import Recipe
from gato.training.team import Team, Torchrun


class Saver:
    def __init__(self, run: Path, recipe: Recipe, team: Team):
        self._run, self._recipe, self._team = run, recipe, team
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None
        self._at, self._step = 0.0, -1

    def due(self, state: State) -> bool:
        """By the clock that all ranks share, or because the step is one to keep."""
        if self._recipe.keep_every and state.step % self._recipe.keep_every == 0:
            return True
        return state.elapsed_seconds - self._at > self._recipe.save_every_seconds

    def start(self, state: State) -> None:
        self._at = state.elapsed_seconds

    def save(self, model: torch.nn.Module, optimizers: Optimizers, state: State) -> None:
        """On every rank of a team that shares its network; else on rank 0 alone."""
        self._at = state.elapsed_seconds
        if state.step == self._step or not (self._team.lead or self._team.sharded):
            return
        self._step = state.step
        self._team.at(state.step, "saving")
        self.wait()
        taken = snapshot(model, optimizers, state, copy=self._recipe.save_async)
        if not self._recipe.save_async:
            self._write(taken)
            return
        self._writer = threading.Thread(target=self._try, args=(taken,), name="gato-saver")
        self._writer.start()

    def check(self) -> None:
        """Raise what the writer met."""
        if self._error is not None:
            self.wait()

    def wait(self) -> None:
        """Until the checkpoint that is on its way has been committed. Raises what the writer met."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _try(self, taken: Snapshot) -> None:
        try:
            self._write(taken)
        except BaseException as error:
            self._error = error

    def _write(self, taken: Snapshot) -> None:
        keep = self._recipe.keep_last, self._recipe.keep_every
        if isinstance(self._team, Torchrun):
            from gato.training.sharded import write_shards

            write_shards(self._run, taken, self._team, *keep)
        else:
            write_checkpoint(self._run, taken, *keep)
