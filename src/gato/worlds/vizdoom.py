"""`vizdoom/*`: the scenarios that come with ViZDoom, on its own engine and free art. Observation: RGB, 64 × 80 × 3, and counters.

In place of DeepMind Lab, which is on no package registry. One action lasts two of Doom's 35 tics a second; what can be
pressed is one button, or two that belong together (walking and turning). `variables` are the scenario's own: ammunition,
health and the like. Defend-the-line and take-cover have no limit of their own and get that of the others, 2,100 tics.
The score is the scenario's own return. `wide` starts follow up to a second and a half of random play.

Experts read the true positions (`vizdoom_scripts.py`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from gato.errors import WorldError
from gato.installed import pip_line
from gato.worlds import Policy, Task, screen

IMAGE_SIZE = (64, 80)  # height, width
TICS_PER_STEP = 2
DEFAULT_TICS = 2100
MAX_WIDE_STEPS = 25

# name → configuration of the package, tics until the clock runs out, and what can be pressed at once (besides nothing).
_STRAFE = (("MOVE_LEFT",), ("MOVE_RIGHT",), ("ATTACK",))
_TURRET = (("TURN_LEFT",), ("TURN_RIGHT",), ("ATTACK",))
_WALK = (
    ("TURN_LEFT",), ("TURN_RIGHT",), ("MOVE_FORWARD",), ("MOVE_FORWARD", "TURN_LEFT"), ("MOVE_FORWARD", "TURN_RIGHT"),
)  # fmt: skip
_FIGHT = (
    *_WALK,
    ("MOVE_BACKWARD",),
    ("MOVE_LEFT",),
    ("MOVE_RIGHT",),
    ("ATTACK",),
    ("ATTACK", "MOVE_LEFT"),
    ("ATTACK", "MOVE_RIGHT"),
)
Buttons = tuple[tuple[str, ...], ...]
SCENARIOS: dict[str, tuple[str, int, Buttons]] = {
    "basic": ("basic", 300, _STRAFE),
    "simpler-basic": ("simpler_basic", 300, _STRAFE),
    "rocket-basic": ("rocket_basic", 300, _STRAFE),
    "predict-position": ("predict_position", 300, _TURRET),
    "defend-the-center": ("defend_the_center", 2100, _TURRET),
    "defend-the-line": ("defend_the_line", DEFAULT_TICS, _TURRET),
    "take-cover": ("take_cover", DEFAULT_TICS, (("MOVE_LEFT",), ("MOVE_RIGHT",))),
    "health-gathering": ("health_gathering", 2100, _WALK),
    "health-gathering-supreme": ("health_gathering_supreme", 2100, _WALK),
    "my-way-home": ("my_way_home", 2100, _WALK),
    "deadly-corridor": ("deadly_corridor", 2100, _FIGHT),
    "deathmatch": ("deathmatch", 4200, (*_FIGHT, ("SELECT_NEXT_WEAPON",))),
}


class VizdoomEnv(gymnasium.Env):
    """One scenario.

    For experts: `see_all()`, and then `game` (a DoomGame), its last `state`, `buttons`, the actions `taken` so far, `me()` and
    `rehearsal()`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 17}

    def __init__(self, name: str, render: bool = False):
        import vizdoom

        self.name, (config, self._tics, pressed) = name, SCENARIOS[name]
        self.render_mode = "rgb_array" if render else None
        self.max_steps = self._tics // TICS_PER_STEP
        self._vizdoom = vizdoom
        game = self.game = vizdoom.DoomGame()
        game.load_config(os.path.join(vizdoom.scenarios_path, f"{config}.cfg"))
        buttons = sorted({button for combination in pressed for button in combination})
        game.set_available_buttons([getattr(vizdoom.Button, button) for button in buttons])
        self.buttons: Buttons = ((), *pressed)
        self._presses = [[float(button in combination) for button in buttons] for combination in self.buttons]
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_window_visible(False)
        # The engine keeps its settings in the folder it is started in: one of its own, not the user's.
        self._folder = tempfile.TemporaryDirectory(prefix="gato-vizdoom-", ignore_cleanup_errors=True)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_episode_timeout(self._tics)
        self.variables = [v for v in game.get_available_game_variables()]
        self.action_space = gymnasium.spaces.Discrete(len(self.buttons))
        seen: dict[str, gymnasium.Space] = {"image": gymnasium.spaces.Box(0, 255, (*IMAGE_SIZE, 3), np.uint8)}
        if self.variables:
            seen["variables"] = gymnasium.spaces.Box(-np.inf, np.inf, (len(self.variables),), np.float32)
        self.observation_space = gymnasium.spaces.Dict(seen)
        self._start()
        self.state: Any = None
        self._rehearsal: VizdoomEnv | None = None
        self._seen: dict[str, np.ndarray] = {}
        self._sees_all = False

    def _start(self) -> None:
        try:
            with contextlib.chdir(self._folder.name):
                self.game.init()
        except Exception as error:  # the engine is a process of its own and may fail to start in many ways
            raise WorldError(
                f"the engine did not start: {type(error).__name__}: {error}",
                where=f"vizdoom/{self.name}",
                fix=pip_line("first-person"),
            ) from error

    def see_all(self) -> None:
        """From now on `state` tells all objects and sectors too.

        They cost 20 microseconds a step, so only experts get them; once, the engine starts anew and comes back to where it was.
        """
        if self._sees_all:
            return
        self._sees_all = True
        self.game.close()
        self.game.set_objects_info_enabled(True)
        self.game.set_sectors_info_enabled(True)
        self._start()
        if self.state is not None:
            taken, self.np_random.bit_generator.state = self.taken, self._luck
            self._begin()
            for action in taken:
                self.step(action)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        super().reset(seed=seed)
        self.began_with = (seed, dict(options or {}))
        self._luck = self.np_random.bit_generator.state
        self._begin()
        return dict(self._seen), {}

    def _begin(self) -> None:
        self.taken: list[int] = []
        self._new_episode()
        if self.began_with[1].get("wide"):
            steps = int(self.np_random.integers(MAX_WIDE_STEPS + 1))
            for action in self.np_random.integers(len(self.buttons), size=steps).tolist():
                self.game.make_action(self._presses[action], TICS_PER_STEP)
                if self.game.is_episode_finished():
                    self._new_episode()
                    break
        self.steps = 0
        self._look()

    def _new_episode(self) -> None:
        self.game.set_seed(int(self.np_random.integers(2**31)))
        self.game.new_episode()

    def _look(self) -> None:
        state = self.game.get_state()
        if state is None:  # the end: there is no picture any more, and the last one stays
            self._seen = {key: value.copy() for key, value in self._seen.items()}
            return
        self.state = state
        self._seen = {"image": screen.small(state.screen_buffer, state.screen_buffer, IMAGE_SIZE[0])}
        if self.variables:
            self._seen["variables"] = np.asarray(state.game_variables, np.float32)

    def step(self, action: int):
        reward = float(self.game.make_action(self._presses[int(action)], TICS_PER_STEP))
        self.steps += 1
        self.taken.append(int(action))
        over = self.game.is_episode_finished()
        late = self.game.is_episode_timeout_reached() or self.steps >= self.max_steps
        self._look()
        terminated = bool(over and not self.game.is_episode_timeout_reached())
        return dict(self._seen), reward, terminated, bool(late and not terminated), {}

    def me(self) -> tuple[float, float, float]:
        """The player's x, y, and direction in degrees, anticlockwise from the x axis."""
        variable, value = self._vizdoom.GameVariable, self.game.get_game_variable
        return value(variable.POSITION_X), value(variable.POSITION_Y), value(variable.ANGLE)

    def rehearsal(self) -> VizdoomEnv:
        """Another engine of the same scenario at the same start, for trying things out; made once and kept."""
        seed, options = self.began_with
        assert seed is not None, "a start without a seed cannot be found again"
        self._rehearsal = self._rehearsal or VizdoomEnv(self.name)
        self._rehearsal.see_all()
        self._rehearsal.reset(seed=seed, options=options)
        return self._rehearsal

    def state_bytes(self) -> bytes:
        """Where the player is and what there is to be seen, to the bit: what traces compare, beside every frame."""
        return np.array(self.me(), "<f8").tobytes() + self.state.screen_buffer.tobytes()

    def render(self) -> np.ndarray:
        """uint8 (120, 160, 3)."""
        return np.array(self.state.screen_buffer)

    def close(self) -> None:
        self.game.close()
        self._folder.cleanup()
        if self._rehearsal is not None:
            self._rehearsal.close()
            self._rehearsal = None


def make_expert(env: VizdoomEnv, seed: int) -> Policy:
    from gato.worlds.vizdoom_scripts import make

    env.see_all()
    return make(env, seed)


def _make(name: str, *, render: bool = False) -> gymnasium.Env:
    return VizdoomEnv(name, render)


def tasks() -> list[Task]:
    return [
        Task(
            f"vizdoom/{name}",
            functools.partial(_make, name),
            make_expert,
            requires=("vizdoom",),
            extra="first-person",
            max_steps=tics // TICS_PER_STEP,
            expert_name="script on true positions",
            notes="in place of DeepMind Lab; two tics per step, buttons singly or in useful pairs",
            meta={"scenario": config},
        )
        for name, (config, tics, _) in SCENARIOS.items()
    ]
