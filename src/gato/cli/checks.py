"""What several verbs check of their words before anything is written, and how they print tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gato.errors import UsageError


def ways_of_acting(words: tuple[str, ...], own: Mapping[str, Any]) -> dict[str, Any]:
    """`name=value` words as ways of acting, checked. Raises UsageError."""
    from gato.policy.acting import check_acting

    said: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not name=value", fix="--acting discrete=greedy temperature=0.5")
        try:
            said[name] = json.loads(text)
        except ValueError:
            said[name] = text
    return check_acting({**own, **said}) if said else {}


def device_named(name: str) -> str:
    """auto, cpu, cuda or cuda:N, checked before anything is written. Raises UsageError."""
    if name == "cpu":
        return name
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    kind, _, number = name.partition(":")
    if kind != "cuda" or (":" in name and not number.isdecimal()):
        raise UsageError(f"no device {name!r}", fix="--device auto, cpu, cuda or cuda:N")
    if int(number or 0) >= count:
        raise UsageError(f"no device {name!r}: this PyTorch sees {count} CUDA devices", fix="--device cpu")
    return name


def check_within(flag: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises UsageError for a number out of range (NaN and infinity are always)."""
    if not (low <= value <= high and math.isfinite(value)):
        raise UsageError(f"{flag} {value}", fix=f"at least {low}" if high == math.inf else f"between {low} and {high}")


def check_workers(workers: int | None, cluster: str | None) -> None:
    if workers is not None:
        check_within("--workers", workers, 1 if cluster else 0)


def check_some(given: tuple[Path, ...], noun: str, line: str) -> None:
    """Raises UsageError for an empty list: nothing checked must not read as nothing wrong."""
    if not given:
        raise UsageError(f"{noun} is needed", fix=line)


def check_suffix(flag: str, path: Path, *known: str) -> None:
    if path.suffix.lower() not in known:
        raise UsageError(f"{flag} {path}: the ending says the format", fix=f"a name that ends in {' or '.join(known)}")


def print_table(table: Any) -> None:
    """As wide as the terminal, or, into a file or a pipe, as the table."""
    from rich.console import Console

    console = Console(markup=False)  # what stands in brackets is said, not a style: pip install "gato-agent[babyai]"
    if not console.is_terminal:
        console.width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    console.print(table)
