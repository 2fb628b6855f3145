"""Arrays with time first become checked episodes on disk: spec, episode, store, manifest."""

from gato.episodes.episode import Episode, stack_episode
from gato.episodes.spec import (
    Spec,
    Specs,
    TaskSpec,
    check_same,
    check_values,
    flatten,
    specs_from_space,
    task_spec,
    unflatten,
)
from gato.episodes.store import Dataset, find_datasets
from gato.episodes.writer import DatasetWriter

__all__ = [
    "Dataset", "DatasetWriter", "Episode", "Spec", "Specs", "TaskSpec",
    "check_same", "check_values", "find_datasets", "flatten", "specs_from_space", "stack_episode", "task_spec", "unflatten",
]  # fmt: skip
