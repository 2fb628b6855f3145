"""A window to watch an agent play in: space pauses, → takes one step, Q or Esc closes.

Needs a screen.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time

import numpy as np

from gato.errors import UsageError
from gato.evaluation.watching import Enough

HELD_SECONDS = 1.0  # the end of an episode is held


class WindowError(UsageError):
    """No window can be opened: its library is not installed, or there is no screen."""

    code = "window"


def has_screen() -> bool:
    """Whether a window could be seen (or SDL was told what to draw on)."""
    if os.environ.get("SDL_VIDEODRIVER"):
        return True
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class Window:
    """Shows uint8 (H, W, 3) frames at `fps`. Raises WindowError where that is not possible."""

    def __init__(self, title: str, fps: float = 15.0):
        if importlib.util.find_spec("pygame") is None:
            raise WindowError(
                "a window needs pygame-ce, not installed",
                fix="pip install pygame-ce, or --video FILE",
            )
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        self._pygame, self._title, self._pause = pygame, title, 1.0 / fps
        pygame.display.init()
        self._surface: pygame.Surface | None = None
        self._paused = False
        self._due = time.monotonic()

    def show(self, frame: np.ndarray, last: bool = False) -> None:
        """Draw it, and wait until the next one is due. Raises Enough when the window was closed."""
        pygame = self._pygame
        if self._surface is None:
            try:
                self._surface = pygame.display.set_mode((frame.shape[1], frame.shape[0]))
            except pygame.error as error:
                raise WindowError(f"no window: {error}", fix="--video FILE") from error
            pygame.display.set_caption(self._title)
        picture = pygame.image.frombuffer(
            np.ascontiguousarray(frame).tobytes(), (frame.shape[1], frame.shape[0]), "RGB"
        )
        self._surface.blit(picture, (0, 0))
        pygame.display.flip()
        self._due = max(self._due + self._pause, time.monotonic()) + (HELD_SECONDS if last else 0.0)
        step = False
        while not step and (self._paused or time.monotonic() < self._due):
            step = self._listen()
            time.sleep(0.01)
        self._listen()

    def _listen(self) -> bool:
        """Take what was pressed; whether one step was asked for."""
        pygame, step = self._pygame, False
        for event in pygame.event.get():
            if event.type == pygame.QUIT or (
                event.type == pygame.KEYDOWN and event.key in (pygame.K_q, pygame.K_ESCAPE)
            ):
                raise Enough
            if event.type == pygame.KEYDOWN and event.key == pygame.K_SPACE:
                self._paused = not self._paused
            if event.type == pygame.KEYDOWN and event.key == pygame.K_RIGHT:
                self._paused = step = True
        return step

    def close(self) -> None:
        self._pygame.display.quit()
