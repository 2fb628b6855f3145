"""Your own loops and arrays become a dataset."""

import gymnasium
import numpy as np
import pytest

from gato.episodes.record import record, write_episode
from gato.episodes.store import Dataset, DatasetWriter, verify
from gato.errors import EpisodeError, ObservationError, OutputExistsError, SpecError, UsageError
from gato.worlds.dummy import CountingWorld, counting_expert


def test_any_loop_is_recorded(tmp_path):
    env = record(CountingWorld(), tmp_path / "d", task="dummy/mine")
    act = counting_expert(env.unwrapped, 0)
    for seed in range(3):
        observation, info = env.reset(seed=seed)
        ended = False
        while not ended:
            observation, _, terminated, truncated, info = env.step(act(observation, info))
            ended = terminated or truncated
    assert len(Dataset.open(tmp_path / "d")) == 3  # durable before anything is closed
    env.reset(seed=3)
    env.step(env.action_space.sample())
    env.reset(seed=4)
    env.close()
    dataset = Dataset.open(tmp_path / "d")
    assert [e.seed for e in dataset.index] == [0, 1, 2, 3] and verify(tmp_path / "d").ok
    for episode in dataset.episodes(range(3)):
        counts = episode.observations["image"][:, 0, 0, 0].astype(int)
        assert (np.diff(counts) == 1).all() and episode.actions["button"].tolist() == (counts % 16).tolist()
        assert episode.success and episode.info["terminated"] and episode.total_return == len(episode)
    assert len(dataset[3]) == 1 and dataset[3].info["broken_off"] and not dataset[3].info["terminated"]


def test_gymnasium_names_the_task(tmp_path):
    env = record(gymnasium.make("CartPole-v1"), tmp_path / "d")
    env.reset(seed=0)
    while not any(env.step(env.action_space.sample())[2:4]):
        pass
    env.close()
    assert Dataset.open(tmp_path / "d").task == "gym/CartPole-v1"
    with pytest.raises(UsageError, match="no id"):
        record(CountingWorld(), tmp_path / "e")
    with pytest.raises(OutputExistsError, match="gym/CartPole-v1"):
        record(CountingWorld(), tmp_path / "d", task="lab/count")


def test_arrays(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(70):
        seen = {"joints": rng.normal(size=(12, 4)), "camera": {"left": rng.integers(0, 256, (12, 16, 16, 3), np.uint8)},
                "goal": ["lift"] * 12}  # fmt: skip
        done = rng.uniform(-1, 1, (11, 2)).astype(np.float32)
        assert write_episode(tmp_path / "d", seen, done, np.ones(11), task="lab/robot", info={"success": True}) == i
    dataset = Dataset.open(tmp_path / "d")
    assert len(dataset) == 70 and verify(tmp_path / "d").ok and len(dataset._parts) < 20
    last = dataset[69]
    np.testing.assert_array_equal(last.observations["joints"], seen["joints"][:11])
    np.testing.assert_array_equal(last.observations["camera/left"], seen["camera"]["left"][:11])
    np.testing.assert_array_equal(last.actions["action"], done)
    assert last.observations["goal"] == ["lift"] * 11 and last.success and last.info["source"] == "recorded"


def test_arrays_that_do_not_fit(tmp_path):
    x, a, r = np.zeros((5, 2)), np.zeros(5, np.int64), np.zeros(5)
    with pytest.raises(SpecError, match="cannot be told"):
        write_episode(tmp_path / "d", x, a, r, task="lab/robot")
    with pytest.raises(SpecError, match="bounds of these actions"):
        write_episode(tmp_path / "d", x, x + 2, r, task="lab/robot")
    with pytest.raises(UsageError, match="no task id"):
        write_episode(tmp_path / "d", x, x, r, task="robot")
    spaces = (gymnasium.spaces.Box(-1, 1, (2,), np.float64), gymnasium.spaces.Discrete(3))
    write_episode(tmp_path / "d", x, a, r, task="lab/robot", spec=spaces)
    with pytest.raises(ObservationError, match="step 2"):
        write_episode(tmp_path / "d", x, np.array([0, 1, 3, 0, 0]), r, task="lab/robot")
    with pytest.raises(EpisodeError, match="4 values for 5 rewards"):
        write_episode(tmp_path / "d", x[:4], a, r, task="lab/robot")
    for what in (5.0, None, [[1.0], [1.0, 2.0]], object()):
        with pytest.raises(EpisodeError, match="array"):
            write_episode(tmp_path / "d", x, a, what, task="lab/robot")
        with pytest.raises(EpisodeError, match=r"array.*lab/robot observation"):
            write_episode(tmp_path / "d", what, a, r, task="lab/robot")
    with pytest.raises(ObservationError, match="half a character"):
        write_episode(tmp_path / "e", ["fine", "\ud800"], x[:2], r[:2], task="lab/robot")
    assert len(Dataset.open(tmp_path / "d")) == 1


@pytest.mark.parametrize(
    "info",
    [
        {"success": 2},
        {"success": "yes"},
        {"seed": "a"},
        {"seed": 2**63},
        {"seed": 1.5},
        {"source": 3},
        {"x": {1: 2, "a": 3}},
    ],
)
def test_facts_that_no_index_could_hold(tmp_path, info):
    """They would be found when the episodes are folded together, long after."""
    x, r = np.zeros((5, 2)), np.zeros(5)
    with pytest.raises(EpisodeError, match="lab/robot episode info"):
        write_episode(tmp_path / "d", x, x, r, task="lab/robot", info=info)
    write_episode(tmp_path / "d", x, x, r, task="lab/robot", info={"success": np.int64(1), "seed": np.uint64(2**62)})
    with DatasetWriter(tmp_path / "d", "lab/robot", Dataset(tmp_path / "d").spec):
        pass
    [entry] = Dataset(tmp_path / "d").index
    assert entry.success is True and entry.seed == 2**62


def test_a_seed_that_no_index_could_hold_is_refused_before_it_is_played(tmp_path):
    with record(gymnasium.make("CartPole-v1"), tmp_path / "d") as env, pytest.raises(EpisodeError, match="64 bits"):
        env.reset(seed=2**63)
