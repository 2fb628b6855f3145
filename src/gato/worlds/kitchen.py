"""Experts of the Franka kitchen: strokes of the hand along a few places, which a search on the simulator found.

A thing is done when its joints are within 0.3 of where the benchmark wants them, so a door is pushed and not closed: a
random search drew four places beside a thing and improved those after which it was nearer its goal, over starts with
different noise. Velocities of the hand become velocities of the seven joints by damped least squares; the arm's limit is
2 rad/s. The kitchen always starts alike but for a little noise, and a stroke that fails is begun again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gato.worlds import MakeExpert

ARM, FINGERS = 7, 2  # joints
FASTEST = 2.0  # rad/s: what an action of 1 means
NEAR = 0.02  # metres from a place, where the next one is next
PATIENCE = 60, 40  # steps for the first place, and for each of the others


@dataclass(frozen=True)
class Stroke:
    """Places of the hand in metres, from where the thing's handle is when the stroke begins; how much the hand keeps its
    direction (0: it does not); whether the fingers open (1) or close (−1)."""

    handle: str
    places: tuple[tuple[float, float, float], ...]
    upright: float = 0.0
    fingers: float = -1.0


STROKES: dict[str, Stroke] = {
    "kettle": Stroke(
        "kettle_site", ((0.162, -0.103, -0.017), (0.036, 0.0, -0.08), (0.052, 0.217, -0.111), (0.219, 0.006, -0.036))
    ),
    "slide cabinet": Stroke(
        "slide_site", ((0.034, -0.001, 0.025), (0.1, 0.021, 0.075), (-0.109, -0.016, -0.28), (-0.111, -0.307, -0.015)),
        upright=0.3, fingers=1.0,
    ),
    "microwave": Stroke(
        "microhandle_site",
        ((0.411, -0.206, 0.219), (-0.104, 0.045, 0.066), (-0.026, -0.485, -0.203), (0.361, -0.185, -0.075)),
        upright=0.3, fingers=1.0,
    ),
    "light switch": Stroke(
        "light_site", ((0.11, -0.016, 0.073), (-0.097, -0.085, -0.006), (0.152, -0.17, -0.235), (-0.171, -0.338, 0.381)),
        upright=0.3, fingers=1.0,
    ),
    "hinge cabinet": Stroke(
        "hinge_site2",
        ((-0.138, -0.034, -0.358), (0.059, -0.011, -0.081), (0.2, -0.286, 0.022), (0.128, -0.283, -0.335), (0.018, -0.224, 0.023),
         (0.376, -0.116, -0.165)),
    ),
    "bottom burner": Stroke(
        "knob1_site", ((0.131, -0.003, -0.029), (-0.104, 0.037, 0.066), (0.137, -0.045, -0.044), (0.135, 0.104, 0.328))
    ),
    "top burner": Stroke(
        "knob3_site", ((0.139, -0.242, 0.123), (0.036, -0.013, -0.054), (-0.004, 0.178, 0.165), (0.096, 0.151, 0.347))
    ),
}  # fmt: skip


ROW: dict[str, Stroke] = {  # one after another, each from where the one before leaves the hand
    "microwave": STROKES["microwave"],
    "kettle": Stroke(
        "kettle_site", ((-0.037, -0.183, 0.08), (0.07, 0.038, 0.047), (-0.18, 0.151, -0.17), (-0.198, 0.146, -0.244)),
        upright=0.3,
    ),
    "light switch": Stroke(
        "light_site", ((0.146, -0.024, 0.317), (-0.011, 0.047, 0.058), (-0.251, -0.273, -0.182), (0.35, -0.27, -0.234))
    ),
    "slide cabinet": Stroke(
        "slide_site", ((0.163, -0.094, 0.036), (-0.118, -0.072, 0.012), (-0.035, -0.122, -0.025), (0.4, 0.275, 0.381)),
        upright=0.3,
    ),
}  # fmt: skip


class Kitchen:
    """A policy for one episode: one stroke after another, each until its thing is done."""

    def __init__(self, strokes: Mapping[str, Stroke], env: Any, seed: int):
        self._kitchen, self._strokes = env.unwrapped, strokes
        self._robot = self._kitchen.robot_env
        self._hand = self._robot.model.site("end_effector").id
        self._thing = ""  # being moved
        self._place, self._steps = 0, 0  # of its stroke; on the way there

    def __call__(self, observation: Any, info: Mapping[str, Any] | None = None) -> np.ndarray:
        done = self._kitchen.episode_task_completions
        thing = next((thing for thing in self._strokes if thing not in done), list(self._strokes)[-1])
        if thing != self._thing:
            self._begin(thing)
        if self._reached() or self._steps >= PATIENCE[min(self._place, 1)]:
            self._place, self._steps = self._place + 1, 0
            if self._place == len(self._strokes[thing].places):
                self._begin(thing)
        self._steps += 1
        return self._towards()

    def _begin(self, thing: str) -> None:
        data = self._robot.data
        self._thing, self._place, self._steps = thing, 0, 0
        self._from = data.site(self._strokes[thing].handle).xpos.copy()
        self._direction = data.site_xmat[self._hand].reshape(3, 3).copy()

    def _target(self) -> np.ndarray:
        return self._from + self._strokes[self._thing].places[self._place]

    def _reached(self) -> bool:
        return bool(np.linalg.norm(self._target() - self._robot.data.site_xpos[self._hand]) < NEAR)

    def _towards(self) -> np.ndarray:
        import mujoco

        stroke, model, data = self._strokes[self._thing], self._robot.model, self._robot.data
        jacobian = np.zeros((6, model.nv))
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self._hand)
        linear = 8.0 * (self._target() - data.site_xpos[self._hand])
        linear *= min(1.0, 1.0 / max(float(np.linalg.norm(linear)), 1e-9))  # m/s
        turn = data.site_xmat[self._hand].reshape(3, 3)
        angular = np.cross(turn, self._direction, axis=0).sum(axis=1)
        weights = np.repeat([1.0, stroke.upright], 3)
        jacobian = weights[:, None] * jacobian[:, :ARM]
        wanted = weights * np.concatenate([linear, angular])
        joints = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 2e-3 * np.eye(6), wanted)
        joints = np.clip(joints / FASTEST, -1.0, 1.0)
        return np.append(joints, np.full(FINGERS, stroke.fingers))


def expert(things: tuple[str, ...]) -> MakeExpert:
    """For one thing, or for the four in a row."""
    return functools.partial(Kitchen, {things[0]: STROKES[things[0]]} if len(things) == 1 else ROW)
