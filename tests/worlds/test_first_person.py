"""MiniWorld, ViZDoom and the mazes on their real simulators: pictures, determinism, reuse, and that the experts get there."""

from __future__ import annotations

import numpy as np
import pytest

from gato.worlds import find, select


def needed(task_id):
    """The task, or a skipped test. Nothing is imported: MiniWorld must be imported by its adapter, which has no screen."""
    task = find(task_id)
    if not task.installed:
        pytest.skip(f"{task_id} needs {', '.join(task.requires)}")
    return task


def finish(env, task, seed, **reset):
    """The expert's return, its success and its number of steps; whether it was disturbed is the caller's."""
    observation, info = env.reset(seed=seed, **reset)
    act, total, steps, over = task.expert(env.unwrapped, seed), 0.0, 0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step(act(observation, info))
        total, steps, over = total + reward, steps + 1, terminated or truncated
    return total, bool(info.get("success")), steps


@pytest.mark.parametrize(
    ("name", "at_least"), [("hallway", 0.9), ("maze-s2", 0.8), ("sign", 1.0), ("one-room-s6", 0.9)]
)
def test_miniworld_experts_arrive(name, at_least):
    task = needed(f"miniworld/{name}")
    env = task.make()
    assert all(finish(env, task, seed)[0] >= at_least for seed in (11, 12))
    env.close()


def test_two_worlds_of_one_process_do_not_paint_over_each_other():
    one, other = needed("miniworld/t-maze").make(), needed("miniworld/hallway").make()
    alone, _ = one.reset(seed=3)
    alone = [alone, *(one.step(a)[0] for a in (0, 0, 2, 2))]
    beside, _ = one.reset(seed=3)
    beside = [beside]
    other.reset(seed=4)
    for action in (0, 0, 2, 2):
        other.step(2)
        beside.append(one.step(action)[0])
    assert all((a == b).all() for a, b in zip(alone, beside, strict=True))
    assert all(alone[0].std((0, 1)) > 5)
    one.close(), other.close()


def test_a_closed_miniworld_is_used_again():
    task = needed("miniworld/hallway")
    first = task.make()
    world = first.world
    first.close(), first.close()
    second, third = task.make(), task.make()
    assert second.world is world and third.world is not world
    second.close(), third.close()


def test_levels_without_a_reward_are_left_out():
    names = {task.id for task in select("miniworld/*")}
    assert len(names) == 21 and not names & {"miniworld/three-rooms", "miniworld/room-objects"}


@pytest.mark.parametrize(
    ("name", "at_least"), [("basic", 50), ("my-way-home", 0.5), ("health-gathering", 1500), ("predict-position", 0.5)]
)
def test_vizdoom_scripts_do_their_job(name, at_least):
    task = needed(f"vizdoom/{name}")
    env = task.make()
    assert finish(env, task, 21)[0] >= at_least
    env.close()


def test_vizdoom_leaves_nothing_in_the_current_folder(tmp_path, monkeypatch):
    task = needed("vizdoom/basic")
    monkeypatch.chdir(tmp_path)
    env = task.make()
    env.reset(seed=1)
    env.close(), env.close()
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_is_the_same_episode_and_is_repeated_until_disturbed():
    task = needed("vizdoom/predict-position")
    from gato.worlds.vizdoom_scripts import Leader, Rehearsed

    env = task.make()
    observation, info = env.reset(seed=5)
    env.see_all()
    policy = Rehearsed(env, 5, Leader, 3, 2)
    rehearsed = policy._best
    for step in range(4):
        action = policy(observation, info)
        assert action == rehearsed[step]
        observation, _, _, _, info = env.step(action)
    wrong = (rehearsed[4] + 1) % env.action_space.n
    observation, _, _, _, info = env.step(wrong)
    assert env.action_space.contains(np.int64(policy(observation, info))) and policy._followed == 4
    twin = env.rehearsal()
    assert (twin._seen["image"] == env.reset(seed=5)[0]["image"]).all()
    env.close()


@pytest.mark.parametrize("options", [{}, {"wide": True}])
def test_an_engine_that_begins_to_see_all_comes_back_to_where_it_was(options):
    task = needed("vizdoom/defend-the-center")
    blind, seeing = task.make(), task.make()
    actions = np.random.default_rng(0).integers(blind.action_space.n, size=40).tolist()
    for env in (blind, seeing):
        env.reset(seed=8, options=options)
        for action in actions[:20]:
            env.step(action)
    seeing.see_all()
    assert seeing.state.objects and blind.state.objects is None and seeing.state_bytes() == blind.state_bytes()
    for action in actions[20:]:
        one, other = blind.step(action), seeing.step(action)
        assert np.array_equal(one[0]["image"], other[0]["image"]) and one[1:] == other[1:]
    assert seeing.state_bytes() == blind.state_bytes()
    blind.close(), seeing.close()


def test_the_ball_does_not_pass_walls_and_the_expert_finds_every_apple():
    task = needed("dm-control-maze/many-goals-small")
    env = task.make()
    env.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(80):
        env.step(np.array([1.0, rng.uniform(-1, 1)], np.float32))
        x, y, _ = env.me()
        row, column = round((env.cells - 1) / 2 - y / 2), round(x / 2 + (env.cells - 1) / 2)
        assert not env.walls[row, column]
    env.reset(seed=2)
    apples = len(env.things)
    total, success, steps = finish(env, task, 2)
    assert (total, success) == (apples, True) and steps < task.max_steps
    env.close()


def test_mazes_of_two_seeds_differ_and_one_seed_is_one_maze():
    task = needed("dm-control-maze/random-goal-small")
    env = task.make()
    first = env.reset(seed=1)[0]["image"], env.walls.copy()
    second = env.reset(seed=2)[0]["image"], env.walls.copy()
    again = env.reset(seed=1)[0]["image"], env.walls.copy()
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[0] != second[0]).any() and (first[1] != second[1]).any()
    env.close()


def test_vizdoom_sees_the_same_in_both_pictures():
    """The observation is the rendered screen made small, red, green and blue in their places."""
    from PIL import Image

    env = needed("vizdoom/basic").make()
    observation, _ = env.reset(seed=3)
    screen = env.render()
    assert screen.shape == (120, 160, 3)
    slow = Image.fromarray(screen).resize((80, 64), Image.Resampling.BOX)
    assert np.array_equal(observation["image"], np.asarray(slow))
    env.close()
