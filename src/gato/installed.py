"""What came with the package beside its modules, and the line that installs what did not.

In a checkout these files are where the repository has them; a wheel carries them as data, under `share/gato`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import shlex
from collections.abc import Iterator
from pathlib import Path


def places(name: str) -> Iterator[Path]:
    """Where a file of the repository may be, the checkout's place first."""
    yield Path(__file__).resolve().parents[2] / name
    try:
        files = importlib.metadata.files("gato-agent") or []
    except importlib.metadata.PackageNotFoundError:
        return
    parts = ("gato", *Path(name).parts)
    for file in files:
        if file.parts[-len(parts) :] == parts:
            yield Path(str(file.locate())).resolve()


def pip_line(extra: str) -> str:
    """How to install an extra, in the versions that were run together: a line that works where it is read."""
    return f'pip install "gato-agent[{extra}]"{_constrained()}'


def _constrained() -> str:
    found = _constraints()
    if found is None:
        return ""
    here = Path(found.name)
    return f" -c {here if here.is_file() and here.samefile(found) else shlex.quote(str(found))}"


@functools.cache  # a list of tasks asks for every one of them
def _constraints() -> Path | None:
    return next((file for file in places("constraints.txt") if file.is_file()), None)
