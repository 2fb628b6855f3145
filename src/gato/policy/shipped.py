"""The generalist that comes with the package: what `gato play TASK` and its siblings use where no bundle is named.

In a checkout it is `bundles/generalist`; a wheel carries it as data, installed under `share/gato/bundles`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gato.errors import CheckpointMissingError
from gato.installed import places

NAME = "generalist"
INSIDE = ("", "bundle", "train/bundle")  # of a run of `gato train`, and of `gato demo`


def shipped() -> Path:
    """The folder of the generalist's bundle. Raises CheckpointMissingError where the package came without it."""
    for folder in _places():
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointMissingError(
        "no bundle is named, and the generalist is not installed",
        where=str(next(_places())),
        fix="name a bundle, say that of `gato demo`: runs/demo; a clone of the repository has the generalist in bundles/",
    )


def bundle_in(path: Path | str) -> Path | None:
    """The bundle that a folder is, or that a run's folder holds; None where there is none."""
    # Not Path.is_file: the words of a chat come here too, and of one too long for a name it raises.
    return next((p for inside in INSIDE if os.path.isfile((p := Path(path) / inside) / "config.json")), None)


def names_bundle(word: Path | str) -> bool:
    """Whether the first word of a command is a bundle's address, and not yet what is asked of the agent."""
    return on_hub(word) or bundle_in(word) is not None


def on_hub(path: Path | str) -> bool:
    """Whether it is `hf://org/name`; a Path has lost one of the slashes."""
    return str(path).startswith("hf:/")


def _places() -> Iterator[Path]:
    return (file.parent for file in places(f"bundles/{NAME}/config.json"))
