"""Scores: the returns of single episodes become percentages of the expert, and those become one headline.

    expert-normalised = 100 · (score − random) / (expert − random)      0 % plays at random, 100 % is the expert

    task = TaskScores("meta-world/push", [1, 1, 0, 1], random=0.0, expert=1.0, measure="success")
    results(protocol, [task])["aggregates"]["mean_of_domain_means"]     # 75.0

Nothing is clipped: an agent may be worse than random or better than its expert. A task whose expert is no better than
random is listed, not scored, and named in `aggregates["unscored"]`. The `dummy` world never counts.

Intervals are 95 % percentile intervals of a stratified bootstrap: the episodes of every task are drawn again with
replacement, and everything is computed anew from them. So they say how much the number could move with other episodes
of the same agent; they do not cover other training seeds, and they take the references as exact.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gato.errors import DataError, DiskFullError

REPLICATES = 2000
LEVELS = (50, 80)  # percent of expert at which tasks are counted
THRESHOLDS = tuple(range(0, 151, 5))  # percent; the x axis of the paper's Figure 5, and what lies beyond the expert
UNCOUNTED_DOMAINS = ("dummy",)
_SLACK = 1e-9  # so that 0.8 of an expert counts as 80 %, however it was rounded on the way


@dataclass(frozen=True)
class TaskScores:
    """One task: `episodes` holds one score per finished episode (the return, or 1.0 and 0.0 for success).

    `facts` are whatever else is worth a line: environment steps, seconds, failures, legal mass.
    Raises DataError for a score that is not a finite number.
    """

    id: str
    episodes: Sequence[float]
    random: float | None
    expert: float | None
    measure: Literal["return", "success"] = "return"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not np.isfinite(np.asarray(self.episodes, np.float64)).all():
            raise DataError(
                "an episode's score is not a finite number", where=self.id, fix="look at the rewards of this world"
            )

    @property
    def domain(self) -> str:
        return self.id.split("/", 1)[0]

    @property
    def score(self) -> float | None:
        """The mean over episodes, or None where none was finished."""
        return float(np.mean(self.episodes)) if len(self.episodes) else None

    @property
    def unscored(self) -> str:
        """Why this task has no percentage, or an empty string."""
        if self.random is None or self.expert is None:
            return "no reference score was measured"
        if not self.expert > self.random:
            return "the expert is no better than random"
        return "" if len(self.episodes) else "no episode was finished"

    @property
    def counts(self) -> bool:
        return not self.unscored and self.domain not in UNCOUNTED_DOMAINS

    @property
    def expert_normalised(self) -> float | None:
        return None if self.unscored else expert_normalised(self.score, self.random, self.expert)

    def replicates(self, count: int, seed: int) -> np.ndarray:
        """Normalised scores of `count` bootstrap replicates, (count,): a function of this task alone."""
        assert self.random is not None and self.expert is not None and self.expert > self.random
        values = np.sort(np.asarray(self.episodes, np.float64))  # the order of episodes says nothing
        rng = np.random.default_rng([seed, zlib.crc32(self.id.encode())])
        means = values[rng.integers(len(values), size=(count, len(values)))].mean(axis=1)
        return 100.0 * (means - self.random) / (self.expert - self.random)


def expert_normalised(score: float | None, random: float | None, expert: float | None) -> float | None:
    """Percent of the way from random play to the expert; None where that way has no length or goes down."""
    if score is None or random is None or expert is None or not expert > random:
        return None
    return 100.0 * (score - random) / (expert - random)


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis: a quarter (rounded down) is cut from each end."""
    values = np.sort(values, axis=-1)
    cut = values.shape[-1] // 4
    return values[..., cut : values.shape[-1] - cut].mean(axis=-1)


def aggregate(normalised: np.ndarray, domains: Sequence[str]) -> dict[str, Any]:
    """Aggregates over the last axis of (…, tasks) percentages; `domains[i]` is the domain of task i.

    Values have the leading shape; `domains` maps each domain to its mean.
    """
    normalised, of = np.asarray(normalised, np.float64), np.asarray(domains)
    means = {str(d): normalised[..., of == d].mean(axis=-1) for d in np.unique(of)}
    return {
        "mean_of_domain_means": np.mean(list(means.values()), axis=0),
        "mean": normalised.mean(axis=-1),
        "median": np.median(normalised, axis=-1),
        "iqm": iqm(normalised),
        **{f"tasks_at_{level}": tasks_at(normalised, level) for level in LEVELS},
        "domains": means,
    }


def tasks_at(normalised: np.ndarray, percent: float) -> np.ndarray:
    """How many tasks reach `percent` of their expert, over the last axis."""
    return (np.asarray(normalised) >= percent - _SLACK).sum(axis=-1)


def thresholds(normalised: Iterable[float], percents: Sequence[float] = THRESHOLDS) -> dict[str, list]:
    """The paper's Figure 5: how many tasks are at or above each percentage of their expert."""
    values = np.asarray(list(normalised), np.float64)
    return {"percent": list(percents), "tasks": [int(tasks_at(values, p)) for p in percents]}


def resampled_means(groups: Iterable[Sequence[float]], count: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """Bootstrap replicates of the mean over groups of each group's mean, (count,): drawn again within each group, of episodes
    say, of a task each."""
    rng = np.random.default_rng(seed)
    rows = [np.asarray(group, np.float64) for group in groups]
    return np.mean([row[rng.integers(len(row), size=(count, len(row)))].mean(axis=1) for row in rows], axis=0)


def interval(replicates: np.ndarray) -> list[float]:
    """The 95 % percentile interval of (replicates,) values."""
    return [float(v) for v in np.percentile(replicates, (2.5, 97.5))]


def results(
    protocol: Mapping[str, Any],
    tasks: Sequence[TaskScores],
    language: Mapping[str, Any] | None = None,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Any]:
    """The whole of `results.json`. Every aggregate has its interval under the same name in `aggregates["intervals"]`.

    Raises DataError where a task is given twice.
    """
    tasks = sorted(tasks, key=lambda t: t.id)
    twice = [a.id for a, b in itertools.pairwise(tasks) if a.id == b.id]
    if twice:
        raise DataError("a task was given twice", where=twice[0])
    drawn = {t.id: t.replicates(replicates, seed) for t in tasks if not t.unscored}
    statistics = {
        "normalised": "100 · (score − random) / (expert − random), not clipped",
        "headline": "mean of domain means",
        "interval": f"95 %, bootstrap over episodes within tasks, {replicates:,} replicates, seed {seed}",
    }
    return {
        "protocol": {**protocol, "statistics": statistics},
        "tasks": [_record(task, drawn.get(task.id)) for task in tasks],
        "aggregates": _aggregates(tasks, drawn),
        "language": dict(language or {}),
    }


def _record(task: TaskScores, drawn: np.ndarray | None) -> dict[str, Any]:
    return {
        "id": task.id,
        "domain": task.domain,
        "score": task.score,
        "random": task.random,
        "expert": task.expert,
        "expert_normalised": task.expert_normalised,
        "interval": None if drawn is None else interval(drawn),
        "episodes": len(task.episodes),
        "measure": task.measure,
        "unscored": task.unscored,
        "episode_scores": [float(v) for v in task.episodes],
        "facts": dict(task.facts),
    }


def _aggregates(tasks: Sequence[TaskScores], drawn: Mapping[str, np.ndarray]) -> dict[str, Any]:
    counted = [t for t in tasks if t.counts]
    domains = [t.domain for t in counted]
    normalised = [t.expert_normalised for t in counted]
    unscored = [t.id for t in tasks if t.unscored and t.domain not in UNCOUNTED_DOMAINS]
    facts = {"tasks": len(counted), "unscored": unscored, "thresholds": thresholds(normalised)}  # type: ignore[arg-type]
    if not counted:
        empty: dict[str, Any] = {
            "mean_of_domain_means": None,
            "mean": None,
            "median": None,
            "iqm": None,
            "domains": {},
            "intervals": {},
        }
        return {**empty, **{f"tasks_at_{level}": 0 for level in LEVELS}, **facts}
    point = aggregate(np.array(normalised), domains)
    spread = aggregate(np.stack([drawn[t.id] for t in counted], axis=-1), domains)
    return {**_each(point, lambda v: v.item()), "intervals": _each(spread, interval), **facts}


def _each(values: Mapping[str, Any], function: Callable[[Any], Any]) -> dict[str, Any]:
    return {k: _each(v, function) if isinstance(v, Mapping) else function(v) for k, v in values.items()}


def write_results(record: Mapping[str, Any], file: Path) -> Path:
    """Write `results.json` whole or not at all. Infinities and NaN are a ValueError: JSON has none."""
    return write_whole(file, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False, default=plain) + "\n")


def write_whole(file: Path, text: str) -> Path:
    """Write beside, then rename: whoever reads sees the old file or the new one. Raises DiskFullError."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            "the disk is full", where=str(file), fix="free some space and run the same command"
        ) from None
    return file


def plain(value: Any) -> Any:
    """NumPy scalars and arrays, and paths, as JSON has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written to results.json")


def read_results(file: Path) -> dict[str, Any]:
    """`results.json`, checked as far as the report needs it. Raises DataError (file, field)."""
    fix = "gato evaluate BUNDLE --out DIR writes it"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no results.json here", where=str(file), fix=fix) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not JSON: {error}", where=str(file), fix=fix) from None
    for name, kind in (("protocol", dict), ("tasks", list), ("aggregates", dict)):
        if not isinstance(record, dict) or not isinstance(record.get(name), kind):
            raise DataError(f"no {name!r} in it", where=str(file), fix=fix)
    for i, task in enumerate(record["tasks"]):
        missing = [k for k in ("id", "domain", "score", "random", "expert", "expert_normalised") if k not in task]
        if missing:
            raise DataError(f"task {i} lacks {', '.join(missing)}", where=str(file), fix=fix)
    return record
