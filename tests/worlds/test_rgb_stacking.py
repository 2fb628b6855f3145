"""RGB stacking: the cell is the published one, seeds decide everything, the hand goes where it is told, the script stacks.

Whole episodes take seconds of physics each, so they are marked slow.
"""

import copy

import numpy as np
import pytest

pytest.importorskip("dm_robotics.manipulation")

from gato.testing import check_task
from gato.worlds import find, rgb_stacking
from gato.worlds.rgb_stacking import (
    COLOURS,
    FLOOR,
    HOLD,
    MAX_STEPS,
    MAX_VELOCITY,
    TRIPLETS,
    WORKSPACE,
    RGBStacking,
    advance,
    is_stacked,
    training_objects,
    upright,
)
from gato.worlds.rgb_stacking_expert import RED, Stacker, corners, ranked, top


@pytest.fixture(scope="module")
def env():
    made = RGBStacking("triplet-4", pixels=False)
    made.reset(seed=0)
    return made


def put(env, red, blue):
    """Red and blue objects there, upright, green out of the way, everything at rest."""
    import mujoco

    for colour, place in ((0, red), (1, (0.5, 0.11, FLOOR + 0.03)), (2, blue)):
        at = env.cell.object_qpos[colour]
        env.data.qpos[at : at + 7] = [*place, 1.0, 0.0, 0.0, 0.0]
    env.data.qvel[:] = 0.0
    mujoco.mj_forward(env.cell.model, env.data)


def test_triplets_and_splits_are_the_packages():
    from dm_robotics.manipulation.props.rgb_objects import rgb_object

    assert [rgb_object.PROP_TRIPLETS_TEST[f"rgb_test_triplet{i}"].ids for i in range(1, 6)] == list(TRIPLETS.values())
    train = training_objects()
    assert len(train) > 90 and not set(train) & {name for ids in TRIPLETS.values() for name in ids}
    for learn, test in rgb_stacking.SPLITS.values():
        assert all(find(task).meta["objects"] for task in (*learn, *test)) and len(test) == 5
    assert find("rgb-stacking/skill-generalization").meta["objects"] == "train"


def test_the_seed_decides(env):
    def play(seed, wide=False):
        observation, _ = env.reset(seed=seed, options={"wide": wide})
        seen = [observation]
        for t in range(6):
            action = {"arm": MAX_VELOCITY * [0.5, -1, -1, (-1) ** t], "gripper": t % 2}
            seen.append(env.step(action)[0])
        return [np.concatenate([step[key] for key in sorted(step)]) for step in seen]

    one, two, wide = play(1), play(2), play(1, True)
    assert all(map(np.array_equal, play(1), one)) and all(map(np.array_equal, play(1, True), wide))
    assert not np.array_equal(one[0], two[0]) and not np.array_equal(one[0], wide[0])


def test_random_triplets_come_from_their_sets():
    made = RGBStacking("skill-generalization", pixels=False)
    drawn = set()
    for seed in range(200):
        made.np_random = np.random.default_rng(seed)
        drawn |= set(made._draw_triplet())
    assert drawn <= set(training_objects()) and len(drawn) > 80
    _, info = made.reset(seed=3)
    assert info["objects"] == made.ids and set(made.ids) <= set(training_objects())


@pytest.mark.parametrize("axis", range(3))
def test_the_hand_goes_where_it_is_told(env, axis):
    env.reset(seed=0)
    data = env.data
    for _ in range(20):  # into the middle of the workspace
        advance(env.cell, data, np.append((WORKSPACE.mean(axis=0) - data.site_xpos[env.cell.pinch]) * 3, 0), False)
    before = data.site_xpos[env.cell.pinch].copy()
    arm = np.zeros(4)
    arm[axis] = 0.05
    for _ in range(10):
        advance(env.cell, data, arm, False)
    moved = data.site_xpos[env.cell.pinch] - before
    assert 0.015 < moved[axis] < 0.03 and np.abs(np.delete(moved, axis)).max() < 0.004  # half a second, less the lag
    assert np.linalg.norm(upright(env.cell, data)) < np.radians(1)


@pytest.mark.slow
def test_the_hand_stays_in_its_workspace(env):
    env.reset(seed=1)
    for _ in range(110):
        env.step({"arm": np.array([0.07, 0.07, -0.07, 1.0], np.float32), "gripper": 1})
    assert (env.data.site_xpos[env.cell.pinch] < WORKSPACE[1] + 0.012).all()  # a tenth of a second beyond, at most
    assert env.data.site_xpos[env.cell.pinch][2] > WORKSPACE[0, 2] - 0.012
    assert abs(env.data.qpos[6]) < np.pi / 2 + 0.15


def test_stacked_means_on_blue_and_on_nothing_else(env):
    import mujoco

    env.reset(seed=0)
    height = np.ptp(corners(env.cell, env.data, 2)[:, 2])
    put(env, (0.6, 0.0, FLOOR + 0.2), (0.6, 0.0, FLOOR + 0.03))
    assert not is_stacked(env.cell, env.data)  # in the air
    mujoco.mj_step(env.cell.model, env.data, 600)
    mujoco.mj_forward(env.cell.model, env.data)
    assert height > 0.02 and is_stacked(env.cell, env.data)  # it fell onto blue
    put(env, (0.66, 0.0, FLOOR + 0.03), (0.58, 0.0, FLOOR + 0.03))
    mujoco.mj_step(env.cell.model, env.data, 300)
    mujoco.mj_forward(env.cell.model, env.data)
    assert not is_stacked(env.cell, env.data)  # beside it


def test_an_episode_ends_with_a_standing_stack_and_not_before(env):
    env.reset(seed=0)
    put(env, (0.6, 0.0, FLOOR + 0.1), (0.6, 0.0, FLOOR + 0.03))
    still = {"arm": np.zeros(4, np.float32), "gripper": 0}
    rewards, ended, info = [], False, {}
    while not ended:
        _, reward, terminated, truncated, info = env.step(still)
        rewards.append(reward)
        ended = terminated or truncated
    assert info["success"] and HOLD <= len(rewards) < 60 and sum(rewards) == rewards[-1] == 1.0


def test_pictures_show_the_objects():
    made = RGBStacking("triplet-4", pixels=True)
    observation, _ = made.reset(seed=2)
    for name in rgb_stacking.CAMERAS:
        picture = observation[name].astype(int)
        assert picture.shape == (128, 128, 3)
        bright = [(picture[..., i] - np.delete(picture, i, axis=2).max(axis=2) > 60).sum() for i in range(3)]
        assert min(bright) > 30, (name, dict(zip(COLOURS, bright, strict=True)))
    assert not set(COLOURS) & set(observation)  # nothing tells where the objects are
    made.close()
    made.close()


def test_plans_fit_between_the_fingers(env):
    env.reset(seed=5)
    points = corners(env.cell, env.data, RED)
    plans = ranked(env.cell, env.data, RED, np.random.default_rng(0))
    for plan in plans:
        width = np.ptp(points @ [np.cos(plan.yaw), np.sin(plan.yaw), 0.0])
        assert width < 0.085 and plan.height > 0
    assert top(env.cell, env.data, RED)[2] == pytest.approx(points[:, 2].max())


@pytest.mark.slow
def test_rehearsal_leaves_the_world_alone(env):
    observation, info = env.reset(seed=4)
    before = copy.copy(env.data)
    Stacker(env, 4)(observation, info)
    np.testing.assert_array_equal(before.qpos, env.data.qpos)
    np.testing.assert_array_equal(before.act, env.data.act)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIPLETS)
def test_the_script_stacks(name):
    made = RGBStacking(name, pixels=False)
    solved = 0
    for seed in range(4):
        observation, info = made.reset(seed=seed)
        policy, ended, steps = Stacker(made, seed), False, 0
        while not ended:
            observation, _, terminated, truncated, info = made.step(policy(observation, info))
            ended, steps = terminated or truncated, steps + 1
        solved += info["success"]
        assert steps <= MAX_STEPS
    assert solved >= 3


@pytest.mark.slow
def test_contract():
    check_task("rgb-stacking/triplet-2", steps=20, expert_steps=2)
