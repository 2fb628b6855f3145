"""Saved states: what comes after a restored state is what would have come, to the last bit, as often as one likes."""

import gymnasium
import numpy as np
import pytest

from gato.episodes import flatten
from gato.worlds import find
from gato.worlds.atari import variant
from gato.worlds.saving import Savable, StateError, saver_of

STICKY = variant("breakout", sticky=0.25)
WORLDS = [
    "dummy/count", "sokoban/7x7-1-box", "babyai/go-to-local", "babyai/open-door", "babyai/pickup-loc", "meta-world/reach",
    "meta-world/drawer-open", "dm-control-suite/cartpole-swingup", "dm-control-suite/hopper-hop", "ale-atari/boxing", STICKY.id,
    "dm-control-maze/many-goals-small", "gym/CartPole-v1", "gym/MountainCarContinuous-v0", "gym/HalfCheetah-v5",
    "gym/MiniGrid-DoorKey-5x5-v0", "gym/Blackjack-v1",
]  # fmt: skip
OURS = [w for w in WORLDS if not w.startswith("gym/")]


def installed(name):
    """The task of this name; skips where it is not installed."""
    task = STICKY if name == STICKY.id else find(name)
    if not task.installed:
        pytest.skip(task.pip_line)
    return task


def play(env, actions):
    out = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        leaves = flatten(observation, "observation")
        shown = [v if isinstance(v, str) else np.asarray(v).tobytes() for v in leaves.values()]
        out.append((shown, float(reward), terminated, truncated, info.get("success")))
        if terminated or truncated:
            break
    return out


@pytest.mark.parametrize("name", WORLDS)
def test_a_restored_world_goes_on_as_it_would_have(name):
    task = installed(name)
    env = task.make()
    env.reset(seed=5)
    env.action_space.seed(1)
    before, one, other = ([env.action_space.sample() for _ in range(n)] for n in (3, 12, 12))
    saver = saver_of(env, name)
    fresh = task.make()
    fresh.reset(seed=5)
    assert play(env, before) == play(fresh, before)  # the trial left nothing behind
    state = saver.save()
    first = play(env, one)
    saver.restore(state)
    play(env, other)  # somewhere else in between
    saver.restore(state)
    again = saver.save()
    assert play(env, one) == first == play(fresh, one)
    saver.restore(again)
    assert play(env, one) == first
    env.close()
    fresh.close()


@pytest.mark.parametrize("name", OURS)
def test_our_worlds_say_how(name):
    assert isinstance(installed(name).make().unwrapped, Savable)


def test_what_was_taken_in_between_is_seen_again():
    task = installed("dm-control-maze/many-goals-small")
    env = task.make()
    observation, info = env.reset(seed=0)
    saver, expert, reward = saver_of(env, task.id), task.expert(env, 0), 0.0
    while not reward:
        state, seen = saver.save(), observation["image"]
        observation, reward, _, _, info = env.step(expert(observation, info))
    saver.restore(state)
    assert (env.render() == seen).all()  # with the apple
    env.reset(seed=1)
    saver.restore(state)
    assert (env.render() == seen).all()  # with the maze
    env.close()


def test_the_limit_of_an_episode_is_part_of_the_state():
    env = find("gym/Pendulum-v1").make()
    env.reset(seed=0)
    saver = saver_of(env)
    state = saver.save()
    lengths = []
    for _ in range(2):
        lengths.append(len(play(env, [np.zeros(1, np.float32)] * 300)))
        saver.restore(state)
    assert lengths == [200, 200]


class Halving(gymnasium.Env):
    """Works on the action that it is given."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        action *= 0.5
        return action.copy(), 0.0, False, False, {}


def test_a_world_that_changes_its_actions_can_be_saved():
    env = Halving()
    env.reset(seed=0)
    saver_of(env)


class Forgetful(gymnasium.Env):
    """Has something that is in none of its attributes."""

    observation_space = gymnasium.spaces.Discrete(1000)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        def count():
            count.n += 1
            return count.n

        count.n = 0
        self._count = count

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return self._count(), 0.0, False, False, {}


class Refuses(Forgetful):
    def save_state(self):
        raise OSError("the device is busy")

    def restore_state(self, state):
        raise AssertionError


def test_a_world_that_cannot_be_put_back_is_a_named_error():
    for world, what in ((Forgetful, "led elsewhere"), (Refuses, "the device is busy")):
        env = world()
        env.reset(seed=0)
        with pytest.raises(StateError, match=what) as caught:
            saver_of(env, "mine/world")
        assert (caught.value.code, caught.value.where) == (
            "world-state",
            "mine/world",
        ) and "save_state" in caught.value.fix
