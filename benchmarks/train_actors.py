"""Trains the small actors of `gato.worlds.actors` by PPO (Stable-Baselines3), on many copies of a task's physics at once.

    pip install -c constraints.txt -e '.[mujoco,actors]'
    python benchmarks/train_actors.py dm-control-suite/walker-run --minutes 20 --state ~/actors
    python benchmarks/train_actors.py 'modular-rl/*' --minutes 8 --state ~/actors
    python benchmarks/train_actors.py 'dm-control-suite/*,modular-rl/*' --state ~/actors --publish

128 bodies are simulated by one call of `mujoco.rollout` a control step, begin from the task's own starts and wide ones, and are
rewarded as the planner is (`predictive.Planning.objective`: the task's reward, and a small slope where that is flat).

Every minute or two the actor plays the task itself; what it scored goes to STATE/TASK.jsonl, and the weights with the best score
are kept in STATE/TASK.safetensors, beside STATE/TASK.state, all that the training needs to go on. A task that was trained for
`--minutes` in all is done. `--publish` copies the weights into the package, and `trained.json` beside them says what made them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from gymnasium.spaces import Box
from mujoco import rollout
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from gato.rollouts import episode_seed
from gato.worlds import Task, actors, gym_mujoco, modular_rl, select
from gato.worlds.mjcf import probed
from gato.worlds.predictive import PLANNING, Future, Planning

COPIES = 128
STARTS = 256
LAST_RATE = 0.1  # of the learning rate, which falls on a line over a task's minutes
WATCH = 90  # seconds between two evaluations
PPO_SETTINGS = {"n_steps": 64, "batch_size": 1024, "n_epochs": 6, "learning_rate": 1e-3, "gamma": 0.99, "gae_lambda": 0.95,
                "clip_range": 0.2, "ent_coef": 0.0}  # fmt: skip


def planned(task: Task, env: Any) -> tuple[Any, Planning]:
    """The environment as planners look at it, and what the actor is rewarded by. Where a fall is the end of all reward it is the
    end of the episode, and worth FALLEN: a body that lies on the ground teaches nothing about walking."""
    name, env = task.id.split("/")[1], env.unwrapped
    if task.domain == "gym-mujoco":
        return gym_mujoco.as_planned(env), gym_mujoco.PLANNING[name][0]
    if task.domain == "modular-rl":
        reward = functools.partial(modular_rl._objective, env.family, env.start_height, env._control_unit)
        if env.family.bonus:
            reward = functools.partial(_while_up, env, reward)
        return env, Planning(reward, horizon=1, knots=1, samples=1)
    return env, PLANNING[name]


def _while_up(env: Any, reward: Callable[[Future], np.ndarray], future: Future) -> np.ndarray:
    up = modular_rl.is_up(env.family, env.start_height, future.position)
    return np.where(up, reward(future), gym_mujoco.FALLEN)


class Bodies(VecEnv):
    """COPIES of a task's physics, for Stable-Baselines3. A diverged one begins again."""

    def __init__(self, task: Task, seed: int):
        self._rng, self._max_steps = np.random.default_rng(seed), task.max_steps
        world = task.make()
        env, self._planning = planned(task, world)
        self._columns: dict[str, slice] = {}
        self._model = copy.copy(env.physics.model.ptr)
        if task.domain == "gym-mujoco":  # some are integrated by Runge-Kutta, four times the work
            self._model.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        if self._planning.probes:
            self._model, self._columns = probed(env.description.spec(), self._planning.probes, like=self._model)
        kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        self._starts = np.empty((STARTS, mujoco.mj_stateSize(self._model, kind)))
        for i, start in enumerate(self._starts):
            seed = episode_seed(task.id, int(self._rng.integers(2**31)), "train")
            world.reset(seed=seed, options={"wide": i % 2 == 1})
            data = env.physics.data.ptr
            if (
                self._model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
            ):  # it can go where it is told if it has looked everywhere
                data.qpos[:], data.qvel[:] = actors.turned(data.qpos, data.qvel, self._rng.uniform(-np.pi, np.pi))
            mujoco.mj_getState(self._model, data, start, kind)
        self._starts[:, 0] = 0.0  # their time
        self._low, self._high = (b.astype(np.float64) for b in (env.action_space.low, env.action_space.high))
        self._substeps, self._nq, self._nv = env.num_substeps, self._model.nq, self._model.nv
        self._roller, self._data = rollout.Rollout(nthread=0), mujoco.MjData(self._model)
        self._states = self._starts[self._rng.integers(STARTS, size=COPIES)]
        self._age = self._rng.integers(0, self._max_steps, COPIES)  # so that they do not all end at once
        shape = self._senses().shape[1:]
        super().__init__(
            COPIES, Box(-np.inf, np.inf, shape, np.float32), Box(-1.0, 1.0, env.action_space.shape, np.float32)
        )

    def _senses(self) -> np.ndarray:
        position, velocity = self._states[:, 1 : 1 + self._nq], self._states[:, 1 + self._nq : 1 + self._nq + self._nv]
        return actors.body_state(self._model, position, velocity)

    def reset(self) -> np.ndarray:
        return self._senses()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = self._low + (np.clip(actions, -1, 1) + 1) / 2 * (self._high - self._low)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        began, nq, nv = self._states[:, 0].copy(), self._nq, self._nv
        controls = np.repeat(self._actions[:, None], self._substeps, axis=1)
        states, sensors = self._roller.rollout(self._model, self._data, self._states, controls)
        states, sensors = states[:, -1:], sensors[:, -1:]
        self._states = states[:, 0].copy()
        future = Future(
            states[:, :, 1 : 1 + nq], states[:, :, 1 + nq : 1 + nq + nv], sensors, self._actions[:, None],
            {name: sensors[:, :, c] for name, c in self._columns.items()}, self._model,
        )  # fmt: skip
        rewards = self._planning.objective(future)[:, 0]
        # MuJoCo begins again from its reference state, at time 0, where the numbers explode.
        diverged = (self._states[:, 0] < began) | ~np.isfinite(self._states).all(axis=1) | ~np.isfinite(rewards)
        rewards[diverged], self._states[diverged] = 0.0, self._starts[0]
        fallen = diverged | (rewards <= gym_mujoco.FALLEN)
        self._age += 1
        done = (self._age >= self._max_steps) | fallen
        infos: list[dict[str, Any]] = [{} for _ in range(COPIES)]
        if done.any():
            seen = self._senses()
            for i in np.flatnonzero(done):
                infos[i] = {"TimeLimit.truncated": not fallen[i], "terminal_observation": seen[i]}
                self._states[i], self._age[i] = self._starts[self._rng.integers(STARTS)], 0
        return self._senses(), rewards.astype(np.float32), done, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * COPIES

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * COPIES


def weights_of(model: PPO, normal: VecNormalize) -> dict[str, np.ndarray]:
    layers = [m for m in model.policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)] + [
        model.policy.action_net
    ]
    weights = {f"{i}.weight": m.weight.detach().numpy().astype(np.float16) for i, m in enumerate(layers)}
    weights |= {f"{i}.bias": m.bias.detach().numpy().astype(np.float16) for i, m in enumerate(layers)}
    scale = 1 / np.sqrt(normal.obs_rms.var + normal.epsilon)
    return weights | {"mean": normal.obs_rms.mean.astype(np.float32), "scale": scale.astype(np.float32)}


def play(task: Task, weights: dict[str, np.ndarray], episodes: int) -> list[float]:
    """Returns of the task itself, on seeds of the training split."""
    env, returns = task.make(), []
    for i in range(episodes):
        observation, info = env.reset(seed=episode_seed(task.id, 3_000_000 + i, "train"))
        policy, total, over = actors.Actor(weights, planned(task, env)[0]), 0.0, False
        while not over:
            observation, reward, terminated, truncated, info = env.step(policy(observation, info))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


class Watch(BaseCallback):
    """Scores the actor now and then, keeps the best, and stops in time."""

    def __init__(self, task: Task, path: Path, total: float, ends: float, before: dict[str, Any]):
        super().__init__()
        self._task, self._path, self._total, self._ends, self._before = task, path, total, ends, before
        self._began, self._due, self._best = time.monotonic(), WATCH, before.get("best", -np.inf)

    def spent(self) -> float:
        return self._before.get("seconds", 0.0) + time.monotonic() - self._began

    def _on_step(self) -> bool:
        if self.n_calls % PPO_SETTINGS["n_steps"]:
            return True
        over = self.spent() > self._total or time.monotonic() > self._ends
        if over or time.monotonic() - self._began > self._due:
            self._due += WATCH
            self._judge()
        return not over

    def _judge(self) -> None:
        normal = self.model.get_vec_normalize_env()
        weights = weights_of(self.model, normal)
        returns = play(self._task, weights, 3)
        row = {"task": self._task.id, "seconds": round(self.spent()),
               "timesteps": self._before.get("timesteps", 0) + self.num_timesteps,
               "returns": [round(r, 1) for r in returns]}  # fmt: skip
        if np.mean(returns) > self._best:
            self._best = float(np.mean(returns))
            save_file(weights, self._path.with_suffix(".safetensors"))
        before = {k: row[k] for k in ("seconds", "timesteps")} | {"best": self._best}
        save_state(self.model, normal, self._path.with_suffix(".part"), before)
        self._path.with_suffix(".part").rename(self._path.with_suffix(".state"))
        with self._path.with_suffix(".jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def save_state(model: PPO, normal: VecNormalize, path: Path, before: dict[str, Any]) -> None:
    """All that the training needs to go on; what it was `before` is in the header."""
    tensors = {f"policy.{name}": tensor for name, tensor in model.policy.state_dict().items()}
    for i, slots in model.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{name}": tensor for name, tensor in slots.items()}
    for name, moments in (("obs", normal.obs_rms), ("ret", normal.ret_rms)):
        tensors |= {f"{name}.{k}": torch.tensor(np.array(getattr(moments, k))) for k in ("mean", "var", "count")}
    save_torch(tensors, path, {"before": json.dumps(before)})


def load_state(model: PPO, normal: VecNormalize, path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        tensors, before = {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["before"])  # noqa: SIM118
    model.policy.load_state_dict({k.removeprefix("policy."): t for k, t in tensors.items() if k.startswith("policy.")})
    whole = model.policy.optimizer.state_dict()
    for key, tensor in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            whole["state"].setdefault(int(i), {})[name] = tensor
    model.policy.optimizer.load_state_dict(whole)
    for name, moments in (("obs", normal.obs_rms), ("ret", normal.ret_rms)):
        moments.mean, moments.var = (tensors[f"{name}.{k}"].numpy().copy() for k in ("mean", "var"))
        moments.count = float(tensors[f"{name}.count"])
    return before


def train(task: Task, minutes: float, ends: float, state: Path, seed: int, like: str, words: dict[str, Any]) -> None:
    """Train until the task has had these minutes in all, or the clock says `ends`; beginning as the actor of `like` is, if any."""
    path = state / task.id.replace("/", "--")
    rows = read_rows(path)
    spent = rows[-1]["seconds"] if rows else 0
    if spent >= 60 * minutes or time.monotonic() > ends:
        return
    settings = PPO_SETTINGS | words
    normal = VecNormalize(
        Bodies(task, seed + spent), norm_obs=True, norm_reward=True, clip_obs=10.0, gamma=settings["gamma"]
    )
    model = PPO(
        "MlpPolicy", normal, seed=seed, device="cpu",
        policy_kwargs={"net_arch": [128, 128], "activation_fn": torch.nn.ELU, "log_std_init": -0.5}, **settings,
    )  # fmt: skip
    before: dict[str, Any] = {}
    if rows:
        before = load_state(model, normal, path.with_suffix(".state"))
    elif like:
        load_state(model, normal, (state / like.replace("/", "--")).with_suffix(".state"))
    watch = Watch(task, path, 60 * minutes, ends, before)
    model.lr_schedule = lambda _: settings["learning_rate"] * max(LAST_RATE, 1 - watch.spent() / (60 * minutes))
    model.learn(total_timesteps=10**12, callback=watch)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What was scored so far."""
    file = path.with_suffix(".jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def publish(tasks: list[Task], state: Path) -> None:
    folder = Path(actors.__file__).parent / "actors"
    folder.mkdir(exist_ok=True)
    record = folder / "trained.json"
    trained = json.loads(record.read_text()) if record.exists() else {}
    for task in tasks:
        path = state / task.id.replace("/", "--")
        if path.with_suffix(".safetensors").exists():
            shutil.copyfile(path.with_suffix(".safetensors"), folder / f"{path.name}.safetensors")
            rows = read_rows(path)
            best = max(rows, key=lambda row: np.mean(row["returns"]))
            trained[task.id] = {
                "timesteps": best["timesteps"], "seconds": rows[-1]["seconds"], "returns": best["returns"]
            }  # fmt: skip
    record.write_text(json.dumps(trained, indent=1, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", help="task ids or globs, comma-separated")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0, help="of training for each task, in all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--like", default="", metavar="TASK", help="begin as this one's actor, of the same body, in STATE"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of PPO")
    parser.add_argument("--publish", action="store_true", help="copy the weights into the package, and train nothing")
    args = parser.parse_args()
    args.state.mkdir(parents=True, exist_ok=True)
    if args.publish:
        publish(select(args.tasks), args.state)
        return
    words = {k: json.loads(v) for k, v in (word.split("=") for word in args.set)}
    torch.set_num_threads(1)
    ends = time.monotonic() + args.seconds
    for task in select(args.tasks):
        train(task, args.minutes, ends, args.state, args.seed, args.like, words)


if __name__ == "__main__":
    main()
