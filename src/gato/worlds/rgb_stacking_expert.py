"""The expert of RGB stacking: a script of reach, grasp, lift, carry, lower, leave; its grasp is tried out beforehand.

A `Plan` says how to take hold of an object and where to let go of it. `perform` turns a plan into actions, closing the
loop on where things are at every step, so it also works where noise was executed in place of its actions. Plans are
ranked by the objects' geometry and performed on a copy of the physics, one after another, until one ends in a standing
stack; that one is performed in the environment. A blue object without a level top is first picked up and dropped, tried
out in the same way. When a plan fails after all, the next one is made from where things are by then.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gato.worlds.rgb_stacking import FLOOR, HOLD, MAX_STEPS, WORKSPACE, Cell, advance, is_stacked

RED, GREEN, BLUE = range(3)
STROKE = 0.082  # metres between the open fingers, a little to spare
TRAVEL = 0.185  # metres, height of the fingers that passes over everything on the floor
LEVEL = 3e-4  # m² of level top under which blue is dropped again
MAX_TRIES = 12  # plans performed on the copy in one round of thinking
MAX_ROUNDS = 4  # of thinking in an episode; later plans are the geometry's first choice


@dataclass(frozen=True)
class Plan:
    """Take red, with the fingers closing along `yaw` (rad), `offset` metres from its middle, and put it onto blue; or
    take blue and let it fall from where it was, so that it may come to lie another way."""

    colour: int
    yaw: float
    offset: tuple[float, float]
    height: float  # metres above the floor, of the grasp
    drop: float = 0.0  # metres above where it was, of letting blue go


Action = tuple[np.ndarray, bool]


class Stacker:
    """The policy of one episode."""

    def __init__(self, env: Any, seed: int):
        self._env, self._rng = env, np.random.default_rng(seed)
        self._performance: Iterator[Action] | None = None
        self._rounds = self._steps = 0

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> dict[str, Any]:
        action = next(self._performance, None) if self._performance else None
        if action is None:
            plan = self._think()
            self._performance = perform(self._env.cell, self._env.data, plan)
            action = next(self._performance)
        self._steps += 1
        arm, close = action
        return {"arm": arm.astype(np.float32), "gripper": int(close)}

    def _think(self) -> Plan:
        """The first plan whose performance ends well on the copy; else the most promising."""
        place, data = self._env.cell, self._env.data
        plans = ranked(place, data, RED, self._rng)
        self._rounds += 1
        if self._rounds > MAX_ROUNDS:
            return plans[0]
        if level_top(place, data) < LEVEL:
            drops = [replace(p, drop=d) for p in ranked(place, data, BLUE, self._rng)[:5] for d in (0.06, 0.11)]
            plans = drops + plans[: MAX_TRIES // 2]
        else:
            plans = plans[:MAX_TRIES]
        left = MAX_STEPS - self._steps
        hopeful = (plan for plan in plans if rehearse(place, copy.copy(data), plan, left))
        return next(hopeful, ranked(place, data, RED, self._rng)[0])


def rehearse(cell: Cell, data: Any, plan: Plan, steps: int) -> bool:
    """Whether a plan, performed on this data within so many steps, ends with the stack standing, or blue level."""
    standing = 0
    for t, (arm, close) in enumerate(perform(cell, data, plan)):
        advance(cell, data, arm.astype(np.float32), close)
        standing = standing + 1 if is_stacked(cell, data) else 0
        if standing >= HOLD or t >= steps:
            break
    if plan.colour == BLUE:
        inside = (np.abs(data.xpos[cell.objects[BLUE]][:2] - [0.6, 0.0]) < 0.13).all()
        return bool(inside) and level_top(cell, data) >= LEVEL
    return standing >= HOLD


# -- geometry ---------------------------------------------------------------------------------------------------------


def corners(cell: Cell, data: Any, colour: int) -> np.ndarray:
    """float64 (n, 3): an object's vertices in the world."""
    geom = _mesh_geom(cell, colour)
    mesh = cell.model.geom_dataid[geom]
    first = cell.model.mesh_vertadr[mesh]
    local = cell.model.mesh_vert[first : first + cell.model.mesh_vertnum[mesh]]
    return local @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]


def faces(cell: Cell, data: Any, colour: int) -> tuple[np.ndarray, np.ndarray]:
    """Outward normals (m, 3) and areas (m,) of an object's triangles."""
    mesh = cell.model.geom_dataid[_mesh_geom(cell, colour)]
    first = cell.model.mesh_faceadr[mesh]
    triangles = corners(cell, data, colour)[cell.model.mesh_face[first : first + cell.model.mesh_facenum[mesh]]]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    size = np.linalg.norm(normals, axis=1)
    keep = size > 1e-9
    return normals[keep] / size[keep, None], size[keep] / 2


def _mesh_geom(cell: Cell, colour: int) -> int:
    """The collision mesh of an object."""
    geoms = np.flatnonzero((cell.owner == colour) & (cell.model.geom_contype > 0))
    return int(geoms[0])


def top(cell: Cell, data: Any, colour: int) -> np.ndarray:
    """float64 (3,): the middle of an object's highest face, edge or corner."""
    points = corners(cell, data, colour)
    highest = points[points[:, 2] > points[:, 2].max() - 0.003]
    return np.append((highest[:, :2].min(axis=0) + highest[:, :2].max(axis=0)) / 2, points[:, 2].max())


def level_top(cell: Cell, data: Any) -> float:
    """m² of blue's surface that a red object could rest on."""
    normals, areas = faces(cell, data, BLUE)
    return float(areas[normals[:, 2] > 0.98].sum())


def ranked(cell: Cell, data: Any, colour: int, rng: np.random.Generator) -> list[Plan]:
    """Ways to take hold of an object, the most promising first: two opposite upright faces, narrow, clear of others."""
    points, middle = corners(cell, data, colour), data.xipos[cell.objects[colour]]
    normals, areas = faces(cell, data, colour)
    others = np.concatenate([corners(cell, data, c) for c in range(3) if c != colour])
    heights = points[:, 2].max() - FLOOR
    scored = []
    for yaw in np.arange(24) * np.pi / 24:
        axis = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        along = points @ axis
        width = np.ptp(along)
        if width > STROKE:
            continue
        facing = normals @ axis
        grip = min(areas[facing > 0.95].sum(), areas[facing < -0.95].sum()) * 1e4  # cm²
        centre = (along.max() + along.min()) / 2 - middle @ axis
        # Where a finger goes down: 1 cm beyond the widest point, 1.2 cm to either side.
        side = np.array([-axis[1], axis[0], 0.0])
        beside = np.abs((others - middle) @ side) < 0.022
        reach = np.abs((others - middle) @ axis - centre)
        blocked = (beside & (reach < STROKE / 2 + 0.015)).sum()
        offset = (float(axis[0] * centre), float(axis[1] * centre))
        for part in (0.5, 0.7):
            score = grip - 20 * width - 3 * blocked + rng.uniform(0, 0.5) - (part != 0.5)
            scored.append((score, Plan(colour, float(yaw), offset, float(heights * part))))
    scored.sort(key=lambda item: -item[0])
    return _varied([plan for _, plan in scored]) or [Plan(colour, 0.0, (0.0, 0.0), 0.025)]


def _varied(plans: list[Plan]) -> list[Plan]:
    """The same plans, those last that are within 20° of an earlier one."""
    first: list[Plan] = []
    for plan in plans:
        if all(abs(np.sin(plan.yaw - other.yaw)) > 0.34 for other in first):
            first.append(plan)
    return first + [plan for plan in plans if plan not in first]


# -- the script -------------------------------------------------------------------------------------------------------


def perform(cell: Cell, data: Any, plan: Plan) -> Iterator[Action]:
    """The actions of a plan, each from how things are by then. Ends when there is nothing more to do, or no hope."""
    hand = _Hand(cell, data)
    yaw = plan.yaw

    def over_object() -> np.ndarray:
        return data.xipos[cell.objects[plan.colour]][:2] + plan.offset

    # Reach: up first if something could be in the way, then across, then down.
    yield from hand.go(lambda: np.append(hand.position[:2], TRAVEL), yaw, False, 0.02, 60, rise=True)
    yield from hand.go(lambda: np.append(over_object(), TRAVEL), yaw, False, 0.012, 120)
    low = max(FLOOR + plan.height, WORKSPACE[0, 2] + 0.001)
    yield from hand.go(lambda: np.append(over_object(), low), yaw, False, 0.004, 70)
    for _ in range(14):
        yield hand.still(), True
    if plan.colour == BLUE:
        high = hand.position[2] + plan.drop
        yield from hand.go(lambda: np.append(hand.position[:2], high), yaw, True, 0.01, 60, rise=True)
        for _ in range(18):
            yield hand.still(), False
        return
    # Lift until it would pass over blue.
    bottom = corners(cell, data, plan.colour)[:, 2].min() - hand.position[2]  # of the object, below the fingers
    high = min(top(cell, data, BLUE)[2] - bottom + 0.025, WORKSPACE[1, 2] - 0.005)
    yield from hand.go(lambda: np.append(hand.position[:2], high), yaw, True, 0.01, 60, rise=True)
    if not hand.holds(plan.colour):
        return
    # Carry its centre of mass over the middle of blue's top.
    target = top(cell, data, BLUE)

    def over_blue(height: float) -> np.ndarray:
        held = data.xipos[cell.objects[plan.colour]][:2] - hand.position[:2]
        return np.append(target[:2] - held, height)

    yield from hand.go(lambda: over_blue(high), yaw, True, 0.004, 120)
    # Lower until it rests on blue.
    for _ in range(60):
        if hand.touches(plan.colour, BLUE):
            break
        arm = hand.towards(over_blue(0.0), yaw)
        gap = corners(cell, data, plan.colour)[:, 2].min() - top(cell, data, BLUE)[2]
        arm[2] = -np.clip(2.5 * gap, 0.012, 0.07)
        yield arm, True
    for _ in range(4):
        yield hand.still(), True
    for _ in range(10):
        yield hand.still(), False
    yield from hand.go(lambda: np.append(hand.position[:2], TRAVEL + 0.05), yaw, False, 0.02, 50, rise=True)
    for _ in range(HOLD):
        yield hand.still(), False


class _Hand:
    """Where the fingers are, and velocities that take them elsewhere."""

    def __init__(self, cell: Cell, data: Any):
        self._cell, self._data = cell, data

    @property
    def position(self) -> np.ndarray:
        return self._data.site_xpos[self._cell.pinch]

    def still(self) -> np.ndarray:
        return np.zeros(4)

    def towards(self, target: np.ndarray, yaw: float) -> np.ndarray:
        """Proportional velocity; yaw is modulo half a turn, the nearer way that the wrist allows."""
        across = self._data.site_xmat[self._cell.pinch].reshape(3, 3)[:, 1]  # the fingers close along this
        turn = (yaw - np.arctan2(across[1], across[0]) + np.pi / 2) % np.pi - np.pi / 2
        wrist = -self._data.qpos[6]
        if abs(wrist + turn) > np.pi / 2 - 0.03:
            turn -= np.sign(turn) * np.pi
        linear = 4.0 * (target - self.position)
        linear *= min(1.0, 0.07 / max(np.abs(linear).max(), 1e-9))
        return np.append(linear, np.clip(3.0 * turn, -1.0, 1.0))

    def go(self, target: Any, yaw: float, close: bool, near: float, steps: int, rise: bool = False) -> Iterator[Action]:
        """Until within `near` metres (and a few degrees), or `steps` have passed. `rise` only ever goes up."""
        for _ in range(steps):
            goal = target()
            arm = self.towards(goal, yaw)
            if rise:
                arm[3] = 0.0
                if self.position[2] > goal[2] - near:
                    return
            elif np.abs(goal - self.position).max() < near and abs(arm[3]) < 0.2:
                return
            yield arm, close

    def touches(self, colour: int, other: int) -> bool:
        owners = self._cell.owner[self._data.contact.geom]
        return bool(((owners == colour).any(axis=1) & (owners == other).any(axis=1)).any())

    def holds(self, colour: int) -> bool:
        return self.touches(colour, 3) and not self.touches(colour, 4)
