"""The user's own Table 1: what datasets there are, and how much is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gato.episodes.manifest import MANIFEST
from gato.episodes.store import Dataset, find_datasets


def table(
    paths: Path | str | Iterable[Path | str], tokens: Callable[[Dataset], int] | None = None
) -> list[dict[str, Any]]:
    """One row per dataset at or below the paths, in the order of domain and task.

    {"domain", "task", "folder", "source", "episodes", "timesteps", "tokens" (None without the callable), "mean_return",
    "success" (share, or None where the task has none), "failed", "bytes" (on disk)}. Raises DatasetMissingError,
    DatasetCorruptError.
    """
    rows = [_row(Dataset.open(folder), tokens) for folder in find_datasets(paths)]
    return sorted(rows, key=lambda row: (row["domain"], row["task"], str(row["folder"])))


def _row(dataset: Dataset, tokens: Callable[[Dataset], int] | None) -> dict[str, Any]:
    known = [e.success for e in dataset.index if e.success is not None]
    return {
        "domain": dataset.task.split("/", 1)[0],
        "task": dataset.task,
        "folder": dataset.folder,
        "source": dataset.meta.get("source", ""),
        "episodes": len(dataset),
        "timesteps": dataset.num_timesteps,
        "tokens": tokens(dataset) if tokens else None,
        "mean_return": float(dataset.returns.mean()) if len(dataset) else None,
        "success": sum(known) / len(known) if known else None,
        "failed": len(dataset.failed),
        "bytes": sum(f.stat().st_size for f in (dataset.folder / MANIFEST, *dataset.folder.glob("*/*.parquet"))),
    }
