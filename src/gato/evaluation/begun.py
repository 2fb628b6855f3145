"""What the unfinished results in a folder follow from, so that the same command goes on with what is missing, and no other does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gato.episodes.manifest import make_folder, write_file_atomically
from gato.errors import OutputExistsError
from gato.model.bundle import Bundle

BEGUN = "begun.json"


def claim(out: Path, said: Mapping[str, Any], fix: str = "another --out") -> None:
    """Say in out/begun.json what the results there follow from, or find that nothing said before was otherwise. Raises
    OutputExistsError."""
    file = out / BEGUN
    held = json.loads(file.read_text()) if file.exists() else {}
    said = json.loads(json.dumps(said))  # as it is read back
    if other := [key for key in said if held.get(key, said[key]) != said[key]]:
        raise OutputExistsError(f"what is here began otherwise: {', '.join(other)}", where=str(out), fix=fix)
    make_folder(out)
    write_file_atomically(file, json.dumps({**held, **said}, indent=1).encode())


def check_free(out: Path, overwrite: bool) -> None:
    """Raises OutputExistsError where there are results that are not to be replaced."""
    if (out / "results.json").exists() and not overwrite:
        raise OutputExistsError(
            "this folder holds results", where=str(out), fix="another --out, or --overwrite to replace them"
        )


def fingerprint(bundle: Bundle) -> str:
    """A hash of its weights."""
    weights = hashlib.sha256()
    for name, tensor in sorted(bundle.model.state_dict().items()):
        weights.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return weights.hexdigest()
