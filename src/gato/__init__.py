"""Gato: one transformer, one set of weights, that acts, captions and talks, learned by imitation from tokens.

import gato

agent = gato.load("runs/demo")
session = agent.session("babyai/go-to-local")
action = session.act(observation)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Loaded when first used, so that `import gato` and `gato --help` cost no torch.
_WHERE = {
    "Agent": "gato.policy", "load": "gato.policy", "Session": "gato.policy",
    "Gato": "gato.model", "GatoConfig": "gato.model", "Bundle": "gato.model.bundle",
    "Recipe": "gato.training", "Episode": "gato.episodes", "Spec": "gato.episodes", "TaskSpec": "gato.episodes",
    "record": "gato.episodes.record", "write_episode": "gato.episodes.record",
    "Task": "gato.worlds", "register": "gato.worlds", "find": "gato.worlds",
    "GatoError": "gato.errors",
}  # fmt: skip
__all__ = [
    "Agent", "Bundle", "Episode", "Gato", "GatoConfig", "GatoError", "Recipe", "Session", "Spec", "Task", "TaskSpec",
    "__version__", "find", "load", "record", "register", "write_episode",
]  # fmt: skip

if TYPE_CHECKING:
    from gato.episodes import Episode, Spec, TaskSpec
    from gato.episodes.record import record, write_episode
    from gato.errors import GatoError
    from gato.model import Gato, GatoConfig
    from gato.model.bundle import Bundle
    from gato.policy import Agent, Session, load
    from gato.training import Recipe
    from gato.worlds import Task, find, register


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'gato' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
