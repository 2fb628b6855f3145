"""DM Control from pixels, with other bodies and in words: the same episodes, seen or built differently."""

import numpy as np
import pytest

pytest.importorskip("dm_control")

from gato.errors import UsageError
from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.worlds import find, register, registry
from gato.worlds.dm_control import DMControl, import_suite
from gato.worlds.dm_control_pixels import BENCHMARK, pixel_task
from gato.worlds.dm_control_random import INTERVALS, KINDS, apply
from gato.worlds.mjcf import Probe, heard, pour, probed


def of(domain):
    return [task for task in registry().values() if task.domain == domain]


def test_how_many():
    assert {(d, t) for d, names in BENCHMARK.items() for t in names} == set(import_suite().BENCHMARKING)
    assert len(of("dm-control-suite-pixels")) == 28
    for amount in ("small", "large"):
        ids = [t.id for t in of(f"dm-control-suite-random-{amount}")]
        assert len(set(ids)) == 26


def test_one_skill_of_three_senses():
    """The same seeds and actions: the same rewards, whatever is shown."""
    name, rewards, kinds = "pendulum-swingup", [], []
    for domain in ("dm-control-suite", "dm-control-suite-pixels", "dm-control-suite-text"):
        task = find(f"{domain}/{name}")
        kinds.append({spec.kind for spec in task.spec.observation.values()})
        env = task.make()
        env.reset(seed=3)
        env.action_space.seed(0)
        rewards.append([env.step(env.action_space.sample())[1] for _ in range(20)])
        env.close()
    assert rewards[0] == rewards[1] == rewards[2]
    assert kinds == [{"continuous"}, {"image"}, {"text"}]


@pytest.mark.parametrize("domain", ["dm-control-suite-pixels", "dm-control-suite-text"])
def test_the_expert_sees_the_state(domain):
    units = [Unit(f"{domain}/pendulum-swingup", 0, max_steps=200)]
    (episode,) = rollout(units, [LocalSlot()], ExpertPolicy())
    state = Unit("dm-control-suite/pendulum-swingup", 0, max_steps=200)
    (same,) = rollout([state], [LocalSlot()], ExpertPolicy())
    np.testing.assert_array_equal(episode.actions["action"], same.actions["action"])


def test_the_sentence():
    env = find("dm-control-suite-text/pendulum-swingup").make()
    said, _ = env.reset(seed=0)
    state = env.unwrapped.observe()
    x, y = state["orientation"]
    assert said == f"orientation {x:.2f} {y:.2f}; velocity {state['velocity'][0]:.2f}."


def test_plain_pictures_show_the_same_scene():
    """Without shadows: another brightness here and there, and the same things in the same places."""
    pictures = {}
    for look in ("plain", "suite"):
        task = pixel_task("walker", "walk", look)
        env = task.make()
        pictures[look], _ = env.reset(seed=0)
        for _ in range(3):
            pictures[look], *_ = env.step(np.zeros(6, np.float32))
        env.close()
    plain, suite = (pictures[look].astype(float).ravel() for look in ("plain", "suite"))
    assert plain.std() > 10 and (plain != suite).any()
    assert np.corrcoef(plain, suite)[0, 1] > 0.9
    with pytest.raises(UsageError, match="plain or suite"):
        pixel_task("walker", "walk", "pretty")


@pytest.mark.parametrize("look", ["plain", "suite"])
def test_rendering_changes_nothing_that_the_agent_sees(look):
    pictures = []
    for render in (False, True):
        env = pixel_task("walker", "walk", look).make(render=render)
        env.reset(seed=0)
        assert (env.render() is not None) == render
        pictures.append(env.step(np.zeros(6, np.float32))[0])
        env.close()
    assert (pictures[0] == pictures[1]).all()


def test_the_suites_look_can_be_registered():
    task = register(pixel_task("pendulum", "swingup", "suite"))
    assert find("dm-control-suite-pixels/pendulum-swingup-suite-look") is task
    registry().pop(task.id)


def drawn(amount, seed):
    env = find(f"dm-control-suite-random-{amount}/walker-walk").make()
    _, info = env.reset(seed=seed)
    return info["drawn"], env


@pytest.mark.parametrize("amount", INTERVALS)
def test_factors_lie_in_the_papers_intervals(amount):
    env = find(f"dm-control-suite-random-{amount}/pendulum-swingup").make()
    factors = [env.reset(seed=seed)[1]["drawn"] for seed in range(30)]
    for kind in KINDS:
        values = np.array([f[kind] for f in factors])
        inside = [(low <= values) & (values <= high) for low, high in INTERVALS[amount]]
        assert (inside[0] | inside[1]).all() and inside[0].any() and inside[1].any()


def test_factors_change_the_physics():
    """What each of the six does to the compiled walker; and a plain environment is as the suite made it."""
    factors, env = drawn("large", 5)
    model, base = env.unwrapped.physics.model, find("dm-control-suite/walker-walk").make().unwrapped.physics.model
    np.testing.assert_allclose(model.actuator_gear, base.actuator_gear * factors["gear"])
    limited = base.jnt_limited.astype(bool)
    np.testing.assert_allclose(model.jnt_range[limited], base.jnt_range[limited] * factors["range"])
    np.testing.assert_allclose(model.dof_damping, base.dof_damping * factors["damping"])
    np.testing.assert_allclose(model.jnt_stiffness, base.jnt_stiffness * factors["stiffness"])
    np.testing.assert_allclose(model.geom_size[1:, 0], base.geom_size[1:, 0] * factors["size"])
    np.testing.assert_allclose(model.geom_size[0], base.geom_size[0])  # the floor
    grown = (model.body_mass / np.maximum(base.body_mass, 1e-9))[1:]
    thicker = factors["size"] ** 2 * factors["density"]  # of a limb told by its ends; a sphere grows with the cube
    assert (grown > thicker * 0.7).all() and (grown < thicker * 1.4).all() and (abs(grown - 1) > 0.01).all()


def test_the_draw_is_part_of_the_seed():
    (first, env), (again, _), (other, _) = drawn("small", 1), drawn("small", 1), drawn("small", 2)
    assert first == again != other
    assert env.reset(seed=2)[1]["drawn"] == other
    units = [Unit("dm-control-suite-random-small/pendulum-swingup", 1, max_steps=5)]
    (episode,) = rollout(units, [LocalSlot()], ExpertPolicy())
    assert set(episode.info["drawn"]) == set(KINDS)


def test_factors_of_one_change_nothing():
    """So the detour over the description is free of side effects."""
    env = DMControl("hopper", "stand")
    before = {name: np.array(getattr(env.physics.model, name)) for name in ("body_mass", "geom_size", "jnt_range")}
    spec = env.description.spec()
    apply(spec, dict.fromkeys(KINDS, 1.0))
    pour(spec.compile(), into=env.physics.model.ptr)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(env.physics.model, name), value)


def test_a_probe_tells_what_the_simulator_does():
    env = DMControl("hopper", "hop")
    env.reset(seed=0)
    model, columns = probed(
        env.description.spec(), {"torso": Probe("framepos", "body torso")}, like=env.physics.model.ptr
    )
    import mujoco

    data = mujoco.MjData(model)
    data.qpos[:] = env.physics.data.qpos
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.sensordata[columns["torso"]], env.physics.named.data.xipos["torso"], atol=1e-9)


def test_what_is_heard_is_what_was_compiled():
    with heard() as described:
        simulator = import_suite().load("cheetah", "run")
    assert described.spec().compile().nq == simulator.physics.model.nq
