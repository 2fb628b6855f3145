"""`gymnasium-robotics/*`: Fetch's arm, the Shadow hand, Adroit, mazes for a ball and for an ant, and the Franka kitchen.

    {"observation": float64 (25,), "achieved_goal": (3,), "desired_goal": (3,)}  →  float32 (4,) in [-1, 1]

Goals stay in the observation as the package delivers them, and the score is success. For Fetch and the Shadow hand that is
whether the goal is met at the last of 50 or 100 steps, for Adroit too (200 steps); the mazes and the kitchen end at the
first success. The kitchen comes as its seven single tasks and the four-in-a-row of the literature (`kitchen-complete`).

Experts: scripts for Fetch; for the mazes a shortest path over the cells, followed by the ball with a spring and by the
ant that was trained to run (`actors.py`); for the Shadow hand plans (`hands.py`), where its thing is to be turned, but none
where a block or an egg has to be held in the air to the centimetre as well; for the kitchen strokes (`kitchen.py`). Adroit
has none.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from gato.worlds import MakeExpert, Policy, Task, actors, hands, kitchen
from gato.worlds.gym import named_task
from gato.worlds.gym_mujoco import as_planned

Observation = Mapping[str, np.ndarray]

# -- Fetch: actions are hand x, y, z in steps of up to 5 cm, and the gripper (1 opens, -1 closes) ---------------------


def _go(here: np.ndarray, there: np.ndarray, grip: float, gain: float = 12.0) -> np.ndarray:
    return np.clip(np.append(gain * (there - here), grip), -1.0, 1.0).astype(np.float32)


def reach(env: Any, seed: int = 0) -> Policy:
    return lambda observation, info: _go(observation["achieved_goal"], observation["desired_goal"], 0.0)


def pick_and_place(env: Any, seed: int = 0) -> Policy:
    """Over the block, down, close, and carry: decided anew at every step from what is seen."""

    def policy(observation: Observation, info: Any = None) -> np.ndarray:
        seen = observation["observation"]
        hand, block, width = seen[0:3], seen[3:6], float(seen[9] + seen[10])
        off = block - hand
        if np.linalg.norm(off) < 0.02 or (np.linalg.norm(off) < 0.035 and width < 0.053):
            if width > 0.053:
                return _go(hand, block, -1.0)
            return _go(hand, observation["desired_goal"] - off, -1.0)
        above = 0.0 if np.linalg.norm(off[:2]) < 0.015 else 0.08
        return _go(hand, block + [0.0, 0.0, above], 1.0)

    return policy


BEHIND = 0.075  # m from the block's middle, where a push begins


def push(env: Any, seed: int = 0) -> Policy:
    """Round to the far side of the block, above it where it is in the way, and push it along the line to the goal."""

    def policy(observation: Observation, info: Any = None) -> np.ndarray:
        seen = observation["observation"]
        hand, block, goal = seen[0:3], seen[3:6], observation["desired_goal"]
        way = goal[:2] - block[:2]
        distance = float(np.linalg.norm(way))
        if distance < 0.02:
            return _go(hand, np.append(hand[:2], hand[2]), -1.0)
        way = way / distance
        left = np.array([-way[1], way[0]])
        off = hand[:2] - block[:2]
        along, aside = float(off @ way), float(off @ left)
        low = hand[2] < block[2] + 0.03
        if along < -0.02 and abs(aside) < 0.02 and low:  # in place: on, and back onto the line
            speed = min(0.35 + 4.0 * distance, 1.0)
            rise = 12.0 * (block[2] - hand[2])
            return np.clip([*(speed * way - 18.0 * aside * left), rise, -1.0], -1.0, 1.0).astype(np.float32)
        start = block[:2] - way * BEHIND
        if np.linalg.norm(hand[:2] - start) < 0.02 or (along < -0.06 and low):
            return _go(hand, np.append(start, block[2]), -1.0)
        if hand[2] < block[2] + 0.055:  # up before across
            return _go(hand, np.append(hand[:2], block[2] + 0.09), -1.0)
        return _go(hand, np.append(start, block[2] + 0.07), -1.0)

    return policy


def slide(env: Any, seed: int = 0) -> Policy:
    """One hit, its strength and side chosen by trying hits on the simulator from the first state of the episode."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    start = np.empty(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, start, kind)
    puck, goal = env._get_obs()["achieved_goal"], np.array(env.goal)

    def restore() -> None:
        mujoco.mj_setState(env.model, env.data, start, kind)
        mujoco.mj_forward(env.model, env.data)

    def miss(hit: np.ndarray) -> float:
        policy = _hit(puck, goal, *hit)
        observation = env._get_obs()
        for _ in range(env_steps):
            observation = env.step(policy(observation, {}))[0]
        restore()
        return float(np.linalg.norm(observation["achieved_goal"] - goal))

    env_steps = 50
    rng = np.random.default_rng([seed, 0x511DE])
    best, least = np.array([0.6, 0.0]), np.inf
    for trial in range(40):
        wide = trial < 16
        hit = np.array([0.1 + 0.9 * trial / 15, 0.0]) if wide else best + rng.normal(size=2) * [0.05, 0.01]
        error = miss(hit)
        if error < least:
            best, least = hit, error
        if least < 0.02:
            break
    return _hit(puck, goal, *best)


def _hit(puck: np.ndarray, goal: np.ndarray, strength: float, aside: float) -> Policy:
    way = (goal - puck)[:2]
    way = way / np.linalg.norm(way)
    start = puck[:2] - way * 0.11 + np.array([-way[1], way[0]]) * aside
    phase = "over"

    def policy(observation: Observation, info: Any = None) -> np.ndarray:
        nonlocal phase
        hand = observation["observation"][0:3]
        if phase == "over":
            if np.linalg.norm(hand[:2] - start) < 0.01:
                phase = "down"
            else:
                return _go(hand, np.append(start, puck[2] + 0.08), -1.0)
        if phase == "down":
            if hand[2] < puck[2] + 0.012:
                phase = "hit"
            else:
                return _go(hand, np.append(start, puck[2]), -1.0)
        if phase == "hit" and (hand[:2] - puck[:2]) @ way > 0.0:
            phase = "done"
        if phase == "hit":
            return np.append(way * strength, [0.0, -1.0]).astype(np.float32)
        return np.array([*(-0.3 * way), 0.0, -1.0], np.float32)

    return policy


# -- mazes ------------------------------------------------------------------------------------------------------------


def maze_steps(maze: Any, goal: np.ndarray) -> dict[tuple[int, int], tuple[int, int]]:
    """From every free cell the next cell on a shortest way to the goal's."""
    goal_row, goal_column = (int(i) for i in maze.cell_xy_to_rowcol(goal))
    goal_cell = goal_row, goal_column
    following, queue = {goal_cell: goal_cell}, deque([goal_cell])
    while queue:
        row, column = queue.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = 0 <= cell[0] < maze.map_length and 0 <= cell[1] < maze.map_width
            if inside and maze.maze_map[cell[0]][cell[1]] != 1 and cell not in following:
                following[cell] = (row, column)
                queue.append(cell)
    return following


def waypoint(maze: Any, following: Mapping[Any, Any], here: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Where to head for: the goal itself in its own cell, else the middle of the next cell."""
    cell = tuple(int(i) for i in maze.cell_xy_to_rowcol(here))
    following_cell = following.get(cell)
    if following_cell is None or following_cell == cell:
        return goal
    if following[following_cell] == following_cell and np.linalg.norm(goal - here) < maze.maze_size_scaling:
        return goal
    return maze.cell_rowcol_to_xy(np.array(following_cell))


def ball(env: Any, seed: int = 0) -> Policy:
    """A damped spring to the next cell's middle."""
    following = maze_steps(env.maze, env.goal)

    def policy(observation: Observation, info: Any = None) -> np.ndarray:
        here, velocity = observation["observation"][:2], observation["observation"][2:4]
        there = waypoint(env.maze, following, here, observation["desired_goal"])
        return np.clip(4.0 * (there - here) - 1.2 * velocity, -1.0, 1.0).astype(np.float32)

    return policy


def ant(env: Any, seed: int = 0) -> Policy:
    """The ant that was trained to run along the first axis, told that the next cell lies there."""
    following = maze_steps(env.maze, env.goal)
    runner = actors.Actor(actors.weights("gym-mujoco/ant-v5"), as_planned(env.ant_env))

    def policy(observation: Observation, info: Any = None) -> np.ndarray:
        here = observation["achieved_goal"]
        x, y = waypoint(env.maze, following, here, observation["desired_goal"]) - here
        return runner.act(*actors.turned(env.data.qpos, env.data.qvel, -np.arctan2(y, x)))

    return policy


# -- the tasks --------------------------------------------------------------------------------------------------------

FETCH: dict[str, tuple[str, MakeExpert, str]] = {
    "fetch-reach-v4": ("FetchReach-v4", reach, "straight to the goal"),
    "fetch-push-v4": ("FetchPush-v4", push, "script"),
    "fetch-slide-v4": ("FetchSlide-v4", slide, "one hit, tried on the simulator"),
    "fetch-pick-and-place-v4": ("FetchPickAndPlace-v4", pick_and_place, "script"),
}
TURNED = "predictive control"
HAND: dict[str, tuple[str, MakeExpert | None, str]] = {
    "block-rotate-z": ("BlockRotateZ", hands.turn, TURNED),
    "block-rotate-parallel": ("BlockRotateParallel", hands.turn, TURNED),
    "block-rotate-xyz": ("BlockRotateXYZ", hands.turn, TURNED),
    "block": ("Block", None, ""),
    "egg-rotate": ("EggRotate", hands.turn, TURNED),
    "egg": ("Egg", None, ""),
    "pen-rotate": ("PenRotate", hands.turn_pen, TURNED),
    "pen": ("Pen", hands.turn_pen, TURNED),
}
ADROIT = {f"adroit-{name.lower()}-v1": f"AdroitHand{name}-v1" for name in ("Door", "Hammer", "Pen", "Relocate")}
LAYOUTS = {
    "UMaze": (700, 300), "Open": (700, 300), "Open_Diverse_G": (700, 300), "Open_Diverse_GR": (700, 300),
    "Medium": (1000, 600), "Medium_Diverse_G": (1000, 600), "Medium_Diverse_GR": (1000, 600),
    "Large": (1000, 800), "Large_Diverse_G": (1000, 800), "Large_Diverse_GR": (1000, 800),
}  # steps of the ant and of the ball  # fmt: skip
KITCHEN = {
    "bottom-burner": ("bottom burner",), "top-burner": ("top burner",), "light-switch": ("light switch",),
    "slide-cabinet": ("slide cabinet",), "hinge-cabinet": ("hinge cabinet",), "microwave": ("microwave",),
    "kettle": ("kettle",), "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
}  # fmt: skip

_REQUIRES = {"requires": ("gymnasium_robotics", "mujoco"), "extra": "mujoco", "notes": "not in the paper"}


def _named(name: str, env_id: str, steps: int, **facts: Any) -> Task:
    return named_task(f"gymnasium-robotics/{name}", env_id, steps, camera=True, **{**_REQUIRES, **facts})


def tasks() -> list[Task]:
    found = [
        _named(name, env_id, 50, success="is_success", make_expert=expert, expert_name=expert_name)
        for name, (env_id, expert, expert_name) in FETCH.items()
    ]
    found.append(
        _named(
            "hand-reach-v3", "HandReach-v3", 50, success="is_success",
            make_expert=hands.reach, expert_name="least squares on the simulator",
        )
    )  # fmt: skip
    for name, (thing, expert, expert_name) in HAND.items():
        facts: dict[str, Any] = {"success": "is_success", "make_expert": expert, "expert_name": expert_name}
        found.append(_named(f"hand-{name}-v1", f"HandManipulate{thing}-v1", 100, **facts))
        facts["same_world"] = found[-1].id
        if thing in ("Block", "Egg", "Pen"):  # another name of the same
            found.append(_named(f"hand-{name}-full-v1", f"HandManipulate{thing}Full-v1", 100, **facts))
        for kind in ("Boolean", "Continuous"):  # 92 touch sensors more, as yes and no or as numbers
            touching = f"HandManipulate{thing}_{kind}TouchSensors-v1"
            found.append(_named(f"hand-{name}-{kind.lower()}-touch-v1", touching, 100, **facts))
    found += [_named(name, env_id, 200, success="success") for name, env_id in ADROIT.items()]
    for name, wanted in KITCHEN.items():
        settings = {"tasks_to_complete": list(wanted)}
        facts = {"settings": settings, "success": functools.partial(_all_done, len(wanted))}
        facts |= {"make_expert": kitchen.expert(wanted), "expert_name": "strokes by inverse kinematics"}
        found.append(_named(f"kitchen-{name}-v1", "FrankaKitchen-v1", 280, **facts))
    ends = {"continuing_task": False}
    for layout, (ant_steps, ball_steps) in LAYOUTS.items():
        name = {"UMaze": "u"}.get(layout, layout.lower().replace("_", "-"))
        found.append(
            _named(
                f"ant-maze-{name}-v5", f"AntMaze_{layout}-v5", ant_steps, settings=ends, success="success",
                make_expert=ant, expert_name="shortest path and trained actor",
            )
        )  # fmt: skip
        found.append(
            _named(
                f"point-maze-{name}-v3", f"PointMaze_{layout}-v3", ball_steps, settings=ends, success="success",
                make_expert=ball, expert_name="shortest path and a damped spring",
            )
        )  # fmt: skip
    return found


def _all_done(number: int, info: Mapping[str, Any]) -> bool:
    return len(info["episode_task_completions"]) >= number
