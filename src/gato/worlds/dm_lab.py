"""`dm-lab/*`: DeepMind Lab, where it is installed. It has to be built from its source; no registry offers it.

    {"image": uint8 (72, 96, 3), "instruction": text}  →  seven actions

Without the package one id is listed, `dm-lab/not-installed`, which says so. With it, every level that its folder holds is a
task: `contributed/dmlab30/rooms_watermaze.lua` is `dm-lab/contributed.dmlab30.rooms-watermaze`. Actions are the usual
small set of the literature (Beattie et al. 2016, IMPALA's nine less the two combined ones), each held for four frames. There
are no experts and no reference scores. The adapter follows the package's documented Python interface; it has
been tried on stand-ins for the package only, since the package cannot be had here.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from gato.errors import WorldError
from gato.worlds import Task

DOMAIN, MODULE = "dm-lab", "deepmind_lab"
SOURCE = "build it from github.com/google-deepmind/lab (docs/users/build.md there); then its levels are listed here"
FRAMES_PER_STEP = 4
MAX_STEPS = 1800  # a level ends by its own clock, mostly after 60 to 120 seconds: 1,800 steps of four sixtieths
IMAGE_SIZE = (72, 96)  # height, width: what the literature uses
# Turning (pixels a frame), looking up, strafing, moving, firing, jumping, crouching.
ACTIONS = (
    (0, 0, 0, 1, 0, 0, 0),
    (0, 0, 0, -1, 0, 0, 0),
    (0, 0, -1, 0, 0, 0, 0),
    (0, 0, 1, 0, 0, 0, 0),
    (-20, 0, 0, 0, 0, 0, 0),
    (20, 0, 0, 0, 0, 0, 0),
    (0, 0, 0, 0, 1, 0, 0),
)


def level_folder() -> Path | None:
    """The levels of the installed package, or None."""
    spec = importlib.util.find_spec(MODULE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for folder in sorted(Path(place).rglob("game_scripts/levels")):
            return folder
    return None


def levels(folder: Path) -> Iterator[str]:
    """Names of levels as the package wants them: paths below the folder, without `.lua`.

    What begins with an underscore or lies in a folder of helpers (`factories`, `common`) is no level.
    """
    for script in sorted(folder.rglob("*.lua")):
        parts = script.relative_to(folder).with_suffix("").parts
        if not any(part.startswith("_") or part in ("factories", "common", "tests") for part in parts):
            yield "/".join(parts)


def level_id(level: str) -> str:
    """`contributed/dmlab30/rooms_watermaze` → `dm-lab/contributed.dmlab30.rooms-watermaze`."""
    return f"{DOMAIN}/{level.replace('/', '.').replace('_', '-').lower()}"


class DMLab(gymnasium.Env):
    """One level, drawn in software."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, level: str, *, render: bool = False):
        import deepmind_lab

        height, width = IMAGE_SIZE
        settings = {"width": str(width), "height": str(height), "fps": "60"}
        self.level, self.render_mode = level, "rgb_array" if render else None
        try:
            self._lab = deepmind_lab.Lab(level, ["RGB_INTERLEAVED", "INSTR"], config=settings, renderer="software")
        except Exception as error:
            raise WorldError(f"the level does not load: {type(error).__name__}: {error}", where=level) from error
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.observation_space = gymnasium.spaces.Dict(
            {
                "image": gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8),
                "instruction": gymnasium.spaces.Text(500, min_length=0),
            }
        )
        self._last: dict[str, Any] = {}
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._lab.reset(seed=int(self.np_random.integers(2**31 - 1)))
        self._steps = 0
        return self._observe(), {}

    def step(self, action):
        reward = float(self._lab.step(np.array(ACTIONS[int(action)], np.intc), num_steps=FRAMES_PER_STEP))
        self._steps += 1
        over = not self._lab.is_running()  # then there is no picture any more: the last one stays
        truncated = not over and self._steps >= MAX_STEPS
        return (self._last if over else self._observe()), reward, over, truncated, {}

    def _observe(self) -> dict[str, Any]:
        seen = self._lab.observations()
        self._last = {"image": np.array(seen["RGB_INTERLEAVED"]), "instruction": str(seen["INSTR"])}
        return self._last

    def render(self) -> np.ndarray:
        return self._last["image"].copy()

    def close(self) -> None:
        self._lab.close()


def _make(level: str, *, render: bool = False) -> gymnasium.Env:
    return DMLab(level, render=render)


def tasks() -> list[Task]:
    folder = level_folder()
    found = list(levels(folder)) if folder else []
    return [
        Task(
            level_id(level),
            functools.partial(_make, level),
            requires=(MODULE,),
            max_steps=MAX_STEPS,
            install=SOURCE,
            notes="the paper's levels are not all public",
            deterministic=False,
            meta={"level": level},
        )
        for level in found or ["not-installed"]
    ]
