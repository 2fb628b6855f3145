"""ViZDoom's experts: scripts that read where everything truly is, each a function of the present moment.

    aim and fire (basic, rockets, turrets) · dodge (take-cover) · walk the shortest way (gathering, my-way-home) ·
    fight forward (corridor, deathmatch)

Where luck has a say, the script is rehearsed: a second engine plays the same episode with the script in several styles
(how wary, how exact, how patient), and the best performance is repeated, action by action, for as long as nothing else is
executed; after that its style goes on from wherever one is.

Bearings are in degrees, positive to the left of where the player looks; lengths are Doom's units (the player is 32 wide).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    """What all scripts need: the player, the things around, and actions by the buttons they press.

    `style` is what a rehearsal may change: name → the usual value, and the range that others are drawn from.
    """

    style: dict[str, tuple[float, float, float]] = {}

    def __init__(self, env: VizdoomEnv, style: Mapping[str, float] | None = None):
        self._env = env
        self._style = {name: usual for name, (usual, _, _) in self.style.items()} | dict(style or {})
        self._action = {frozenset(pressed): index for index, pressed in enumerate(env.buttons)}

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        raise NotImplementedError

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

    style = {"exact": (14.0, 4.0, 24.0)}  # units beside the middle

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        monsters = self.things()
        if not monsters:
            return self.press()
        target = min(monsters, key=self.distance)
        aside = self.distance(target) * math.sin(math.radians(self.bearing(target.position_x, target.position_y)))
        if abs(aside) < self._style["exact"]:
            return self.press("ATTACK")
        return self.press("MOVE_LEFT" if aside > 0 else "MOVE_RIGHT")


class Turret(Script):
    """Turns to the monster that is soonest dealt with, near ones first, and fires when it is in line."""

    style = {
        "width": (16.0, 8.0, 22.0),
        "lazy": (4.0, 1.0, 8.0),
    }  # units beside the middle; units per degree of turning

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        monsters = self.things()
        if not monsters:
            return self.press()
        lazy = self._style["lazy"]
        target = min(monsters, key=lambda m: self.distance(m) + lazy * abs(self.bearing(m.position_x, m.position_y)))
        off = self.bearing(target.position_x, target.position_y)
        if abs(off) <= max(math.degrees(math.atan2(self._style["width"], self.distance(target))), 1.8):
            return self.press("ATTACK")
        return self.turn(off)


class Leader(Script):
    """Fires one rocket at where the monster will be when it arrives, if that is where the rocket is looking."""

    style = {
        "patience": (10.0, 8.0, 60.0),
        "lead": (1.0, 0.7, 1.3),
    }  # steps watched; share of the way it is thought to go
    watch = 8  # steps over which its speed is taken

    def __init__(self, env: VizdoomEnv, style: Mapping[str, float] | None = None):
        super().__init__(env, style)
        self._seen: list[tuple[float, float]] = []

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        monsters = self.things()
        if not monsters or self.things("Rocket"):
            return self.press()
        here = (monsters[0].position_x, monsters[0].position_y)
        self._seen.append(here)
        before = self._seen[-self.watch - 1 :][0]
        passed = max(len(self._seen[-self.watch - 1 :]) - 1, 1) * TICS_PER_STEP
        velocity = [(a - b) / passed for a, b in zip(here, before, strict=True)]
        time = 0.0
        for _ in range(4):  # where it will be decides how long the rocket takes, and the other way round
            ahead = (here[0] + velocity[0] * time, here[1] + velocity[1] * time)
            time = self._style["lead"] * (math.hypot(ahead[0] - self.x, ahead[1] - self.y) / ROCKET_SPEED + 3.0)
        off = self.bearing(*ahead)
        if abs(off) <= 1.8:
            return self.press("ATTACK") if self._env.steps >= self._style["patience"] else self.press()
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

    def __init__(self, env: VizdoomEnv, style: Mapping[str, float] | None = None):
        super().__init__(env, style)
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
    """Shoots whoever is in sight and near; otherwise walks on to the armour, or to the nearest monster where there is none.

    Between shots it steps from side to side, `dance` steps each way.
    """

    style = {
        "range": (500.0, 100.0, 900.0),
        "width": (14.0, 8.0, 20.0),
        "dance": (0.0, -6.0, 14.0),
        "lazy": (3.0, 0.5, 6.0),
    }

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        self.look()
        monsters, style = self.things(), self._style
        here = self.at(self.x, self.y)
        seen = [
            m
            for m in monsters
            if self.distance(m) < style["range"] and in_sight(self.open, here, self.at(m.position_x, m.position_y))
        ]
        if seen:
            lazy = style["lazy"]
            target = min(seen, key=lambda m: self.distance(m) + lazy * abs(self.bearing(m.position_x, m.position_y)))
            off = self.bearing(target.position_x, target.position_y)
            if abs(off) > max(math.degrees(math.atan2(style["width"], self.distance(target))), 1.8):
                return self.turn(off)
            each_way = int(style["dance"])
            if each_way < 1:
                return self.press("ATTACK")
            return self.press("ATTACK", "MOVE_LEFT" if self._env.steps // each_way % 2 else "MOVE_RIGHT")
        goals = self.things("GreenArmor") if self._env.name == "deadly-corridor" else monsters
        return self.walk(goals) if goals else self.press("TURN_LEFT")


# name → script, how many styles are rehearsed, and how many changes to the best of them
SCRIPTS: dict[str, tuple[type[Script], int, int]] = {
    "basic": (Marksman, 0, 0),
    "simpler-basic": (Marksman, 0, 0),
    "rocket-basic": (Marksman, 8, 0),
    "predict-position": (Leader, 24, 0),
    "defend-the-center": (Turret, 6, 0),
    "defend-the-line": (Turret, 6, 0),
    "take-cover": (Dodger, 0, 0),
    "health-gathering": (Gatherer, 0, 0),
    "health-gathering-supreme": (Gatherer, 0, 0),
    "my-way-home": (Homecomer, 0, 0),
    "deadly-corridor": (Fighter, 40, 200),
    "deathmatch": (Fighter, 8, 8),
}


def make(env: VizdoomEnv, seed: int) -> Policy:
    """The script for a just reset `VizdoomEnv`, rehearsed where that helps."""
    script, styles, changes = SCRIPTS[env.name]
    if not styles or env.began_with[0] is None:
        return script(env)
    return Rehearsed(env, seed, script, styles, changes)


class Rehearsed:
    """The best of several performances of a script, repeated.

    A change keeps the best performance up to some moment, more often a late one, holds a random action for a while, and
    lets the script go on from there; it is taken over if it earns more.
    """

    def __init__(self, env: VizdoomEnv, seed: int, script: type[Script], styles: int, changes: int):
        rng = np.random.default_rng([seed, 0xD00])
        self._env, best = env, -math.inf
        self._best: list[int] = []
        chosen: dict[str, float] = {}
        for number in range(styles + changes):
            style, prefix = {}, []
            if number >= styles:
                cut = int(len(self._best) * (1.0 - rng.random() ** 2))
                held = [int(rng.integers(len(env.buttons)))] * int(rng.integers(1, 16))
                style, prefix = chosen, [*self._best[:cut], *held]
            if number and (number < styles or rng.random() < 0.5):
                style = {name: float(rng.uniform(low, high)) for name, (_, low, high) in script.style.items()}
            earned, actions = perform(env.rehearsal(), script, style, prefix)
            if earned > best:
                best, self._best, chosen = earned, actions, style
        self._script = script(env, chosen)
        self._followed = 0  # so many of the executed actions are those of the best performance

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> int:
        done, best = self._env.taken, self._best
        while self._followed < min(len(done), len(best)) and done[self._followed] == best[self._followed]:
            self._followed += 1
        own = self._script(observation, info)  # asked every time, since it may remember what it saw
        return best[len(done)] if self._followed == len(done) < len(best) else own


def perform(
    env: VizdoomEnv, script: type[Script], style: Mapping[str, float], prefix: list[int]
) -> tuple[float, list[int]]:
    """Return and actions from a just reset environment to the episode's end: a prefix, and then as the script says."""
    policy, earned, over = script(env, style), 0.0, False
    while not over:
        own = policy(None, {})
        _, reward, terminated, truncated, _ = env.step(prefix[env.steps] if env.steps < len(prefix) else own)
        earned += reward
        over = terminated or truncated
    return earned, list(env.taken)
