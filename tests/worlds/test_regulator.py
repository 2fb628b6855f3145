"""Feedback to the zero position: against a law derived by hand, on poles that fall without it, and as endings of a plan."""

import dataclasses

import mujoco
import numpy as np
import pytest

from gato.worlds import find
from gato.worlds.predictive import PLANNING, PredictiveControl
from gato.worlds.regulator import Regulator, gains

FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS


@pytest.fixture
def acrobot():
    env = find("dm-control-suite/acrobot-swingup").make()
    env.reset(seed=0)
    return env


def regulator(env):
    low, high = env.action_space.low.astype(float), env.action_space.high.astype(float)
    return Regulator(env.physics.model.ptr, env.num_substeps, low, high)


def put(env, angles):
    with env.physics.reset_context():
        env.physics.data.qpos[:], env.physics.data.qvel[:] = angles, 0.0


def test_a_cart_on_a_rail_has_the_law_of_the_textbook():
    """x' = x + h v', v' = v + h u / m: iterated by hand to the fixed point of the Riccati equation."""
    body = "<body><joint name='x' type='slide' axis='1 0 0'/><geom size='.1' mass='2'/></body>"
    text = f"<mujoco><option timestep='.1' gravity='0 0 0'/><worldbody>{body}</worldbody>"
    model = mujoco.MjModel.from_xml_string(text + "<actuator><motor joint='x' gear='3'/></actuator></mujoco>")
    a, b = np.array([[1, 0.1], [0, 1]]), np.array([[0.1 * 0.1 * 3 / 2], [0.1 * 3 / 2]])
    costs, effort, future = np.diag([4.0, 0.5]), 7.0, np.eye(2)
    for _ in range(3000):
        law = (b.T @ future @ a) / (effort + b.T @ future @ b)
        future = costs + a.T @ future @ (a - b @ law)
    assert gains(model, 1, position=4.0, velocity=0.5, effort=7.0) == pytest.approx(law, rel=1e-6)


def test_it_holds_what_falls_without_it(acrobot):
    """From within its reach, which is small, for the motor is weak."""
    law = regulator(acrobot)

    def last_reward(policy):
        acrobot.reset(seed=0)
        put(acrobot, [0.02, -0.08])
        return [acrobot.step(policy())[1] for _ in range(400)][-1]

    assert last_reward(lambda: np.zeros(1)) < 0.5
    assert last_reward(lambda: law(acrobot.physics.data.ptr)) == 1.0


def test_angles_count_from_the_nearest_full_turn(acrobot):
    law, data = regulator(acrobot), acrobot.physics.data.ptr
    put(acrobot, [0.02, -0.03])
    near = law(data)
    put(acrobot, [0.02 + 4 * np.pi, -0.03 - 2 * np.pi])
    assert near != 0 and law(data) == pytest.approx(near, abs=1e-9)
    put(acrobot, [3.0, 0.0])
    assert abs(law(data)) == 1.0  # far away it asks for all that there is


def test_a_slide_and_a_hinge_with_a_stop_do_not_turn():
    env = find("dm-control-suite/cartpole-two-poles").make()
    env.reset(seed=0)
    law = regulator(env)
    put(env, [1.7, 0.0, 0.0])
    right = law(env.physics.data.ptr)
    put(env, [1.7 - 2 * np.pi, 0.0, 0.0])
    assert right != pytest.approx(law(env.physics.data.ptr), abs=1e-3)


def test_endings_keep_the_plan_up_to_where_they_give_it_up(acrobot):
    put(acrobot, [0.1, 0.0])
    state = np.empty(mujoco.mj_stateSize(acrobot.physics.model.ptr, FULL))
    mujoco.mj_getState(acrobot.physics.model.ptr, acrobot.physics.data.ptr, state, FULL)
    plan = np.random.default_rng(0).uniform(-1, 1, (50, 1))
    endings = regulator(acrobot).endings(state, plan, 20)
    assert endings.shape == (3, 50, 1)
    law = regulator(acrobot)
    for ending, begin in zip(endings, (0, 20, 40), strict=True):
        assert np.array_equal(ending[:begin], plan[:begin])
        put(acrobot, [0.1, 0.0])
        for step, action in enumerate(ending):
            if step >= begin:
                assert law(acrobot.physics.data.ptr) == pytest.approx(action, abs=1e-9)
            acrobot.step(action)


def test_the_planner_that_may_hold_stays_up(acrobot):
    """Two seconds. By sampling alone it falls. It repeats itself, and leaves the world as it was."""
    planning = PLANNING["acrobot-swingup"]
    put(acrobot, [0.02, -0.02])
    before = acrobot.physics.get_state().copy()
    first, again = (PredictiveControl(planning, acrobot, 1)(None) for _ in range(2))
    assert np.array_equal(first, again) and np.array_equal(before, acrobot.physics.get_state())

    def least_reward(planning):
        acrobot.reset(seed=0)
        put(acrobot, [0.02, -0.02])
        policy = PredictiveControl(planning, acrobot, 1)
        return min(acrobot.step(policy(None))[1] for _ in range(200))

    assert least_reward(planning) == 1.0
    assert least_reward(dataclasses.replace(planning, hold=0)) < 0.5
