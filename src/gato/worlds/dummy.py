"""The counting world: every modality at once, and every observation and every right action says which step it is.

    count 37 → image filled with 37, text "step 37", digits (0, 3, 7), bits 00100101, ramp 37/64 - 1, …
    right    → button 37 mod 16, stick (37/64 - 1, 1 - 37/64): reward 1, anything else 0

The count starts at a number drawn from the seed and grows by one per step, so a step that was shifted, dropped or
shuffled anywhere between the world and the network shows itself in the first value looked at. It needs no simulator and
never counts in a score.

`make_faulty` makes the same world with one thing wrong with it, for tests of everything that must survive such worlds.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from gymnasium import spaces

from gato.worlds import MakeEnv, Policy, Task

NUM_COUNTS = 128  # counts are 0 … 127
STEPS = (20, 40)  # shortest and longest episode
BUTTONS = 16


def observe(count: int) -> dict[str, Any]:
    """The observation at `count`, in arrays of its own."""
    ramp = count / 64 - 1
    return {
        "binary": np.array([count >> i & 1 for i in reversed(range(8))], np.int8),
        "digits": np.array([count // 100, count // 10 % 10, count % 10], np.int64),
        "image": np.full((32, 32, 3), count, np.uint8),
        "level": np.int64(count % BUTTONS),
        "nested": {
            "ramp": np.array([ramp, -ramp, ramp**2], np.float32),
            "unbounded": np.array([10.0 * count, -10.0 * count]),
            "sign": np.int64(count % 3 - 1),
        },
        "text": f"step {count}",
    }


def right_action(count: int) -> dict[str, Any]:
    """What earns a reward of 1 at `count`."""
    ramp = count / 64 - 1
    return {"button": np.int64(count % BUTTONS), "stick": np.array([ramp, -ramp], np.float32)}


def is_right(count: int, action: Mapping[str, Any]) -> bool:
    """Half a count either way is allowed on the stick: four bins of 1/512."""
    right = right_action(count)
    near = np.abs(np.asarray(action["stick"], np.float64) - right["stick"]).max() < 0.5 / 64
    return bool(int(action["button"]) == int(right["button"]) and near)


class CountingWorld(gymnasium.Env):
    """20 to 40 steps of counting. `info["count"]` is the count, `info["success"]`: every action was right so far."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = spaces.Dict(
            {
                "binary": spaces.MultiBinary(8),
                "digits": spaces.MultiDiscrete([10, 10, 10]),
                "image": spaces.Box(0, 255, (32, 32, 3), np.uint8),
                "level": spaces.Discrete(BUTTONS),
                "nested": spaces.Dict(
                    {
                        "ramp": spaces.Box(-1, 1, (3,), np.float32),
                        "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float64),
                        "sign": spaces.Discrete(3, start=-1),
                    }
                ),
                "text": spaces.Text(16, charset="step 0123456789"),
            }
        )
        self.action_space = spaces.Dict(
            {"button": spaces.Discrete(BUTTONS), "stick": spaces.Box(-1, 1, (2,), np.float32)}
        )
        self.count = self.last = 0
        self.success = True

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        steps = int(self.np_random.integers(STEPS[0], STEPS[1] + 1))
        wide = bool((options or {}).get("wide", False))
        self.count = int(self.np_random.integers(NUM_COUNTS - steps if wide else NUM_COUNTS - STEPS[1]))
        self.last, self.success = self.count + steps - 1, True
        return observe(self.count), self._info()

    def step(self, action: Mapping[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        right = is_right(self.count, action)
        self.success &= right
        ended = self.count == self.last
        self.count += 1
        return observe(self.count), float(right), ended, False, self._info()

    def render(self) -> np.ndarray:
        return np.full((64, 64, 3), self.count, np.uint8)

    def save_state(self) -> Any:
        return self.count, self.last, self.success

    def restore_state(self, state: Any) -> None:
        self.count, self.last, self.success = state

    def _info(self) -> dict[str, Any]:
        return {"count": self.count, "success": self.success}


def _make(*, render: bool = False) -> gymnasium.Env:
    return CountingWorld("rgb_array" if render else None)


def counting_expert(env: CountingWorld, seed: int) -> Policy:
    """Reads the count off the image, so that it knows no more than the agent does."""
    return lambda observation, info: right_action(int(observation["image"][0, 0, 0]))


def tasks() -> list[Task]:
    return [
        Task(
            "dummy/count",
            _make,
            counting_expert,
            max_steps=STEPS[1],
            expert_name="counts",
            notes="a test world",
        )
    ]


# -- the same world with one thing wrong ------------------------------------------------------------------------------

Fault = Literal[
    "nan", "inf", "wrong-shape", "wrong-dtype", "out-of-range", "missing-key", "extra-key", "object", "nan-reward",
    "raise-reset", "raise-step", "raise-close", "hang", "exit",
    "shared", "unseeded", "one-seed", "constant", "endless", "no-success", "changes-action", "wide-sticks",
]  # fmt: skip


class FaultyWorld(CountingWorld):
    """Counts properly until step `at` of an episode, and then does `kind`, in the seeds and as often as it is told."""

    def __init__(self, kind: Fault, at: int, seeds: tuple[int, ...] | None, once: str | None):
        super().__init__()
        self.kind, self.at, self.seeds, self.once = kind, at, seeds, once
        self._steps, self._seed = 0, 0
        self._buffer = np.zeros((32, 32, 3), np.uint8)
        self._was_wide = False

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        if seed is not None:
            self._seed = seed
        self._steps = 0
        if self.kind == "raise-reset" and self._strikes(now=True):
            raise RuntimeError("the simulator did not start")
        if self.kind == "unseeded":
            seed = int.from_bytes(os.urandom(4), "big")
        if self.kind == "one-seed":
            seed = 0
        if self.kind == "wide-sticks":
            self._was_wide |= bool((options or {}).get("wide", False))
            options = {"wide": self._was_wide}
        observation, info = super().reset(seed=seed, options=options)
        return self._spoil(observation), self._forget(info)

    def step(self, action: Mapping[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        if self.kind == "raise-step" and self._strikes():
            raise RuntimeError("the simulator diverged")
        if self.kind == "hang" and self._strikes():
            time.sleep(86_400)
        if self.kind == "exit" and self._strikes():
            os._exit(7)
        if self.kind == "endless":
            self.last += 1
            self.count %= NUM_COUNTS
        observation, reward, terminated, truncated, info = super().step(action)
        if self.kind == "changes-action":
            action["stick"][:] = 0
        if self.kind == "nan-reward" and self._strikes():
            reward = float("nan")
        return self._spoil(observation), reward, terminated, truncated, self._forget(info)

    def close(self) -> None:
        if self.kind == "raise-close":
            raise RuntimeError("the simulator did not stop")

    def _strikes(self, now: bool = False) -> bool:
        """Whether the fault shows at this step. With `once`, a file remembers across processes that it did."""
        if (not now and self._steps != self.at) or (self.seeds is not None and self._seed not in self.seeds):
            return False
        if self.once is not None:
            if Path(self.once).exists():
                return False
            Path(self.once).touch()
        return True

    def _spoil(self, observation: dict[str, Any]) -> dict[str, Any]:
        if self.kind == "shared":
            self._buffer[:] = observation["image"]
            return observation | {"image": self._buffer}
        if self.kind == "constant":
            return observe(0)
        spoiled = {
            "nan": {"nested": observation["nested"] | {"ramp": np.array([0, np.nan, 0], np.float32)}},
            "inf": {"nested": observation["nested"] | {"unbounded": np.array([0, np.inf])}},
            "wrong-shape": {"image": observation["image"][:, :16]},
            "wrong-dtype": {"image": observation["image"].astype(np.float32)},
            "out-of-range": {"level": np.int64(BUTTONS)},
            "object": {"digits": np.array([None, 1, 2], dtype=object)},
            "extra-key": {"surprise": np.zeros(2)},
            "missing-key": {},
        }
        if self.kind not in spoiled or not self._strikes():
            return observation
        observation |= spoiled[self.kind]
        if self.kind == "missing-key":
            del observation["text"]
        return observation

    def _forget(self, info: dict[str, Any]) -> dict[str, Any]:
        return {} if self.kind == "no-success" else info


def make_faulty(
    kind: Fault, at: int = 3, seeds: tuple[int, ...] | None = None, once: str | Path | None = None
) -> MakeEnv:
    """A `make_env` of the counting world that goes wrong at step `at` (0 is the reset), in `seeds` only if given.

    `once` is a path: the fault shows only while that file is absent, and makes it. What is returned can be pickled, for
    worker processes. Use: `register(Task("dummy/nan", make_faulty("nan"), counting_expert, max_steps=40))`.
    """
    assert kind in get_args(Fault), f"no fault {kind!r}, there are {get_args(Fault)}"
    return functools.partial(_make_faulty, kind, at, seeds, None if once is None else str(once))


def _make_faulty(
    kind: Fault, at: int, seeds: tuple[int, ...] | None, once: str | None, *, render: bool = False
) -> gymnasium.Env:
    return FaultyWorld(kind, at, seeds, once)
