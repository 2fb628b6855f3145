"""`dm-control-maze/*`: DM Control's rolling ball in mazes from DeepMind Lab's generator, with DeepMind Lab's textures.

    labmaze text maze → boxes two metres wide around a ball with a head → what the head's camera sees, 64 × 64 × 3

    *********      * wall, P where the agent may begin, G where things may lie. Random-goal: reach the goal (+10), be
    *P    G *      put somewhere else, find it again, until the time is up. Many-goals: collect all the apples (+1 each).
    * *** * *      Forage: apples +1, lemons -1, until no apple is left. Walls, floor and places are drawn from the
    *   *P  *      seed, and so are wall and floor textures from the five styles.
    *********

In place of DeepMind Lab, which is on no package registry. The model is compiled once, with a box for every cell, and a
reset only moves boxes, which is five hundred times faster than to compile each maze, as dm_control does. Actions: roll (forwards
is positive) and steer (to the left), in [-1, 1], twenty a second. `motion` is what the head feels: velocity and turning.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from gato.worlds import Policy, Task
from gato.worlds.camera import Camera
from gato.worlds.paths import walking_distance, waypoint
from gato.worlds.saving import restore_physics, save_physics

IMAGE_SIZE = (64, 64)
CELL = 2.0  # metres
HEIGHT = 2.0
PHYSICS_SECONDS, SUBSTEPS = 0.005, 10
REACH = 0.8  # metres at which a thing is touched
TEXTURE_SIZE = 128
HIDDEN = -20.0  # where unused boxes and things wait, metres
CHANGED = ("geom_pos", "geom_rgba", "geom_matid")  # what an episode writes into the model

# name → rule, cells a side, rooms at most, steps
LEVELS = {
    f"{rule}-{size}": (rule, cells, rooms, steps)
    for rule in ("random-goal", "many-goals", "forage")
    for size, cells, rooms, steps in (("small", 9, 2, 600), ("medium", 13, 4, 900), ("large", 19, 6, 1200))
}
MOST_THINGS = 16
APPLE, LEMON, GOAL = 0, 1, 2
REWARDS = {APPLE: 1.0, LEMON: -1.0, GOAL: 10.0}
COLOURS = {APPLE: (0.1, 0.7, 0.1, 1.0), LEMON: (0.95, 0.85, 0.1, 1.0), GOAL: (0.9, 0.1, 0.1, 1.0)}


def _texture(path: str) -> bytes:
    from PIL import Image

    packed = io.BytesIO()
    with Image.open(path) as picture:
        small = picture.convert("RGBA").convert("RGB").resize((TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.BOX)
    small.save(packed, "png")
    return packed.getvalue()


def _build(cells: int) -> tuple[Any, Any]:
    """The physics of a maze of cells × cells, and the walker in it."""
    from gato.worlds.dm_control import import_suite

    import_suite()  # settles on a library for OpenGL, if any
    from dm_control import composer, mjcf
    from dm_control.locomotion.walkers.jumping_ball import RollingBallWithHead
    from labmaze import assets

    arena = composer.Arena(name="maze")
    root = arena.mjcf_model
    root.option.timestep = PHYSICS_SECONDS
    root.visual.map.znear, root.visual.headlight.ambient = 0.005, [0.5, 0.5, 0.5]
    root.visual.headlight.diffuse = [0.5, 0.5, 0.5]
    root.statistic.extent, root.statistic.center = 20.0, [0.0, 0.0, 0.0]

    def asset(path: str) -> mjcf.Asset:
        return mjcf.Asset(_texture(path), ".png")

    sky = assets.get_sky_texture_paths("sky_03")
    faces = {"left": "left", "right": "right", "up": "up", "down": "down", "front": "front", "back": "back"}
    root.asset.add(
        "texture", name="sky", type="skybox", **{f"file{f}": asset(getattr(sky, f)) for f in faces}
    )  # fmt: skip
    for style in assets.MAZE_STYLES:
        walls, floors = assets.get_wall_texture_paths(style), assets.get_floor_texture_paths(style)
        for i, name in enumerate(sorted(walls)[:2]):
            texture = root.asset.add("texture", name=f"{style}_wall{i}", type="cube", file=asset(walls[name]))
            root.asset.add("material", name=f"{style}_wall{i}", texture=texture)
        texture = root.asset.add("texture", name=f"{style}_floor", type="2d", file=asset(floors[sorted(floors)[0]]))
        root.asset.add("material", name=f"{style}_floor", texture=texture, texrepeat=[cells, cells])
    half = cells * CELL / 2
    root.worldbody.add(
        "geom", name="floor", type="plane", size=[half, half, 1], material=f"{assets.MAZE_STYLES[0]}_floor"
    )
    for row in range(cells):
        for column in range(cells):
            root.worldbody.add(
                "geom", name=f"wall_{row}_{column}", type="box", size=[CELL / 2, CELL / 2, HEIGHT / 2],
                pos=[*_place((row, column), cells), HIDDEN], material=f"{assets.MAZE_STYLES[0]}_wall0",
            )  # fmt: skip
    for i in range(MOST_THINGS):
        root.worldbody.add(
            "geom", name=f"thing_{i}", type="sphere", size=[0.4], pos=[0, 0, HIDDEN], contype=0, conaffinity=0
        )
    walker = RollingBallWithHead()
    walker.create_root_joints(arena.attach(walker))
    return mjcf.Physics.from_mjcf_model(root), walker


def _place(cell: tuple[int, ...], cells: int) -> tuple[float, float]:
    """The middle of a cell, in metres; row 0 is at the back."""
    row, column = cell
    return (column - (cells - 1) / 2) * CELL, ((cells - 1) / 2 - row) * CELL


class MazeEnv(gymnasium.Env):
    """One level. For planners: `walls` (boolean, rows by columns), `things` {index: (kind, cell)}, and `me()`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, name: str, render: bool = False):
        import mujoco

        self._mujoco, self.name = mujoco, name
        self.rule, self.cells, self._rooms, self.max_steps = LEVELS[name]
        self.render_mode = "rgb_array" if render else None
        self._physics, walker = _build(self.cells)
        self.model, self.data = self._physics.model.ptr, self._physics.data.ptr
        # The boxes move, so what the compiler worked out about where they are must not be believed.
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_MIDPHASE
        self._camera: Camera | None = None
        bind, model = self._physics.bind, walker.mjcf_model
        self._camera_id = int(bind(walker.egocentric_camera).element_id)
        self._head = int(bind(walker.root_body).element_id)
        self._steer = int(self.model.joint(bind(model.find("joint", "steer")).element_id).qposadr[0])
        self._root = [int(self.model.joint(f"{walker.mjcf_model.model}/root_{axis}/").qposadr[0]) for axis in "xy"]
        self._controls = [int(bind(model.find("actuator", a)).element_id) for a in ("roll", "steer")]
        self._sensors = np.concatenate(
            [
                np.arange(s.adr[0], s.adr[0] + s.dim[0])
                for s in (self.model.sensor(i) for i in range(self.model.nsensor))
                if s.name.endswith(("vel", "gyro"))
            ]
        )
        self._wall_ids = np.array(
            [[self.model.geom(f"wall_{r}_{c}").id for c in range(self.cells)] for r in range(self.cells)]
        )
        self._thing_ids = [self.model.geom(f"thing_{i}").id for i in range(MOST_THINGS)]
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "image": gymnasium.spaces.Box(0, 255, (*IMAGE_SIZE, 3), np.uint8),
                "motion": gymnasium.spaces.Box(-np.inf, np.inf, (len(self._sensors),), np.float32),
            }
        )

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        import labmaze

        super().reset(seed=seed)
        rng = self.np_random
        while True:
            maze = labmaze.RandomMaze(
                height=self.cells, width=self.cells, max_rooms=self._rooms, room_min_size=3, room_max_size=5,
                spawns_per_room=3, objects_per_room=3, random_seed=int(rng.integers(2**31)),
            )  # fmt: skip
            maze.regenerate()
            grid = np.array(_rows(maze))
            self.walls = grid == "*"
            starts, places = np.argwhere(grid == "P"), np.argwhere(grid == "G")
            if len(starts) >= 2 and len(places) >= 3:
                break
        wide = bool((options or {}).get("wide"))
        self._starts = np.argwhere(~self.walls) if wide else starts
        self._dress(rng)
        places = rng.permutation(places)[:MOST_THINGS]
        kinds = [GOAL] if self.rule == "random-goal" else [APPLE] * len(places)
        if self.rule == "forage":
            kinds = [LEMON if i % 3 == 2 else APPLE for i in range(len(places))]
        self.things = {i: (kind, (int(places[i][0]), int(places[i][1]))) for i, kind in enumerate(kinds)}
        self._mujoco.mj_resetData(self.model, self.data)
        for i, geom in enumerate(self._thing_ids):
            self.model.geom_pos[geom] = (0, 0, HIDDEN)
            if i in self.things:
                kind, cell = self.things[i]
                self.model.geom_pos[geom] = (*_place(cell, self.cells), 0.6)
                self.model.geom_rgba[geom] = COLOURS[kind]
        self._put_somewhere()
        self.steps = 0
        return self._observe(), {"success": False}

    def _dress(self, rng: np.random.Generator) -> None:
        """Stand the walls up, in the textures of a style."""
        style = f"style_0{int(rng.integers(1, 6))}"
        plain, accent, floor = (self.model.material(f"{style}_{part}").id for part in ("wall0", "wall1", "floor"))
        self.model.geom_matid[self.model.geom("floor").id] = floor
        other = rng.random(self.walls.shape) < 0.2
        self.model.geom_matid[self._wall_ids] = np.where(other, accent, plain)
        self.model.geom_pos[self._wall_ids, 2] = np.where(self.walls, HEIGHT / 2, HIDDEN)

    def _put_somewhere(self) -> None:
        """The agent at a start that is no goal, looking anywhere."""
        taken = {cell for _, cell in self.things.values()}
        free = [(row, column) for row, column in self._starts.tolist() if (row, column) not in taken]
        self._mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self._root] = _place(free[int(self.np_random.integers(len(free)))], self.cells)
        self.data.qpos[self._steer] = self.np_random.uniform(-math.pi, math.pi)
        self._mujoco.mj_forward(self.model, self.data)

    def me(self) -> tuple[float, float, float]:
        """x and y in metres, and the direction looked in, in radians anticlockwise from the x axis."""
        x, y, _ = self.data.xpos[self._head]
        looks = self.data.xmat[self._head].reshape(3, 3)[:, 1]  # the face is on the head's own y axis
        return float(x), float(y), math.atan2(looks[1], looks[0])

    def step(self, action):
        roll, steer = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        self.data.ctrl[self._controls] = -roll, -steer  # the walker's own signs: backwards, to the right
        self._mujoco.mj_step(self.model, self.data, SUBSTEPS)
        self.steps += 1
        x, y, _ = self.me()
        reward, found = 0.0, False
        for i, (kind, cell) in list(self.things.items()):
            there = _place(cell, self.cells)
            if math.hypot(x - there[0], y - there[1]) < REACH:
                reward += REWARDS[kind]
                found |= kind == GOAL
                if kind != GOAL:
                    del self.things[i]
                    self.model.geom_pos[self._thing_ids[i], 2] = HIDDEN
        done = all(kind == LEMON for kind, _ in self.things.values())
        if found:
            self._put_somewhere()
        truncated = self.steps >= self.max_steps and not done
        return self._observe(), reward, done, truncated, {"success": done or found}

    def _observe(self) -> dict[str, np.ndarray]:
        if self._camera is None:
            self._camera = Camera(self.model, *IMAGE_SIZE, index=self._camera_id, where=f"dm-control-maze/{self.name}")
        self._mujoco.mj_forward(self.model, self.data)
        return {
            "image": self._camera.picture(self.data),
            "motion": self.data.sensordata[self._sensors].astype(np.float32),
        }

    def save_state(self) -> Any:
        maze = self.walls, self._starts, [getattr(self.model, name).copy() for name in CHANGED]
        luck = self.np_random.bit_generator.state  # draws where the agent goes on from a goal
        return maze, save_physics(self.model, self.data), dict(self.things), self.steps, luck

    def restore_state(self, state: Any) -> None:
        (self.walls, self._starts, arrays), physics, things, self.steps, luck = state
        for name, values in zip(CHANGED, arrays, strict=True):
            getattr(self.model, name)[:] = values
        restore_physics(self.model, self.data, physics)
        self.things, self.np_random.bit_generator.state = dict(things), luck

    def state_bytes(self) -> bytes:
        """Positions and velocities, to the bit, and what is left: what traces compare."""
        return self.data.qpos.tobytes() + self.data.qvel.tobytes() + bytes(sorted(self.things))

    def render(self) -> np.ndarray:
        """What the agent sees, uint8 (64, 64, 3)."""
        return self._observe()["image"]

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None


def _rows(maze: Any) -> list[list[str]]:
    return [list(line) for line in str(maze.entity_layer).splitlines() if line]


# -- the expert -------------------------------------------------------------------------------------------------------

FINE = 4  # cells of the walking grid per cell of the maze
WIDE = 0.45  # metres that the ball's middle keeps from walls


def make_expert(env: MazeEnv, seed: int) -> Policy:
    """Rolls the shortest way to the nearest goal or apple, around the lemons: a function of the true positions."""
    offset = (np.arange(env.cells * FINE) + 0.5) / FINE  # in cells, from the corner
    blocked = np.kron(env.walls, np.ones((FINE, FINE), bool))
    near = np.zeros_like(blocked)
    reach = math.ceil(WIDE / CELL * FINE)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            near |= np.roll(blocked, (down, right), (0, 1))
    half = env.cells / 2

    def fine(x: float, y: float) -> tuple[int, int]:
        row, column = int((half - y / CELL) * FINE), int((x / CELL + half) * FINE)
        return min(max(row, 0), len(offset) - 1), min(max(column, 0), len(offset) - 1)

    def metres(cell: tuple[int, int]) -> tuple[float, float]:
        return (offset[cell[1]] - half) * CELL, (half - offset[cell[0]]) * CELL

    def policy(observation: Any, info: Mapping[str, Any]) -> np.ndarray:
        x, y, direction = env.me()
        free = ~near
        goals = np.zeros_like(free)
        for kind, cell in env.things.values():
            there = fine(*_place(cell, env.cells))
            if kind == LEMON:
                around = np.ogrid[: free.shape[0], : free.shape[1]]
                far = np.hypot(around[0] - there[0], around[1] - there[1]) * CELL / FINE
                free = free & (far > REACH + 0.2)
        for kind, cell in env.things.values():
            if kind != LEMON:
                goals[fine(*_place(cell, env.cells))] = True
        field = walking_distance(free, goals)
        here = fine(x, y)
        if not np.isfinite(field[here]):
            close = [(here[0] + i, here[1] + j) for i in range(-5, 6) for j in range(-5, 6)]
            inside = [c for c in close if 0 <= c[0] < free.shape[0] and 0 <= c[1] < free.shape[1]]
            target = min(inside, key=lambda c: (not np.isfinite(field[c]), math.hypot(c[0] - here[0], c[1] - here[1])))
        else:
            target = waypoint(free | goals, field, here, look=24)
        to = metres(target)
        off = (math.atan2(to[1] - y, to[0] - x) - direction + math.pi) % (2 * math.pi) - math.pi
        steer = float(np.clip(2.0 * off, -1.0, 1.0))
        roll = 1.0 if abs(off) < 0.35 else 0.3 if abs(off) < 0.8 else 0.0
        return np.array([roll, steer], np.float32)

    return policy


def _make(name: str, *, render: bool = False) -> gymnasium.Env:
    return MazeEnv(name, render)


def tasks() -> list[Task]:
    return [
        Task(
            f"dm-control-maze/{name}",
            functools.partial(_make, name),
            make_expert,
            requires=("mujoco", "dm_control", "labmaze"),
            extra="mujoco",
            max_steps=steps,
            expert_name="shortest way",
            notes="in place of DeepMind Lab: its maze generator and textures, our rules and a rolling ball",
            meta={"rule": rule, "cells": cells},
        )
        for name, (rule, cells, _, steps) in LEVELS.items()
    ]
