"""The Atari worlds on the real emulator: the list of games, the protocol, determinism, saved states, the planner."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("ale_py")

from gato.worlds import find, select
from gato.worlds.atari import GAMES, IMAGE_SIZE, AtariEnv
from gato.worlds.lookahead import GAMES as PLANNED
from gato.worlds.lookahead import Lookahead, Planning, make


def _play(env: AtariEnv, actions: list[int], **reset) -> tuple[list[np.ndarray], list[float]]:
    observation, _ = env.reset(**reset)
    seen, rewards = [observation], []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    return seen, rewards


def test_every_listed_game_is_in_the_installed_emulator():
    from ale_py import roms

    missing = {game.replace("-", "_") for game in GAMES} - set(roms.get_all_rom_ids())
    assert not missing
    assert len(GAMES) == len(set(GAMES)) == 57
    assert len(select("ale-atari/*")) == 57


def test_planned_games_are_games():
    assert set(PLANNED) <= set(GAMES)


@pytest.mark.parametrize("game", ["boxing", "space-invaders", "alien"])
def test_an_observation_is_a_small_colour_picture_that_moves(game):
    env = AtariEnv(game)
    seen, _ = _play(env, [0] * 60, seed=1)
    assert seen[0].shape == (*IMAGE_SIZE, 3) and seen[0].dtype == np.uint8
    assert any((frame != seen[0]).any() for frame in seen)
    assert env.observation_space.contains(seen[-1])


def test_the_picture_keeps_the_whole_screen():
    """Boxing's score is at the top and its logo at the bottom: both must survive the resize."""
    env = AtariEnv("boxing", render=True)
    image, _ = env.reset(seed=0)
    screen = env.render()
    assert screen.shape == (210, 160, 3)
    assert np.abs(image.mean((0, 1)) - screen.mean((0, 1))).max() < 1.0


def test_same_seed_and_actions_same_episode_even_after_another_one():
    env = AtariEnv("breakout")
    actions = [int(a) for a in np.random.default_rng(0).integers(0, 4, 120)]
    first, rewards = _play(env, actions, seed=5)
    _play(env, actions[::-1], seed=6)
    again, rewards_again = _play(env, actions, seed=5)
    fresh, _ = _play(AtariEnv("breakout"), actions, seed=5)
    assert rewards == rewards_again
    assert all((a == b).all() and (a == c).all() for a, b, c in zip(first, again, fresh, strict=True))


def test_seeds_and_wide_starts_differ():
    env = AtariEnv("boxing")
    starts = {env.reset(seed=seed)[0].tobytes() for seed in range(8)}
    wide = {env.reset(seed=seed, options={"wide": True})[0].tobytes() for seed in range(8)}
    assert len(wide) >= 7 and len(starts | wide) > len(starts)


def test_wide_starts_are_never_over():
    env = AtariEnv("pong")
    for seed in range(4):
        env.reset(seed=seed, options={"wide": True})
        assert not env.ale.game_over() and env.steps == 0


def test_an_episode_is_cut_at_max_steps():
    env = AtariEnv("pong", max_steps=7)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]


def test_a_saved_state_brings_back_the_future():
    env = AtariEnv("pong")
    env.reset(seed=3)
    for _ in range(30):
        env.step(2)
    state = env.clone()
    future = [env.step(3)[0] for _ in range(20)]
    env.restore(state)
    assert all((env.step(3)[0] == frame).all() for frame in future)


def test_advance_is_a_step_without_its_picture():
    one, other = AtariEnv("boxing"), AtariEnv("boxing")
    one.reset(seed=2), other.reset(seed=2)
    actions = np.random.default_rng(1).integers(0, 18, 200)
    assert [one.advance(int(a)) for a in actions] == [other.step(int(a))[1] for a in actions]
    assert one.state_bytes() == other.state_bytes()


def _score(env: AtariEnv, policy, steps: int, seed: int) -> float:
    observation, info = env.reset(seed=seed)
    act, total = policy(env, seed), 0.0
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(act(observation, info))
        total += reward
        if terminated or truncated:
            break
    return total


@pytest.mark.parametrize(("game", "steps", "at_least"), [("boxing", 70, 5), ("freeway", 120, 1), ("breakout", 60, 1)])
def test_the_planner_plays_well_and_repeats_itself(game, steps, at_least):
    env = AtariEnv(game)
    score = _score(env, make, steps, seed=11)
    assert score >= at_least
    assert score == _score(env, make, steps, seed=11)


def test_the_planner_leaves_the_emulator_where_it_was():
    env = AtariEnv("boxing")
    observation, info = env.reset(seed=4)
    before = env.state_bytes()
    make(env, 4)(observation, info)
    assert env.state_bytes() == before


def test_the_planner_notices_that_something_else_was_done():
    env = AtariEnv("boxing")
    observation, info = env.reset(seed=4)
    policy = Lookahead(env, 4, dataclasses.replace(PLANNED["boxing"], commit=8))
    policy(observation, info)
    as_planned = policy._plan
    env.step(policy._plan[0])
    policy(observation, info)
    assert policy._plan is as_planned
    for _ in range(3):
        env.step(5 if policy._plan[1] != 5 else 2)
    policy(observation, info)
    assert policy._plan is not as_planned


def test_a_game_without_a_rule_of_thumb_is_planned_too():
    env = AtariEnv("space-invaders")
    planning = Planning(horizon=15, random_plans=6, commit=6)
    assert _score(env, lambda e, seed: Lookahead(e, seed, planning), 150, seed=0) > 0


def test_the_task_names_what_it_needs():
    task = find("ale-atari/freeway")
    assert task.score == "return" and task.requires == ("ale_py",) and "atari" in task.pip_line
    assert task.spec.observation["observation"].kind == "image"
