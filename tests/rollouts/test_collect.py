"""Collecting: the arguments alone decide what is in a dataset, whatever happened on the way."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gato.cli import main
from gato.episodes.manifest import MANIFEST
from gato.episodes.repair import verify
from gato.episodes.store import Dataset
from gato.episodes.writer import DatasetWriter
from gato.errors import (
    DiskFullError,
    EpisodeError,
    ExpertError,
    OutputExistsError,
    UnknownNameError,
    UsageError,
    WorldCrashError,
)
from gato.rollouts import CLEAN, ExpertPolicy, LocalSlot, Noise, Unit, episode_seed, rollout
from gato.rollouts.collect import collect, dataset_folder
from gato.rollouts.tracing import collect_traces
from gato.worlds import Task, find, register
from gato.worlds.dummy import CountingWorld, counting_expert, make_faulty

COUNT = find("dummy/count")
NOISY = [CLEAN, Noise(0.1, 0.05, 4)]


def contents(folder: Path) -> list[tuple]:
    dataset, rows = Dataset.open(folder), []
    for entry, episode in zip(dataset.index, dataset, strict=True):
        executed = episode.executed and episode.executed["stick"].tolist()
        stick, text = episode.actions["stick"].tolist(), episode.observations["text"]
        rows.append((entry.number, entry.seed, entry.info, episode.rewards.tolist(), text, stick, executed))
    return rows


def same(a: Path, b: Path) -> bool:
    return contents(a) == contents(b)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    [result] = collect(
        [COUNT], 60, tmp_path_factory.mktemp("out"), workers=0, noise=NOISY, wide_share=0.5, progress=False
    )
    return result.folder


def test_settings_come_from_the_seed(undisturbed):
    dataset = Dataset.open(undisturbed)
    assert [e.seed for e in dataset.index] == [episode_seed("dummy/count", i) for i in range(60)]
    wide = [bool(e.info.get("wide")) for e in dataset.index]
    noisy = ["noise" in e.info for e in dataset.index]
    assert 15 < sum(wide) < 45 and 15 < sum(noisy) < 45 and wide != noisy
    assert dataset.meta["source"] == "expert" and "gymnasium" in dataset.meta["simulators"]
    for episode in dataset:
        counts = episode.observations["image"][:, 0, 0, 0].astype(int)
        assert (np.diff(counts) == 1).all() and episode.actions["button"].tolist() == (counts % 16).tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same(undisturbed, tmp_path, workers):
    [result] = collect([COUNT], 60, tmp_path, workers=workers, noise=NOISY, wide_share=0.5, progress=False)
    assert same(result.folder, undisturbed) and verify(result.folder).ok
    assert (result.held, result.added, result.failed) == (0, 60, 0)


def test_topping_up(undisturbed, tmp_path):
    for episodes, held in ((20, 0), (60, 20), (60, 60), (30, 60)):
        [result] = collect([COUNT], episodes, tmp_path, workers=0, noise=NOISY, wide_share=0.5, progress=False)
        assert (result.held, result.added) == (held, max(0, episodes - held))
    assert same(result.folder, undisturbed)


def test_a_complete_dataset_costs_nothing(undisturbed):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")}
    began = time.monotonic()
    collect([COUNT], 60, undisturbed.parents[1], noise=NOISY, wide_share=0.5)
    assert time.monotonic() - began < 1 and before == {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")}


COLLECTOR = """
from gato.rollouts import CLEAN, Noise
from gato.rollouts.collect import collect
from gato.worlds import find
import sys
if __name__ == "__main__":
    noise = [CLEAN, Noise(0.1, 0.05, 4)]
    collect([find("dummy/count")], 60, sys.argv[1], workers=2, noise=noise, wide_share=0.5, progress=False)
"""


def test_a_killed_collector_loses_nothing(undisturbed, tmp_path):
    """kill -9 five times, a little later each time, then let it finish: exactly what an undisturbed run gives."""
    folder, kills, held = dataset_folder(tmp_path, "dummy/count"), 0, 0
    while True:
        child = subprocess.Popen([sys.executable, "-c", COLLECTOR, str(tmp_path)])
        pending = folder / "pending"
        present = len(list(pending.glob("*.parquet"))) if pending.exists() else 0
        while child.poll() is None and kills < 5:  # kill soon after it has written something more
            if pending.exists() and len(list(pending.glob("*.parquet"))) > present:
                time.sleep(0.05 * kills)
                child.send_signal(signal.SIGKILL)
                kills += 1
        child.wait()
        if (folder / MANIFEST).exists():
            now = len(Dataset.open(folder))
            assert now >= held, "an episode was lost"
            held = now
        if child.returncode == 0:
            break
    assert kills >= 2 and same(folder, undisturbed) and verify(folder).ok
    assert not list((folder / "pending").iterdir())


# -- experts and worlds that fail -------------------------------------------------------------------------------------


def moody(env, seed):
    """An expert that cannot play every third seed, and crashes on some of them in its own way."""
    if seed % 3 == 0:
        raise ExpertError("no way out")
    return (lambda o, i: 1 // 0) if seed % 3 == 1 and seed % 2 else counting_expert(env, seed)


def hopeless(env, seed):
    raise ExpertError("never")


@pytest.mark.parametrize("workers", [0, 2])
def test_seeds_the_expert_cannot_play_are_replaced(tmp_path, workers):
    [result] = collect([COUNT], 25, tmp_path, workers=workers, policy=moody, progress=False)
    seeds = [episode_seed("dummy/count", i) for i in range(200)]
    fine = [i for i, s in enumerate(seeds) if s % 3 and not (s % 3 == 1 and s % 2)]
    dataset = Dataset.open(result.folder)
    assert [e.number for e in dataset.index] == fine[:25]
    assert sorted(dataset.failed) == [i for i in range(fine[24]) if i not in fine] and result.failed == len(
        dataset.failed
    )
    assert any("no way out" in why for why in result.reasons) and any("ZeroDivision" in why for why in result.reasons)
    [again] = collect([COUNT], 30, tmp_path, workers=0, policy=moody, progress=False)
    assert [e.number for e in Dataset.open(again.folder).index] == fine[:30]
    assert again.failed == fine[29] - fine[24] - 5  # those known to fail were not tried again


def test_an_expert_that_always_fails(tmp_path):
    with pytest.raises(ExpertError, match="failed in 50 of 50 episodes, mostly so: expert: never"):
        collect([COUNT], 25, tmp_path, workers=0, policy=hopeless, progress=False)


IMPOSSIBLE = {
    "shape": lambda good: {**good, "stick": np.zeros(5)},
    "ragged": lambda good: {**good, "stick": [[1.0], [1.0, 2.0]]},
    "nan": lambda good: {**good, "stick": np.full(np.shape(good["stick"]), np.nan)},
    "out of range": lambda good: {**good, "button": 99},
    "not a whole number": lambda good: {**good, "button": 1.5},
    "nothing": lambda good: None,
    "a leaf too few": lambda good: {"button": good["button"]},
}


def impossible(env, seed, how):
    expert = counting_expert(env, seed)
    return lambda o, i: IMPOSSIBLE[how](expert(o, i))


@pytest.mark.parametrize("how", IMPOSSIBLE)
def test_an_action_that_cannot_be_is_the_experts_fault(tmp_path, how):
    def policy(env, seed):
        return impossible(env, seed, how)

    with pytest.raises(ExpertError, match="failed in 50 of 50 episodes, mostly so: expert: the expert"):
        collect([COUNT], 2, tmp_path, workers=0, policy=policy, progress=False)


@pytest.mark.parametrize("kind", ["nan", "nan-reward"])
def test_an_episode_that_cannot_be_recorded_is_replaced(tmp_path, kind):
    bad = [episode_seed(f"dummy/{kind}-now-and-then", i) for i in (0, 2)]
    task = register(
        Task(f"dummy/{kind}-now-and-then", make_faulty(kind, at=2, seeds=bad), counting_expert, max_steps=40)
    )
    [result] = collect([task], 4, tmp_path, workers=0, progress=False)
    assert [e.number for e in Dataset.open(result.folder).index] == [1, 3, 4, 5]
    [(why, times)] = result.reasons.items()
    assert times == 2 and f"{task.id} seed {bad[0]}" in why
    always = register(Task(f"dummy/{kind}-always", make_faulty(kind, at=1), counting_expert, max_steps=40))
    with pytest.raises(EpisodeError, match=rf"50 of 50 episodes cannot be recorded[^\n]*{always.id} seed \d+"):
        collect([always], 4, tmp_path, workers=0, progress=False)


class Telling(CountingWorld):
    """Says of success, and of what was drawn, whatever it is told to."""

    def __init__(self, said, drawn=None):
        super().__init__()
        self.said, self.drawn = said, drawn

    def reset(self, **options):
        return super().reset(**options)[0], None

    def _info(self):
        return {"success": self.said, "drawn": self.drawn}


SAID = {
    "True": True, "1.0": 1.0, "numpy": np.bool_(False), "one value": np.array([True]), "None": None, "nan": float("nan"),
    "numpy's nan": np.float32("nan"), "two values": np.array([True, False]), "text": "yes", "half": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_what_a_world_says_of_success(name):
    said = SAID[name]
    task = register(Task("dummy/telling", lambda render=False: Telling(said, False), counting_expert, max_steps=40))

    def play():
        [episode] = rollout([Unit(task.id, 7, max_steps=3)], [LocalSlot()], ExpertPolicy())
        return episode

    if name in ("two values", "text", "half"):
        with pytest.raises(EpisodeError, match=r"info\['success'\] is .*dummy/telling seed 7"):
            play()
        return
    episode = play()
    expected = {"True": True, "1.0": True, "numpy": False, "one value": True}.get(name)
    assert episode.success is expected and ("success" in episode.info) == (expected is not None)
    assert "drawn" not in episode.info


class Objective:
    """An expert that is an object."""

    def __call__(self, env, seed):
        return counting_expert(env, seed)


def counting_with(env, seed, extra):
    return counting_expert(env, seed)


@pytest.mark.parametrize("workers", [0, 1])
def test_any_callable_is_an_expert(tmp_path, workers):
    for policy, name in ((functools.partial(counting_with, extra=1), "counting_with"), (Objective(), "Objective")):
        [result] = collect([COUNT], 2, tmp_path / name, workers, policy, progress=False, noise=[])
        assert Dataset.open(result.folder).meta["source"] == f"{__name__}:{name}"


def test_arguments_that_cannot_be(tmp_path):
    for wrong in (
        {"max_steps": 0}, {"max_steps": -1}, {"wide_share": 2.0}, {"wide_share": float("nan")}, {"policy": 5},
        {"policy": lambda env, seed: counting_expert(env, seed), "workers": 1},
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            collect([COUNT], 1, tmp_path / "x", progress=False, **wrong)
        assert caught.value.fix and not (tmp_path / "x").exists(), wrong


def test_tasks_without_an_expert_are_named_before_anything_is_written(tmp_path, capsys):
    make = make_faulty("nan", at=10**6)
    tasks = [COUNT, *(register(Task(f"dummy/expertless-{n}", make, None, max_steps=40)) for n in (1, 2))]
    for collector in (collect, collect_traces):
        with pytest.raises(UnknownNameError, match="these have no expert") as caught:
            collector(tasks, 2, tmp_path / "x", 0)
        assert caught.value.where == "dummy/expertless-1, dummy/expertless-2" and not (tmp_path / "x").exists()
    with pytest.raises(SystemExit, match="0"):
        words = ["--episodes", "2", "--workers", "0", "--deadline", "30", "--out", str(tmp_path / "y")]
        main(["collect", "dummy/count,dummy/expertless-*", *words])
    out, err = capsys.readouterr()
    assert "left out, for want of an expert: dummy/expertless-1, dummy/expertless-2" in err
    assert out.startswith("dummy/count: 2 episodes") and [p.name for p in (tmp_path / "y/dummy").iterdir()] == ["count"]
    with pytest.raises(SystemExit, match="2"):
        main(["collect", "dummy/expertless-*", "--out", str(tmp_path / "z")])
    assert "--policy" in capsys.readouterr().err and not (tmp_path / "z").exists()


def test_a_seed_that_kills_its_worker_is_replaced(tmp_path):
    bad = episode_seed("dummy/deadly", 2)
    task = register(Task("dummy/deadly", make_faulty("exit", at=2, seeds=(bad,)), counting_expert, max_steps=40))
    [result] = collect([task], 5, tmp_path, workers=2, progress=False)
    assert [e.number for e in Dataset.open(result.folder).index] == [0, 1, 3, 4, 5] and result.failed == 1


def test_a_world_that_always_crashes(tmp_path):
    task = register(Task("dummy/broken", make_faulty("raise-step", at=1), counting_expert, max_steps=40))
    with pytest.raises(WorldCrashError, match="dummy/broken"):
        collect([task], 5, tmp_path, workers=1, progress=False)


def test_a_slot_keeps_the_last_few_worlds_open():
    open_now = []

    class Closing(CountingWorld):
        def __init__(self, name, render=False):
            super().__init__()
            self.name = name
            open_now.append(name)

        def close(self):
            open_now.remove(self.name)
            super().close()

    names = [f"dummy/closing-{n}" for n in range(6)]
    for name in names:
        register(Task(name, functools.partial(Closing, name), counting_expert, max_steps=40))
    slot = LocalSlot()
    for name in (*names[:4], names[0], names[4], names[0], names[5]):
        list(rollout([Unit(name, 3, max_steps=2)], [slot], ExpertPolicy()))
    assert open_now == [names[0], *names[3:]]
    first = slot.environment(names[0])
    assert slot.environment(names[0]) is first and len(open_now) == 4
    slot.close()
    assert not open_now


# -- other ways -------------------------------------------------------------------------------------------------------


def test_random_play_and_short_recordings(tmp_path):
    [result] = collect([COUNT], 8, tmp_path, workers=0, policy="random", max_steps=7, progress=False)
    dataset = Dataset.open(result.folder)
    assert dataset.meta["source"] == "random" and dataset.lengths.tolist() == [7] * 8
    with pytest.raises(OutputExistsError, match="random"):
        collect([COUNT], 9, tmp_path, workers=0, progress=False)


def test_an_expert_by_name(tmp_path):
    [result] = collect([COUNT], 2, tmp_path, workers=1, policy="gato.worlds.dummy:counting_expert", progress=False)
    assert Dataset.open(result.folder).meta["source"] == "gato.worlds.dummy:counting_expert"
    for wrong in ("nowhere:expert", "gato.worlds.dummy:nobody", "expret"):
        with pytest.raises(UnknownNameError):
            collect([COUNT], 2, tmp_path / "x", policy=wrong)
    with pytest.raises(UsageError):
        collect([COUNT], 0, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_another_task_in_the_folder(undisturbed, tmp_path):
    other = register(Task("dummy/other", make_faulty("nan", at=10**6), counting_expert, max_steps=40))
    collect([COUNT], 2, tmp_path, workers=0, progress=False)
    (tmp_path / "dummy" / "count").rename(tmp_path / "dummy" / "other")
    with pytest.raises(OutputExistsError, match=r"dummy/count, not dummy/other"):
        collect([other], 5, tmp_path, workers=0, progress=False)


def test_seconds_stops_and_keeps(tmp_path):
    [result] = collect([COUNT], 10_000, tmp_path, workers=1, seconds=0.5, progress=False)
    assert 0 < result.episodes < 10_000 and len(Dataset.open(result.folder)) == result.episodes
    assert verify(result.folder).ok


def test_a_task_that_had_no_turn_leaves_no_folder(tmp_path):
    late = register(Task("dummy/late", make_faulty("nan", at=10**6), counting_expert, max_steps=40))
    [first, none] = collect([COUNT, late], 10_000, tmp_path, workers=0, seconds=0, progress=False)
    assert first.episodes > 0 == none.episodes and [p.name for p in (tmp_path / "dummy").iterdir()] == ["count"]
    with DatasetWriter(dataset_folder(tmp_path, late.id), late.id, late.spec, {"source": "expert"}):
        pass
    collect([COUNT, late], 20_000, tmp_path, workers=0, seconds=0, progress=False)
    assert len(Dataset.open(dataset_folder(tmp_path, late.id))) == 0  # it was there before


def test_lines_where_there_is_no_terminal(tmp_path, capfd):
    collect([COUNT], 3, tmp_path, workers=0)
    out, err = capfd.readouterr()
    assert not out and "dummy/count: 3 episodes (+3" in " ".join(err.split())


LIMITED = """
import resource, sys
from gato.rollouts.collect import collect
from gato.errors import DiskFullError
from gato.worlds import find
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    collect([find("dummy/count")], 40, sys.argv[1], workers=0, progress=False)
except DiskFullError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_limit_on_file_sizes(tmp_path):
    """Small pending files fit, the shard they are to be folded into does not: all of them stay."""
    run = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 6 and "disk-full" in run.stdout and "bytes needed" in run.stdout, run.stderr
    folder = dataset_folder(tmp_path, "dummy/count")
    assert len(Dataset.open(folder)) == 40 and verify(folder).ok
    assert not [p for p in folder.rglob("*") if ".tmp-" in p.name]
    [result] = collect([COUNT], 41, tmp_path, workers=0, progress=False)  # room again: it goes on
    assert (result.held, result.added) == (40, 1) and verify(folder).ok


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(tiny_disk):
    with pytest.raises(DiskFullError, match=r"the disk is full: .* bytes needed") as caught:
        collect([COUNT], 500, tiny_disk, workers=0, progress=False)
    assert str(tiny_disk) in caught.value.where and caught.value.exit_code == 6
    folder = dataset_folder(tiny_disk, "dummy/count")
    held = len(Dataset.open(folder))
    assert held > 5 and verify(folder).ok
    assert os.statvfs(tiny_disk).f_bavail * 4096 < 40_000
