"""Now and then a score of the network as it is; the bundle with the best one stays in RUN/best-step-…"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

from gato.episodes.manifest import write_file_atomically
from gato.model import Gato
from gato.model.bundle import Bundle
from gato.training.checkpoint import State


class Best:
    def __init__(self, out: Path, score: Callable[[Bundle], float], every: int, bundle: Callable[[], Bundle]):
        self._out, self._score, self._every, self._bundle = out, score, every, bundle
        self._scores = out / "scores.jsonl"

    def due(self, state: State) -> bool:
        return state.step % self._every == 0

    def judge(self, model: Gato, state: State, lead: bool = True) -> None:
        """`lead`: of a team that shares its network all ranks make the bundle, one of them scores it."""
        bundle = self._bundle()
        if not lead:
            return
        score = float(self._score(bundle))
        model.train()
        lines = self._scores.read_text().splitlines() if self._scores.exists() else []
        before = [line for line in map(json.loads, lines) if line["step"] < state.step]  # of a run that was resumed
        record = [*before, {"step": state.step, "tokens": state.tokens, "score": score}]
        write_file_atomically(self._scores, "".join(json.dumps(r) + "\n" for r in record).encode())
        if score > max((r["score"] for r in before), default=-math.inf):
            folder = self._out / f"best-step-{state.step:08d}"
            if not folder.exists():
                bundle.save(folder)
            for old in self._out.glob("best-step-*"):
                if old != folder:
                    shutil.rmtree(old)
