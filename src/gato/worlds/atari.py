"""`ale-atari/*` and `ale-atari-extended/*`: the Arcade Learning Environment, directly on its interface.

The observation is one RGB image, 64 × 80 × 3. The protocol: four frames per step and the maximum over the last two of
them (which removes the 2600's sprite flicker), the game's minimal action set, no sticky actions, score = the raw return,
which is neither clipped nor scaled. An episode begins with 1 to 30 no-op frames drawn from the seed and ends at game
over or after `max_steps`. `wide` starts add up to 200 steps of random play. With these rules a game is a function of its
seed and actions, which is what traces rely on.

    variant("breakout", sticky=0.25, noop_frames=0)     # the same game by other rules, as a task of its own

The 57 games of `ale-atari` are the usual ones of the literature, in their default mode; the paper trained on 51 and held
out others (its list is not published in full). `ale-atari-extended` holds the emulator's other games for one player;
their seed also draws the mode and the difficulty (the console's switches) from all that the game has, as the paper
did with its 28, and `info["drawn"]` names them. Experts are planners on saved emulator states: `lookahead.py` for four games,
`shooting.py` for the others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np

from gato.errors import UnknownNameError, UsageError, nearest
from gato.worlds import Task, screen

GAMES = (
    "alien", "amidar", "assault", "asterix", "asteroids", "atlantis", "bank-heist", "battle-zone", "beam-rider",
    "berzerk", "bowling", "boxing", "breakout", "centipede", "chopper-command", "crazy-climber", "defender",
    "demon-attack", "double-dunk", "enduro", "fishing-derby", "freeway", "frostbite", "gopher", "gravitar", "hero",
    "ice-hockey", "jamesbond", "kangaroo", "krull", "kung-fu-master", "montezuma-revenge", "ms-pacman",
    "name-this-game", "phoenix", "pitfall", "pong", "private-eye", "qbert", "riverraid", "road-runner", "robotank",
    "seaquest", "skiing", "solaris", "space-invaders", "star-gunner", "surround", "tennis", "time-pilot", "tutankham",
    "up-n-down", "venture", "video-pinball", "wizard-of-wor", "yars-revenge", "zaxxon",
)  # fmt: skip

# What else the emulator offers to one player. Combat, Joust, Maze Craze and Warlords want two; in Tic-Tac-Toe 3D and
# Video Checkers the computer's moves hang on something that a saved state leaves out, so a seed does not decide them; of
# Miniature Golf's score a saved state of ale-py 0.12.1 keeps only whether it is zero; and Donkey Kong, which has one mode
# only, begins alike whatever the seed.
EXTENDED_GAMES = (
    "adventure", "air-raid", "atlantis2", "backgammon", "basic-math", "blackjack", "carnival", "casino", "crossbow",
    "darkchambers", "earthworld", "elevator-action", "entombed", "et", "flag-capture", "frogger",
    "galaxian", "hangman", "haunted-house", "human-cannonball", "journey-escape", "kaboom", "keystone-kapers",
    "king-kong", "klax", "koolaid", "laser-gates", "lost-luggage", "mario-bros", "mr-do", "othello",
    "pacman", "pitfall2", "pooyan", "sir-lancelot", "space-war", "superman", "tetris", "trondead", "turmoil", "video-chess",
    "video-cube", "word-zapper",
)  # fmt: skip

FRAMES_PER_STEP = 4
IMAGE_SIZE = (64, 80)  # height, width: multiples of 16, and near the screen's own 210 × 160 seen on a 4:3 tube
MAX_NOOP_FRAMES = 30
MAX_WIDE_STEPS = 200
DEFAULT_MAX_STEPS = 4500  # five minutes of play
RULED = ("boxing", "breakout", "freeway", "pong")  # games with a rule of thumb
# Boxing's and Freeway's own clocks end them at 1,786 and 2,048 steps; a good player of Breakout never ends at all.
MAX_STEPS = {"boxing": 1800, "freeway": 2100, "breakout": 2000, "pong": 2700}


# Frames between power-on and the state that every episode starts from. Q*bert's console needs two until its screen and
# memory depend on nothing that a saved state leaves out; the others need none. With a mode set, all get two.
SETTLE_FRAMES = {"qbert": 2}

Choice = int | Literal["drawn"] | None  # the game's own number, drawn anew by every seed, or the game's default


@dataclass(frozen=True)
class Rules:
    """How a game is played.

    `sticky` is the chance, per frame, that the console still sees the button of the frame before (Machado et al. 2018
    use 0.25). An episode begins with 1 to `noop_frames` idle frames; 0 for the one
    that draws the screen.
    """

    sticky: float = 0.0
    noop_frames: int = MAX_NOOP_FRAMES
    mode: Choice = None
    difficulty: Choice = None

    def __post_init__(self) -> None:
        if not 0 <= self.sticky < 1:
            raise UsageError(f"sticky is a probability below 1, not {self.sticky!r}", fix="sticky=0.25")
        if self.noop_frames < 0:
            raise UsageError(f"noop_frames is a number of frames, not {self.noop_frames!r}", fix="noop_frames=30")


class AtariEnv(gymnasium.Env):
    """One game. For planners: `ale`, `clone()`, `restore(state)` and `advance(action)`, a step without its image.

    Raises UnknownNameError for a mode or difficulty that the game does not have, with those it has.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, game: str, max_steps: int = DEFAULT_MAX_STEPS, render: bool = False, rules: Rules | None = None):
        from ale_py import ALEInterface, LoggerMode

        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.game, self.max_steps, self.rules = game, max_steps, rules or Rules()
        self.render_mode = "rgb_array" if render else None
        self.ale = ALEInterface()
        self.ale.setInt("random_seed", 0)
        self.ale.setFloat("repeat_action_probability", 0.0)  # where asked for, stickiness comes from the episode's seed
        self._load()
        self.modes, self.difficulties = list(self.ale.getAvailableModes()), list(self.ale.getAvailableDifficulties())
        self._check("mode", self.rules.mode, self.modes)
        self._check("difficulty", self.rules.difficulty, self.difficulties)
        # Every episode begins from its mode's one state, so that nothing of the last one can remain in the emulator.
        self._power_on: dict[tuple[int | None, int | None], Any] = {}
        self.action_set = self.ale.getMinimalActionSet()
        self.action_space = gymnasium.spaces.Discrete(len(self.action_set))
        self.observation_space = gymnasium.spaces.Box(0, 255, (*IMAGE_SIZE, 3), np.uint8)
        self._screen, self._screen_before = np.zeros((2, *self.ale.getScreenDims()), np.uint8)  # numbers of colours
        self._palette = screen.Palette()
        self._button = self.action_set[0]
        self._info: dict[str, Any] = {}
        self.steps = 0

    def _load(self) -> None:
        from ale_py import roms

        rom = roms.get_rom_path(self.game.replace("-", "_"))
        assert rom is not None, f"no ROM of {self.game}"
        self.ale.loadROM(rom)

    def _check(self, what: str, chosen: Choice, known: list[int]) -> None:
        if chosen not in (None, "drawn", *known):
            has = ", ".join(map(str, known))
            raise UnknownNameError(f"{self.game} has no {what} {chosen!r}", where=self.game, fix=f"it has {has}")

    def _switch_on(self, mode: int | None, difficulty: int | None) -> Any:
        """The saved state that episodes of this mode start from."""
        if (mode, difficulty) not in self._power_on:
            self._load()  # a mode set in a used emulator is not quite the mode set in a new one
            if difficulty is not None:
                self.ale.setDifficulty(difficulty)
            if mode is not None:
                self.ale.setMode(mode)
            self.ale.reset_game()
            default = mode is None and difficulty is None
            for _ in range(SETTLE_FRAMES.get(self.game, 0) if default else 2):
                self.ale.act(self.action_set[0])
            self._power_on[mode, difficulty] = self.ale.cloneState(include_rng=True)
        return self._power_on[mode, difficulty]

    def _draw(self, choice: Choice, known: list[int]) -> int | None:
        return known[int(self.np_random.integers(len(known)))] if choice == "drawn" else choice

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        mode, difficulty = self._draw(self.rules.mode, self.modes), self._draw(self.rules.difficulty, self.difficulties)
        self.ale.restoreState(self._switch_on(mode, difficulty))
        self._info = {} if mode is None and difficulty is None else {"drawn": {"mode": mode, "difficulty": difficulty}}
        idle = int(self.np_random.integers(1, self.rules.noop_frames + 1)) if self.rules.noop_frames else 1
        for _ in range(idle):  # at least one, to draw the screen, which a saved state does not hold
            self.ale.act(self.action_set[0])
        if (options or {}).get("wide"):
            self._play_at_random(int(self.np_random.integers(0, MAX_WIDE_STEPS + 1)))
        self.steps, self._button = 0, self.action_set[0]
        self.ale.getScreen(self._screen)
        self._palette.learn(self._screen, self.ale.getScreenRGB())
        self._screen_before[:] = self._screen
        return self._picture(), {"lives": self.ale.lives(), **self._info}

    def _look(self, into: np.ndarray, other: np.ndarray) -> None:
        """Takes the emulator's screen, whose colours it can tell only while it is there; `other` is the one before it."""
        self.ale.getScreen(into)
        if not self._palette.knows(into, other):
            self._palette.learn(into, self.ale.getScreenRGB())

    def _picture(self) -> np.ndarray:
        return self._palette.small(self._screen, self._screen_before, IMAGE_SIZE[0])

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
        reward = sum(self._frame(action) for _ in range(FRAMES_PER_STEP - 1))
        self._look(self._screen_before, self._screen)
        reward += self._frame(action)
        self._look(self._screen, self._screen_before)
        self.steps += 1
        over = self.ale.game_over()
        truncated = not over and self.steps >= self.max_steps
        return self._picture(), float(reward), over, truncated, {"lives": self.ale.lives(), **self._info}

    def _frame(self, action: int) -> float:
        if not (self.rules.sticky and self.np_random.random() < self.rules.sticky):
            self._button = self.action_set[int(action)]
        return self.ale.act(self._button)

    def clone(self) -> Any:
        """The emulator's state (not the screen, which the next frame draws)."""
        return self.ale.cloneState()

    def restore(self, state: Any) -> None:
        self.ale.restoreState(state)

    def save_state(self) -> Any:
        luck = self.np_random.bit_generator.state  # sticky buttons are drawn from it
        screens = self._screen.copy(), self._screen_before.copy(), self._palette.colours.copy()
        return self.clone(), self.steps, screens, self._button, luck

    def restore_state(self, state: Any) -> None:
        emulator, self.steps, (self._screen[:], self._screen_before[:], colours), self._button, luck = state
        np.maximum(self._palette.colours, colours, out=self._palette.colours)  # another environment may have seen more
        self.np_random.bit_generator.state = luck
        self.restore(emulator)

    def state_bytes(self) -> bytes:
        """What traces compare: the console's memory."""
        return self.ale.getRAM().tobytes()

    def render(self) -> np.ndarray:
        """The console's own picture, uint8 (210 or 250, 160, 3)."""
        return self._palette.shown(self._screen)


def _make_env(game: str, max_steps: int, rules: Rules, *, render: bool = False) -> gymnasium.Env:
    return AtariEnv(game, max_steps, render, rules)


def _make_expert(env: Any, seed: int):
    from gato.worlds.lookahead import make

    return make(env, seed)


def _task(task_id: str, game: str, rules: Rules, notes: str, max_steps: int | None = None) -> Task:
    max_steps = max_steps or MAX_STEPS.get(game, DEFAULT_MAX_STEPS)
    return Task(
        task_id,
        functools.partial(_make_env, game, max_steps, rules),
        _make_expert,
        requires=("ale_py",),
        extra="atari",
        max_steps=max_steps,
        expert_name="lookahead" if game in RULED else "plan search",
        notes=notes,
        meta={"game": game},
    )


def variant(
    game: str,
    *,
    sticky: float = 0.0,
    noop_frames: int = MAX_NOOP_FRAMES,
    mode: Choice = None,
    difficulty: Choice = None,
    max_steps: int | None = None,
) -> Task:
    """A game by rules of your own, as a task whose id spells them out: `ale-atari/breakout.sticky-0.25.noops-0`.

    `gato.register` makes it known by its id. Raises UnknownNameError for an unknown game now, and for a mode or difficulty
    that the game does not have when the environment is made.
    """
    if game not in (*GAMES, *EXTENDED_GAMES):
        raise UnknownNameError(f"no Atari game {game!r}", fix=nearest(game, (*GAMES, *EXTENDED_GAMES)))
    rules = Rules(sticky, noop_frames, mode, difficulty)
    spelt = [f"sticky-{sticky:g}"] * bool(sticky) + [f"noops-{noop_frames}"] * (noop_frames != MAX_NOOP_FRAMES)
    spelt += [f"{name}-{value}" for name, value in (("mode", mode), ("difficulty", difficulty)) if value is not None]
    spelt += [f"steps-{max_steps}"] * bool(max_steps)
    return _task(".".join([f"ale-atari/{game}", *spelt]), game, rules, f"rules: {rules}", max_steps)


def tasks() -> list[Task]:
    """Every game, without importing the emulator."""
    usual = "frame skip 4, no sticky actions, 1-30 no-op frames; the paper names none of these"
    drawn = (
        "mode and difficulty drawn by the seed from all that the game has; which 28 games the paper took is not told"
    )
    any_mode = Rules(mode="drawn", difficulty="drawn")
    return [_task(f"ale-atari/{game}", game, Rules(), usual) for game in GAMES] + [
        _task(f"ale-atari-extended/{game}", game, any_mode, drawn) for game in EXTENDED_GAMES
    ]
