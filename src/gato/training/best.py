"""Now and then a score of the network as it is; the bundle with the best one stays in RUN/best-step-…"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gato.episodes.manifest import write_file_atomically
from gato.errors import UsageError
from gato.model import Gato
from gato.model.bundle import Bundle, read_json
from gato.training.checkpoint import State
from gato.worlds import Task, select

Scoring = Callable[[Bundle, Sequence[Task], int], float]  # of a bundle on these tasks, so many episodes of each
REMEMBERED = "evaluate.json"  # in a run's folder


@dataclass(frozen=True)
class Judging:
    """What a run is judged by: those of the tasks that match and that it learns."""

    tasks: str  # globs, comma-separated
    every: int = 1000  # steps
    episodes: int = 10

    @classmethod
    def of(cls, said: Mapping[str, Any], out: Path | None = None) -> Judging | None:
        """From what was said, and else from what the run in `out` began with; None for neither. Raises UsageError for
        numbers without tasks."""
        before = read_json(out / REMEMBERED) if out is not None and (out / REMEMBERED).exists() else {}
        both = {**before, **said}
        if both and "tasks" not in both:
            raise UsageError("which tasks are to be evaluated?", where=str(out or ""), fix="--evaluate GLOB")
        return cls(**both) if both else None

    def remember(self, out: Path) -> None:
        write_file_atomically(out / REMEMBERED, json.dumps(asdict(self)).encode())

    def score(self, scoring: Scoring, tasks: Sequence[Task]) -> Callable[[Bundle], float]:
        return lambda bundle: scoring(bundle, tasks, self.episodes)

    def chosen(self, learned: Collection[str]) -> tuple[list[Task], list[str]]:
        """The tasks to be played, and the globs that none of them answers to. Raises UsageError where there are none at all."""
        tasks = [task for task in select(self.tasks) if task.id in learned and task.installed]
        globs = [glob.strip() for glob in self.tasks.split(",")]
        if not tasks:
            raise UsageError(
                f"there is nothing to evaluate: the data have no task of {self.tasks} that is installed",
                where="--evaluate", fix=f"of {', '.join(sorted(learned))}",
            )  # fmt: skip
        return tasks, [glob for glob in globs if not any(fnmatchcase(task.id, glob) for task in tasks)]


class Best:
    def __init__(self, out: Path, score: Callable[[Bundle], float], every: int, bundle: Callable[[], Bundle]):
        self._out, self._score, self._every, self._bundle = out, score, every, bundle
        self._scores = out / "scores.jsonl"

    def due(self, state: State) -> bool:
        return state.step % self._every == 0

    def judge_the_end(self, bundle: Bundle) -> None:
        """How the run ended, whatever number of steps that is; once."""
        state = State(bundle.card["steps"], bundle.card["tokens"])
        if state.step not in (r["step"] for r in self._known()):
            self.judge(bundle.model, state)

    def forget_after(self, step: int) -> None:
        """A run goes on from this step: scores and bundles of later ones are of another try."""
        kept = [r for r in self._known() if r["step"] <= step]
        if self._scores.exists():
            self._write(kept)
        self._remove_all_but(self._folder(r["step"]) for r in kept)

    def judge(self, model: Gato, state: State, lead: bool = True) -> None:
        """`lead`: of a team that shares its network all ranks make the bundle, one of them scores it."""
        bundle = self._bundle()
        if not lead:
            return
        score = float(self._score(bundle))
        model.train()
        before = [r for r in self._known() if r["step"] < state.step]
        self._write([*before, {"step": state.step, "tokens": state.tokens, "score": score}])
        # A better one may have gone with the steps that a resumed run forgot: what counts is what is there.
        if score > max((r["score"] for r in before if self._folder(r["step"]).exists()), default=-math.inf):
            folder = self._folder(state.step)
            shutil.rmtree(folder, ignore_errors=True)  # of another try
            bundle.save(folder)
            self._remove_all_but([folder])

    def _folder(self, step: int) -> Path:
        return self._out / f"best-step-{step:08d}"

    def _known(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._scores.read_text().splitlines()] if self._scores.exists() else []

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        write_file_atomically(self._scores, "".join(json.dumps(r) + "\n" for r in records).encode())

    def _remove_all_but(self, kept: Iterable[Path]) -> None:
        for folder in set(self._out.glob("best-step-*")).difference(kept):
            shutil.rmtree(folder)
