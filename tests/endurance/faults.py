"""Worlds that crash, hang and misbehave under the pool: the episodes must be those of an undisturbed run, and nothing
may be left behind.

    python tests/endurance/faults.py                 # 200 faults → results/endurance.json, some minutes on two cores
    python tests/endurance/faults.py --faults 20 --seed 3 --out somewhere.json

Every fault strikes once, at its own step of its own episode, in a worker process: half of them while whole episodes are
played in the workers, half while the policy is here and the worlds are there. A second figure counts worlds that fail
every time, each of which must become a WorldCrashError that names task and seed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import gymnasium

from gato.errors import WorldCrashError
from gato.rollouts import ExpertPolicy, LocalSlot, RandomPolicy, Unit, WorkerPool, episode_seed, rollout
from gato.worlds import Task, find, register

RESULTS = Path(__file__).parents[2] / "results" / "endurance.json"
KINDS = (
    "sigkill", "segfault", "exit", "sys-exit", "raise-reset", "raise-step", "raise-close", "hang-reset", "hang-step",
    "hang-close", "hang-native", "stopped", "leaves-things",
)  # fmt: skip
WORLDS = ("dummy/count", "babyai/go-to-local", "dm-control-suite/cartpole-swingup")
MODES = ("whole episodes", "slots")
DEADLINE = 3.0  # seconds of silence; hangs cost this much each


# -- worlds that fail -------------------------------------------------------------------------------------------------


class FailingWorld(gymnasium.Wrapper):
    """Another world with one fault in one of its episodes. A file remembers across processes that it struck."""

    def __init__(self, env: gymnasium.Env, kind: str, seed: int, at: int, struck: str, always: bool):
        super().__init__(env)
        self._kind, self._at, self._struck, self._always = kind, at, Path(struck), always
        self._bad_seed, self._seed, self._steps, self._broken = seed, -1, 0, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._seed, self._steps = seed if seed is not None else self._seed, 0
        if self._kind.endswith("-reset") and self._is_due():
            self._strike()
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        self._steps += 1
        if not self._kind.endswith("-reset") and self._steps == self._at and self._is_due():
            self._strike()
        return super().step(action)

    def close(self) -> None:
        if self._broken and self._kind == "raise-close":
            raise RuntimeError("the simulator did not stop")
        if self._broken and self._kind == "hang-close":
            time.sleep(86_400)
        super().close()

    def _is_due(self) -> bool:
        return self._seed == self._bad_seed and (self._always or not self._struck.exists())

    def _strike(self) -> None:
        self._struck.touch()
        kind = self._kind
        if kind == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "segfault":
            ctypes.string_at(0)
        elif kind == "exit":
            os._exit(7)
        elif kind == "sys-exit":
            sys.exit(0)
        elif kind in ("hang-reset", "hang-step"):
            time.sleep(86_400)
        elif kind == "hang-native":  # inside a library, with the interpreter's lock in its hand
            ctypes.PyDLL(None).sleep(86_400)
        elif kind == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif kind == "leaves-things":
            _leave_things()
        self._broken = True
        raise RuntimeError("the simulator diverged")


def _leave_things() -> None:
    """Start an engine in a process of its own, share memory with it, and die."""
    name = f"gato-{os.environ['GATO_ENDURANCE']}-{os.getpid()}"
    memory = shared_memory.SharedMemory(name, create=True, size=1 << 16)
    resource_tracker.unregister(memory._name, "shared_memory")  # type: ignore[attr-defined]  # as a C++ library would
    attach = f"import mmap, os, time; f = os.open('/dev/shm/{memory.name}', os.O_RDWR); m = mmap.mmap(f, 65536)"
    engine = subprocess.Popen(
        [sys.executable, "-c", f"{attach}; print('ready', flush=True); time.sleep(86_400)"],
        stdout=subprocess.PIPE,
        close_fds=False,  # as a C++ library would
    )
    assert engine.stdout is not None and engine.stdout.readline()
    os.kill(os.getpid(), signal.SIGKILL)


def _make(base: str, kind: str, seed: int, at: int, struck: str, always: bool, *, render: bool = False) -> Any:
    return FailingWorld(find(base).make(render=render), kind, seed, at, struck, always)


def _expert(base: str, env: Any, seed: int) -> Any:
    return find(base).expert(env, seed)


def failing_task(name: str, base: str, kind: str, seed: int, at: int, struck: Path, always: bool = False) -> Task:
    task = find(base)
    make = functools.partial(_make, base, kind, seed, at, str(struck), always)
    expert = functools.partial(_expert, base)  # by name: a worker must be able to unpickle both
    return register(Task(f"failing/{name}", make, expert, task.score, max_steps=task.max_steps))


# -- what is compared -------------------------------------------------------------------------------------------------


def digest(episode: Any) -> str:
    """Everything that happened, to the last bit, but the name of the task."""
    found = hashlib.sha256(json.dumps({k: v for k, v in episode.info.items()}, sort_keys=True).encode())
    for leaves in (episode.observations, episode.actions, {"reward": episode.rewards}):
        for path in sorted(leaves):
            value = leaves[path]
            found.update(path.encode() + (repr(value).encode() if isinstance(value, list) else value.tobytes()))
    return found.hexdigest()


def play(units: list[Unit], slot: LocalSlot, beat: Any) -> list[tuple[str, int, str]]:
    """The expert, in a worker."""
    played = []
    for unit in units:
        beat()
        [episode] = rollout([unit], [slot], _Beating(beat))
        played.append((unit.task, unit.seed, digest(episode)))
    return played


class _Beating(ExpertPolicy):
    def __init__(self, beat: Any):
        super().__init__()
        self._beat = beat

    def act(self, observations: Any, infos: Any) -> Any:
        self._beat()
        return super().act(observations, infos)


def episodes(pool: WorkerPool, units: list[Unit], mode: str) -> Iterator[tuple[str, int, str]]:
    if mode == "slots":
        spaces = {unit.task: find(unit.task).make().action_space for unit in units}
        for episode in rollout(units, pool.slots(2 * max(1, len(pool))), RandomPolicy(), spaces):
            yield episode.task, episode.info["seed"], digest(episode)
    else:
        for _, played in pool.map_units(units, play):
            yield from played


def left_behind(before: dict[str, Any]) -> dict[str, list]:
    """Processes, descriptors and shared memory that were not there before."""
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        new = {what: sorted(set(now) - set(before[what])) for what, now in present().items()}
        if not any(new.values()):
            break
        time.sleep(0.1)
    return {what: found for what, found in new.items() if found}


def present() -> dict[str, list]:
    """Descriptors here, processes that this one started, or one that it started, and shared memory of theirs."""
    marked = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state not in "ZX" and f"GATO_ENDURANCE={os.getpid()}".encode() in environment.split(b"\0"):
                marked.append(int(entry.name))
    memory = [name for name in os.listdir("/dev/shm") if name.startswith(f"gato-{os.getpid()}-")]
    return {"processes": marked, "descriptors": os.listdir("/proc/self/fd"), "shared memory": memory}


# -- the two figures --------------------------------------------------------------------------------------------------


def disturbed_runs(
    faults: int,
    seed: int,
    folder: Path,
    *,
    outside: int = 0,
    workers: int = 3,
    worlds: tuple[str, ...] = WORLDS,
    deadline: float = DEADLINE,
) -> dict[str, Any]:
    """`faults` faults over both modes, and up to `outside` signals from outside at random moments: {n, failures, …}. An
    episode that differs, a fault that never struck and each thing left behind count as failures."""
    os.environ["GATO_ENDURANCE"] = str(os.getpid())  # what the workers start inherits it
    rng = random.Random(seed)
    kinds = [KINDS[i % len(KINDS)] for i in range(faults)]
    rng.shuffle(kinds)
    plan: dict[str, list[tuple[Unit, Unit, Path]]] = {mode: [] for mode in MODES}  # (failing, clean, struck)
    for i, kind in enumerate(kinds):
        base = worlds[0] if i % 2 else worlds[(i // 2) % len(worlds)]
        bad, steps, struck = episode_seed(base, i), 60, folder / f"{i}-{kind}"
        mode = MODES[i % 2 if len(worlds) == 1 else (i // 2) % 2]
        soon = mode == MODES[0] and base.startswith("babyai/")  # its bot may be done in one step
        task = failing_task(f"{seed}-{i}-{kind}", base, kind, bad, rng.randint(1, 1 if soon else 12), struck)
        for s in (bad, episode_seed(base, 10_000 + i)):  # and an episode without a fault in the same world
            plan[mode].append((Unit(task.id, s, max_steps=steps), Unit(base, s, max_steps=steps), struck))
    before = present()
    restarts = Counter()
    differing, killed, began = [], 0, time.monotonic()
    with WorkerPool(0) as here:
        clean = {
            (mode, task, s): found
            for mode in MODES
            for task, s, found in episodes(here, [unit for _, unit, _ in plan[mode]], mode)
        }
    print(f"{len(clean)} clean episodes in {time.monotonic() - began:.0f} s")
    with WorkerPool(workers, deadline) as pool:
        for mode in MODES:
            of = {unit.task: base.task for unit, base, _ in plan[mode]}
            killer = _Killer(pool, outside // 2, len(plan[mode]), rng)
            got = list(killer.watch(episodes(pool, [unit for unit, _, _ in plan[mode]], mode)))
            killed += killer.killed
            restarts[mode] = pool.restarts - sum(restarts.values())
            wanted = {(task, s): clean[mode, of[task], s] for task, s in ((u.task, u.seed) for u, _, _ in plan[mode])}
            differing += [key for key in wanted if [found for *k, found in got if tuple(k) == key] != [wanted[key]]]
            print(f"{mode}: {len(got)} episodes, {restarts[mode]} workers replaced, {len(differing)} episodes differ")
    struck = {path for mode in MODES for _, _, path in plan[mode] if path.exists()}
    left = left_behind(before)
    missed = len(kinds) - len(struck)
    return {
        "id": "pool-faults", "n": len(struck) + killed, "failures": len(differing) + missed + sum(map(len, left.values())),
        "seed": seed, "episodes": len(clean), "kinds": {**Counter(path.name.split("-", 1)[1] for path in struck), "signal from outside": killed},
        "workers_replaced": dict(restarts), "differing": differing[:10], "never_struck": missed, "left_behind": left,
        "worlds": list(worlds), "seconds": round(time.monotonic() - began),
    }  # fmt: skip


class _Killer:
    """Kills some worker from outside, `times` times, each a moment after some episode or other was finished."""

    def __init__(self, pool: WorkerPool, times: int, of: int, rng: random.Random):
        self._pool, self._rng, self.killed, self._seen = pool, rng, 0, 0
        self._after = set(rng.sample(range(1, of), times))
        self._timers: list[threading.Timer] = []

    def watch(self, found: Iterator[Any]) -> Iterator[Any]:
        for episode in found:
            self._seen += 1
            if self._seen in self._after:
                self._timers.append(threading.Timer(self._rng.uniform(0, 0.5), self._kill))
                self._timers[-1].start()
            yield episode
        for timer in self._timers:
            timer.cancel()
            timer.join()

    def _kill(self) -> None:
        ready = [w.process_id for w in self._pool._workers if w.ready and w.process_id]
        with contextlib.suppress(ProcessLookupError, IndexError):  # another fault was quicker, or none has started
            os.kill(self._rng.choice(ready), signal.SIGKILL)
            self.killed += 1


def crash_loops(seed: int, folder: Path, kinds: tuple[str, ...] = KINDS, *, workers: int = 2) -> dict[str, Any]:
    """Worlds that fail every time, of each kind and in both modes: a WorldCrashError with task and seed, or a failure."""
    os.environ["GATO_ENDURANCE"] = str(os.getpid())
    before, wrong, n = present(), [], 0
    for mode in MODES:
        for kind in kinds:
            bad = episode_seed(WORLDS[0], seed)
            task = failing_task(
                f"{seed}-{mode}-{kind}-always", WORLDS[0], kind, bad, 3, folder / f"{mode}-{kind}", True
            )
            n += 1
            try:
                with WorkerPool(workers, 1.0) as pool:
                    list(episodes(pool, [Unit(task.id, s) for s in (bad - 1, bad, bad + 1)], mode))
                wrong.append(f"{mode}, {kind}: no error")
            except WorldCrashError as error:
                if f"{task.id} seed {bad}" not in error.where:
                    wrong.append(f"{mode}, {kind}: {error}")
    left = left_behind(before)
    return {
        "id": "pool-crash-loops", "n": n, "failures": len(wrong) + sum(map(len, left.values())), "seed": seed,
        "wrong": wrong, "left_behind": left,
    }  # fmt: skip


def keep(figure: dict[str, Any], file: Path = RESULTS) -> None:
    """Put the figure into the file's list, in place of the one with its id."""
    record = json.loads(file.read_text()) if file.exists() else {}
    figures = [f for f in record.get("figures", []) if f["id"] != figure["id"]] + [figure]
    record["figures"] = sorted(figures, key=lambda f: f["id"])
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(f".tmp-{os.getpid()}")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    beside.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    versions = {p: importlib.metadata.version(p) for p in ("gymnasium", "numpy", "minigrid", "dm-control", "mujoco")}
    facts = {"whole": chosen.faults >= 200, "python": platform.python_version(), "versions": versions}
    with tempfile.TemporaryDirectory() as folder:
        for figure in (
            disturbed_runs(
                chosen.faults, chosen.seed, Path(folder), outside=chosen.faults // 10, workers=chosen.workers
            ),
            crash_loops(chosen.seed, Path(folder)),
        ):
            print(json.dumps(figure, indent=1))
            keep({**figure, **facts}, chosen.out)


if __name__ == "__main__":
    main()
