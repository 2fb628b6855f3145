"""`procgen/*`: the sixteen games of the Procgen Benchmark (Cobbe et al. 2020). Observation: one RGB image, 64 × 64 × 3.

    procgen/coinrun          as in the paper: hard levels, but easy ones of maze and heist
    procgen/coinrun-easy     the other difficulty of each game: easy, or hard for maze and heist (procgen/maze-hard)

The seed of `reset` is the number of the level, so that training and evaluation, whose seeds never meet, have no level in
common. A level is chosen by writing its number into a saved state of the fresh game and restarting from there: nothing
of the last episode remains, and a game is a function of its seed and actions, which is what planners and traces rely on.

An episode ends as the game says (truncated where only its clock ran out). Procgen shows the next level at once when one
ends, so the last observation of an episode is the one before it. `wide` starts add up to 100 steps of random play.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
from typing import Any

import gymnasium
import numpy as np

from gato.worlds import Policy, Task

# Per game: the limit of steps (the game's own clock), and the return of a policy that acts at random or ignores what it sees
# and the greatest possible return, on easy and on hard levels: the constants of Cobbe et al. 2020, appendix C.
GAMES: dict[str, tuple[int, tuple[float, float], tuple[float, float]]] = {
    "bigfish": (6000, (1, 40), (0, 40)),
    "bossfight": (4000, (0.5, 13), (0.5, 13)),
    "caveflyer": (1000, (3.5, 12), (2, 13.4)),
    "chaser": (1000, (0.5, 13), (0.5, 14.2)),
    "climber": (1000, (2, 12.6), (1, 12.6)),
    "coinrun": (1000, (5, 10), (5, 10)),
    "dodgeball": (1000, (1.5, 19), (1.5, 19)),
    "fruitbot": (1000, (-1.5, 32.4), (-0.5, 27.2)),
    "heist": (1000, (3.5, 10), (2, 10)),
    "jumper": (1000, (3, 10), (1, 10)),
    "leaper": (500, (3, 10), (1.5, 10)),
    "maze": (500, (5, 10), (4, 10)),
    "miner": (1000, (1.5, 13), (1.5, 20)),
    "ninja": (1000, (3.5, 10), (2, 10)),
    "plunder": (4000, (4.5, 30), (3, 30)),
    "starpilot": (1000, (2.5, 64), (1.5, 35)),
}
# By itself, since the package asks for libraries older than those it runs with.
INSTALL = "pip install --no-deps procgen-mirror==0.10.7 gym3==0.3.3 gym==0.26.2 gym-notices==0.1.0"
EASY_IN_THE_PAPER = ("heist", "maze")  # Gato, appendix: hard mode except for these two

NUM_ACTIONS = 15  # eight directions and standing still, then six buttons, of which a game uses none to four
STAY = 4
RESTART = -1  # what Procgen understands as "end this level now"
MAX_WIDE_STEPS = 100
NUM_LEVELS = 2**31 - 1
_MARK = 0x5EED5EED % NUM_LEVELS  # a level number that is easily found again in a saved state


def difficulty(game: str) -> str:
    """The paper's difficulty of a game."""
    return "easy" if game in EASY_IN_THE_PAPER else "hard"


def games(num: int, game: str, mode: str, level: int = 0, render: bool = False) -> Any:
    """`num` copies of a game in one vector, stepped in this thread. Quietly: Procgen imports the retired gym, which complains."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        from procgen import ProcgenGym3Env
    return ProcgenGym3Env(
        num, game, distribution_mode=mode, start_level=level, num_levels=1, rand_seed=0, num_threads=0,
        render_mode="rgb_array" if render else None,
    )  # fmt: skip


class ProcgenEnv(gymnasium.Env):
    """One game. For planners: `clone()`, `restore(state)`, `copies(num)`, and `last_action`, which tells a plan that was followed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, game: str, mode: str, max_steps: int, render: bool = False):
        self.game, self.mode, self.max_steps = game, mode, max_steps
        self.render_mode = "rgb_array" if render else None
        self._game = games(1, game, mode, _MARK, render)
        self._fresh = self._game.get_state()[0]
        # Where the range of levels, first and last + 1, stands in a saved state.
        self._level_at = self._fresh.index(struct.pack("<ii", _MARK, _MARK + 1))
        self._copies: Any = None
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self.observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.level, self.steps, self.last_action = 0, 0, STAY
        self._closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.level = (int(self.np_random.integers(NUM_LEVELS)) if seed is None else seed) % NUM_LEVELS
        at, fresh = self._level_at, self._fresh
        self.restore(fresh[:at] + struct.pack("<ii", self.level, self.level + 1) + fresh[at + 8 :])
        self._act(RESTART)
        if (options or {}).get("wide"):
            self._play_at_random(int(self.np_random.integers(0, MAX_WIDE_STEPS + 1)))
        self.steps, self.last_action = 0, STAY
        self._observation = self._game.observe()[1]["rgb"][0]
        return self._observation, {"success": False}

    def _play_at_random(self, steps: int) -> None:
        """Random actions, each held for about four steps; ends before the level does."""
        action, before = STAY, self.clone()
        for step in range(steps):
            if step % 8 == 0 or self.np_random.random() < 0.25:
                action, before = int(self.np_random.integers(NUM_ACTIONS)), self.clone()
            if self._act(action)[2]:
                self.restore(before)
                return

    def _act(self, action: int) -> tuple[float, np.ndarray, bool]:
        """Reward, picture (an array of its own), and whether the level ended."""
        self._game.act(np.array([action]))
        reward, seen, first = self._game.observe()
        return float(reward[0]), seen["rgb"][0], bool(first[0])

    def step(self, action):
        reward, observation, over = self._act(int(action))
        self.last_action = int(action)
        self.steps += 1
        complete = over and bool(self._game.get_info()[0]["prev_level_complete"])
        # What comes with the end shows the next level already.
        self._observation = self._observation.copy() if over else observation
        late = self.steps >= self.max_steps  # the game's own clock began earlier after a wide start
        terminated = over and (complete or not late)
        return self._observation, reward, terminated, late and not terminated, {"success": complete}

    def clone(self) -> bytes:
        """The whole state of the game."""
        return self._game.get_state()[0]

    def restore(self, state: bytes) -> None:
        self._game.set_state([state])

    def copies(self, num: int) -> Any:
        """A vector of `num` games for trying things out, made once and kept."""
        if self._copies is None or self._copies.num != num:
            self._copies = games(num, self.game, self.mode)
        return self._copies

    def state_bytes(self) -> bytes:
        """What traces compare: everything, to the bit."""
        return self.clone()

    def render(self) -> np.ndarray:
        """uint8 (512, 512, 3), if made for it; else the observation."""
        info = self._game.get_info()[0]
        return np.array(info["rgb"]) if "rgb" in info else self._observation.copy()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for game in (self._game, self._copies):
                if game is not None:
                    game.close()


def _make_env(game: str, mode: str, max_steps: int, *, render: bool = False) -> gymnasium.Env:
    return ProcgenEnv(game, mode, max_steps, render)


def _make_expert(env: Any, seed: int) -> Policy:
    from gato.worlds.procgen_planner import make

    return make(env, seed)


def tasks() -> list[Task]:
    """Every game at the paper's difficulty, then at the other one, without importing the simulator."""
    listed = []
    for own in (True, False):
        for game, (max_steps, easy, hard) in GAMES.items():
            mode = difficulty(game) if own else {"easy": "hard", "hard": "easy"}[difficulty(game)]
            least, most = easy if mode == "easy" else hard
            listed.append(
                Task(
                    f"procgen/{game}" if own else f"procgen/{game}-{mode}",
                    functools.partial(_make_env, game, mode, max_steps),
                    _make_expert,
                    requires=("procgen", "gym3", "gym"),
                    extra="procgen",
                    install=INSTALL,
                    max_steps=max_steps,
                    expert_name="lookahead",
                    notes=f"{mode} levels; the paper's experts were R2D2 agents while they learned",
                    meta={"game": game, "difficulty": mode, "published_range": (least, most)},
                )
            )
    return listed
