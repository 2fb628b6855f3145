"""A world with a picture of every step. It lives in a worker process, which must not import torch."""

from __future__ import annotations

import functools
import io
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from gato.episodes import unflatten
from gato.episodes.episode import success_of
from gato.errors import SimulatorMissingError, WorldError
from gato.worlds import Task, find, register, registry

PREFIX = "live/"
SIDE = 480  # pixels; a larger picture is shrunk before it is sent


def filmed(task_id: str) -> Task:
    """The task `live/…`: the same world; actions go in as flat leaves, `info["frame"]` is a picture file (or b"")."""
    name = PREFIX + task_id
    if name not in registry():
        task = find(task_id)
        make = functools.partial(_make, task_id)
        register(Task(name, make, None, task.score, task.requires, task.extra, max_steps=task.max_steps))
    return registry()[name]


def _make(task_id: str, *, render: bool = False) -> gymnasium.Env:
    try:
        return Filmed(find(task_id).make(render=True), True)
    except SimulatorMissingError:
        raise
    except WorldError:  # no OpenGL on this machine: it can be played all the same
        return Filmed(find(task_id).make(), False)


class Filmed(gymnasium.Wrapper):
    def __init__(self, env: gymnasium.Env, pictures: bool):
        super().__init__(env)
        self._pictures = pictures

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        return observation, self._with_frame(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        space = self.env.action_space
        observation, reward, terminated, truncated, info = self.env.step(unflatten(action, space, "action"))
        return observation, reward, terminated, truncated, self._with_frame(info)

    def _with_frame(self, info: dict[str, Any]) -> dict[str, Any]:
        kept = {"success": success_of(info or {}, "info")}
        return {**kept, "frame": as_file(np.asarray(self.env.render())) if self._pictures else b""}


def as_file(frame: np.ndarray) -> bytes:
    """uint8 (height, width, 3) → a small picture file: PNG where pixels count, else JPEG."""
    picture = Image.fromarray(frame)
    small = max(picture.size) <= 240
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    if small:
        picture.save(stream, "PNG", compress_level=1)
    else:
        picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()
