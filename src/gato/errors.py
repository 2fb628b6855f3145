"""What went wrong: every error a user can meet, with a stable code, a place, and the next thing to do.

A `GatoError` is also a `ValueError`, since all of them can be mended by whoever called. The exit code of the command
line follows from the class: 2 usage, 3 data, 4 checkpoint, 5 environment, 6 resources.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import ClassVar


class GatoError(ValueError):
    """`what` happened, `where` (file, task, episode, step, field) and what to do next (`fix`)."""

    code: ClassVar[str] = "gato"
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", fix: str = ""):
        self.what, self.where, self.fix = what, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        fix = f"\n  next: {self.fix}" if self.fix else ""
        return f"{self.code}: {self.what}{place}{fix}"

    def __reduce__(self):  # crosses process boundaries whole
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(cls: type[GatoError], what: str, where: str, fix: str) -> GatoError:
    return cls(what, where=where, fix=fix)


class UsageError(GatoError):
    code, exit_code = "usage", 2


class UnknownNameError(UsageError):
    """A task, recipe, field or path that does not exist."""

    code = "unknown-name"


class OutputExistsError(UsageError):
    """The output folder holds something else."""

    code = "output-exists"


class SpecError(UsageError):
    """A space that cannot become tokens: no bounds, too many values, an unknown kind."""

    code = "spec"


class RecipeError(UsageError):
    code = "recipe"


class TokenizerError(UsageError):
    """A text the tokenizer cannot hold, or a tokenizer that is not the bundle's."""

    code = "tokenizer"


class DataError(GatoError):
    code, exit_code = "data", 3


class DatasetMissingError(DataError):
    """A folder without a manifest is not a dataset."""

    code = "dataset-missing"


class DatasetCorruptError(DataError):
    """A dataset file is missing, truncated or changed."""

    code = "dataset-corrupt"


class DatasetChangedError(DataError):
    """A dataset is not what the run began with."""

    code = "dataset-changed"


class EpisodeError(DataError):
    """Arrays that are not an episode of this task."""

    code = "episode"


class ObservationError(EpisodeError):
    """An observation (or action) with a wrong shape or type, NaN, infinity, or a missing key."""

    code = "observation"


class CheckpointError(GatoError):
    code, exit_code = "checkpoint", 4


class CheckpointMissingError(CheckpointError):
    code = "checkpoint-missing"


class CheckpointCorruptError(CheckpointError):
    """A checkpoint file is missing, truncated or changed."""

    code = "checkpoint-corrupt"


class CheckpointMismatchError(CheckpointError):
    """Missing, unexpected or misshaped tensors."""

    code = "checkpoint-mismatch"


class WorldError(GatoError):
    code, exit_code = "world", 5


class SimulatorMissingError(WorldError):
    """The simulator is not installed (or is a version that does not work); `fix` is the pip line."""

    code = "simulator-missing"


class WorldCrashError(WorldError):
    """A world that crashes or hangs again and again."""

    code = "world-crash"


class ExpertError(WorldError):
    """An expert that cannot solve this start, hangs or crashes. The episode is dropped and counted."""

    code = "expert"


class ResourceError(GatoError):
    code, exit_code = "resources", 6


class DiskFullError(ResourceError):
    code = "disk-full"


class TeamError(ResourceError):
    """A rank of a run died, hangs, or skipped a collective; `what` names it."""

    code = "team"


class NonFiniteError(ResourceError):
    """The loss or a gradient is NaN or infinite; nothing was updated."""

    code = "non-finite"


def nearest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """`did you mean …` with the closest known names, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else ""


def known_instead(name: str, known: Collection[str], limit: int = 3) -> str:
    """Where the known names may be hundreds: the closest, or else a few of them, and how many there are."""
    some = ", ".join(list(known)[:limit])
    return f"{nearest(name, known, limit) or f'say {some};'} it knows {len(known):,}"
