"""DM Control: the list is the suite's, seeds decide everything, experts are good, planning leaves the world alone."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("dm_control")

from gato.episodes import check_values, flatten
from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.worlds import find
from gato.worlds.dm_control import FEEDBACK, import_suite, task_name, tasks
from gato.worlds.predictive import PLANNING


def play(env, actions, seed, wide=False):
    """Observations and rewards of an episode of given actions."""
    observation, _ = env.reset(seed=seed, options={"wide": True} if wide else None)
    seen = [flatten(observation, "observation")]
    rewards = []
    for action in actions:
        observation, reward, *_ = env.step(action)
        seen.append(flatten(observation, "observation"))
        rewards.append(reward)
    return seen, rewards


def same(a, b):
    return all(np.array_equal(x[k], y[k]) for x, y in zip(a[0], b[0], strict=True) for k in x) and a[1] == b[1]


def test_list_is_the_suites_own():
    ours = {task.meta["simulator_id"]: task.id for task in tasks()}
    theirs = {f"{d}/{t}": f"dm-control-suite/{task_name(d, t)}" for d, t in import_suite().ALL_TASKS}
    assert ours == theirs
    assert len(set(ours.values())) == 51


def test_listing_imports_no_simulator():
    code = "import sys, gato.worlds.dm_control as d; d.tasks(); print({'mujoco', 'dm_control'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    "name",
    ["pendulum-swingup", "finger-turn-easy", "manipulator-bring-ball", "lqr-lqr-6-2", "quadruped-escape", "fish-swim"],
)
def test_same_seed_same_episode(name):
    """Also after another episode in the same environment, and across environments."""
    task = find(f"dm-control-suite/{name}")
    env, other = task.make(), task.make()
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(30)]
    first = play(env, actions, seed=5)
    different = play(env, actions, seed=6)
    assert same(first, play(env, actions, seed=5))
    assert same(first, play(other, actions, seed=5))
    assert not same(first, different)
    for observation in first[0]:
        check_values(task.spec.observation, observation, name)


def test_lqr_actions_are_bounded_and_its_episodes_end():
    env = find("dm-control-suite/lqr-lqr-2-1").make()
    assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
    env.reset(seed=0)
    ends = [env.step(np.ones(1, np.float32))[2:4] for _ in range(1000)]
    assert ends[-1] == (False, True) and not any(any(end) for end in ends[:-1])


@pytest.mark.parametrize(
    "name", sorted({"ball-in-cup-catch", "walker-walk", "cheetah-run", *FEEDBACK} - {"point-mass-hard"})
)
def test_wide_starts_reach_further(name):
    """More spread than the task's own start, finite, and decided by the seed."""
    env = find(f"dm-control-suite/{name}").make()

    def starts(wide):
        found = [env.reset(seed=s, options={"wide": wide})[0] for s in range(24)]
        return np.stack([np.concatenate([o[k] for k in sorted(o)]) for o in found])

    own, wide = starts(False), starts(True)
    assert np.isfinite(wide).all()
    assert (wide.std(axis=0) > own.std(axis=0) * 1.2 + 0.01).any()
    assert np.array_equal(wide, starts(True))


@pytest.mark.parametrize(
    "name, least",
    [
        ("pendulum-swingup", 550),
        ("cartpole-swingup", 830),
        ("cartpole-balance", 990),
        ("reacher-easy", 900),
        ("reacher-hard", 900),
        ("point-mass-easy", 820),
        ("point-mass-hard", 700),
        ("swimmer-swimmer6", 100),
        ("swimmer-swimmer15", 100),
    ],
)
def test_feedback_experts(name, least):
    units = [Unit(f"dm-control-suite/{name}", seed) for seed in range(3)]
    episodes = list(rollout(units, [LocalSlot()], ExpertPolicy()))
    assert len(episodes) == 3
    assert min(episode.total_return for episode in episodes) > least
    assert all(len(episode) == 1000 for episode in episodes)


def test_feedback_is_a_function_of_the_observation():
    """Whatever happened before: the target of an observation is the same, so that it can be learned."""
    env = find("dm-control-suite/cartpole-swingup").make()
    task = find("dm-control-suite/cartpole-swingup")
    observation, info = env.reset(seed=0)
    fresh, used = task.expert(env, 0), task.expert(env, 1)
    for _ in range(5):
        used(env.observation_space.sample(), info)
    assert np.array_equal(fresh(observation, info), used(observation, info))


def test_planning_leaves_the_world_alone_and_repeats():
    task = find("dm-control-suite/finger-turn-easy")
    env = task.make()
    observation, info = env.reset(seed=3)
    before = env.physics.get_state().copy(), env.physics.data.ctrl.copy(), env.physics.timestep()
    first = task.expert(env, 3)
    actions = [first(observation, info) for _ in range(3)]
    assert np.array_equal(env.physics.get_state(), before[0]) and np.array_equal(env.physics.data.ctrl, before[1])
    assert env.physics.timestep() == before[2]
    again = task.expert(env, 3)
    assert all(np.array_equal(a, again(observation, info)) for a in actions)
    assert actions[0].dtype == np.float32 and env.action_space.contains(actions[0])


def test_planned_actions_keep_to_bounds_that_are_not_on_their_grid():
    task = find("dm-control-suite/quadruped-walk")
    env = task.make()
    observation, info = env.reset(seed=20221)
    action = task.expert(env.unwrapped, 20221)(observation, info)
    assert env.action_space.low[5] == np.float32(-0.8) == action[5]  # the first plan holds this joint at its end
    assert env.action_space.contains(action)
    env.close()


def test_planners_beat_random_play():
    """A hundred steps of the cheapest planner: the cheetah is faster than it could be by chance (0.004 a step)."""
    task = find("dm-control-suite/cheetah-run")
    (episode,) = rollout([Unit(task.id, 0, max_steps=100)], [LocalSlot()], ExpertPolicy())
    assert episode.total_return > 15


def test_every_plan_divides_its_control_step():
    for name, planning in PLANNING.items():
        env = find(f"dm-control-suite/{name}").make()
        assert env.num_substeps % planning.coarse == 0, name


def test_frames():
    env = find("dm-control-suite/pendulum-swingup").make(render=True)
    try:
        env.reset(seed=0)
        first = env.render()
        for _ in range(20):
            env.step(np.ones(1, np.float32))
        assert first.shape == (120, 160, 3) and first.dtype == np.uint8 and first.std() > 5
        assert (env.render() != first).any()
    finally:
        env.close()


def test_without_a_gl_library(tmp_path):
    """The state is there all the same; rendering is a WorldError with the apt line. Broken libraries stand first."""
    for library in ("libEGL.so.1", "libEGL.so", "libGL.so.1", "libOpenGL.so.0"):
        (tmp_path / library).write_bytes(b"not a library")
    code = (
        "from gato.worlds import find\n"
        "from gato.errors import WorldError\n"
        "task = find('dm-control-suite/pendulum-swingup')\n"
        "task.make().reset(seed=0)\n"
        "try:\n    task.make(render=True)\n"
        "except WorldError as error:\n    print('named', error.exit_code, error.fix)\n"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env | {"LD_LIBRARY_PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert run.stdout.startswith("named 5 apt-get install"), run.stdout + run.stderr[-2000:]
