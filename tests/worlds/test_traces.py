"""Traces: written, read, replayed to the last pixel; and what a damaged or untrue one says."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

pytest.importorskip("ale_py")

from gato.episodes import Episode, stack_episode
from gato.errors import DatasetMissingError
from gato.worlds import find
from gato.worlds.traces import (
    Trace,
    TraceError,
    installed_versions,
    read_traces,
    record,
    replay,
    trace_path,
    verify,
    write_traces,
)  # fmt: skip

TASK = "ale-atari/breakout"
BROUGHT = ["ale-atari/boxing", "ale-atari/breakout", "ale-atari/freeway", "ale-atari/pong"]


def _played(task_id: str, steps: int, seed: int = 7, noisy: bool = False) -> tuple[Episode, Trace]:
    """Random play, recorded by hand; where noisy, the targets differ from what was executed."""
    task, rng = find(task_id), np.random.default_rng(seed)
    env = task.make()
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed, options={"wide": True} if noisy else None)
    observations, executed, rewards = [], [], []
    for _ in range(steps):
        observations.append(observation)
        executed.append(env.action_space.sample())
        observation, reward, terminated, truncated, _ = env.step(executed[-1])
        rewards.append(reward)
        if terminated or truncated:
            break
    targets = executed
    if noisy:
        targets = [env.action_space.sample() if rng.random() < 0.5 else action for action in executed]
    info = {"seed": seed, "source": "random"} | ({"wide": True, "noise": {"scale": 0.5}} if noisy else {})
    episode = stack_episode(task_id, task.spec, observations, targets, rewards, executed if noisy else None, info)
    trace = record(episode, env)
    env.close()
    return episode, trace


def _same(a: Episode, b: Episode) -> None:
    for side in ("observations", "actions", "executed"):
        left, right = getattr(a, side), getattr(b, side)
        assert (left is None) == (right is None)
        for path in left or {}:
            np.testing.assert_array_equal(left[path], right[path])
            assert left[path].dtype == right[path].dtype
    np.testing.assert_array_equal(a.rewards, b.rewards)
    assert a.info == b.info


@pytest.fixture(scope="module")
def breakout() -> tuple[Episode, Trace]:
    return _played(TASK, 150, noisy=True)


@pytest.mark.parametrize("noisy", [False, True])
def test_there_and_back(tmp_path, noisy):
    episode, trace = _played(TASK, 100, noisy=noisy)
    path = tmp_path / "t.parquet"
    write_traces(path, TASK, [trace])
    (read,) = read_traces(TASK, path)
    assert read.state == trace.state and read.frames and len(read) == len(episode)
    _same(replay(TASK, read), episode)
    assert verify(TASK, path) == 1


def test_continuous_actions_keep_every_bit(tmp_path):
    pytest.importorskip("dm_control")
    task = "dm-control-suite/cartpole-balance"
    episode, trace = _played(task, 40)
    assert trace.frames == ""  # rendering differs between machines, so only emulators promise frames
    write_traces(tmp_path / "t.parquet", task, [trace])
    _same(replay(task, read_traces(task, tmp_path / "t.parquet")[0]), episode)


def test_one_environment_serves_many_traces(tmp_path, breakout):
    other = _played(TASK, 60, seed=8)[1]
    write_traces(tmp_path / "t.parquet", TASK, [breakout[1], other, breakout[1]])
    assert verify(TASK, tmp_path / "t.parquet") == 3


def test_no_partial_file_remains(tmp_path, breakout):
    write_traces(tmp_path / "t.parquet", TASK, [breakout[1]])
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: {"seed": t.seed + 1}, "come true"),
        (lambda t: {"executed": {"action": 3 - t.executed["action"]}}, "come true"),
        (lambda t: {"rewards": t.rewards + np.float32(1)}, "reward 0 at step 0, recorded was 1"),
        (lambda t: {"state": "0" * 64}, "the final state differs"),
        (lambda t: {"frames": "0" * 64}, "the frames differ"),
    ],
    ids=["seed", "actions", "rewards", "state", "frames"],
)
def test_an_untrue_trace_says_so(breakout, change, says):
    trace = dataclasses.replace(breakout[1], **change(breakout[1]))
    with pytest.raises(TraceError, match=says) as caught:
        replay(TASK, trace)
    assert TASK in caught.value.where and caught.value.fix and caught.value.exit_code == 3


def test_another_version_is_named_when_a_trace_fails(breakout):
    trace = dataclasses.replace(breakout[1], state="0" * 64, versions={"ale-py": "0.1"})
    with pytest.raises(TraceError, match=r"recorded with \{'ale-py': '0.1'\}"):
        replay(TASK, trace)


def test_an_episode_longer_than_the_game_is_untrue(breakout):
    trace = breakout[1]
    more = {"action": np.concatenate([trace.executed["action"]] + [np.zeros(4000, np.int64)])}
    long = dataclasses.replace(
        trace, executed=more, actions=more, rewards=np.concatenate([trace.rewards, np.zeros(4000, np.float32)])
    )
    with pytest.raises(TraceError, match="ended at step"):
        replay(TASK, long)


def test_every_flipped_byte_of_the_pages_is_seen(tmp_path, breakout):
    path, broken = tmp_path / "t.parquet", tmp_path / "broken.parquet"
    write_traces(path, TASK, [breakout[1]])
    whole = path.read_bytes()
    seen = 0
    for at in range(60, len(whole) // 2, 97):
        broken.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            (read,) = read_traces(TASK, broken)
        except TraceError:
            seen += 1
        else:  # a byte that carries nothing, such as a page header's statistics
            np.testing.assert_array_equal(read.executed["action"], breakout[1].executed["action"])
            assert (read.seed, read.state, read.frames) == (breakout[1].seed, breakout[1].state, breakout[1].frames)
    assert seen


@pytest.mark.parametrize("size", [0, 3, 200, -1])
def test_a_truncated_file_is_a_named_error(tmp_path, breakout, size):
    path = tmp_path / "t.parquet"
    write_traces(path, TASK, [breakout[1]])
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TraceError) as caught:
        read_traces(TASK, path)
    assert str(path) in caught.value.where


def test_the_traces_of_another_task_are_refused(tmp_path, breakout):
    write_traces(tmp_path / "t.parquet", TASK, [breakout[1]])
    with pytest.raises(TraceError, match="ale-atari/breakout, not of ale-atari/pong"):
        read_traces("ale-atari/pong", tmp_path / "t.parquet")


def test_no_traces_is_a_named_error():
    with pytest.raises(DatasetMissingError, match="no traces of ale-atari/tennis"):
        read_traces("ale-atari/tennis")


@pytest.mark.parametrize("task_id", BROUGHT)
def test_what_the_package_brings(task_id):
    """Small, of the installed version's kind, with clean and noisy episodes; the shortest one replays."""
    assert trace_path(task_id).stat().st_size < 300_000
    traces = read_traces(task_id)
    assert len(traces) >= 4 and all(t.state and t.frames for t in traces)
    assert any(t.executed is None for t in traces) and any(t.executed is not None for t in traces)
    assert len({t.seed for t in traces}) == len(traces)
    shortest = min(traces, key=len)
    if dict(shortest.versions) == installed_versions(find(task_id)):
        assert replay(task_id, shortest).total_return == shortest.total_return


def test_a_trace_file_can_be_copied(tmp_path):
    shutil.copy(trace_path(TASK), tmp_path / "copy.parquet")
    assert len(read_traces(TASK, tmp_path / "copy.parquet")) == len(read_traces(TASK))
