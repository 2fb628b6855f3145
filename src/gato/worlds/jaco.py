"""Experts of the Jaco tasks: scripts of reach, grasp, lift, place and stack, by inverse kinematics at every step.

A script is a generator that reads the physics and yields one action after another, so it answers to what happens, noise
included; when it has ended without success it begins again. Velocities of the hand become velocities of the six joints
by damped least squares, all scaled down together where one of them is too fast.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gato.worlds import MakeExpert

HAND = "jaco_arm/jaco_hand/"
DOWN = np.array([0.0, 0.0, -1.0])
GRIP = np.array([0.0, -0.015, 0.0])  # metres: between the fingers, as seen from the pinch site
OPEN, CLOSE, FINGER_SPEED = 0.0, 3.0, 5.0  # rad; beyond what the fingers reach, so always at full speed; rad/s
FAST, TURNING = 0.4, 0.8  # of the hand or what it carries, m/s and rad/s
CLICKED, PRESSED = 0.001, 0.0008  # metres between studs and holes: the task's threshold, and where pressing ends
HOVER = 0.13  # metres between hand and brick before the hand goes down


@dataclass(frozen=True)
class Grip:
    """How to take a brick: by its short side or, `turned`, by its long one; how far the fingers are closed on the way
    down (rad); how far the hand leans away from an obstacle (tangent of the angle), and stays aside of it (metres);
    how far the brick is from the middle of the fingers, towards one of them (metres)."""

    turned: bool = False
    opening: float = 0.15
    lean: float = 0.0
    aside: float = 0.0
    shift: float = 0.0


GRIPS = (
    Grip(), Grip(True, 0.35), Grip(False, 0.6), Grip(True, 0.5), Grip(False, 0.5, 0.25), Grip(True, 0.5, 0.25),
    Grip(False, 0.5, 0.0, 0.015), Grip(True, 0.45, 0.0, 0.012), Grip(False, 0.6, -0.25), Grip(True, 0.5, -0.25),
    Grip(False, 0.5, -0.2, 0.02), Grip(True, 0.45, -0.2, 0.015),
)  # fmt: skip
# To press one brick onto another. Fingers that close push a brick to one side as long as they can: it is taken from there.
FIRM = (
    Grip(True, 0.15, shift=-0.01), Grip(True, 0.65, shift=-0.014), Grip(False, 0.15, shift=0.005), Grip(False, 0.5, shift=0.012),
    Grip(True, 0.65, shift=0.005), Grip(True, 0.15, shift=-0.005), Grip(False, 0.5), Grip(True, 0.35, shift=-0.014),
    Grip(False, 0.15, shift=-0.014), Grip(True, 0.5, shift=0.01),
)  # fmt: skip
HOLD = 12  # control steps that the goal must last
REHEARSED = 260  # control steps of a rehearsal at most

Script = Callable[["Arm", Grip], Iterator[np.ndarray]]
Done = Callable[["Arm"], int]  # how much of the task is done; a rehearsal is good when that has become more


class Jaco:
    """The policy of one episode: a script, again and again. With a measure of what is `done`, each time in the quickest of the
    first `among` of the `grips` with which more is done on a copy of the physics."""

    def __init__(
        self, script: Script, env: Any, done: Done | None = None, grips: tuple[Grip, ...] = GRIPS, among: int = 1
    ):
        self._script, self._done, self._grips, self._among, self._env = script, done, grips, among, env
        physics = env.physics
        self._arm = Arm(physics.model.ptr, physics.data.ptr)
        self._substeps = round(env.simulator.control_timestep() / physics.timestep())
        self._actions: Iterator[np.ndarray] = iter(())

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> np.ndarray:
        action = next(self._actions, None)
        if action is None:
            self._actions = self._script(self._arm, self._choose())
            action = next(self._actions)
        return self._legal(action)

    def _legal(self, action: np.ndarray) -> np.ndarray:
        return np.clip(action, self._env.action_space.low, self._env.action_space.high).astype(np.float32)

    def _choose(self) -> Grip:
        if self._done is None:
            return self._grips[0]
        rehearsals = ((self._rehearse(grip, self._done), grip) for grip in self._grips)
        good = itertools.islice((r for r in rehearsals if r[0] <= REHEARSED), self._among)
        return min(good, key=lambda r: r[0], default=(0, self._grips[0]))[1]

    def _rehearse(self, grip: Grip, done: Done) -> int:
        """After how many steps more was done, and stayed so; more than there are where it was not."""
        import mujoco

        arm, lasted, before = Arm(self._arm.model, copy.copy(self._arm.data)), 0, done(self._arm)
        for step, action in enumerate(itertools.islice(self._script(arm, grip), REHEARSED)):
            arm.data.ctrl[:] = self._legal(action)
            mujoco.mj_step2(arm.model, arm.data)  # in the order of dm_control, so that the outcome is the same
            mujoco.mj_step(arm.model, arm.data, self._substeps - 1)
            mujoco.mj_step1(arm.model, arm.data)
            lasted = lasted + 1 if done(arm) > before else 0
            if lasted >= HOLD:
                return step
        return REHEARSED + 1


def half_turn(angle: float) -> float:
    """The same direction, between a quarter turn back and one forth: fingers and bricks look alike from both sides."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)


def at_most(length: float, vector: np.ndarray) -> np.ndarray:
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))


class Arm:
    """The hand, where things are, and actions that take the hand elsewhere. `model` and `data` are MuJoCo's."""

    def __init__(self, model: Any, data: Any):
        self.model, self.data = model, data
        self._pinch = self.model.site(f"{HAND}pinchsite").id
        self.pointing = DOWN
        self._speed = model.actuator_ctrlrange[:6, 1]

    @property
    def turn(self) -> np.ndarray:
        """(3, 3): the hand's axes in the world. The fingers close along the first, and point along the third."""
        return self.data.site_xmat[self._pinch].reshape(3, 3)

    @property
    def position(self) -> np.ndarray:
        """(3,) metres, between the fingers."""
        return self.data.site_xpos[self._pinch] + self.turn @ GRIP

    def touching(self, one: str, other: str) -> bool:
        """Whether two bodies, or anything whose name goes on from theirs, are in contact."""
        for contact in self.data.contact:
            a, b = (self.model.body(self.model.geom_bodyid[geom]).name for geom in contact.geom)
            if (a.startswith(one) and b.startswith(other)) or (b.startswith(one) and a.startswith(other)):
                return True
        return False

    def site(self, name: str) -> np.ndarray:
        return self.data.site(name).xpos.copy()

    def site_turn(self, name: str) -> np.ndarray:
        return self.data.site(name).xmat.reshape(3, 3).copy()

    def velocity(
        self, target: np.ndarray, yaw: float | None, fingers: float, gain: float = 4.0, turning: float = np.inf
    ) -> np.ndarray:
        """One action towards a place, the hand along `pointing`, the fingers closing along `yaw` (modulo half a turn).

        The hand turns at `turning` rad/s at most: where a joint is too fast, the others wait for it.
        """
        angular = 3.0 * np.cross(self.turn[:, 2], self.pointing)
        if yaw is not None:
            now = np.arctan2(self.turn[1, 0], self.turn[0, 0])
            angular[2] = 3.0 * half_turn(yaw - now)
        return self._action(at_most(FAST, gain * (target - self.position)), at_most(turning, angular), fingers)

    def carry(self, brick: Brick, target: np.ndarray, yaw: float, gain: float = 4.0) -> np.ndarray:
        """One action that takes a held brick to a place, levels it and turns its short side along `yaw` (modulo half a turn)."""
        angular = 5.0 * np.cross(brick.up, -DOWN)
        angular[2] = 5.0 * half_turn(yaw - brick.yaw)
        angular = at_most(TURNING, angular)
        linear = at_most(FAST, gain * (target - brick.middle)) + np.cross(angular, self.position - brick.middle)
        return self._action(linear, angular, CLOSE)

    def _action(self, linear: np.ndarray, angular: np.ndarray, fingers: float) -> np.ndarray:
        import mujoco

        jacobian = np.zeros((6, self.model.nv))
        point = self.position
        mujoco.mj_jac(self.model, self.data, jacobian[:3], jacobian[3:], point, self.model.site_bodyid[self._pinch])
        jacobian = jacobian[:, :6]
        inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 1e-3 * np.eye(6))
        joints = inverse @ np.concatenate([linear, angular])
        joints /= max(1.0, np.abs(joints / self._speed[:6]).max())
        return np.append(joints, np.clip(10.0 * (fingers - self.data.qpos[6:9]), -FINGER_SPEED, FINGER_SPEED))

    def go(
        self,
        target: Callable[[], np.ndarray],
        yaw: Callable[[], float | None],
        fingers: float,
        near: float,
        steps: int,
        turning: float = np.inf,
    ) -> Iterator[np.ndarray]:
        """Until within `near` metres of the target and a few degrees of the yaw, or `steps` have passed."""
        for _ in range(steps):
            goal, angle = target(), yaw()
            now = np.arctan2(self.turn[1, 0], self.turn[0, 0])
            off = 0.0 if angle is None else abs(half_turn(angle - now))
            if np.linalg.norm(goal - self.position) < near and off < 0.1:
                return
            yield self.velocity(goal, angle, fingers, turning=turning)

    def wait(self, fingers: float, steps: int) -> Iterator[np.ndarray]:
        """Hold the place."""
        here = self.position
        for _ in range(steps):
            yield self.velocity(here, None, fingers)

    def squeeze(self) -> Iterator[np.ndarray]:
        """Hold the place and close until the fingers stop; from wide open to nothing it takes 1.2 s."""
        for t, action in enumerate(self.wait(CLOSE, 32)):
            if t > 6 and np.abs(self.data.qvel[6:9]).max() < 0.05:
                return
            yield action


class Brick:
    """A Duplo brick 2×4, 3.2 × 6.4 cm: taken by its short side."""

    def __init__(self, arm: Arm, name: str):
        self._arm, self.name, self._box = arm, name, f"{name}/bounding_box"

    @property
    def middle(self) -> np.ndarray:
        return self._arm.site(self._box)

    @property
    def yaw(self) -> float:
        """Direction of the short side."""
        turn = self._arm.site_turn(self._box)
        return float(np.arctan2(turn[1, 0], turn[0, 0]))

    @property
    def up(self) -> np.ndarray:
        return self._arm.site_turn(self._box)[:, 2]

    def over(self, height: float, aside: np.ndarray, shift: float) -> Callable[[], np.ndarray]:
        return lambda: self.middle + aside + shift * self._arm.turn[:, 0] + [0.0, 0.0, height]


def reach(target: Callable[[Arm], np.ndarray]) -> Script:
    """The pinch site onto the target, and stay."""

    def script(arm: Arm, grip: Grip) -> Iterator[np.ndarray]:
        while True:
            # The reward is about the pinch site, which is beside the middle of the fingers.
            yield arm.velocity(target(arm) + arm.turn @ GRIP, None, CLOSE, gain=6.0)

    return script


def grasp(
    arm: Arm, brick: Brick, grip: Grip, obstacle: np.ndarray | None = None, turning: float = np.inf
) -> Iterator[np.ndarray]:
    """Over the brick, down, and close."""
    turned, opening, aside = (np.pi / 2 if grip.turned else 0.0), grip.opening, np.zeros(3)
    if obstacle is not None:
        towards = (obstacle - brick.middle)[:2]
        towards /= np.linalg.norm(towards)
        aside[:2] = -grip.aside * towards
        lean = np.append(towards * grip.lean, -1.0)
        arm.pointing = lean / np.linalg.norm(lean)
    yaw = lambda: brick.yaw + turned  # noqa: E731
    yield from arm.go(brick.over(HOVER, aside, grip.shift), yaw, opening, 0.03, 70, turning)
    yield from arm.go(brick.over(0.0, aside, grip.shift), yaw, opening, 0.008, 60, turning)
    yield from arm.squeeze()
    arm.pointing = DOWN


def lift(height: float) -> Script:
    def script(arm: Arm, grip: Grip) -> Iterator[np.ndarray]:
        brick = Brick(arm, "duplo2x4")
        yield from grasp(arm, brick, grip)
        start = brick.middle
        goal = arm.position + [0.0, 0.0, height]
        for t in range(250):
            if t > 25 and brick.middle[2] < start[2] + 0.02:
                return  # lost it
            yield arm.velocity(goal, None, CLOSE)

    return script


def place(arm: Arm, grip: Grip) -> Iterator[np.ndarray]:
    """Onto the pedestal, and away: the hand must be 20 cm from the target."""
    brick = Brick(arm, "duplo2x4")
    body = arm.model.body("pedestal/").id
    target = lambda: arm.data.xpos[body].copy()  # noqa: E731
    yield from grasp(arm, brick, grip, target())
    above = target()[2] + 0.09
    yield from arm.go(lambda: np.append(arm.position[:2], above), lambda: None, CLOSE, 0.02, 50)
    if brick.middle[2] < above - 0.06:
        return
    held = lambda: arm.position - brick.middle  # noqa: E731
    yield from arm.go(lambda: target() + held() + [0.0, 0.0, 0.08], lambda: None, CLOSE, 0.015, 80)
    for _ in range(40):
        if arm.touching("duplo2x4/", "pedestal/"):
            break
        yield arm.velocity(target() + held() - [0.0, 0.0, 0.02], None, CLOSE, gain=2.0)
    yield from arm.wait(OPEN, 10)
    goal = arm.position + [0.0, 0.0, 0.28]
    while np.linalg.norm(brick.middle - target()) < 0.07:
        yield arm.velocity(goal, None, OPEN)


class Stack:
    """Brick onto brick until they click, in the order that the task wants, from the bottom up."""

    def __init__(self, task: Any):
        names = [task._bricks[index].mjcf_model.full_identifier.strip("/") for index in task._desired_order]
        self.pairs = list(itertools.pairwise(names))

    def done(self, arm: Arm) -> int:
        """How many pairs are one on the other."""
        return sum(stud_to_hole(arm, *pair) < CLICKED for pair in self.pairs)

    def script(self, arm: Arm, grip: Grip) -> Iterator[np.ndarray]:
        """The first two that are not together: take the upper one, carry it, press, let go."""
        pair = next((pair for pair in self.pairs if stud_to_hole(arm, *pair) >= CLICKED), None)
        if pair is None:
            yield from arm.wait(OPEN, 25)
            return
        base, brick = Brick(arm, pair[0]), Brick(arm, pair[1])
        yield from grasp(arm, brick, grip, turning=TURNING)
        above = base.middle[2] + 0.09
        for _ in range(40):
            if brick.middle[2] > above - 0.02:
                break
            yaw = base.yaw if brick.middle[2] > 0.03 else brick.yaw  # turned when it is off the table
            yield arm.carry(brick, np.append(brick.middle[:2], above), yaw)
        if brick.middle[2] < above - 0.04:
            return  # lost it
        for _ in range(6):
            yield from self._press(arm, base, brick)
            if stud_to_hole(arm, *pair) < PRESSED or brick.middle[2] < base.middle[2] + 0.01:
                break
        yield from arm.wait(OPEN, 8)
        goal = arm.position + [0.0, 0.0, 0.12]
        yield from arm.go(lambda: goal, lambda: None, OPEN, 0.03, 30)

    def _press(self, arm: Arm, base: Brick, brick: Brick) -> Iterator[np.ndarray]:
        """Just above, exactly, and down. A place that is nearly right and never reached is asked for a little further on."""
        further = np.zeros(3)
        for t in range(60):
            off = brick.middle - base.middle
            aside, turned = np.linalg.norm(off[:2]), abs(half_turn(base.yaw - brick.yaw))
            if t >= 6 and aside < 0.0007 and turned < 0.015 and off[2] < 0.035:
                break
            height = 0.035 if t < 6 else 0.028 if aside < 0.006 and turned < 0.1 else 0.05
            further[:2] = np.clip(further[:2] - 0.15 * off[:2] * (np.abs(off[:2]) < 0.006), -0.006, 0.006)
            yield arm.carry(brick, base.middle + further + [0.0, 0.0, height], base.yaw, gain=8.0)
        for _ in range(15):
            if stud_to_hole(arm, base.name, brick.name) < PRESSED:
                return
            yield arm.carry(brick, base.middle + further - [0.0, 0.0, 0.03], base.yaw, gain=8.0)


def stud_to_hole(arm: Arm, bottom: str, top: str) -> float:
    """Metres between two opposite studs of a brick and the holes of another, added up, as the task measures it."""
    studs = np.array([arm.site(f"{bottom}/stud_{corner}") for corner in ("00", "13")])
    holes = np.array([arm.site(f"{top}/hole_{corner}") for corner in ("00", "13")])
    return min(float(np.linalg.norm(row - holes, axis=1).sum()) for row in (studs, studs[::-1]))


def _site_target(arm: Arm) -> np.ndarray:
    return arm.site("target_site")


def _duplo_target(arm: Arm) -> np.ndarray:
    return arm.data.body("duplo2x4/").xpos.copy()


def placed(arm: Arm) -> int:
    """1 where the brick lies on the pedestal and the hand is off it."""
    near = np.linalg.norm(Brick(arm, "duplo2x4").middle - arm.data.body("pedestal/").xpos) < 0.065
    return (
        bool(near)
        and not arm.touching("duplo2x4/", HAND)
        and arm.position[2] > arm.data.body("pedestal/").xpos[2] + 0.15
    )


def expert(script: Script, done: Done | None = None) -> MakeExpert:
    return lambda env, seed: Jaco(script, env, done)


def stacker(env: Any, seed: int) -> Jaco:
    stack = Stack(env.task)
    return Jaco(stack.script, env, stack.done, FIRM, among=4)


EXPERTS: dict[str, MakeExpert] = {
    "reach_site": expert(reach(_site_target)),
    "reach_duplo": expert(reach(_duplo_target)),
    "lift_brick": expert(lift(0.32)),
    "place_brick": expert(place, placed),
    "place_cradle": expert(place, placed),
    "stack_2_bricks": stacker,
    "stack_2_bricks_moveable_base": stacker,
    "stack_3_bricks": stacker,
    "stack_3_bricks_random_order": stacker,
    "stack_2_of_3_bricks_random_order": stacker,
}
