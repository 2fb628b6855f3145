"""Meta-World: the list is the package's, seeds decide everything, the goal is in sight, scripts succeed."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("metaworld")

from gato.rollouts import CLEAN, ExpertPolicy, LocalSlot, Noise, Unit, rollout
from gato.worlds import find, meta_world

SOME = ["reach", "push", "drawer-close", "button-press", "window-open", "pick-place"]


def play(env, seed, steps, wide=False):
    """Observations, rewards and successes of random actions."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed, options={"wide": wide})
    seen = [observation]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
        seen += [observation, np.array([reward])]
        if terminated or truncated:
            break
    return seen


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_list_is_the_packages_own():
    from metaworld.env_dict import ENV_CLS_MAP
    from metaworld.policies import ENV_POLICY_MAP

    ours = [task.meta["simulator_id"] for task in meta_world.tasks() if task.domain == "meta-world"]
    assert set(ours) == set(ENV_CLS_MAP) == set(ENV_POLICY_MAP) and len(ours) == 50
    assert find("meta-world/push").meta["simulator_id"] == "push-v3"


@pytest.mark.parametrize("name", ["reach", "door-open", "stick-pull", "peg-insert-side"])
def test_the_seed_decides(name):
    env, other = find(f"meta-world/{name}").make(), find(f"meta-world/{name}").make()
    plain, wide = play(env, 1, 40), play(env, 2, 40, wide=True)
    assert same(plain, play(env, 1, 40)) and same(wide, play(env, 2, 40, wide=True))  # whatever came between
    assert same(plain, play(other, 1, 40))
    assert not same(plain, play(env, 2, 40))
    assert not same(wide, play(env, 2, 40))


@pytest.mark.parametrize("name", meta_world.NAMES)
def test_the_goal_stays_in_sight(name):
    """In reset and in step: the simulator's cached bounds would clip it to zero in the second."""
    env = find(f"meta-world/{name}").make()
    for seed in range(2):
        for observation in play(env, seed, 2, wide=seed == 1)[::2]:
            if len(observation) == 1:
                continue
            assert observation.dtype == np.float32 and env.observation_space.contains(observation)
            np.testing.assert_allclose(observation[36:], env.simulator._target_pos, atol=1e-6)
            assert np.abs(observation[36:]).max() > 0.01
    env.close()


@pytest.mark.parametrize("name", ["reach", "door-open"])
def test_physics_state_is_appended(name):
    """The same episode, with qpos and qvel after the 39 values; and the script still reads what it knows."""
    plain, more = find(f"meta-world/{name}").make(), find(f"meta-world-physics-state/{name}").make()
    policy = meta_world.scripted_policy(more)
    short, _ = plain.reset(seed=3)
    long, info = more.reset(seed=3)
    for _ in range(30):
        data = more.simulator.data
        assert more.observation_space.contains(long)
        np.testing.assert_array_equal(long[:39], short)
        np.testing.assert_allclose(long[39:], np.concatenate([data.qpos, data.qvel]), rtol=1e-6)
        action = policy(long, info)
        short, *_ = plain.step(action)
        long, *_, info = more.step(action)
    assert np.abs(long[39:]).max() > 0.1


def test_the_middle_is_the_step_before():
    env = find("meta-world/push").make()
    first, _ = env.reset(seed=0, options={"wide": True})
    second, *_ = env.step(np.ones(4, np.float32))
    np.testing.assert_array_equal(second[18:36], first[:18])


def test_ends_at_the_first_success_or_after_500_steps():
    env = find("meta-world/reach").make()
    policy = meta_world.scripted_policy(env)
    observation, info = env.reset(seed=0)
    assert info == {"success": False}
    for _ in range(500):
        observation, _, terminated, truncated, info = env.step(policy(observation, info))
        assert terminated is info["success"] and not truncated
        if terminated:
            break
    assert terminated
    env = find("meta-world/assembly").make()
    env.reset(seed=0, options={"wide": True})
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(500)]
    assert ends == [(False, False)] * 499 + [(False, True)]  # the steps of a wide start do not count


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("kind", ["clean", "wide", "noise"])
def test_scripts_succeed(name, kind):
    noise = Noise(0.2, 0.03, 10) if kind == "noise" else CLEAN
    units = [Unit(f"meta-world/{name}", seed, noise, kind != "clean") for seed in range(10)]
    episodes = list(rollout(units, [LocalSlot()], ExpertPolicy()))
    assert sum(episode.success for episode in episodes) >= (8 if kind == "noise" else 10)


def test_wide_starts_move_the_hand_and_solve_nothing():
    env = find("meta-world/drawer-close").make()
    places = []
    for seed in range(20):
        observation, _ = env.reset(seed=seed, options={"wide": True})
        places.append(observation[:3])
        assert not env.step(np.array([0, 0, 0, -1], np.float32))[4]["success"]
    assert np.std(places, axis=0).min() > 0.02  # metres
    assert env.simulator.curr_path_length == 1


def test_render():
    env = find("meta-world/push").make(render=True)
    env.reset(seed=0)
    before = env.render()
    for _ in range(20):
        env.step(np.array([1, 0, 0, 0], np.float32))
    after = env.render()
    assert before.shape == (128, 128, 3) and before.dtype == np.uint8
    assert before.std() > 10 and (before != after).mean() > 0.005  # the arm moved, and `before` was not overwritten
    assert before[:20].mean() < before[-40:].mean() + 60  # a grey room above
    env.close()
    env.close()


def test_without_gl_only_pictures_fail():
    """A device that does not exist: physics still runs, and the error says what to install."""
    code = (
        "from gato.worlds import find; from gato.errors import WorldError\n"
        "task = find('meta-world/reach'); env = task.make(); env.reset(seed=0)\n"
        "try: task.make(render=True)\n"
        "except WorldError as error: assert 'apt-get install' in error.fix and error.where == task.id; print('named')\n"
    )
    env = os.environ | {"MUJOCO_EGL_DEVICE_ID": "999"}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert result.stdout.strip() == "named", result.stderr
