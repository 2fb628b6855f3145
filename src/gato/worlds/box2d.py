"""`box2d/*`: Gymnasium's Box2D tasks: two lunar landers, two bipedal walkers and a racing car seen from above.

    float32 (8,) position, velocity, tilt, legs  →  no engine, left, main, right

The experts are scripts. The lander follows a glide path by its observation alone. The racing driver reads the track behind the
picture: it steers for a point some way ahead and brakes for what is bent there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gato.worlds import MakeExpert, Policy, Task
from gato.worlds.gym import named_task


def lander(env: Any, seed: int = 0) -> Policy:
    """Tilt against the drift, sink at a speed that grows with the height, and cut the engines on the ground.

    The wishes are real numbers (main engine, turning); the discrete lander takes the stronger of the two.
    """
    continuous = bool(env.continuous)

    def policy(observation: np.ndarray, info: Any = None) -> Any:
        x, y, vx, vy, tilt, spin, left, right = observation.tolist()
        lean = min(max(0.55 * x + 1.0 * vx, -0.4), 0.4)
        turn = 9.0 * (tilt - lean) + 5.0 * spin  # positive: too far anticlockwise
        sink = -0.12 - 0.5 * max(y - 0.05 - 0.4 * abs(x), -0.1)
        lift = 12.0 * (max(sink, -0.9) - vy)
        if left and right:
            turn, lift = 0.0, -6.0 * vy if abs(vx) < 0.05 else -10.0 * vy
        if continuous:
            main = min(max(0.5 * lift, 0.0), 1.0) if lift > 0.3 else -1.0
            return np.array([main, min(max(turn, -1.0), 1.0) if abs(turn) > 0.4 else 0.0], np.float32)
        if lift > max(abs(turn), 0.6):
            return 2
        if abs(turn) > 0.4:
            return 3 if turn > 0 else 1
        return 0

    return policy


def driver(env: Any, seed: int = 0) -> Policy:
    """Pure pursuit of the middle of the road. Reads the car's pose and the track, never the picture.

    The speed is what the bend in the next tiles allows; throttle and steering are gentle enough not to slide.
    """
    road = np.array([[x, y] for _, _, x, y in env.track])  # m, a closed loop of points about 3 m apart
    headings = np.unwrap(np.arctan2(*(np.roll(road, -1, axis=0) - road).T[::-1]))
    bend = np.abs(
        np.diff(np.append(headings, headings[0] + round((headings[-1] - headings[0]) / (2 * np.pi)) * 2 * np.pi))
    )

    def policy(observation: Any, info: Any = None) -> np.ndarray:
        hull = env.car.hull
        here, speed = np.array(hull.position), float(np.hypot(*hull.linearVelocity))
        nearest = int(np.argmin(((road - here) ** 2).sum(axis=1)))
        ahead = road[(nearest + 2 + int(speed / 12.0)) % len(road)] - here
        wanted = math.atan2(ahead[1], ahead[0]) - math.pi / 2  # the car's nose is its own y axis
        error = (wanted - hull.angle + math.pi) % (2 * math.pi) - math.pi
        reach = (nearest + np.arange(2, 4 + int(speed / 5.0))) % len(road)
        limit = min(max(95.0 - 260.0 * float(bend[reach].max()), 28.0), 75.0)
        steer = min(max(-2.2 * error, -1.0), 1.0)
        gas = min(max(0.06 * (limit - speed), 0.0), 1.0) * (1.0 - 0.8 * min(abs(error) * 2.0, 1.0))
        brake = min(max(0.04 * (speed - limit - 4.0), 0.0), 0.6)
        return np.array([steer, gas, brake], np.float32)

    return policy


def new_world(env: Any) -> None:
    """A walker's physics from nothing: bodies taken out of a used world leave traces in its contact solver."""
    import Box2D

    env._destroy()
    env.world = Box2D.b2World()


# name: Gymnasium's id, steps, expert, its name
TASKS: dict[str, tuple[str, int, MakeExpert | None, str]] = {
    "lunar-lander-v3": ("LunarLander-v3", 1000, lander, "glide path"),
    "lunar-lander-continuous-v3": ("LunarLanderContinuous-v3", 1000, lander, "glide path"),
    "car-racing-v3": ("CarRacing-v3", 1000, driver, "pure pursuit on the true track"),
    "bipedal-walker-v3": ("BipedalWalker-v3", 1600, None, ""),
    "bipedal-walker-hardcore-v3": ("BipedalWalkerHardcore-v3", 2000, None, ""),
}


def tasks() -> list[Task]:
    return [
        named_task(
            f"box2d/{name}",
            env_id,
            steps,
            before=new_world if "walker" in name else None,
            make_expert=expert,
            expert_name=expert_name,
            requires=("Box2D", "pygame"),
            extra="box2d",
            notes="not in the paper",
        )
        for name, (env_id, steps, expert, expert_name) in TASKS.items()
    ]
