"""`miniworld/*`: small three-dimensional rooms and mazes seen through the agent's eyes. Observation: RGB, 64 × 80 × 3.

In place of DeepMind Lab, which is on no package registry. `miniworld/maze-s3` is `MiniWorld-MazeS3-v0`. The two levels
without a reward (RoomObjects, ThreeRooms) are left out. Sign draws its colour and goal from the seed; the package has
them as fixed arguments. The score is the level's own return.

Everything is drawn by software where there is no graphics card, through EGL. A closed environment of the package keeps
some forty megabytes, so closing returns it to a pool from which the next `make` takes it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from gato.errors import ExpertError, WorldError
from gato.worlds import Policy, Task
from gato.worlds.paths import walking_distance

IMAGE_SIZE = (64, 80)  # height, width
LEVELS = {  # name → class of the package, its limit of steps
    "collect-health": ("CollectHealth", 1000),
    "four-rooms": ("FourRooms", 250),
    "hallway": ("Hallway", 250),
    "maze": ("Maze", 1536),
    "maze-s2": ("MazeS2", 96),
    "maze-s3": ("MazeS3", 216),
    "maze-s3-fast": ("MazeS3Fast", 300),
    "one-room": ("OneRoom", 180),
    "one-room-s6": ("OneRoomS6", 100),
    "one-room-s6-fast": ("OneRoomS6Fast", 50),
    "pickup-objects": ("PickupObjects", 400),
    "put-next": ("PutNext", 250),
    "sidewalk": ("Sidewalk", 150),
    "sign": ("Sign", 20),
    "t-maze": ("TMaze", 280),
    "t-maze-left": ("TMazeLeft", 280),
    "t-maze-right": ("TMazeRight", 280),
    "wall-gap": ("WallGap", 300),
    "y-maze": ("YMaze", 280),
    "y-maze-left": ("YMazeLeft", 280),
    "y-maze-right": ("YMazeRight", 280),
}
TURN_LEFT, TURN_RIGHT, FORWARD, BACK, PICK_UP, DROP = range(6)


def import_miniworld() -> Any:
    """The package's levels, drawn without a screen; nothing else may have imported it before."""
    import pyglet

    if sys.platform == "linux" and "pyglet.window" not in sys.modules:
        pyglet.options["headless"] = True  # before anything opens a window
    import miniworld.envs

    return miniworld.envs


_FREE: dict[str, list[Any]] = {}  # closed worlds of each level, to be used again
_drawn_last: Any = None  # the world whose rooms are in OpenGL's one list of drawing commands


class MiniWorldEnv(gymnasium.Env):
    """One level. `world` is the package's own environment, with `agent`, `entities` and `rooms` in metres."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, name: str, render: bool = False):
        self.name, (self._class, self.max_steps) = name, LEVELS[name]
        self.render_mode = "rgb_array" if render else None
        self.world = (_FREE.get(name) or [None]).pop() or self._new_world()
        self.action_space = gymnasium.spaces.Discrete(int(self.world.action_space.n))
        self.can_step_back = int(self.world.action_space.n) > BACK
        picture = gymnasium.spaces.Box(0, 255, (*IMAGE_SIZE, 3), np.uint8)
        signs = {"image": picture, "goal": gymnasium.spaces.Discrete(2)}
        self.observation_space = gymnasium.spaces.Dict(signs) if name == "sign" else picture

    def _new_world(self) -> Any:
        try:
            level = getattr(import_miniworld(), self._class)
            with contextlib.redirect_stdout(io.StringIO()):  # it says how many samples a pixel will get
                return level(obs_width=IMAGE_SIZE[1], obs_height=IMAGE_SIZE[0], render_mode="rgb_array")
        except Exception as error:  # whatever pyglet or a GL library comes up with
            raise WorldError(
                f"no picture: OpenGL without a display does not work here ({type(error).__name__}: {error})",
                where=f"miniworld/{self.name}",
                fix="apt-get install -y libegl1 libgl1 libglu1-mesa; and let nothing import miniworld before this does, "
                "or set pyglet.options['headless'] = True first",
            ) from error

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        super().reset(seed=seed)
        world = self.world
        if self.name == "sign":
            world.set_color_index(int(self.np_random.integers(3)))
            world._goal = int(self.np_random.integers(2))  # box or key; the package takes it in the constructor only
        seen, _ = world.reset(seed=int(self.np_random.integers(2**31)))
        self._drawn()
        if (options or {}).get("wide") and self.name != "sign":  # whose twenty steps are enough for its own start
            world.entities.remove(world.agent)
            world.place_agent(room=world.rooms[0] if self.name == "sidewalk" else None)
            seen = world.render_obs()
        return self._observation(seen), {"success": False}

    def _drawn(self) -> None:
        global _drawn_last
        _drawn_last = self.world

    def step(self, action: int):
        if _drawn_last is not self.world:  # another world of this process was drawn in between
            self.world.shadow_window.switch_to()
            self.world._render_static()
            self._drawn()
        seen, reward, terminated, truncated, _ = self.world.step(int(action))
        won = terminated and reward > 0
        return self._observation(seen), float(reward), bool(terminated), bool(truncated and not terminated), {"success": won}  # fmt: skip

    def _observation(self, seen: Any) -> Any:
        if self.name == "sign":
            return {"image": seen["obs"].copy(), "goal": np.int64(seen["goal"])}
        return seen.copy()

    def state_bytes(self) -> bytes:
        """Where everything is, to the bit: what traces compare."""
        placed = [[*e.pos, e.dir] for e in self.world.entities]
        return np.array(placed, "<f8").tobytes() + str(self.world.step_count).encode()

    def render(self) -> np.ndarray:
        """uint8 (600, 800, 3)."""
        return np.array(self.world.render_obs(self.world.vis_fb))

    def close(self) -> None:
        if self.world is not None:
            _FREE.setdefault(self.name, []).append(self.world)
            self.world = None


# -- the expert -------------------------------------------------------------------------------------------------------

CELL = 0.2  # metres
MARGIN = 1.05  # how much wider than it is the agent thinks itself, when it looks for a way
STRAIGHT = 12  # steps looked ahead in one direction


class Walker:
    """policy(observation, info) → action. Walks the shortest way over true positions, and handles what it finds there.

    At a decision it compares all directions that turning can reach: how much nearer to the goal (by the shortest way, in
    metres) a straight walk in that direction comes, per step that turning and walking take. The best is turned to and
    walked, and everything is looked at anew when something else happened than expected.
    """

    def __init__(self, env: MiniWorldEnv, seed: int):
        self._env, self._world = env, env.world
        self._rng = np.random.default_rng([seed, 0x3D])
        self._todo: list[int] = []
        self._expected: tuple[float, float, float] | None = None
        self._rest: list[tuple[float, float, float]] = []
        self._blocked = 0

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        world, name = self._world, self._env.name
        if name in ("pickup-objects", "collect-health"):
            things = [e for e in world.entities if e is not world.agent and not e.is_static]
            if not world.agent.carrying and self._in_reach():
                return self._at_once(PICK_UP)
            return self._walk(things, ())
        if name == "put-next":
            return self._put_next()
        if name == "sign":
            wanted = world._objects[world._goal][world._color_index]
            others = [e for group in world._objects for e in group if e is not wanted]
            return self._walk([wanted], others)
        return self._walk([world.box], [e for e in world.entities if e not in (world.box, world.agent)])

    def _put_next(self) -> int:
        world = self._world
        red, yellow, agent = world.red_box, world.yellow_box, world.agent
        others = [e for e in world.entities if e not in (red, yellow, agent)]
        if agent.carrying is not red:
            if agent.carrying:
                return self._at_once(DROP)
            return self._at_once(PICK_UP) if self._in_reach() is red else self._walk([red], [*others, yellow])
        gap = math.hypot(red.pos[0] - yellow.pos[0], red.pos[2] - yellow.pos[2])
        if gap < red.radius + yellow.radius + 1.0 * world.max_forward_step:
            return self._at_once(DROP)
        return self._walk([yellow], others)

    def _at_once(self, action: int) -> int:
        self._todo, self._expected = [], None
        return action

    def _in_reach(self) -> Any:
        """What picking up would take, as the package decides it."""
        agent = self._world.agent
        found = self._world.intersect(agent, agent.pos + agent.dir_vec * 1.5 * agent.radius, 1.2 * agent.radius)
        return found if found is not True and found and not found.is_static else None

    def _walk(self, goals: list[Any], obstacles: Any) -> int:
        agent = self._world.agent
        here = (float(agent.pos[0]), float(agent.pos[2]), float(agent.dir))
        came_true = (
            self._expected is not None and max(abs(a - b) for a, b in zip(here, self._expected, strict=True)) < 1e-6
        )
        if not came_true or not self._todo:
            if self._expected is not None and not came_true:
                self._blocked += 1
            self._todo = self._look(goals, obstacles)
        action = self._todo.pop(0)
        self._expected = self._after(here, action)
        return action

    def _after(self, at: tuple[float, float, float], action: int) -> tuple[float, float, float]:
        x, z, direction = at
        step, turn = self._steps()
        if action in (TURN_LEFT, TURN_RIGHT):
            return x, z, direction + (turn if action == TURN_LEFT else -turn)
        length = step if action == FORWARD else -step
        return x + math.cos(direction) * length, z - math.sin(direction) * length, direction

    def _steps(self) -> tuple[float, float]:
        """Metres and radians per action."""
        params = self._world.params
        return params.sample(None, "forward_step"), math.radians(params.sample(None, "turn_step"))

    def _look(self, goals: list[Any], obstacles: Any) -> list[int]:
        """The actions of one turn and one straight walk."""
        if not goals:
            return [TURN_LEFT]
        world, agent = self._world, self._world.agent
        distance = self._distance(goals, list(obstacles))
        step, turn = self._steps()
        here = (float(agent.pos[0]), float(agent.pos[2]))
        now = min(distance(*here), 1e3)
        best, plan = -np.inf, [int(self._rng.integers(2))]
        around = round(2 * math.pi / turn)
        for turns in range(-(around // 2) + 1, around // 2 + 1):
            direction = agent.dir + turns * turn
            x, z = here
            for steps in range(1, STRAIGHT + 1):
                x, z = x + math.cos(direction) * step, z - math.sin(direction) * step
                at = np.array([x, 0.0, z])
                touched = world.intersect(agent, at, agent.radius)
                if touched and touched not in goals:
                    break
                left = distance(x, z)
                rate = (now - left) / (abs(turns) + steps)
                if rate > best + 1e-9:
                    best = rate
                    plan = [TURN_LEFT if turns > 0 else TURN_RIGHT] * abs(turns) + [FORWARD] * steps
                if touched:
                    break
        if best <= 0 and self._blocked % 3 == 2:  # in a corner, perhaps with something in hand
            plan = [BACK] if self._env.can_step_back else [TURN_LEFT]
        return plan

    def _distance(self, goals: list[Any], obstacles: list[Any]) -> Callable[[float, float], float]:
        """How far it is from a place to the nearest goal, in metres by the shortest way."""
        world = self._world
        reach = world.agent.radius * MARGIN
        key = (reach, *((round(float(e.pos[0]), 3), round(float(e.pos[2]), 3)) for e in obstacles))
        if getattr(self, "_free_key", None) != key:
            self._free_key, self._free = key, self._free_cells(reach, obstacles)
        free = self._free
        x0, z0 = world.min_x, world.min_z
        marks = np.zeros(free.shape, bool)
        for goal in goals:
            i, j = int((goal.pos[2] - z0) / CELL), int((goal.pos[0] - x0) / CELL)
            marks[np.clip(i, 0, free.shape[0] - 1), np.clip(j, 0, free.shape[1] - 1)] = True
        field = walking_distance(free, marks)
        if not np.isfinite(field[free]).any():
            raise ExpertError("no way to the goal", where=f"miniworld/{self._env.name}")

        def distance(x: float, z: float) -> float:
            """Within a cell's distance of the goal as the crow flies, so that the last steps are straight."""
            direct = min(math.hypot(x - g.pos[0], z - g.pos[2]) for g in goals)
            if direct < 1.5:
                return direct
            i, j = int((z - z0) / CELL), int((x - x0) / CELL)
            near = field[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            value = field[i, j] if 0 <= i < field.shape[0] and 0 <= j < field.shape[1] else np.inf
            if not np.isfinite(value) and near.size:  # between the margin and the true width
                value = near.min() + 1.0
            return float(value) * CELL

        return distance

    def _free_cells(self, reach: float, obstacles: list[Any]) -> np.ndarray:
        """Boolean (z, x): where the agent's centre can be."""
        world = self._world
        low_x, high_x = max(world.min_x, -100), min(world.max_x, 100)
        low_z, high_z = max(world.min_z, -100), min(world.max_z, 100)
        rows, columns = int((high_z - low_z) / CELL) + 1, int((high_x - low_x) / CELL) + 1
        z = (low_z + (np.arange(rows) + 0.5) * CELL)[:, None]
        x = (low_x + (np.arange(columns) + 0.5) * CELL)[None, :]
        free = np.ones((rows, columns), bool)
        for (ax, _, az), (bx, _, bz) in np.asarray(world.wall_segs, float):
            length = max((bx - ax) ** 2 + (bz - az) ** 2, 1e-9)
            along = np.clip(((x - ax) * (bx - ax) + (z - az) * (bz - az)) / length, 0, 1)
            free &= np.hypot(x - ax - along * (bx - ax), z - az - along * (bz - az)) > reach
        for entity in obstacles:
            wide = reach + entity.radius + (1.2 * world.max_forward_step if self._env.name == "sign" else 0.0)
            free &= np.hypot(x - entity.pos[0], z - entity.pos[2]) > wide
        if self._env.name == "sidewalk":  # the street ends the episode
            free &= np.broadcast_to(x < -0.05, free.shape)
        return free


def make_expert(env: MiniWorldEnv, seed: int) -> Policy:
    return Walker(env, seed)


def _make(name: str, *, render: bool = False) -> gymnasium.Env:
    return MiniWorldEnv(name, render)


def tasks() -> list[Task]:
    return [
        Task(
            f"miniworld/{name}",
            functools.partial(_make, name),
            make_expert,
            requires=("miniworld", "pyglet"),
            extra="first-person",
            max_steps=max_steps,
            expert_name="shortest way",
            notes="in place of DeepMind Lab; 64×80 pixels where the package draws 60×80",
            meta={"level": level},
        )
        for name, (level, max_steps) in LEVELS.items()
    ]
