"""Arrays with time first become checked episodes on disk: spec, episode, store, manifest."""

from gato.episodes.episode import Episode, stack_episode
from gato.episodes.spec import Spec, Specs, TaskSpec, check_values, flatten, specs_from_space, task_spec, unflatten

__all__ = [
    "Episode", "Spec", "Specs", "TaskSpec",
    "check_values", "flatten", "specs_from_space", "stack_episode", "task_spec", "unflatten",
]  # fmt: skip
