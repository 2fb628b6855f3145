"""The Atari worlds on the real emulator: the list of games, the protocol, determinism, saved states, the planner."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("ale_py")

from gato.errors import UnknownNameError, UsageError
from gato.rollouts.loop import LocalSlot, RandomPolicy, Unit, rollout
from gato.worlds import find, screen, select
from gato.worlds.atari import EXTENDED_GAMES, GAMES, IMAGE_SIZE, RULED, AtariEnv, Rules, variant
from gato.worlds.atari_scores import LITERATURE
from gato.worlds.lookahead import GAMES as PLANNED
from gato.worlds.lookahead import Lookahead, make
from gato.worlds.shooting import Search, Shooting


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
    assert set(PLANNED) == set(RULED) <= set(GAMES) == set(LITERATURE)


def test_extended_games_are_others_and_in_the_emulator():
    from ale_py import roms

    assert len(select("ale-atari-extended/*")) == len(EXTENDED_GAMES) >= 28
    assert not set(EXTENDED_GAMES) & set(GAMES)
    assert {game.replace("-", "_") for game in EXTENDED_GAMES} <= set(roms.get_all_rom_ids())


def test_the_first_episode_of_qbert_is_like_its_later_ones():
    env = AtariEnv("qbert")
    actions = [int(a) for a in np.random.default_rng(0).integers(0, 6, 60)]
    first, rewards = _play(env, actions, seed=3)
    _play(env, actions[:20], seed=9)
    again, rewards_again = _play(env, actions, seed=3)
    assert rewards == rewards_again and all((a == b).all() for a, b in zip(first, again, strict=True))


def test_the_seed_draws_mode_and_difficulty_and_decides_the_episode():
    env = find("ale-atari-extended/mr-do").make()
    drawn = [env.reset(seed=seed)[1]["drawn"] for seed in range(12)]
    assert {d["mode"] for d in drawn} == {0, 1, 2, 3} and {d["difficulty"] for d in drawn} == {0}
    assert drawn[5] == env.reset(seed=5)[1]["drawn"] == env.step(0)[4]["drawn"]
    actions = [int(a) for a in np.random.default_rng(0).integers(0, 10, 60)]
    used = _play(env, actions, seed=5)
    fresh = _play(find("ale-atari-extended/mr-do").make(), actions, seed=5)
    assert used[1] == fresh[1] and all((a == b).all() for a, b in zip(used[0], fresh[0], strict=True))


def test_what_was_drawn_is_kept_in_the_episode():
    unit = Unit("ale-atari-extended/mr-do", 5, max_steps=3)
    [episode] = rollout([unit], [LocalSlot()], RandomPolicy())
    assert set(episode.info["drawn"]) == {"mode", "difficulty"}


@pytest.mark.parametrize(
    ("rules", "said"), [(Rules(mode=999), "no mode 999"), (Rules(difficulty=7), "no difficulty 7")]
)
def test_an_unknown_mode_or_difficulty_is_named_with_those_there_are(rules, said):
    with pytest.raises(UnknownNameError, match=said) as caught:
        AtariEnv("breakout", rules=rules)
    assert "it has 0" in caught.value.fix


def test_rules_that_make_no_sense():
    for settings in ({"sticky": 1.5}, {"noop_frames": -1}):
        with pytest.raises(UsageError):
            Rules(**settings)
    with pytest.raises(UnknownNameError, match="breakout"):
        variant("brakeout")


def test_variants_have_rules_and_ids_of_their_own():
    task = variant("breakout", sticky=0.25, noop_frames=0, mode=4, max_steps=50)
    assert task.id == "ale-atari/breakout.sticky-0.25.noops-0.mode-4.steps-50" and task.max_steps == 50
    env = task.make()
    starts = {env.reset(seed=seed)[0].tobytes() for seed in range(4)}
    assert len(starts) == 1  # without no-ops all episodes begin alike
    actions = [1, 2, 2, 2, 3, 3, 3, 0] * 6
    sticky, *others = (_play(env, actions, seed=seed)[0] for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(sticky, others[0], strict=True))
    assert any((a != b).any() for a, b in zip(sticky, others[1], strict=True))


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


def _search(env: AtariEnv, seed: int) -> Shooting:
    return Shooting(env, seed, Search(horizon=15, budget=60, commit=6))


def test_a_game_without_a_rule_of_thumb_is_searched():
    env = AtariEnv("space-invaders")
    assert isinstance(make(env, 0), Shooting)
    score = _score(env, _search, 120, seed=0)
    assert score == _score(env, _search, 120, seed=0) > 0


def test_the_search_foresees_what_it_does_and_leaves_the_emulator_where_it_was():
    env = AtariEnv("assault")
    observation, info = env.reset(seed=4)
    before, policy = env.state_bytes(), _search(env, 4)
    action = policy(observation, info)
    assert env.state_bytes() == before
    for step in range(1, 6):  # as planned: six steps are followed
        observation, *_, info = env.step(action)
        assert policy._expected[step] == env.state_bytes()
        action = policy(observation, info)
        assert policy._followed == step + 1
    plan = policy._plan
    env.step(action), env.step(action), env.step(action)  # not as planned
    policy(observation, info)
    assert policy._plan is not plan and policy._followed == 1


def test_the_task_names_what_it_needs():
    task = find("ale-atari/freeway")
    assert task.score == "return" and task.requires == ("ale_py",) and "atari" in task.pip_line
    assert task.spec.observation["observation"].kind == "image"


def test_a_restored_state_brings_its_colours_with_it():
    """Another environment of the game may not have met them yet, and the emulator cannot show them any more."""
    env, fresh = AtariEnv("alien"), AtariEnv("alien")
    _play(env, [5] * 200, seed=2)
    fresh.reset(seed=3)
    fresh.restore_state(env.save_state())
    assert np.array_equal(fresh.render(), env.render())
    for _ in range(30):
        assert np.array_equal(fresh.step(3)[0], env.step(3)[0])


def test_the_picture_is_of_the_last_two_screens():
    """Of each byte the larger, so that nothing flickers; the first picture is of one."""
    env = AtariEnv("breakout")
    seen, _ = env.reset(seed=3)
    assert np.array_equal(seen, screen.small(env.render(), env.render(), IMAGE_SIZE[0]))
    twin = AtariEnv("breakout")
    twin.reset(seed=3)
    different = 0
    for action in (1, 2, 2, 1) * 5:
        seen, *_ = env.step(action)
        button, screens = twin.action_set[action], []
        for _ in range(4):
            twin.ale.act(button)
            screens.append(twin.ale.getScreenRGB())
        assert np.array_equal(seen, screen.small(screens[3], screens[2], IMAGE_SIZE[0]))
        different += not np.array_equal(screens[3], screens[2])
    assert different
