"""ViZDoom's experts: scripts that read where everything truly is, each a function of the present moment.

    aim and fire (basic, rockets, turrets) · dodge (take-cover) · walk the shortest way (gathering, my-way-home) ·
    fight forward (corridor, deathmatch)

Bearings are in degrees, positive to the left of where the player looks; lengths are Doom's units (the player is 32 wide).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gato.worlds import Policy
from gato.worlds.paths import in_sight, walking_distance, waypoint
from gato.worlds.vizdoom import TICS_PER_STEP, VizdoomEnv

MONSTERS = {
    "Cacodemon", "ChaingunGuy", "Demon", "DoomImp", "HellKnight", "MarineChainsawVzd", "ShotgunGuy", "Zombieman",
    "BaronOfHell", "Revenant", "LostSoul", "Spectre", "Arachnotron", "Fatso", "PainElemental", "Archvile",
}  # fmt: skip
ROCKET_SPEED = 20.0  # units per tic
FIREBALL_NAMES = {"DoomImpBall"}


class Script:
    """What all scripts need: the player, the things around, and actions by the buttons they press."""

    def __init__(self, env: VizdoomEnv):
        self._env = env
        self._action = {frozenset(pressed): index for index, pressed in enumerate(env.buttons)}

    def press(self, *buttons: str) -> int:
        return self._action[frozenset(buttons)]

    def look(self) -> None:
        self.x, self.y, self.angle = self._env.me()

    def things(self, *names: str) -> list[Any]:
        wanted = set(names) or MONSTERS
        return [o for o in self._env.state.objects if o.name in wanted]

    def bearing(self, x: float, y: float) -> float:
        towards = math.degrees(math.atan2(y - self.y, x - self.x)) - self.angle
        return (towards + 180.0) % 360.0 - 180.0

    def distance(self, thing: Any) -> float:
        return math.hypot(thing.position_x - self.x, thing.position_y - self.y)

    def turn(self, bearing: float, *also: str) -> int:
        return self.press("TURN_LEFT" if bearing > 0 else "TURN_RIGHT", *also)


class Marksman(Script):
    """Steps sideways until the monster is straight ahead, and fires."""

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        monsters = self.things()
        if not monsters:
            return self.press()
        target = min(monsters, key=self.distance)
        aside = self.distance(target) * math.sin(math.radians(self.bearing(target.position_x, target.position_y)))
        if abs(aside) < 14:
            return self.press("ATTACK")
        return self.press("MOVE_LEFT" if aside > 0 else "MOVE_RIGHT")


class Turret(Script):
    """Turns to the monster that is soonest dealt with, near ones first, and fires when it is in line."""

    width = 16.0

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        monsters = self.things()
        if not monsters:
            return self.press()
        target = min(monsters, key=lambda m: self.distance(m) + 4.0 * abs(self.bearing(m.position_x, m.position_y)))
        off = self.bearing(target.position_x, target.position_y)
        if abs(off) <= max(math.degrees(math.atan2(self.width, self.distance(target))), 1.8):
            return self.press("ATTACK")
        return self.turn(off)


class Leader(Script):
    """Fires one rocket at where the monster will be when it arrives, if that is where the rocket is looking."""

    def __init__(self, env: VizdoomEnv):
        super().__init__(env)
        self._before: tuple[float, float] | None = None

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        monsters = self.things()
        if not monsters or self.things("Rocket"):
            return self.press()
        target = monsters[0]
        here = (target.position_x, target.position_y)
        before, self._before = self._before or here, here
        velocity = [(a - b) / TICS_PER_STEP for a, b in zip(here, before, strict=True)]
        time = 0.0
        for _ in range(4):  # where it will be decides how long the rocket takes, and the other way round
            ahead = (here[0] + velocity[0] * time, here[1] + velocity[1] * time)
            time = math.hypot(ahead[0] - self.x, ahead[1] - self.y) / ROCKET_SPEED + 3.0
        off = self.bearing(*ahead)
        if abs(off) <= 1.8 and self._env.steps > 1:
            return self.press("ATTACK")
        return self.turn(off)


class Dodger(Script):
    """Goes where, by the fireballs' present courses, none will come near: of left, right and staying the best."""

    speed = 10.0  # units per tic, sideways

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        walls = [y for sector in self._env.state.sectors for line in sector.lines for y in (line.y1, line.y2)]
        low, high = min(walls) + 20, max(walls) - 20
        balls = self.things(*FIREBALL_NAMES)

        def safety(side: int) -> float:
            nearest = 200.0
            for ball in balls:
                if ball.velocity_x >= 0:
                    continue
                tics = (self.x - ball.position_x) / ball.velocity_x
                if not 0 < tics < 60:
                    continue
                y = min(max(self.y + side * self.speed * min(tics, 20), low), high)
                nearest = min(nearest, abs(ball.position_y + ball.velocity_y * tics - y) + 0.5 * tics)
            # The middle leaves both ways open.
            return nearest - 0.02 * abs(self.y + 40 * side - (low + high) / 2)

        side = max((0, 1, -1), key=safety)
        left = 1 if abs(self.angle) < 90 or self.angle > 270 else -1  # which way is left depends on where one looks
        return self.press(*([] if side == 0 else ["MOVE_LEFT" if side == left else "MOVE_RIGHT"]))


class Walker(Script):
    """Knows the walls as a grid of cells, and walks the shortest way between them."""

    cell = 16.0
    wide = 22.0  # how far the player's middle keeps from walls
    wary = 60.0  # and from what hurts

    def __init__(self, env: VizdoomEnv):
        super().__init__(env)
        lines = [
            (line.x1, line.y1, line.x2, line.y2)
            for sector in env.state.sectors
            for line in sector.lines
            if line.is_blocking
        ]
        ends = np.array(lines, float)
        self._low = ends.reshape(-1, 2).min(0)
        size = np.ceil((ends.reshape(-1, 2).max(0) - self._low) / self.cell).astype(int)
        self._y = (self._low[1] + (np.arange(size[1]) + 0.5) * self.cell)[:, None]
        self._x = (self._low[0] + (np.arange(size[0]) + 0.5) * self.cell)[None, :]
        clearance = np.full((size[1], size[0]), np.inf)
        for ax, ay, bx, by in np.unique(ends, axis=0):
            length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-9)
            along = np.clip(((self._x - ax) * (bx - ax) + (self._y - ay) * (by - ay)) / length, 0, 1)
            away = np.hypot(self._x - ax - along * (bx - ax), self._y - ay - along * (by - ay))
            clearance = np.minimum(clearance, away)
        self.free, self.open = clearance > self.wide, clearance > 0.6 * self.cell
        self._stuck, self._was = 0, (0.0, 0.0)

    def at(self, x: float, y: float) -> tuple[int, int]:
        row, column = int((y - self._low[1]) / self.cell), int((x - self._low[0]) / self.cell)
        return min(max(row, 0), self.free.shape[0] - 1), min(max(column, 0), self.free.shape[1] - 1)

    def field(self, goals: list[Any], avoid: list[Any] = []) -> tuple[np.ndarray, np.ndarray]:  # noqa: B006
        """Free cells, and the distance to the nearest goal over them."""
        free = self.free.copy()
        for thing in avoid:
            free &= np.hypot(self._x - thing.position_x, self._y - thing.position_y) > self.wary
        marks = np.zeros(free.shape, bool)
        for goal in goals:
            marks[self.at(goal.position_x, goal.position_y)] = True
        return free | marks, walking_distance(free, marks)

    def walk(self, goals: list[Any], avoid: list[Any] = []) -> int:  # noqa: B006
        """One step of the shortest way to the nearest goal."""
        if not goals:
            return self.press("TURN_LEFT")
        nearest = min(goals, key=self.distance)
        here = self.at(self.x, self.y)
        free, field = self.field(goals, avoid)
        if not np.isfinite(field[here]):  # closer to a wall, or to what hurts, than the grid allows
            near = [c for c in np.ndindex(field.shape) if abs(c[0] - here[0]) < 4 and abs(c[1] - here[1]) < 4]
            here = min(near, key=lambda c: (not np.isfinite(field[c]), math.hypot(c[0] - here[0], c[1] - here[1])))
            target = self._middle(here)
        elif self.distance(nearest) < 2 * self.cell:
            target = (nearest.position_x, nearest.position_y)
        else:
            target = self._middle(waypoint(free, field, here))
        return self.towards(*target)

    def _middle(self, cell: tuple[int, int]) -> tuple[float, float]:
        return float(self._x[0, cell[1]]), float(self._y[cell[0], 0])

    def towards(self, x: float, y: float) -> int:
        moved = math.hypot(self.x - self._was[0], self.y - self._was[1])
        self._was = (self.x, self.y)
        self._stuck = self._stuck + 1 if moved < 0.5 else 0
        off = self.bearing(x, y)
        if self._stuck > 40:  # pushing against a corner: turn away for a while
            self._stuck = 25 if self._stuck < 60 else 0
            return self.turn(90.0, "MOVE_FORWARD")
        if abs(off) < 6:
            return self.press("MOVE_FORWARD")
        return self.turn(off, "MOVE_FORWARD") if abs(off) < 35 else self.turn(off)


class Gatherer(Walker):
    """To the nearest medical kit, around the poison."""

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        return self.walk(self.things("CustomMedikit", "Medikit"), self.things("Poison"))


class Homecomer(Walker):
    """To the green armour."""

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        return self.walk(self.things("GreenArmor"))


class Fighter(Walker):
    """Shoots whoever is in sight and near; otherwise walks on to the armour, or to the nearest monster where there is none."""

    range = 700.0

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        monsters = self.things()
        here = self.at(self.x, self.y)
        seen = [
            m
            for m in monsters
            if self.distance(m) < self.range and in_sight(self.open, here, self.at(m.position_x, m.position_y))
        ]
        if seen:
            target = min(seen, key=lambda m: self.distance(m) + 3.0 * abs(self.bearing(m.position_x, m.position_y)))
            off = self.bearing(target.position_x, target.position_y)
            if abs(off) <= max(math.degrees(math.atan2(14.0, self.distance(target))), 1.8):
                return self.press("ATTACK")
            return self.turn(off)
        goals = self.things("GreenArmor") if self._env.name == "deadly-corridor" else monsters
        return self.walk(goals) if goals else self.press("TURN_LEFT")


SCRIPTS: dict[str, Callable[[VizdoomEnv], Policy]] = {
    "basic": Marksman,
    "simpler-basic": Marksman,
    "rocket-basic": Marksman,
    "predict-position": Leader,
    "defend-the-center": Turret,
    "defend-the-line": Turret,
    "take-cover": Dodger,
    "health-gathering": Gatherer,
    "health-gathering-supreme": Gatherer,
    "my-way-home": Homecomer,
    "deadly-corridor": Fighter,
    "deathmatch": Fighter,
}


def make(env: VizdoomEnv, seed: int) -> Policy:
    """The script for a just reset `VizdoomEnv`."""
    return SCRIPTS[env.name](env)
