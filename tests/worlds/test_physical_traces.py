"""Traces of physical worlds: to the bit here, within tolerances elsewhere, and collected both ways."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("dm_control")

from benchmarks import make_traces
from gato.cli import main
from gato.episodes.manifest import lock_file
from gato.episodes.store import Dataset
from gato.errors import DatasetMissingError, ExpertError, OutputExistsError, WorldCrashError
from gato.rollouts import ExpertPolicy, LocalSlot, Noise, RandomPolicy, Unit, rollout
from gato.rollouts.collect import COVERAGE, collect, dataset_folder
from gato.rollouts.tracing import collect_traces
from gato.worlds import Task, find, register
from gato.worlds.dummy import counting_expert, make_faulty
from gato.worlds.traces import (
    TraceError,
    failed_in,
    find_files,
    read_traces,
    record,
    replay,
    task_of,
    trace_path,
    write_traces,
)  # fmt: skip

TASK = "dm-control-suite-random-small/pendulum-swingup"


@pytest.fixture(scope="module")
def made():
    slot = LocalSlot()
    unit = Unit(TASK, 11, noise=Noise(0.1, burst=0.05, burst_steps=4), wide=True, max_steps=120)
    (episode,) = rollout([unit], [slot], ExpertPolicy())
    return episode, record(episode, slot.env, seconds=1.5)


def test_there_and_back(tmp_path, made):
    """The whole episode with what was drawn, noise and all, from a file."""
    episode, trace = made
    write_traces(tmp_path / "t.parquet", TASK, [trace], {3: "gave up"})
    (read,) = read_traces(TASK, tmp_path / "t.parquet")
    assert read.seconds == 1.5 and read.state == trace.state != "" and read.state_steps == trace.state_steps
    np.testing.assert_array_equal(read.states, trace.states)
    assert len(read.state_steps) == 5 and read.state_steps[-1] == 119
    again = replay(TASK, read)
    assert again.info == episode.info and again.info["drawn"] and again.info["noise"]["burst"] == 0.05
    for side in ("observations", "actions", "executed"):
        for path, values in getattr(episode, side).items():
            np.testing.assert_array_equal(getattr(again, side)[path], values)
    assert failed_in(tmp_path / "t.parquet") == {3: "gave up"} and task_of(tmp_path / "t.parquet") == TASK


def change(trace, **changes):
    return dataclasses.replace(trace, **changes)


def test_small_differences_are_close_and_said_so(made):
    """As on another processor: the last bits of state and rewards differ."""
    _, trace = made
    drifted = change(
        trace, state="0" * 64, states=trace.states * (1 + 1e-6), rewards=trace.rewards * np.float32(1.0001)
    )
    assert replay(TASK, drifted).info["replay"] == "close"
    assert "replay" not in replay(TASK, trace).info


def test_drift_and_corruption_are_told_apart(made):
    _, trace = made
    late = trace.states.copy()
    late[-1] += 0.5
    with pytest.raises(TraceError, match="it drifted: after step 119") as drifted:
        replay(TASK, change(trace, state="0" * 64, states=late))
    assert drifted.value.kind == "drifted"
    executed = {"action": -trace.executed["action"]}
    for changes in ({"seed": 12}, {"executed": executed}, {"rewards": trace.rewards + 1, "state": "0" * 64}):
        with pytest.raises(TraceError) as corrupt:
            replay(TASK, change(trace, **changes))
        assert corrupt.value.kind == "corrupt" and TASK in corrupt.value.where


def test_collecting_traces_tops_up_and_equals_collecting_episodes(tmp_path):
    """The same numbers are the same episodes, whether recorded whole or traced and replayed."""
    task = find("dm-control-suite/pendulum-swingup")
    settings = {"noise": COVERAGE, "wide_share": 0.5, "max_steps": 60}
    (first,) = collect_traces([task], 2, tmp_path / "traces", 0, **settings)
    (second,) = collect_traces([task], 4, tmp_path / "traces", 0, **settings)
    assert (first.added, second.held, second.added, second.failed) == (2, 2, 2, 0)
    collect([task], 4, tmp_path / "whole", 0, progress=False, **settings)
    collect([task], 9, tmp_path / "replayed", 0, progress=False, from_traces=[tmp_path / "traces"])
    whole, replayed = (Dataset(dataset_folder(tmp_path / name, task.id)) for name in ("whole", "replayed"))
    assert len(whole) == len(replayed) == 4
    for a, b in zip(whole, replayed, strict=True):
        assert a.info == b.info
        np.testing.assert_array_equal(a.rewards, b.rewards)
        for path in a.observations:
            np.testing.assert_array_equal(a.observations[path], b.observations[path])


def test_an_untrue_trace_is_dropped_counted_and_named(tmp_path, made):
    _, trace = made
    write_traces(trace_path(TASK, tmp_path), TASK, [trace, change(trace, seed=99), trace])
    (result,) = collect([find(TASK)], 5, tmp_path / "out", 0, progress=False, from_traces=[tmp_path])
    assert (result.added, result.failed) == (2, 1)
    (reason,) = result.reasons
    assert "seed 99" in reason and "did not come true" in reason


def test_an_expert_that_gives_up_is_noted_and_replaced(tmp_path):
    task = find("dm-control-suite/pendulum-swingup")
    (result,) = collect_traces([task], 2, tmp_path, 0, policy=gives_up_at_first, max_steps=5)
    assert (result.added, result.failed) == (2, 1)
    assert list(failed_in(trace_path(task.id, tmp_path))) == [0]


@pytest.mark.parametrize("how", ["expert", "world"])
def test_what_always_fails_comes_to_an_end(tmp_path, how):
    if how == "expert":
        with pytest.raises(ExpertError, match=r"failed in 50 of 50 episodes, mostly so: .* ZeroDivisionError"):
            collect_traces([find("dm-control-suite/pendulum-swingup")], 2, tmp_path, 0, policy=divides_by_nothing)
    else:
        task = register(Task("dummy/never-starts", make_faulty("raise-step", at=1), counting_expert, max_steps=40))
        with pytest.raises(WorldCrashError, match="dummy/never-starts"):
            collect_traces([task], 2, tmp_path, 1)


def divides_by_nothing(env, seed):
    return lambda observation, info: 1 / 0


def test_two_collectors_do_not_share_a_file(tmp_path):
    task = find("dm-control-suite/pendulum-swingup")
    path = trace_path(task.id, tmp_path)
    leftover = path.with_name(path.name + ".tmp-1-dead")
    leftover.write_bytes(b"half")
    with lock_file(path), pytest.raises(OutputExistsError, match=f"process {os.getpid()} is writing here"):
        collect_traces([task], 1, tmp_path, 0, max_steps=5)
    (other,) = collect_traces([find(TASK)], 1, tmp_path, 0, max_steps=5)  # another task's file in the same folder
    (result,) = collect_traces([task], 1, tmp_path, 0, max_steps=5)
    assert result.added == other.added == 1
    assert sorted(tmp_path.iterdir()) == sorted([path, trace_path(TASK, tmp_path)])


FULL = """
import resource, sys
from gato.rollouts.tracing import collect_traces
from gato.worlds import find
resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
try:
    collect_traces([find("dm-control-suite/pendulum-swingup")], 40, sys.argv[1], 0, policy="random", max_steps=200)
except Exception as error:
    print(type(error).__name__)
"""


def test_a_full_disk_keeps_what_is_there(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "DiskFullError", done.stderr
    path = trace_path("dm-control-suite/pendulum-swingup", tmp_path)
    assert 0 < len(read_traces(task_of(path), path)) < 40 and list(tmp_path.iterdir()) == [path]


def gives_up_at_first(env, seed):
    from gato.rollouts import episode_seed

    if seed == episode_seed("dm-control-suite/pendulum-swingup", 0):
        raise ExpertError("not this one")
    return lambda observation, info: env.action_space.low


def test_by_the_command_line(tmp_path, capsys):
    traces, data = str(tmp_path / "traces"), str(tmp_path / "data")
    task = "dm-control-suite/reacher-easy"
    for words in (
        [task, "--episodes", "2", "--traces", "--out", traces, "--workers", "0", "--coverage", "--max-steps", "40"],
        ["--from-traces", traces, "--episodes", "2", "--out", data, "--workers", "0"],
    ):
        with pytest.raises(SystemExit) as left:
            main(["collect", *words])
        assert left.value.code == 0
    said = capsys.readouterr().out
    assert said.count("dm-control-suite/reacher-easy: 2 episodes (+2), 0 dropped") == 2
    assert list(find_files([traces])) == ["dm-control-suite/reacher-easy"]
    with pytest.raises(DatasetMissingError, match="no traces of dummy/count"):
        collect([find("dummy/count")], 1, data, 0, progress=False, from_traces=[traces])


def test_making_and_publishing(tmp_path):
    """The generator of the repository's own traces."""
    tasks = [find("dm-control-suite/reacher-easy")]
    make_traces.make(tasks, 1, tmp_path / "state", 0, 60.0)
    made = make_traces.publish(tasks, 1, tmp_path / "state", tmp_path / "traces", False)
    assert json.loads((tmp_path / "traces" / "made.json").read_text()) == made
    assert made[tasks[0].id]["episodes"] == 1 and made[tasks[0].id]["timesteps"] == 1000
    assert len(read_traces(tasks[0].id, trace_path(tasks[0].id, tmp_path / "traces"))) == 1


@pytest.mark.parametrize(
    "task_id", ("meta-world/reach", "dm-manipulation-playground/reach-site-features", "rgb-stacking/triplet-2")
)
def test_another_action_is_seen_where_nothing_was_earned(task_id):
    """These worlds pay late, so rewards of zero would prove nothing: their states do."""
    task = find(task_id)
    if not task.installed:
        pytest.skip(task.pip_line)
    slot = LocalSlot()
    (episode,) = rollout([Unit(task_id, 3, max_steps=6)], [slot], RandomPolicy())
    trace = record(episode, slot.env)
    assert replay(task_id, trace, slot.env).total_return == trace.total_return
    actions = {path: values.copy() for path, values in trace.actions.items()}
    arm = max(actions, key=lambda path: actions[path].size)
    actions[arm][2] *= -1
    with pytest.raises(TraceError):
        replay(task_id, change(trace, actions=actions, rewards=trace.rewards), slot.env)
    slot.close()


def test_a_trace_serves_every_sense_of_its_world(tmp_path):
    """Planned on a state, learned from as text: the rewards are the state's, the observations those of the other sense."""
    state, text = find("dm-control-suite/pendulum-swingup"), find("dm-control-suite-text/pendulum-swingup")
    collect_traces([state], 1, tmp_path / "traces", 0, max_steps=20)
    (trace,) = read_traces(state.id, trace_path(state.id, tmp_path / "traces"))
    (result,) = collect([text], 5, tmp_path / "data", 0, progress=False, from_traces=[tmp_path / "traces"])
    assert (result.added, result.failed) == (1, 0)
    (episode,) = Dataset(dataset_folder(tmp_path / "data", text.id))
    np.testing.assert_array_equal(episode.rewards, trace.rewards)
    assert {spec.kind for spec in text.spec.observation.values()} == {"text"}
    with pytest.raises(TraceError, match="not of dm-control-suite-text/reacher-easy"):
        read_traces("dm-control-suite-text/reacher-easy", trace_path(state.id, tmp_path / "traces"))
