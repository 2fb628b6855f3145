"""A world that is offered to several senses is one world: its reference scores are measured once."""

import gymnasium
import numpy as np
import pytest

from gato.worlds import find, registry

SHARED = [task for task in registry().values() if task.same_world]
SOME = (
    "dm-control-suite-pixels/reacher-easy",
    "dm-control-suite-text/pendulum-swingup",
    "meta-world-physics-state/door-open",
    "dm-manipulation-playground/reach-site-vision",
    "rgb-stacking/triplet-2",
    "gymnasium-robotics/hand-pen-boolean-touch-v1",
    "gymnasium-robotics/hand-pen-full-v1",
)


def played(env: gymnasium.Env, seed: int, steps: int) -> tuple[list[float], np.ndarray]:
    """Rewards of random actions, and the state of the physics after them: some worlds earn nothing so soon."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    rewards = [float(env.step(env.action_space.sample())[1]) for _ in range(steps)]
    world = env.unwrapped
    holder = getattr(world, "physics", None) or getattr(world, "simulator", world)
    return rewards, np.array(holder.data.qpos)


@pytest.mark.parametrize("task_id", SOME)
def test_the_same_actions_do_the_same(task_id: str) -> None:
    task = find(task_id)
    if not task.installed:
        pytest.skip(task.pip_line)
    here, there = task.make(), find(task.same_world).make()
    try:
        (rewards, state), (others, other_state) = played(here, 5, 25), played(there, 5, 25)
        assert rewards == others and np.any(state != played(here, 6, 25)[1])  # another seed comes elsewhere
        np.testing.assert_array_equal(state, other_state)
    finally:
        here.close()
        there.close()


@pytest.mark.parametrize("task", SHARED, ids=lambda task: task.id)
def test_scores_are_those_of_a_task_that_is_its_own_world(task) -> None:
    other = find(task.same_world)
    assert not other.same_world and other.id != task.id
    assert (other.score, other.max_steps, other.expert_name) == (task.score, task.max_steps, task.expert_name)


def test_every_domain_of_other_senses_says_so() -> None:
    domains = {task.domain for task in SHARED}
    assert domains == {
        "dm-control-suite-pixels", "dm-control-suite-text", "meta-world-physics-state", "dm-manipulation-playground",
        "rgb-stacking", "gymnasium-robotics",
    }  # fmt: skip
    assert find("meta-world-physics-state/reach").references["expert"].episodes >= 20
