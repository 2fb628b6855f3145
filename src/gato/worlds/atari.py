"""`ale-atari/*`: the Arcade Learning Environment, directly on its interface. Observation: one RGB image, 64 × 80 × 3.

The protocol: four frames per step and the maximum over the last two of them (which removes the 2600's sprite flicker),
the game's minimal action set, no sticky actions, score = the raw return, which is neither clipped nor scaled. An episode begins
with 1 to 30 no-op frames drawn from the seed and ends at game over or after `max_steps`. `wide` starts add up to 200
steps of random play. With these rules a game is a function of its seed and actions, which is what traces rely on.

The 57 games are the usual ones of the literature; the paper trained on 51 and held out others (its list is not
published in full). Experts are lookahead planners on saved emulator states, see `lookahead.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from gato.worlds import Task

GAMES = (
    "alien", "amidar", "assault", "asterix", "asteroids", "atlantis", "bank-heist", "battle-zone", "beam-rider",
    "berzerk", "bowling", "boxing", "breakout", "centipede", "chopper-command", "crazy-climber", "defender",
    "demon-attack", "double-dunk", "enduro", "fishing-derby", "freeway", "frostbite", "gopher", "gravitar", "hero",
    "ice-hockey", "jamesbond", "kangaroo", "krull", "kung-fu-master", "montezuma-revenge", "ms-pacman",
    "name-this-game", "phoenix", "pitfall", "pong", "private-eye", "qbert", "riverraid", "road-runner", "robotank",
    "seaquest", "skiing", "solaris", "space-invaders", "star-gunner", "surround", "tennis", "time-pilot", "tutankham",
    "up-n-down", "venture", "video-pinball", "wizard-of-wor", "yars-revenge", "zaxxon",
)  # fmt: skip

FRAMES_PER_STEP = 4
IMAGE_SIZE = (64, 80)  # height, width: multiples of 16, and near the screen's own 210 × 160 seen on a 4:3 tube
MAX_NOOP_FRAMES = 30
MAX_WIDE_STEPS = 200
DEFAULT_MAX_STEPS = 4500  # five minutes of play
# Boxing's and Freeway's own clocks end them at 1,786 and 2,048 steps; a good player of Breakout never ends at all.
MAX_STEPS = {"boxing": 1800, "freeway": 2100, "breakout": 2000, "pong": 2700}


class AtariEnv(gymnasium.Env):
    """One game. For planners: `ale`, `clone()`, `restore(state)` and `advance(action)`, a step without its image."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, game: str, max_steps: int = DEFAULT_MAX_STEPS, render: bool = False):
        from ale_py import ALEInterface, LoggerMode, roms

        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.game, self.max_steps = game, max_steps
        self.render_mode = "rgb_array" if render else None
        self.ale = ALEInterface()
        self.ale.setInt("random_seed", 0)
        self.ale.setFloat("repeat_action_probability", 0.0)
        rom = roms.get_rom_path(game.replace("-", "_"))
        assert rom is not None, f"no ROM of {game}"
        self.ale.loadROM(rom)
        self.ale.reset_game()
        # Every episode begins from this one state, so that nothing of the last one can remain in the emulator.
        self._power_on = self.ale.cloneState(include_rng=True)
        self.action_set = self.ale.getMinimalActionSet()
        self.action_space = gymnasium.spaces.Discrete(len(self.action_set))
        self.observation_space = gymnasium.spaces.Box(0, 255, (*IMAGE_SIZE, 3), np.uint8)
        self._screen = np.zeros((*self.ale.getScreenDims(), 3), np.uint8)
        self._screen_before = np.zeros_like(self._screen)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.ale.restoreState(self._power_on)
        for _ in range(int(self.np_random.integers(1, MAX_NOOP_FRAMES + 1))):
            self.ale.act(self.action_set[0])
        if (options or {}).get("wide"):
            self._play_at_random(int(self.np_random.integers(0, MAX_WIDE_STEPS + 1)))
        self.steps = 0
        self.ale.getScreenRGB(self._screen)
        return self._image(self._screen), {"lives": self.ale.lives()}

    def _play_at_random(self, steps: int) -> None:
        """Random actions, each held for up to eight steps; stops short of game over."""
        action, before = 0, self.ale.cloneState()
        for step in range(steps):
            if step % 8 == 0 or self.np_random.random() < 0.25:
                action, before = int(self.np_random.integers(len(self.action_set))), self.ale.cloneState()
            self.advance(action)
            if self.ale.game_over():
                self.ale.restoreState(before)
                self.ale.act(self.action_set[0])  # draws the screen, which a saved state does not hold
                return

    def advance(self, action: int) -> float:
        """Four frames of one action: the step of a planner. Draws no image and does not count steps."""
        act, button = self.ale.act, self.action_set[action]
        return float(act(button) + act(button) + act(button) + act(button))

    def step(self, action):
        button = self.action_set[int(action)]
        reward = sum(self.ale.act(button) for _ in range(FRAMES_PER_STEP - 1))
        self.ale.getScreenRGB(self._screen_before)
        reward += self.ale.act(button)
        self.ale.getScreenRGB(self._screen)
        self.steps += 1
        over = self.ale.game_over()
        observation = self._image(np.maximum(self._screen, self._screen_before))
        truncated = not over and self.steps >= self.max_steps
        return observation, float(reward), over, truncated, {"lives": self.ale.lives()}

    @staticmethod
    def _image(screen: np.ndarray) -> np.ndarray:
        height, width = IMAGE_SIZE
        return np.array(Image.fromarray(screen).resize((width, height), Image.Resampling.BOX))

    def clone(self) -> Any:
        """The emulator's state (not the screen, which the next frame draws)."""
        return self.ale.cloneState()

    def restore(self, state: Any) -> None:
        self.ale.restoreState(state)

    def save_state(self) -> Any:
        return self.clone(), self.steps, self._screen.copy(), self._screen_before.copy()

    def restore_state(self, state: Any) -> None:
        emulator, self.steps, self._screen[:], self._screen_before[:] = state
        self.restore(emulator)

    def state_bytes(self) -> bytes:
        """What traces compare: the console's memory."""
        return self.ale.getRAM().tobytes()

    def render(self) -> np.ndarray:
        """The console's own picture, uint8 (210 or 250, 160, 3)."""
        return self._screen.copy()


def _make_env(game: str, max_steps: int, *, render: bool = False) -> gymnasium.Env:
    return AtariEnv(game, max_steps, render)


def _make_expert(env: Any, seed: int):
    from gato.worlds.lookahead import make

    return make(env, seed)


def tasks() -> list[Task]:
    """Every game, without importing the emulator."""
    return [
        Task(
            f"ale-atari/{game}",
            functools.partial(_make_env, game, MAX_STEPS.get(game, DEFAULT_MAX_STEPS)),
            _make_expert,
            requires=("ale_py",),
            extra="atari",
            max_steps=MAX_STEPS.get(game, DEFAULT_MAX_STEPS),
            expert_name="lookahead",
            notes="frame skip 4, no sticky actions, 1-30 no-op frames; the paper names none of these",
            meta={"game": game},
        )
        for game in GAMES
    ]
