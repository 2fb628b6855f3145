"""Experts of the Shadow hand on its real simulator: that they count angles as it does, plan with its actions, and get there."""

from __future__ import annotations

import numpy as np
import pytest

from gato.worlds import find, hands


def made(name):
    task = find(f"gymnasium-robotics/{name}")
    if not task.installed:
        pytest.skip(task.pip_line)
    return task, task.make()


def test_an_angle_without_the_pens_own_turn_is_what_the_environment_measures():
    _, env = made("hand-pen-rotate-v1")
    turned, goals = np.random.default_rng(0).normal(size=(2, 500, 4))
    turned, goals = (q / np.linalg.norm(q, axis=1, keepdims=True) for q in (turned, goals))
    assert (turned[:, 0] < 0).any() and (goals[:, 0] < 0).any()
    for now, goal in zip(turned, goals, strict=True):
        expected = env.unwrapped._goal_distance(np.array([0, 0, 0, *now]), np.array([0, 0, 0, *goal]))[1]
        found = 2 * np.arccos(np.clip(hands._spinless(now) @ hands._spinless_goal(goal), -1, 1))
        assert found == pytest.approx(expected, abs=1e-6)
    env.close()


def test_a_model_that_takes_actions_moves_as_the_environment_does():
    import mujoco

    _, env = made("hand-reach-v3")
    env.reset(seed=3)
    world = env.unwrapped
    model = hands.taking_actions(world)
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    for _ in range(5):
        data.qpos[:], data.qvel[:], data.time = world.data.qpos, world.data.qvel, world.data.time
        data.qacc_warmstart[:] = world.data.qacc_warmstart
        action = rng.uniform(-1, 1, 20).astype(np.float32)
        env.step(action)
        data.ctrl[:] = action
        mujoco.mj_step(model, data, world.n_substeps)
        assert np.allclose(data.qpos, world.data.qpos, atol=1e-6)
    assert (world.model.actuator_ctrlrange != model.actuator_ctrlrange).any()  # its own is left as it was
    env.close()


@pytest.mark.parametrize(("name", "seed"), [("hand-reach-v3", 1), ("hand-block-rotate-z-v1", 6)])
def test_the_expert_gets_there(name, seed):
    task, env = made(name)
    observation, info = env.reset(seed=seed)
    assert not env.unwrapped._is_success(observation["achieved_goal"], observation["desired_goal"])
    act = task.expert(env.unwrapped, seed)
    for _ in range(30):
        before = env.unwrapped.data.qpos.copy()
        action = act(observation, info)
        assert np.array_equal(env.unwrapped.data.qpos, before)  # planned on a copy
        assert env.action_space.contains(action)
        observation, *_, info = env.step(action)
    assert info["is_success"]
    env.close()
