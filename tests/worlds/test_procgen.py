"""Procgen on the real simulator: levels by seed, saved states, determinism, the planner, and what the state reader reads."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("gym3")  # procgen itself would import gym, which complains

from gato.errors import GatoError, SimulatorMissingError
from gato.rollouts.loop import EVALUATION_SEEDS, episode_seed
from gato.worlds import find, select
from gato.worlds.procgen import GAMES, NUM_LEVELS, ProcgenEnv
from gato.worlds.procgen_planner import GAMES as PLANNED
from gato.worlds.procgen_planner import Lookahead, make, read_state, walking


def play(env, actions, **reset):
    observation, _ = env.reset(**reset)
    seen, rewards = [observation], []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    return seen, rewards


def test_sixteen_games_hard_but_two_and_the_other_difficulty_beside_them():
    from procgen.env import ENV_NAMES

    assert set(GAMES) == set(ENV_NAMES) == set(PLANNED)
    own = [t for t in select("procgen/*") if "-" not in t.id.partition("/")[2]]
    assert len(own) == 16
    assert {t.meta["game"] for t in own if t.meta["difficulty"] == "easy"} == {"maze", "heist"}
    assert (
        find("procgen/coinrun-easy").meta["difficulty"] == "easy"
        and find("procgen/maze-hard").meta["difficulty"] == "hard"
    )


def test_the_seed_is_the_level_and_splits_share_none():
    task = find("procgen/maze")
    env = task.make()
    levels = {}
    for split in ("train", "evaluation"):
        levels[split] = set()
        for index in range(40):
            seed = episode_seed(task.id, index, split)
            env.reset(seed=seed)
            assert env.level == seed % NUM_LEVELS
            assert (env.level >= EVALUATION_SEEDS) == (split == "evaluation")
            levels[split].add(env.level)
    assert len(levels["train"]) == len(levels["evaluation"]) == 40 and not levels["train"] & levels["evaluation"]
    env.close()


@pytest.mark.parametrize("game", ["coinrun", "starpilot", "leaper"])
def test_same_seed_same_episode_after_others_in_new_environments_and_beside_copies(game):
    mode = find(f"procgen/{game}").meta["difficulty"]
    env, other = ProcgenEnv(game, mode, 1000), ProcgenEnv(game, mode, 1000)
    actions = np.random.default_rng(1).integers(0, 15, 60)
    first, rewards = play(env, actions, seed=77)
    state = env.state_bytes()
    play(env, actions[::-1], seed=78, options={"wide": True})
    env.copies(3).act(np.zeros(3, int))
    again, rewards_again = play(env, actions, seed=77)
    fresh, _ = play(other, actions, seed=77)
    assert rewards == rewards_again and env.state_bytes() == state == other.state_bytes()
    assert all((a == b).all() and (a == c).all() for a, b, c in zip(first, again, fresh, strict=True))
    env.close(), other.close()


def test_a_saved_state_brings_back_the_future():
    env = ProcgenEnv("bigfish", "hard", 6000)
    env.reset(seed=3)
    state = env.clone()
    future = [env.step(a)[0] for a in (7, 7, 5, 5, 1)]
    env.restore(state)
    assert all((env.step(a)[0] == frame).all() for a, frame in zip((7, 7, 5, 5, 1), future, strict=True))
    env.close()


def test_the_clock_of_the_game_is_a_truncation_and_a_finished_level_is_not():
    env = find("procgen/maze").make()
    env.reset(seed=1)
    ends = [env.step(4)[2:4] for _ in range(500)]  # standing still
    assert ends == [(False, False)] * 499 + [(False, True)]
    observation, info = env.reset(seed=1)
    act, over = make(env, 1), False
    while not over:
        observation, reward, terminated, truncated, info = env.step(act(observation, info))
        over = terminated or truncated
    assert (terminated, truncated, info["success"], reward) == (True, False, True, 10.0)
    env.close()


def test_what_the_state_says_is_where_the_agent_can_go():

    env = find("procgen/maze").make()
    env.reset(seed=4)
    state = read_state(env.clone())
    rows, columns = state.grid.shape
    assert (rows, columns) == (15, 15) and (state.grid == 2).sum() == 1
    agent = state.agent
    assert state.grid[int(agent[1]), int(agent[0])] != 51
    for action, moved in ((7, (1, 0)), (1, (-1, 0)), (5, (0, 1)), (3, (0, -1))):
        column, row = int(agent[0]) + moved[0], int(agent[1]) + moved[1]
        before = env.clone()
        env.step(action)
        after = read_state(env.clone()).agent
        free = 0 <= row < rows and 0 <= column < columns and state.grid[row, column] != 51
        assert (int(after[0]) - int(agent[0]), int(after[1]) - int(agent[1])) == (moved if free else (0, 0))
        env.restore(before)
    env.close()


def test_walking_distance_counts_steps_around_walls():
    free = np.array([[1, 1, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 0, 0]], bool)
    goals = np.zeros_like(free)
    goals[2, 0] = True
    steps = walking(free, goals)
    assert steps[0, 0] == 6 and steps[2, 2] == 2 and steps[4, 0] == 2 * (5 + 3)


@pytest.mark.parametrize(("game", "seeds"), [("maze", 3), ("coinrun", 1), ("jumper", 1)])
def test_the_planner_solves_levels_and_repeats_itself(game, seeds):
    env = find(f"procgen/{game}").make()
    for seed in range(seeds):
        taken = []
        for _ in range(2):
            observation, info = env.reset(seed=100 + seed)
            act, actions, over = make(env, seed), [], False
            while not over:
                actions.append(act(observation, info))
                observation, _, terminated, truncated, info = env.step(actions[-1])
                over = terminated or truncated
            assert info["success"]
            taken.append(actions)
        assert taken[0] == taken[1]
    env.close()


def test_the_planner_leaves_the_game_where_it_was_and_notices_disturbances():
    env = ProcgenEnv("coinrun", "hard", 1000)
    observation, info = env.reset(seed=9)
    before = env.state_bytes()
    policy = make(env, 9)
    action = policy(observation, info)
    assert env.state_bytes() == before
    env.step(action)
    policy(observation, info)
    planned = policy._plan
    env.step(4 if planned[1] != 4 else 7)
    policy(observation, info)
    assert policy._plan is not planned and isinstance(policy, Lookahead)
    env.close()


def test_importing_it_says_nothing():
    code = "from gato.worlds import find; find('procgen/maze').make().close()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_line_that_installs_it_names_the_packages_without_their_bounds(monkeypatch):
    import importlib.util

    task = find("procgen/ninja")
    seen = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "procgen" else seen(name, *a))
    with pytest.raises(SimulatorMissingError, match="--no-deps procgen-mirror") as caught:
        task.make()
    assert isinstance(caught.value, GatoError)
