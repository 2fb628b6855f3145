"""The user's own Table 1: what datasets there are, and how much is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gato.episodes.manifest import MANIFEST
from gato.episodes.store import Dataset, find_datasets
from gato.errors import GatoError


def table(
    paths: Path | str | Iterable[Path | str], tokens: Callable[[Dataset], int] | None = None
) -> list[dict[str, Any]]:
    """One row per dataset at or below the paths, in the order of domain and task.

    {"domain", "task", "folder", "source", "episodes", "timesteps", "tokens" (None without the callable), "mean_return",
    "success" (share, or None where the task has none), "failed", "bytes" (on disk), "problem" (None, or why there are no
    tokens, or, of a damaged one, no numbers at all)}. Raises DatasetMissingError.
    """
    rows = [_row(folder, tokens) for folder in find_datasets(paths)]
    return sorted(rows, key=lambda row: (row["domain"], row["task"], str(row["folder"])))


def _row(folder: Path, tokens: Callable[[Dataset], int] | None) -> dict[str, Any]:
    """One that is damaged, or cannot become tokens, must not hide the others."""
    row: dict[str, Any] = {
        "domain": folder.parent.name, "task": f"{folder.parent.name}/{folder.name}", "folder": folder, "source": "",
        "episodes": 0, "timesteps": 0, "tokens": None, "mean_return": None, "success": None, "failed": 0,
        "bytes": sum(f.stat().st_size for f in (folder / MANIFEST, *folder.glob("*/*.parquet"))), "problem": None,
    }  # fmt: skip
    try:
        dataset = Dataset.open(folder)
        known = [e.success for e in dataset.index if e.success is not None]
        row |= {
            "domain": dataset.task.split("/", 1)[0], "task": dataset.task, "source": dataset.meta.get("source", ""),
            "episodes": len(dataset), "timesteps": dataset.num_timesteps,
            "mean_return": float(dataset.returns.mean()) if len(dataset) else None,
            "success": sum(known) / len(known) if known else None, "failed": len(dataset.failed),
        }  # fmt: skip
        row["tokens"] = tokens(dataset) if tokens else None
    except GatoError as error:
        row["problem"] = f"{error.code}: {error.what}" + (f"; {error.fix}" if error.fix else "")
    return row


def beside_the_paper(
    rows: Iterable[Mapping[str, Any]], paper: Mapping[str, tuple[float, float, float, float]]
) -> list[dict[str, Any]]:
    """Rows of `table` summed by domain, beside the paper's (tasks, episodes, tokens, weight in percent). The paper's
    domains first, in its order, then those that it does not have."""
    rows = list(rows)
    domains = [*paper, *(d for d in dict.fromkeys(r["domain"] for r in rows) if d not in paper)]
    out = []
    for domain in domains:
        mine = [r for r in rows if r["domain"] == domain]
        tasks, episodes, tokens, weight = paper.get(domain, (0, 0, 0, 0.0))
        out.append(
            {"domain": domain, "tasks": len({r["task"] for r in mine}), "paper_tasks": int(tasks),
             "episodes": sum(r["episodes"] for r in mine), "paper_episodes": int(episodes),
             "tokens": sum(r["tokens"] or 0 for r in mine), "paper_tokens": int(tokens), "paper_weight": weight}
        )  # fmt: skip
    return out
