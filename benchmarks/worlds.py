"""Steps per second per core of every world through our adapter beside its own simulator; pictures; collecting with 1 and 2 workers.

    python benchmarks/worlds.py                                       writes results/worlds.json
    python benchmarks/worlds.py --state worlds.state.json             the same, going on where a killed run stopped
    python benchmarks/worlds.py --state FILE --only classic-control,box2d,collection

One core (the process keeps to one of those it may use, renderer's threads and engines included; collecting takes two), random
actions. Ours and the simulator's own interface take turns within one run, some tenths of a second each, so that a busy
machine slows both; the ratio is the median over the rounds. Only steps are timed: what a reset costs stands in a column of its
own. What is beside us is as bare as the package allows: the same frames skipped, the same size of picture where it can be
had, nothing converted.

Goals: where a raw step takes over 200 microseconds at least 0.9 of its speed, else at most 20 microseconds added; `collect` with
two workers 1.8 times as fast as with one.

`pictures` compares one rendered frame of a DM Control scene as dm_control draws it (shadows, reflections, antialiasing) with our
camera's. With `--state` every domain is written there as it is done and not measured again; delete its line to do so. Adding
a domain is a line in `RAW`: a task, and a function that makes its simulator as (reset, step), where step takes one of our
actions and says whether the episode is over.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.rollouts.collect import collect
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


def raw_manipulation(name: str) -> Callable[[], Raw]:
    """The composer environment as the package makes it; of feature tasks it draws nothing."""

    def make() -> Raw:
        from gato.worlds.dm_control import import_suite

        import_suite()
        from dm_control import manipulation

        env = manipulation.load(name, seed=0)
        return env.reset, lambda action: env.step(action).last()

    return make


def raw_stacking(triplet: str) -> Callable[[], Raw]:
    """MuJoCo on the cell's own model with as many physics steps, the arm left alone.

    The published environment is on no registry, so this is the physics alone, a bound on any environment around it.
    """

    def make() -> Raw:
        import mujoco

        from gato.worlds.rgb_stacking import SUBSTEPS, TRIPLETS, cell

        model = cell(TRIPLETS[triplet]).model
        data, env = mujoco.MjData(model), find(f"rgb-stacking/{triplet}-state").make()

        def reset() -> None:  # a start of ours, so that both have the same contacts to resolve
            env.reset(seed=1)
            data.qpos[:], data.qvel[:] = env.unwrapped.data.qpos, env.unwrapped.data.qvel

        def step(action: Any) -> bool:
            mujoco.mj_step(model, data, SUBSTEPS)
            mujoco.mj_forward(model, data)
            return False

        return reset, step

    return make


def none() -> Raw | None:
    """The world is ours: there is nothing beside it."""
    return None


# domain → (task of ours, what makes the simulator beside it)
RAW: dict[str, tuple[str, Callable[[], Raw | None]]] = {
    "babyai": ("babyai/go-to-local", raw_gym("BabyAI-GoToLocal-v0", "minigrid")),
    "meta-world": ("meta-world/push", raw_meta_world("push-v3")),
    "meta-world-physics-state": ("meta-world-physics-state/push", raw_meta_world("push-v3")),
    "dm-control-suite": ("dm-control-suite/cheetah-run", raw_suite("cheetah", "run")),
    "dm-control-suite-pixels": ("dm-control-suite-pixels/cheetah-run", raw_suite("cheetah", "run", 64)),
    "dm-control-suite-random-small": ("dm-control-suite-random-small/cheetah-run", raw_suite("cheetah", "run")),
    "dm-control-suite-random-large": ("dm-control-suite-random-large/cheetah-run", raw_suite("cheetah", "run")),
    "dm-control-suite-text": ("dm-control-suite-text/hopper-hop", raw_suite("hopper", "hop")),
    "modular-rl": ("modular-rl/walker-3-3", raw_gym("Walker2d-v5")),  # the whole body, one of the 39
    "dm-manipulation-playground": (
        "dm-manipulation-playground/reach-duplo-features",
        raw_manipulation("reach_duplo_features"),
    ),
    "rgb-stacking": ("rgb-stacking/triplet-1-state", raw_stacking("triplet-1")),
    "sokoban": ("sokoban/10x10-4-boxes", none),
    "ale-atari": ("ale-atari/breakout", raw_gym("ALE/Breakout-v5", "ale_py", repeat_action_probability=0.0)),
    "ale-atari-extended": (
        "ale-atari-extended/carnival",
        raw_gym("ALE/Carnival-v5", "ale_py", repeat_action_probability=0.0),
    ),
    "procgen": ("procgen/coinrun", raw_procgen("coinrun", "hard")),
    "miniworld": ("miniworld/maze-s3", raw_miniworld("MazeS3")),
    "vizdoom": ("vizdoom/health-gathering", raw_vizdoom("health_gathering", 3)),
    "dm-control-maze": ("dm-control-maze/random-goal-small", raw_maze(9)),
    "classic-control": ("classic-control/cartpole-v1", raw_gym("CartPole-v1")),
    "box2d": ("box2d/lunar-lander-v3", raw_gym("LunarLander-v3")),
    "gym-mujoco": ("gym-mujoco/half-cheetah-v5", raw_gym("HalfCheetah-v5")),
    "gymnasium-robotics": (
        "gymnasium-robotics/fetch-reach-v4",
        raw_gym("FetchReach-v4", "gymnasium_robotics"),
    ),
    "gym": ("gym/CartPole-v1", raw_gym("CartPole-v1")),
    "dummy": ("dummy/count", none),
}
NO_SIMULATOR = {"dm-lab"}  # cannot be installed from a registry


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
        if self._one():
            self._begin()
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
        "times": (times := round(float(np.median(np.array(rates[2]) / np.array(rates[1]))), 2)),
        "goal": 1.8,
        "reached": times >= 1.8,
    }


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, to one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class State:
    """What has been measured already, by name; written after every part."""

    def __init__(self, file: Path | None):
        self.file = file
        self.parts: dict[str, Any] = json.loads(file.read_text()) if file and file.exists() else {}

    def add(self, name: str, make: Callable[[], Any]) -> None:
        """Measure this part unless it is there."""
        if name in self.parts:
            print(f"{name}: kept", flush=True)
            return
        load = os.getloadavg()[0]
        self.parts[name] = {"load": round(load, 2), "processor": _processor(), "measured": make()}
        print(f"{name}: {shortly(self.parts[name]['measured'])}", flush=True)
        if self.file:
            beside = self.file.with_suffix(f".{os.getpid()}.tmp")
            beside.write_text(json.dumps(self.parts, indent=1) + "\n")
            os.replace(beside, self.file)


def shortly(measured: Any) -> Any:
    return {k: v for k, v in measured.items() if k != "versions"} if isinstance(measured, dict) else measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="*", help="globs over the domains, `pictures` and `collection`, comma-separated"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--episodes", type=int, default=20, help="collected per task and round")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep finished parts here, and go on from it")
    parser.add_argument("--out", type=Path, default=Path("results/worlds.json"))
    args = parser.parse_args()
    state = State(args.state)

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatch(name, glob.strip()) for glob in args.only.split(","))

    with one_core():
        for domain, (name, make_raw) in RAW.items():
            if wanted(domain) and (task := find(name)).installed:
                state.add(domain, functools.partial(measure, task, make_raw, args.seconds, args.rounds))
        if wanted("pictures") and find("dm-control-suite/cheetah-run").installed:
            state.add("pictures", functools.partial(pictures, args.seconds, args.rounds))
    if wanted("collection"):
        state.add("collection", functools.partial(workers, args.episodes, max(1, args.rounds // 2)))
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record(state.parts), indent=1) + "\n")


def record(parts: Mapping[str, Any]) -> dict[str, Any]:
    """results/worlds.json: a row per domain, in the order of `RAW`, the pictures, collecting, and which goals were reached."""
    rows = [
        {"domain": domain} | parts[domain]["measured"] | {k: parts[domain][k] for k in ("load", "processor")}
        for domain in RAW
        if domain in parts
    ]
    others = {
        name: {k: parts[name][k] for k in ("load", "processor")} | {"measured": parts[name]["measured"]}
        for name in ("pictures", "collection")
        if name in parts
    }
    compared = [row for row in rows if "reached" in row]
    summary: dict[str, Any] = {"compared": len(compared), "reached": sum(row["reached"] for row in compared)}
    if missed := [row["domain"] for row in compared if not row["reached"]]:
        summary["missed"] = missed
    return {"protocol": __doc__, "summary": summary, "worlds": rows} | others


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
