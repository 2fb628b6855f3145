"""The pool and the loop: the same episodes whatever happens to the workers, and nothing left behind."""

import functools
import os
import re
import signal
import struct
import threading
import time

import numpy as np
import pytest

from gato.errors import ObservationError, UsageError, WorldCrashError
from gato.rollouts import CLEAN, ExpertPolicy, LocalSlot, Noise, Unit, WorkerPool, remains, rollout
from gato.rollouts.pool import IN_WORKER
from gato.worlds import Task, find, register
from gato.worlds.dummy import counting_expert, make_faulty
from gato.worlds.traces import record, replay

UNITS = [Unit("dummy/count", seed) for seed in range(12)]


def play(units, slot, beat):
    """What `map_units` sends to the workers: (seed, rewards, last level) of each episode."""
    beat()
    return [
        (e.info["seed"], e.rewards.tolist(), e.observations["text"]) for e in rollout(units, [slot], ExpertPolicy())
    ]


def fault(kind: str, **how) -> str:
    """Register the counting world with a fault; the pool tells its workers about it."""
    name = f"dummy/{kind}-{how.get('at', 3)}-{abs(hash(str(how)))}"
    return register(Task(name, make_faulty(kind, **how), counting_expert, max_steps=40)).id


def mapped(pool: WorkerPool, units) -> list:
    return sorted(r for _, results in pool.map_units(units, play) for r in results)


class Counter:
    """A policy for slots anywhere: reads the count off the image, as the expert does."""

    name = "counter"

    def begin(self, index, unit, slot):
        pass

    def act(self, observations, infos):
        return {i: counting_expert(None, 0)(o, {}) for i, o in observations.items()}


def played(pool: WorkerPool, units, num_slots: int = 4) -> dict:
    spaces = {u.task: find("dummy/count").make().action_space for u in units}
    episodes = rollout(units, pool.slots(num_slots), Counter(), spaces)
    return {e.info["seed"]: (e.rewards.tolist(), e.observations["text"]) for e in episodes}


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2, deadline=2.0) as pool:
        yield pool


@pytest.fixture(scope="module")
def expected():
    return {seed: (rewards, text) for seed, rewards, text in play(UNITS, LocalSlot(), lambda: None)}


# -- the loop ---------------------------------------------------------------------------------------------------------


def test_every_step_is_kept_in_place():
    for episode in rollout(UNITS[:3], [LocalSlot()], ExpertPolicy()):
        counts = episode.observations["image"][:, 0, 0, 0].astype(int)
        assert (np.diff(counts) == 1).all() and 20 <= len(episode) <= 40
        assert episode.observations["text"] == [f"step {c}" for c in counts]
        assert episode.actions["button"].tolist() == (counts % 16).tolist()
        assert episode.rewards.tolist() == [1.0] * len(episode) and episode.info["success"]
        assert episode.executed is None


def test_noise_is_executed_and_the_target_stays():
    unit = Unit("dummy/count", 5, Noise(0.3, 0.1, 4))
    [episode] = rollout([unit], [LocalSlot()], ExpertPolicy())
    counts = episode.observations["image"][:, 0, 0, 0].astype(int)
    assert episode.actions["button"].tolist() == (counts % 16).tolist()
    assert (episode.executed["button"] != episode.actions["button"]).any() and episode.total_return < len(episode)
    [again] = rollout([unit], [LocalSlot()], ExpertPolicy())
    np.testing.assert_array_equal(again.executed["stick"], episode.executed["stick"])


def test_a_unit_does_not_depend_on_its_neighbours(expected):
    noisy = [Unit("dummy/count", u.seed, Noise(0.2, 0.1, 3) if u.seed % 2 else CLEAN) for u in UNITS]
    together = {e.info["seed"]: e for e in rollout(noisy, [LocalSlot() for _ in range(5)], ExpertPolicy())}
    for unit in noisy:
        [alone] = rollout([unit], [LocalSlot()], ExpertPolicy())
        assert alone.rewards.tolist() == together[unit.seed].rewards.tolist()
    assert len(together) == len(noisy)


def reusing_expert(env, seed):
    """The counting expert, with one array for all that it ever says."""
    count, stick = counting_expert(env, seed), np.zeros(2, np.float32)

    def act(observation, info):
        action = count(observation, info)
        stick[:] = action["stick"]
        return action | {"stick": stick}

    return act


@pytest.mark.parametrize("noise", [CLEAN, Noise(0.1)], ids=["clean", "noisy"])
@pytest.mark.parametrize("world", ["dummy/count", "changes-action"])
def test_what_was_chosen_is_recorded_whoever_writes_on_it_later(world, noise):
    unit = Unit(world if world == "dummy/count" else fault(world), 5, noise)
    [episode] = rollout([unit], [LocalSlot()], ExpertPolicy(reusing_expert))
    ramp = episode.observations["image"][:, 0, 0, 0] / 64.0 - 1
    np.testing.assert_array_equal(episode.actions["stick"], np.stack([ramp, -ramp], 1).astype(np.float32))
    if noise:
        assert len(np.unique(episode.executed["stick"], axis=0)) == len(episode)
    else:
        assert episode.info["success"]


def test_a_replay_shows_every_step():
    """Of a world that reuses its arrays, and changes the actions that it is given."""
    [episode] = rollout([Unit("dummy/count", 5)], [LocalSlot()], ExpertPolicy())
    for kind in ("shared", "changes-action"):
        env = make_faulty(kind)()
        again = replay("dummy/count", record(episode, env), env)
        np.testing.assert_array_equal(again.observations["image"], episode.observations["image"])
        np.testing.assert_array_equal(again.actions["stick"], episode.actions["stick"])


# -- the pool ---------------------------------------------------------------------------------------------------------


def test_a_worker_is_sent_the_action_as_it_was_given(pool):
    [slot] = pool.slots(1)
    slot.reset(Unit("dummy/count", 5))
    seen = slot.receive().observation
    slot.step(action := counting_expert(None, 5)(seen, {}))
    action["stick"][:] = 0
    assert slot.receive().reward == 1.0


def test_workers_give_what_one_process_gives(pool, expected):
    assert {s: (r, t) for s, r, t in mapped(pool, UNITS)} == expected
    assert played(pool, UNITS) == expected
    with WorkerPool(0) as local:
        assert {s: (r, t) for s, r, t in mapped(local, UNITS)} == expected
        assert played(local, UNITS) == expected


@pytest.mark.parametrize("how", [mapped, played])
@pytest.mark.parametrize("left", ["closed", "raised"])
def test_what_a_rollout_left_behind_is_not_taken_for_the_next_ones(pool, expected, how, left):
    """It ends on what the first worker says, and the second was asked as well."""
    before = pool.restarts
    if left == "closed":
        shortest = sorted(UNITS, key=lambda unit: len(expected[unit.seed][0]))
        leaving = rollout(shortest, pool.slots(2), Counter(), {"dummy/count": find("dummy/count").make().action_space})
        next(leaving)
        leaving.close()
    else:
        with pytest.raises(WorldCrashError):
            played(pool, [Unit(fault("raise-step", at=5, seeds=(0,)), seed) for seed in range(2)])
    result = how(pool, UNITS)
    assert (result if isinstance(result, dict) else {s: (r, t) for s, r, t in result}) == expected
    assert pool.restarts == before


@pytest.mark.parametrize("kind", ["exit", "hang", "raise-step", "raise-reset"])
@pytest.mark.parametrize("how", [mapped, played])
def test_a_world_that_fails_once_is_redone(pool, expected, tmp_path, kind, how):
    units = [Unit(fault(kind, at=7, seeds=(4,), once=str(tmp_path / f"{how.__name__}")), s) for s in range(6)]
    before = pool.restarts
    result = how(pool, units)
    result = result if isinstance(result, dict) else {s: (r, t) for s, r, t in result}
    assert (tmp_path / how.__name__).exists(), "the fault never showed"
    assert result == {s: expected[s] for s in range(6)}
    assert pool.restarts - before == (kind in ("exit", "hang"))


def test_without_workers_a_world_that_fails_is_redone_and_given_up_too(expected, tmp_path):
    once = [Unit(fault("raise-step", at=7, seeds=(4,), once=str(tmp_path / "here")), s) for s in range(6)]
    always = [Unit(fault("raise-step", at=2, seeds=(3,)), s) for s in range(5)]
    given_up = []
    with WorkerPool(0) as here:
        assert {s: (r, t) for s, r, t in mapped(here, once)} == {s: expected[s] for s in range(6)}
        with pytest.raises(WorldCrashError, match="failed 4 times"):
            mapped(here, always)
        results = dict(
            (u.seed, r) for us, r in here.map_units(always, play, lambda u, e: given_up.append(u.seed)) for u in us
        )
    assert (tmp_path / "here").exists() and given_up == [3] and set(results) == set(range(5))


@pytest.mark.parametrize("kind", ["exit", "raise-step"])
@pytest.mark.parametrize("how", [mapped, played])
def test_a_world_that_always_fails_is_named(pool, kind, how):
    units = [Unit(fault(kind, at=2, seeds=(3,)), s) for s in range(5)]
    with pytest.raises(WorldCrashError, match="failed 4 times") as caught:
        how(pool, units)
    assert units[0].task in caught.value.where and "seed 3" in caught.value.where


def test_the_caller_may_give_up_a_unit_and_go_on(pool):
    units = [Unit(fault("exit", at=2, seeds=(3,)), s) for s in range(5)]
    given_up = []
    results = dict(
        (u.seed, r) for us, r in pool.map_units(units, play, lambda u, e: given_up.append(u.seed)) for u in us
    )
    assert given_up == [3] and set(results) == set(range(5))


def test_bad_observations_are_not_tried_again(pool):
    task = fault("nan", at=2)
    before = pool.restarts
    with pytest.raises(ObservationError, match=r"NaN.*step 2 nested/ramp"):
        mapped(pool, [Unit(task, 0)])
    with pytest.raises(ObservationError, match=r"NaN.*step 2 nested/ramp"):
        played(pool, [Unit(task, 0)])
    assert pool.restarts == before


def slow_play(units, slot, beat):
    time.sleep(0.05 * len(units))
    return play(units, slot, beat)


def test_killed_workers_are_replaced(expected):
    """SIGKILL one worker after another while they work, from outside."""
    with WorkerPool(2) as pool:
        stop = threading.Event()

        def kill():
            for _ in range(3):  # four would be more than one unit may be redone
                if stop.wait(0.7):
                    return
                for process_id in pool.process_ids[:1]:
                    os.kill(process_id, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            results = {s: (r, t) for _, rs in pool.map_units(UNITS * 2, slow_play) for s, r, t in rs}
            assert results == expected
            assert played(pool, UNITS) == expected
        finally:
            stop.set()
            killer.join()
        assert pool.restarts


def unfinished(units, slot, beat):
    """Longer than the deadline, but alive."""
    for _ in range(8):
        time.sleep(0.5)
        beat()
    return play(units, slot, beat)


def test_slow_is_not_hung(pool, expected):
    before = pool.restarts
    [(_, [(seed, *rest)])] = pool.map_units(UNITS[:1], unfinished)
    assert tuple(rest) == expected[seed] and pool.restarts == before


def stalls(units, slot, beat):
    """Begins a message of 1,000 bytes, and no more."""
    with open("/proc/self/cmdline", "rb") as file:
        descriptor = int(re.search(rb"serve\((\d+)\)", file.read())[1])
    os.write(descriptor, struct.pack("!i", 1000) + b"half")
    time.sleep(1000)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_half_a_message_is_not_waited_for():
    with (
        WorkerPool(1, deadline=1.0, retries=0) as pool,
        pytest.raises(WorldCrashError, match="stopped in the middle of a message"),
    ):
        list(pool.map_units(UNITS[:1], stalls))


def make_slowly(*, render=False):
    time.sleep(2.5)
    return find("dummy/count").make()


def test_making_a_world_may_take_longer_than_the_deadline(pool, expected):
    task = register(Task("dummy/slow-to-make", make_slowly, counting_expert, max_steps=40))
    before = pool.restarts
    assert played(pool, [Unit(task.id, 1)]) == {1: expected[1]} and pool.restarts == before


def test_a_task_that_cannot_be_sent():
    task = register(Task("dummy/local", lambda *, render=False: find("dummy/count").make(), max_steps=40))
    for how in (mapped, played):
        with WorkerPool(1) as pool, pytest.raises(UsageError, match=r"cannot be sent to a worker.*dummy/local"):
            how(pool, [Unit(task.id, 1)])


def wait_with_a_world(units, slot, beat):
    slot.reset(units[0])
    slot.receive()
    time.sleep(1000)


def forks_and_dies(units, slot, beat):
    if os.fork():
        os._exit(3)
    time.sleep(1000)  # the child holds the connection


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_dead_worker_is_seen_though_its_child_holds_the_connection():
    began = time.monotonic()
    with WorkerPool(1, deadline=60.0, retries=0) as pool, pytest.raises(WorldCrashError, match="exited with code 3"):
        list(pool.map_units(UNITS[:1], forks_and_dies))
    assert time.monotonic() - began < 30


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/shm"), reason="needs /dev/shm")
def test_an_engine_and_its_memory_go_with_the_worker():
    """ViZDoom's engine is a process of its own, which outlives a controller that is killed."""
    pytest.importorskip("vizdoom")
    seen: dict = {}

    def kill():
        while not seen.get("files") and not stop.wait(0.5):
            for group in pool.process_ids:
                engine = remains._others(group, group)
                seen.update(group=group, processes=engine, files=remains.shared_memory(engine))
        os.kill(seen["group"], signal.SIGKILL)

    stop = threading.Event()
    with WorkerPool(1, deadline=60.0, retries=0) as pool:
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with pytest.raises(WorldCrashError, match="killed by signal 9"):
                list(pool.map_units([Unit("gym/VizdoomBasic-v1", 1)], wait_with_a_world))
        finally:
            stop.set()
            killer.join()
    assert seen["files"] and not [path for path in seen["files"] if os.path.exists(path)]
    assert seen["processes"] and not remains._others(seen["group"], None)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(p) for p in file.read().split()}


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_nothing_is_left_behind():
    files, children = _open_files(), _children()
    for _ in range(2):
        with WorkerPool(2) as pool:
            for _ in pool.map_units(UNITS, play):
                break  # asked no further: the rest is dropped
            os.kill(pool.process_ids[0], signal.SIGKILL)
            mapped(pool, UNITS[:3])
    assert (_open_files(), _children()) == (files, children)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_workers_end_with_their_parent(tmp_path):
    """Also those that hang in the world at that moment."""
    child = os.fork()
    if child == 0:
        try:
            pool = WorkerPool(2)
            for process_id in _hanging(pool):
                (tmp_path / str(process_id)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    workers = [int(p.name) for p in tmp_path.iterdir()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(_alive(w) for w in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(w) for w in workers)


def _hanging(pool: WorkerPool) -> list[int]:
    units = [Unit(fault("hang", at=1), s) for s in range(2)]
    running = threading.Thread(target=lambda: list(pool.map_units(units, play)), daemon=True)
    running.start()
    time.sleep(4)
    return pool.process_ids


def _alive(process_id: int) -> bool:
    try:
        with open(f"/proc/{process_id}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_does_not_start_workers(monkeypatch):
    monkeypatch.setenv(IN_WORKER, "1")
    with pytest.raises(UsageError, match="__main__"):
        WorkerPool(1)


def count_torch(units, slot, beat):
    import sys

    return "torch" in sys.modules, os.environ["OMP_NUM_THREADS"]


def test_workers_are_light(pool):
    assert [r for _, r in pool.map_units(UNITS[:1], functools.partial(count_torch))] == [(False, "1")]
