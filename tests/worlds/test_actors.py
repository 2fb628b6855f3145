"""Trained actors: what they sense is the body wherever it stands, and they act as well as they are listed for."""

import json
from importlib import resources

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("dm_control")

import mujoco

from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.worlds import actors, find, select

ACTED = [task.id for task in select("*") if task.expert_name == "trained actor" and not task.same_world]
BORROWED = {  # the actor of the same body, or almost
    "gym-mujoco/half-cheetah-v5", "gym-mujoco/walker2d-v5", "dm-control-suite-random-small/cheetah-run",
}  # fmt: skip
OWN = [task for task in ACTED if task not in BORROWED]

BODY = """
<mujoco>
  <worldbody>
    <body name="free" pos="0 0 1"><freejoint/><geom size=".1 .2 .3" type="box"/>
      <body pos="0 0 .3"><joint name="bend" type="hinge" axis="0 1 0" range="-90 90" limited="true"/><geom size=".1"/></body>
      <body pos="0 0 -.3"><joint name="spin" type="hinge" axis="1 0 0" limited="false"/><geom size=".1"/></body>
    </body>
    <body name="cart"><joint name="along" type="slide" axis="1 0 0"/><joint name="up" type="slide" axis="0 0 1"/>
      <joint name="rail" type="slide" axis="0 1 0" range="-1 1" limited="true"/><geom size=".1"/></body>
  </worldbody>
</mujoco>
"""


def sensed(model, data):
    return actors.body_state(model, data.qpos[None], data.qvel[None])[0]


def test_a_body_is_sensed_joint_by_joint():
    """Height, nine numbers of the turn, an angle, sine and cosine, two of three slides; then velocities."""
    model = mujoco.MjModel.from_xml_string(BODY)
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    data.qpos[:] = [3.0, -2.0, 1.5, *(rng.normal(size=4)), 0.7, 4.0, 9.0, 0.2, -0.3]
    data.qpos[3:7] /= np.linalg.norm(data.qpos[3:7])
    data.qvel[:] = rng.normal(size=model.nv)
    mujoco.mj_forward(model, data)
    seen = sensed(model, data)
    turn, local = np.empty(9), np.empty(6)
    mujoco.mju_quat2Mat(turn, data.qpos[3:7])
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, model.body("free").id, local, 1)
    expected = [1.5, *turn, 0.7, np.sin(4.0), np.cos(4.0), 0.2, -0.3, *local[3:], *local[:3], *data.qvel[6:]]
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)


def test_where_it_stands_does_not_matter():
    model = mujoco.MjModel.from_xml_string(BODY)
    data = mujoco.MjData(model)
    before = sensed(model, data)
    data.qpos[:2], data.qpos[9] = [7.0, -4.0], 100.0
    np.testing.assert_array_equal(sensed(model, data), before)
    data.qpos[10] = 0.1
    assert (sensed(model, data) != before).sum() == 1


@pytest.mark.parametrize("angle", [0.5, -2.0, np.pi])
def test_a_turned_body_is_the_body_seen_by_who_turned_the_other_way(angle):
    """A body that is turned by an angle and then moves goes where it would have gone, turned by the same."""
    model = mujoco.MjModel.from_xml_string(BODY)
    model.opt.gravity[2] = 0.0  # so that nothing but its motion moves it
    data, other = mujoco.MjData(model), mujoco.MjData(model)
    rng = np.random.default_rng(1)
    data.qpos[3:7], data.qvel[:6] = rng.normal(size=4), rng.normal(size=6)
    data.qpos[3:7] /= np.linalg.norm(data.qpos[3:7])
    kept = data.qpos.copy(), data.qvel.copy()
    other.qpos[:], other.qvel[:] = actors.turned(data.qpos, data.qvel, angle)
    assert np.array_equal(data.qpos, kept[0]) and np.array_equal(data.qvel, kept[1])  # and is left as it was
    began = data.qpos[:3].copy()
    for d in (data, other):
        mujoco.mj_step(model, d, 50)
    x, y, z = data.qpos[:3] - began
    moved = [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle), z]
    np.testing.assert_allclose(other.qpos[:3] - began, moved, atol=1e-9)
    np.testing.assert_allclose(other.qvel[3:], data.qvel[3:], atol=1e-9)


def test_the_files_are_small_and_of_tasks_that_there_are():
    folder = resources.files("gato.worlds") / "actors"
    files = [f for f in folder.iterdir() if f.name.endswith(".safetensors")]
    assert sorted(f.name for f in files) == sorted(f"{task.replace('/', '--')}.safetensors" for task in OWN)
    assert sum(len(f.read_bytes()) for f in files) < 4_000_000
    assert set(json.loads((folder / "trained.json").read_text())) == set(OWN)


@pytest.mark.parametrize("task", ACTED)
def test_an_actor_fits_its_task_and_is_a_function_of_the_state(task):
    env = find(task).make()
    observation, info = env.reset(seed=3)
    policy, again = (find(task).expert(env.unwrapped, seed) for seed in (0, 1))
    action = policy(observation, info)
    assert env.action_space.contains(action) and np.array_equal(action, again(observation, info))


@pytest.mark.parametrize("task", OWN)
def test_weights_are_finite(task):
    assert all(np.isfinite(w).all() for w in actors.weights(task).values())


@pytest.mark.parametrize("task", ACTED[::5])
def test_an_actor_earns_what_it_is_listed_for(task):
    (episode,) = rollout([Unit(task, 5)], [LocalSlot()], ExpertPolicy())
    listed = find(task).references["expert"].mean
    assert episode.total_return > 0.7 * listed


def test_a_changed_body_is_planned_for():
    """An actor knows one body, and bears little change."""
    for task in select("dm-control-suite-random-*/*"):
        assert (task.expert_name == "trained actor") == (task.id in BORROWED)
