"""BabyAI: grid worlds with instructions in English (minigrid), every level of the simulator behind `babyai/…`.

    {"direction": 3, "mission": "go to the red ball", "symbols": int16 (7, 7)}  →  action 0…6

The observation is the simulator's own: where the agent points (right, down, left, up), the mission, and the 7×7 cells
before it. Object, colour and state of a cell become one discrete value without loss (`encode_symbols`), so that a cell
is one token; `symbols[x, y]` has the agent at [3, 6], looking towards smaller y. What the paper fed of BabyAI is not
known in this detail. Actions: left, right, forward, pickup, drop, toggle, done.

The score is the return: 1 - 0.9 · steps / max_steps when the mission is done, 0 otherwise. The expert is minigrid's own
planner (it sees what the agent has seen so far, and no more), made safe to run: see `_bot_class`.
"""

from __future__ import annotations

import contextlib
import functools
import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from gato.errors import ExpertError
from gato.worlds import Task
from gato.worlds.saving import restore_attributes, save_attributes

VIEW = 7  # cells a side
OBJECTS, COLOURS, STATES = 11, 6, 4  # unseen … agent; red … grey; open, closed, locked (or where an agent points)
NUM_SYMBOLS = OBJECTS * COLOURS * STATES  # 264
EMPTY, WALL = 1 * COLOURS * STATES, (2 * COLOURS + 5) * STATES  # walls are grey
ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
NUM_ACTIONS = len(ACTIONS)
MAX_PLANS = 100  # subgoals the bot may push in one decision; of 37,000 decisions that ended, none needed more than 10
NOTES = "symbols, direction and mission text as the simulator gives them; what the paper fed is not known"
MAX_FORGOTTEN = 4  # more would walk in circles to the end of the episode, and teach that

# Level → the longest episode (steps) it can ask for; the simulator computes an episode's own limit from its mission.
LEVELS = {
    "ActionObjDoor-v0": 441, "BlockedUnlockPickup-v0": 576, "BossLevel-v0": 4608, "BossLevelNoUnlock-v0": 4608,
    "FindObjS5-v0": 500, "FindObjS6-v0": 720, "FindObjS7-v0": 980, "GoTo-v0": 576, "GoToDoor-v0": 441,
    "GoToImpUnlock-v0": 576, "GoToLocal-v0": 64, "GoToLocalS5N2-v0": 25, "GoToLocalS6N2-v0": 36,
    "GoToLocalS6N3-v0": 36, "GoToLocalS6N4-v0": 36, "GoToLocalS7N4-v0": 49, "GoToLocalS7N5-v0": 49,
    "GoToLocalS8N2-v0": 64, "GoToLocalS8N3-v0": 64, "GoToLocalS8N4-v0": 64, "GoToLocalS8N5-v0": 64,
    "GoToLocalS8N6-v0": 64, "GoToLocalS8N7-v0": 64, "GoToObj-v0": 64, "GoToObjDoor-v0": 576, "GoToObjMaze-v0": 576,
    "GoToObjMazeOpen-v0": 576, "GoToObjMazeS4-v0": 144, "GoToObjMazeS4R2-v0": 64, "GoToObjMazeS5-v0": 225,
    "GoToObjMazeS6-v0": 324, "GoToObjMazeS7-v0": 441, "GoToObjS4-v0": 16, "GoToObjS6-v1": 36, "GoToOpen-v0": 576,
    "GoToRedBall-v0": 64, "GoToRedBallGrey-v0": 64, "GoToRedBallNoDists-v0": 64, "GoToRedBlueBall-v0": 64,
    "GoToSeq-v0": 2304, "GoToSeqS5R2-v0": 400, "KeyCorridor-v0": 1080, "KeyCorridorS3R1-v0": 270,
    "KeyCorridorS3R2-v0": 270, "KeyCorridorS3R3-v0": 270, "KeyCorridorS4R3-v0": 480, "KeyCorridorS5R3-v0": 750,
    "KeyCorridorS6R3-v0": 1080, "KeyInBox-v0": 576, "MiniBossLevel-v0": 800, "MoveTwoAcrossS5N2-v0": 400,
    "MoveTwoAcrossS8N9-v0": 1024, "OneRoomS12-v0": 144, "OneRoomS16-v0": 256, "OneRoomS20-v0": 400,
    "OneRoomS8-v0": 64, "Open-v0": 576, "OpenDoor-v0": 576, "OpenDoorColor-v0": 576, "OpenDoorDebug-v0": 576,
    "OpenDoorLoc-v0": 576, "OpenDoorsOrderN2-v0": 720, "OpenDoorsOrderN2Debug-v0": 720, "OpenDoorsOrderN4-v0": 720,
    "OpenDoorsOrderN4Debug-v0": 720, "OpenRedBlueDoors-v0": 720, "OpenRedBlueDoorsDebug-v0": 720,
    "OpenRedDoor-v0": 50, "OpenTwoDoors-v0": 720, "Pickup-v0": 576, "PickupAbove-v0": 288, "PickupDist-v0": 49,
    "PickupDistDebug-v0": 49, "PickupLoc-v0": 64, "PutNextLocal-v0": 128, "PutNextLocalS5N3-v0": 50,
    "PutNextLocalS6N4-v0": 72, "PutNextS4N1-v0": 128, "PutNextS5N1-v0": 200, "PutNextS5N2-v0": 200,
    "PutNextS5N2Carrying-v0": 200, "PutNextS6N3-v0": 288, "PutNextS6N3Carrying-v0": 288, "PutNextS7N4-v0": 392,
    "PutNextS7N4Carrying-v0": 392, "Synth-v0": 1152, "SynthLoc-v0": 1152, "SynthS5R2-v0": 300, "SynthSeq-v0": 4608,
    "UnblockPickup-v0": 576, "Unlock-v0": 576, "UnlockLocal-v0": 576, "UnlockLocalDist-v0": 576,
    "UnlockPickup-v0": 72, "UnlockPickupDist-v0": 72, "UnlockToUnlock-v0": 1080,
}  # fmt: skip

# Levels that the expert solves in part, and why. Elsewhere it solves every start that was tried, or nearly.
STRICT = (
    "missions of two doors cannot be done: when the first opens, minigrid's strict verifier judges the same step for the "
    "second and ends the episode as failed; one in three names a single door"
)
IN_PART = {
    "OpenDoorsOrderN2Debug-v0": STRICT,
    "OpenDoorsOrderN4Debug-v0": STRICT,
    "UnlockToUnlock-v0": "the bot finds no plan for about a third of the starts; they are dropped and counted",
}


def task_name(level: str) -> str:
    """`GoToLocalS5N2-v0` → `go-to-local-s5n2`: words, and groups of a capital and its number."""
    stem = level.rpartition("-v")[0]
    words = re.findall(r"(?:[A-Z]\d+)+|[A-Z][a-z]+", stem)
    return "-".join(words).lower()


def tasks() -> list[Task]:
    return [
        Task(
            id=f"babyai/{task_name(level)}",
            make_env=functools.partial(BabyAI, level),
            make_expert=BabyAIExpert,
            score="return",
            requires=("minigrid",),
            extra="babyai",
            max_steps=max_steps,
            expert_name="minigrid's BabyAI bot",
            notes="; ".join(filter(None, [NOTES, IN_PART.get(level, "")])),
            meta={"simulator_id": f"BabyAI-{level}", "actions": ACTIONS},
        )
        for level, max_steps in LEVELS.items()
    ]


def encode_symbols(cells: np.ndarray) -> np.ndarray:
    """uint8 (…, 3) of object, colour and state → int16 (…) in 0…263."""
    thing, colour, state = (cells[..., i].astype(np.int16) for i in range(3))
    return (thing * COLOURS + colour) * STATES + state


def decode_symbols(symbols: np.ndarray) -> np.ndarray:
    """int (…) in 0…263 → uint8 (…, 3) of object, colour and state, as minigrid numbers them."""
    return np.stack(np.unravel_index(symbols, (OBJECTS, COLOURS, STATES)), axis=-1).astype(np.uint8)


@functools.cache
def _offsets(direction: int) -> tuple[tuple[int, int], ...]:
    """From the agent to each cell of its view, the 49 in the order of `symbols`: columns left to right, far to near."""
    ahead_x, ahead_y = ((1, 0), (0, 1), (-1, 0), (0, -1))[direction]
    right_x, right_y = -ahead_y, ahead_x
    return tuple(
        (ahead_x * (VIEW - 1 - j) + right_x * (i - VIEW // 2), ahead_y * (VIEW - 1 - j) + right_y * (i - VIEW // 2))
        for i in range(VIEW)
        for j in range(VIEW)
    )


def look(simulator: Any) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """What the agent sees: symbols int16 (7, 7), and the grid positions in sight.

    The simulator's own view, cell for cell (tested), computed in a tenth of its time: half of a bot's step went there.
    """
    grid, (x, y) = simulator.grid, simulator.agent_pos
    cells, width, height = grid.grid, grid.width, grid.height
    offsets = _offsets(int(simulator.agent_dir))
    view: list[Any] = []  # None: nothing there; False: beyond the grid, which looks like a wall
    for dx, dy in offsets:
        i, j = x + dx, y + dy
        view.append(cells[j * width + i] if 0 <= i < width and 0 <= j < height else False)
    clear = [cell is None or (cell is not False and cell.see_behind()) for cell in view]

    # Light walks from the agent's row to the far one; within a row outwards, first to the right, then to the left.
    lit = [False] * (VIEW * VIEW)
    here = (VIEW // 2) * VIEW + VIEW - 1
    lit[here] = True
    for row in range(VIEW - 1, -1, -1):
        for columns, side in ((range(VIEW - 1), VIEW), (range(VIEW - 1, 0, -1), -VIEW)):
            for column in columns:
                at = column * VIEW + row
                if lit[at] and clear[at]:
                    lit[at + side] = True
                    if row:
                        lit[at - 1] = lit[at + side - 1] = True

    view[here] = simulator.carrying  # the agent sees what it holds, where it stands
    symbols, seen = [0] * (VIEW * VIEW), []
    for at, (cell, (dx, dy)) in enumerate(zip(view, offsets, strict=True)):
        if not lit[at]:
            continue
        if cell is None:
            symbols[at] = EMPTY
        elif cell is False:
            symbols[at] = WALL
            continue
        else:
            thing, colour, state = cell.encode()
            symbols[at] = (thing * COLOURS + colour) * STATES + state
        seen.append((x + dx, y + dy))
    return np.array(symbols, np.int16).reshape(VIEW, VIEW), seen


class BabyAI(gymnasium.Env):
    """One level. `simulator` is minigrid's environment; `last_action` what was executed last (None after a reset).

    `reset(options={"wide": True})` lets the agent wander up to ten random moves before the first observation; it never
    stops in front of an object, so no mission begins solved.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, level: str, *, render: bool = False):
        import minigrid

        if f"BabyAI-{level}" not in gymnasium.registry:
            gymnasium.register_envs(minigrid)
        self.render_mode = "rgb_array" if render else None
        made: Any = gymnasium.make(f"BabyAI-{level}", disable_env_checker=True, render_mode=self.render_mode)
        self.simulator = made.unwrapped  # without the wrappers: they cost, and the adapter has their duties
        self.simulator.gen_obs = lambda: None  # `look` does it; in a step the simulator's own would be thrown away
        self.last_action: int | None = None
        self.observation_space = gymnasium.spaces.Dict(
            direction=gymnasium.spaces.Discrete(4),
            mission=gymnasium.spaces.Text(max_length=1024, charset=string.ascii_lowercase + " ,"),
            symbols=gymnasium.spaces.MultiDiscrete(np.full((VIEW, VIEW), NUM_SYMBOLS), dtype=np.int16),
        )
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        with contextlib.redirect_stdout(None):  # minigrid prints every level that it draws and rejects
            self.simulator.reset(seed=seed)
        if (options or {}).get("wide"):
            self._wander(int(self.simulator.np_random.integers(11)))
        self.last_action = None
        return self._observe(), {"success": False}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.last_action = int(action)
        _, reward, terminated, truncated, _ = self.simulator.step(self.last_action)
        return self._observe(), float(reward), terminated, truncated, {"success": bool(reward > 0)}

    def render(self) -> np.ndarray | None:
        """uint8 (height, width, 3), 32 pixels a cell."""
        return self.simulator.render() if self.render_mode else None

    def save_state(self) -> Any:
        return save_attributes(self.simulator), self.last_action

    def restore_state(self, state: Any) -> None:
        simulator, self.last_action = state
        restore_attributes(self.simulator, simulator)

    def close(self) -> None:
        self.simulator.close()

    def _observe(self) -> dict[str, Any]:
        symbols, _ = look(self.simulator)
        return {"direction": int(self.simulator.agent_dir), "mission": self.simulator.mission, "symbols": symbols}

    def _wander(self, moves: int) -> None:
        """Turns and steps set by hand, so that no time passes and no mission is judged."""
        sim = self.simulator

        def ahead():
            return sim.grid.get(*sim.front_pos)

        for move in sim.np_random.integers(4, size=moves):
            if move < 2:
                sim.agent_dir = (sim.agent_dir + (1 if move else -1)) % 4
            elif ahead() is None:
                sim.agent_pos = tuple(sim.front_pos)
        for _ in range(4):
            if ahead() is None or ahead().type == "wall":
                break
            sim.agent_dir = (sim.agent_dir + 1) % 4


class BabyAIExpert:
    """minigrid's bot as a policy: it plans from the action that was really executed.

    Where the bot's own assumptions fail (noise took an object away, opened a box, …) or its planning does not end, a
    fresh bot plans from the present state: first one that remembers what was seen, then one that does not (it explores
    again, which leads out of some knots). If those fail too, ExpertError.
    """

    def __init__(self, env: BabyAI, seed: int = 0):
        self._env = env
        self._bot: Any = None
        self._forgotten = 0  # bots that began without memory, the first one among them

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        failures = []
        for plan in self._attempts():
            try:
                return plan()
            except _no_plan() as error:
                failures.append(f"{type(error).__name__}: {error}")
        sim = self._env.simulator
        raise ExpertError(
            f"the bot found no plan: {'; then '.join(failures)}",
            where=f"{type(sim).__name__} step {sim.step_count}, mission {sim.mission!r}",
            fix="leave this start out (collecting does so by itself), or name another expert",
        )

    def _attempts(self) -> Iterator[Callable[[], int]]:
        if self._bot is not None:
            yield lambda: self._bot.advise(self._env.last_action)
            yield lambda: self._fresh(self._bot.vis_mask)
        if self._forgotten < MAX_FORGOTTEN:
            self._forgotten += 1
            yield lambda: self._fresh(None)

    def _fresh(self, seen: np.ndarray | None) -> int:
        self._bot = _bot_class()(self._env.simulator, seen)
        return self._bot.advise(None)


@functools.cache
def _no_plan() -> tuple[type[Exception], ...]:
    """What the bot's own assumptions end in when they do not hold."""
    from minigrid.utils.baby_ai_bot import DisappearedBoxError

    return AssertionError, LookupError, TypeError, AttributeError, DisappearedBoxError, _NoPlanError


class _NoPlanError(Exception):
    """The bot keeps pushing subgoals without ever acting, or believes to be done."""


class _Plan(list):
    """The bot's stack of subgoals. The bot can only loop for ever by pushing again and again, so pushes are counted."""

    pushes = 0

    def append(self, subgoal: Any) -> None:
        self.pushes += 1
        if self.pushes > MAX_PLANS:
            raise _NoPlanError(f"{MAX_PLANS} subgoals in one decision")
        super().append(subgoal)


@functools.cache
def _bot_class():
    """minigrid's bot, with four additions (a function, since minigrid is imported only when used):

    endless planning ends in an error; what is already done of a mission is not planned again; an object in hand at
    the start is used, or put down; a key in a box is taken out of it.
    """
    from minigrid.envs.babyai.core.verifier import PutNextInstr, SeqInstr
    from minigrid.utils.baby_ai_bot import BabyAIBot, DropSubgoal, GoNextToSubgoal, Subgoal

    class OpenBox(Subgoal):
        def replan_before_action(self):
            if self.fwd_cell is None or self.fwd_cell.type != "box":
                self.bot.stack.pop()
                return None
            return self.actions.toggle

    class Bot(BabyAIBot):
        def __init__(self, simulator: Any, seen: np.ndarray | None):
            super().__init__(simulator)
            if seen is not None:
                self.vis_mask |= seen
            self.stack: _Plan = _Plan(self.stack)
            self._process_obs()
            self._remember_current_state()
            boxes = [cell for cell in simulator.grid.grid if cell is not None and cell.type == "box"]
            for box in boxes:
                if box.contains is not None:
                    self.stack.append(OpenBox(self))
                    self.stack.append(GoNextToSubgoal(self, box))
            if simulator.carrying is not None and not self._uses(simulator.instrs, simulator.carrying):
                self.stack.append(DropSubgoal(self))
                self.stack.append(GoNextToSubgoal(self, self._find_drop_pos()))

        def _process_obs(self):
            for position in look(self.mission)[1]:
                self.vis_mask[position] = True

        def advise(self, executed: int | None) -> int:
            self.stack.pushes = 0
            action = int(self.replan(executed))
            if action == self.mission.actions.done:  # while the episode goes on
                raise _NoPlanError("the bot believes the mission accomplished")
            return action

        def _process_instr(self, instr: Any) -> None:
            sequence = isinstance(instr, SeqInstr)
            if sequence and instr.a_done == "success":
                return self._process_instr(instr.instr_b)
            if sequence and instr.b_done == "success":
                return self._process_instr(instr.instr_a)
            super()._process_instr(instr)
            if instr is self.mission.instrs and self._uses(instr, self.mission.carrying):
                del self.stack[-2:]  # going to it and picking it up

        @staticmethod
        def _uses(instr: Any, carried: Any) -> bool:
            """Whether this is the object to be put next to another."""
            return isinstance(instr, PutNextInstr) and any(carried is thing for thing in instr.desc_move.obj_set)

        def _check_erroneous_box_opening(self, action):
            if not (self.stack and isinstance(self.stack[-1], OpenBox)):
                super()._check_erroneous_box_opening(action)

    return Bot
