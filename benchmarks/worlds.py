"""Steps per second of every world through our adapter beside its own simulator, and of collecting with 1 and 2 workers.

    python benchmarks/worlds.py [--domains GLOB] [--seconds 0.5] [--rounds 6]       writes results/worlds.json

One core, random actions. Ours and the simulator's own interface take turns within one run, some tenths of a second each,
so that a busy machine slows both; the ratio is the median over the rounds. Only steps are timed: what a reset costs stands in
a column of its own. `picture` compares one rendered frame of a DM Control scene as dm_control draws it (shadows,
reflections, antialiasing) with our camera's. Adding a domain is a line in `RAW`: a task, and a function that makes its
simulator as (reset, step), where step takes one of our actions and says whether the episode is over.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gato.worlds
from gato.rollouts import collect
from gato.worlds import Task, find
from gato.worlds.traces import installed_versions

Raw = tuple[Callable[[], Any], Callable[[Any], bool]]  # (reset, step); step returns whether the episode is over


def _gymnasium(make: Callable[[], Any]) -> Raw:
    """A simulator that speaks Gymnasium's interface itself."""
    env = make()

    def step(action: Any) -> bool:
        _, _, terminated, truncated, _ = env.step(action)
        return terminated or truncated

    return env.reset, step


def raw_gym(env_id: str, register: str = "", **options: Any) -> Callable[[], Raw]:
    def make() -> Any:
        import importlib

        import gymnasium

        module = importlib.import_module(register) if register else None
        if module is not None and hasattr(module, "register_envs"):
            module.register_envs()
        return gymnasium.make(env_id, disable_env_checker=True, **options)

    return lambda: _gymnasium(make)


def raw_meta_world(name: str) -> Callable[[], Raw]:
    """The bare class, without the benchmark's list of goals; its own limit of steps is watched here."""

    def make() -> Raw:
        from metaworld.env_dict import ENV_CLS_MAP

        env = ENV_CLS_MAP[name]()
        env._set_task_called, env._freeze_rand_vec = True, False

        def step(action: Any) -> bool:
            return bool(env.step(action)[3]) or env.curr_path_length >= 499

        return env.reset, step

    return make


def raw_suite(domain: str, task: str, pixels: int = 0) -> Callable[[], Raw]:
    """dm_control's own environment; with `pixels`, drawn as dm_control draws."""

    def make() -> Raw:
        from gato.worlds.dm_control import import_suite

        env = import_suite().load(domain, task, task_kwargs={"random": 0})

        def step(action: Any) -> bool:
            over = env.step(action).last()
            if pixels:
                env.physics.render(pixels, pixels, camera_id=0)
            return over

        return env.reset, step

    return make


def raw_procgen(game: str, mode: str) -> Callable[[], Raw]:
    """Procgen's own vector of one game, over all levels, as ours meets them; it begins the next one by itself."""

    def make() -> Raw:
        from gato.worlds.procgen import games

        games(1, game, mode).close()  # imports it quietly
        from procgen import ProcgenGym3Env

        vector = ProcgenGym3Env(1, game, distribution_mode=mode, num_levels=0, rand_seed=0, num_threads=0)

        def step(action: Any) -> bool:
            vector.act(np.array([action]))
            return bool(vector.observe()[2][0])

        return lambda: None, step

    return make


def raw_miniworld(level: str) -> Callable[[], Raw]:
    def make() -> Any:
        from gato.worlds.miniworld import IMAGE_SIZE, import_miniworld

        with contextlib.redirect_stdout(io.StringIO()):
            return getattr(import_miniworld(), level)(obs_width=IMAGE_SIZE[1], obs_height=IMAGE_SIZE[0])

    return lambda: _gymnasium(make)


def raw_vizdoom(config: str, buttons: int) -> Callable[[], Raw]:
    """The engine at our resolution, with nothing but the screen, as many tics a step as ours."""

    def make() -> Raw:
        import vizdoom

        from gato.worlds.vizdoom import TICS_PER_STEP

        game = vizdoom.DoomGame()
        game.load_config(os.path.join(vizdoom.scenarios_path, f"{config}.cfg"))
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_window_visible(False)
        with contextlib.chdir(tempfile.mkdtemp()):  # or the engine leaves its settings in the current folder
            game.init()
        presses = [[]] + [[int(i == j) for j in range(buttons)] for i in range(buttons)]

        def step(action: Any) -> bool:
            game.make_action(presses[int(action) % len(presses)], TICS_PER_STEP)
            state = game.get_state()
            return state is None or state.screen_buffer is None

        return game.new_episode, step

    return make


def raw_maze(cells: int) -> Callable[[], Raw]:
    """dm_control's own maze and ball, which compiles a model for every maze and draws shadows."""

    def make() -> Raw:
        from gato.worlds.dm_control import import_suite

        import_suite()
        from dm_control import composer
        from dm_control.locomotion.arenas import mazes
        from dm_control.locomotion.tasks import random_goal_maze
        from dm_control.locomotion.walkers.jumping_ball import RollingBallWithHead

        arena = mazes.RandomMazeWithTargets(
            x_cells=cells,
            y_cells=cells,
            max_rooms=2,
            room_min_size=3,
            room_max_size=5,
            spawns_per_room=2,
            targets_per_room=2,
        )
        task = random_goal_maze.RepeatSingleGoalMaze(
            RollingBallWithHead(), arena, physics_timestep=0.005, control_timestep=0.05, contact_termination=False
        )
        env = composer.Environment(task, random_state=0, strip_singleton_obs_buffer_dim=True)
        return env.reset, lambda action: env.step(action[::-1]).last()

    return make


def none() -> Raw | None:
    """The world is ours: there is nothing beside it."""
    return None


# domain → (task of ours, what makes the simulator beside it)
RAW: dict[str, tuple[str, Callable[[], Raw | None]]] = {
    "babyai": ("babyai/go-to-local", raw_gym("BabyAI-GoToLocal-v0", "minigrid")),
    "meta-world": ("meta-world/push", raw_meta_world("push-v3")),
    "dm-control-suite": ("dm-control-suite/cheetah-run", raw_suite("cheetah", "run")),
    "dm-control-suite-pixels": ("dm-control-suite-pixels/cheetah-run", raw_suite("cheetah", "run", 64)),
    "ale-atari": ("ale-atari/breakout", raw_gym("ALE/Breakout-v5", "ale_py", repeat_action_probability=0.0)),
    "sokoban": ("sokoban/10x10-4-boxes", none),
    "procgen": ("procgen/coinrun", raw_procgen("coinrun", "hard")),
    "miniworld": ("miniworld/maze-s3", raw_miniworld("MazeS3")),
    "vizdoom": ("vizdoom/health-gathering", raw_vizdoom("health_gathering", 3)),
    "dm-control-maze": ("dm-control-maze/random-goal-small", raw_maze(9)),
    "gym": ("gym/CartPole-v1", raw_gym("CartPole-v1")),
    "gym-mujoco": ("gym-mujoco/half-cheetah", raw_gym("HalfCheetah-v5")),
    "classic-control": ("classic-control/cart-pole", raw_gym("CartPole-v1")),
    "box2d": ("box2d/lunar-lander", raw_gym("LunarLander-v3")),
    "gymnasium-robotics": ("gymnasium-robotics/fetch-reach", raw_gym("FetchReach-v4", "gymnasium_robotics")),
}


class Side:
    """One of the two that take turns: steps and resets, timed apart."""

    def __init__(self, raw: Raw, actions: list[Any]):
        self._reset, self._step = raw
        self._actions, self._at = actions, 0
        self.step_seconds: list[float] = []  # of each round, per step
        self.reset_seconds: list[float] = []
        self._begin()

    def _begin(self) -> None:
        begun = time.perf_counter()
        self._reset()
        self.reset_seconds.append(time.perf_counter() - begun)

    def run(self, seconds: float) -> None:
        """Steps for so long, resets not counted. The first warms up what the other side has cooled down."""
        self._one()
        spent, steps = 0.0, 0
        while spent < seconds:
            begun = time.perf_counter()
            over = self._one()
            spent += time.perf_counter() - begun
            steps += 1
            if over:
                self._begin()
        self.step_seconds.append(spent / steps)

    def _one(self) -> bool:
        self._at = (self._at + 1) % len(self._actions)
        return self._step(self._actions[self._at])


def ours(env: Any) -> tuple[Raw, list[Any]]:
    env.action_space.seed(0)
    seeds = iter(range(1, 10**9))

    def step(action: Any) -> bool:
        _, _, terminated, truncated, _ = env.step(action)
        return terminated or truncated

    return (lambda: env.reset(seed=next(seeds)), step), [env.action_space.sample() for _ in range(997)]


def measure(task: Task, make_raw: Callable[[], Raw | None], seconds: float, rounds: int) -> dict[str, Any]:
    env = task.make()
    pair, actions = ours(env)
    mine, raw = Side(pair, actions), make_raw()
    beside = Side(raw, actions) if raw else None
    for _ in range(rounds):
        mine.run(seconds)
        if beside:
            beside.run(seconds)
    row: dict[str, Any] = {"task": task.id, "steps_per_second": round(1 / float(np.median(mine.step_seconds)), 1)}
    row["reset_ms"] = round(1e3 * float(np.median(mine.reset_seconds)), 3)
    if beside:
        a, b = np.array(mine.step_seconds), np.array(beside.step_seconds)
        row |= {
            "raw_steps_per_second": round(1 / float(np.median(b)), 1),
            "ratio": round(float(np.median(b / a)), 3),
            "added_us": round(1e6 * float(np.median(a - b)), 1),
            "raw_reset_ms": round(1e3 * float(np.median(beside.reset_seconds)), 3),
        }
        slow = 1e6 * float(np.median(b)) > 200
        row["goal"] = "ratio at least 0.9" if slow else "at most 20 us added"
        row["reached"] = bool(row["ratio"] >= 0.9 if slow else row["added_us"] <= 20)
    row["versions"] = installed_versions(task)
    env.close()
    return row


SCENES = (("cartpole", "swingup"), ("cheetah", "run"), ("humanoid", "walk"), ("quadruped", "walk"))


def pictures(seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Frames per second of 64 × 64 pictures: dm_control's own drawing and our camera's."""
    from gato.worlds.camera import Camera
    from gato.worlds.dm_control import import_suite

    rows, open_ones = [], []  # closing a context of the one library ends those of the other
    for domain, name in SCENES:
        physics = import_suite().load(domain, name, task_kwargs={"random": 0}).physics
        other = import_suite().load(domain, name, task_kwargs={"random": 0}).physics
        camera = Camera(physics.model.ptr, 64, 64)
        open_ones.append((physics, other, camera))
        per_frame: dict[str, list[float]] = {"fast": [], "slow": []}
        draw = {
            "fast": lambda camera=camera, physics=physics: camera.picture(physics.data.ptr),
            "slow": lambda other=other: other.render(64, 64, camera_id=0),
        }
        for _ in range(rounds):
            for which, function in draw.items():
                function()
                assert np.ptp(function()) > 20, f"{domain} {name}: an empty picture, {which}"
                begun, frames = time.perf_counter(), 0
                while time.perf_counter() - begun < seconds:
                    function()
                    frames += 1
                per_frame[which].append((time.perf_counter() - begun) / frames)
        fast, slow = (np.array(per_frame[which]) for which in ("fast", "slow"))
        rows.append(
            {
                "scene": f"{domain} {name}",
                "frames_per_second": round(1 / float(np.median(fast)), 1),
                "with_shadow_pass": round(1 / float(np.median(slow)), 1),
                "times": round(float(np.median(slow / fast)), 2),
            }
        )
    return rows


COLLECTED = ("procgen/coinrun", "dm-control-suite/reacher-easy", "babyai/go-to-local")


def workers(episodes: int, rounds: int) -> dict[str, Any]:
    """Steps per second that `collect` adds with one worker and with two, taking turns.

    Each round collects a few episodes and then many more, in folders of their own: the difference is free of what starting costs.
    """
    tasks = [find(name) for name in COLLECTED if find(name).installed]
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for number, found in rates.items():
            steps, seconds = [], []
            for count in (2, 2 + episodes):
                with tempfile.TemporaryDirectory() as folder:
                    begun = time.perf_counter()
                    done = collect(tasks, count, Path(folder), number, progress=False)
                    seconds.append(time.perf_counter() - begun)
                    steps.append(sum(c.timesteps for c in done))
            found.append((steps[1] - steps[0]) / (seconds[1] - seconds[0]))
    one, two = (float(np.median(rates[n])) for n in (1, 2))
    return {
        "tasks": [t.id for t in tasks],
        "cores": len(os.sched_getaffinity(0)),
        "steps_per_second": {"1": round(one, 1), "2": round(two, 1)},
        "times": round(float(np.median(np.array(rates[2]) / np.array(rates[1]))), 2),
        "goal": 1.8,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", default="*", help="glob over the domains")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--episodes", type=int, default=20, help="collected per task and round; 0 leaves collecting out"
    )
    parser.add_argument("--out", type=Path, default=Path("results/worlds.json"))
    args = parser.parse_args()
    rows = []
    known = set(gato.worlds.registry())
    for domain, (name, make_raw) in RAW.items():
        if not fnmatch.fnmatch(domain, args.domains) or not (name in known or name.startswith("gym/")):
            continue
        task = find(name)
        if task.installed:
            rows.append({"domain": domain} | measure(task, make_raw, args.seconds, args.rounds))
            print({k: v for k, v in rows[-1].items() if k != "versions"}, flush=True)
    record: dict[str, Any] = {
        "protocol": __doc__,
        "processor": _processor(),
        "load": os.getloadavg()[0],
        "worlds": rows,
    }
    if find("dm-control-suite/cheetah-run").installed:
        record["pictures"] = pictures(args.seconds, args.rounds)
        print(*record["pictures"], sep="\n", flush=True)
    if args.episodes:
        record["collection"] = workers(args.episodes, max(1, args.rounds // 2))
        print(record["collection"])
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
