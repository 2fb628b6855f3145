"""Your own loops and arrays become a dataset."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Text

from gato.episodes import Spec, TaskSpec
from gato.episodes.record import KNOWN, record, write_episode
from gato.episodes.repair import verify
from gato.episodes.store import Dataset
from gato.episodes.writer import DatasetWriter
from gato.errors import EpisodeError, ObservationError, OutputExistsError, SpecError, UsageError
from gato.worlds.dummy import CountingWorld, counting_expert
from gato.worlds.gym import FAMILIES, gym_task


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
    assert len(dataset) == 70 and verify(tmp_path / "d").ok and len(dataset.parts) < 20
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


PACKAGE = {
    "a_pour/__init__.py": "import gymnasium\ngymnasium.register('Pour-v0', 'a_pour.envs:Pour')\n",
    "a_pour/envs.py": "from gymnasium.envs.classic_control import CartPoleEnv as Pour\n",
    "a_shelf/envs/arm.py": (
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Arm-v0', lambda **k: CartPoleEnv(**k))\n"
    ),
}


def test_an_environment_of_ones_own_is_named_so_that_it_can_be_played(tmp_path, monkeypatch):
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    made = {"a_pour:Pour-v0": "gym/a_pour:Pour-v0", "a_shelf.envs.arm:Arm-v0": "gym/a_shelf.envs.arm:Arm-v0"}
    try:
        for env_id, task in made.items():
            record(gymnasium.make(env_id), tmp_path / env_id).close()
            assert Dataset.open(tmp_path / env_id).task == task
            assert gym_task(task.removeprefix("gym/")).spec == Dataset.open(tmp_path / env_id).spec
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] in ("a_pour", "a_shelf")]:
            del sys.modules[name]
        for name in ("Pour-v0", "Arm-v0"):
            gymnasium.registry.pop(name, None)
    assert {module.partition(".")[0] for module, _ in FAMILIES.values()} < KNOWN


class Short(gymnasium.Env):
    """Three steps, and whatever observations and rewards are wanted after them."""

    observation_space, action_space = Box(-np.inf, np.inf, (2,), np.float32), Box(-1, 1, (1,), np.float32)

    def __init__(self, seen=(), rewards=()):
        self.seen, self.rewards = dict(seen), dict(rewards)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        seen, reward = self.seen.get(self.t, np.zeros(2)), self.rewards.get(self.t, 1.0)
        return seen, reward, self.t == 3, False, {"success": self.t == 3}


def play(env, action=(0.5,)):
    env.reset()
    while not any(env.step(np.array(action, np.float32))[2:4]):
        pass


@pytest.mark.parametrize("last", [np.full(2, np.nan), None, "gone"])
def test_what_is_seen_after_the_last_action_may_be_anything(tmp_path, last):
    with record(Short({3: last}), tmp_path / "d", task="lab/short") as env:
        play(env)
    [episode] = Dataset.open(tmp_path / "d")
    assert len(episode) == 3 and episode.success and episode.info["terminated"] and "broken_off" not in episode.info


@pytest.mark.parametrize(
    "env, kept, what",
    [
        (Short({2: np.array([0.0, np.nan])}), 2, "NaN at element 1"),
        (Short({2: np.array([1e300, 0.0])}), 2, r"1e\+300, too large for float32, at element 0"),
        (Short(rewards={3: np.nan}), 2, "nan is not finite as float32.*step 2 reward"),
        (Short(rewards={2: 1e39}), 1, "not finite"),
        (Short(rewards={2: None}), 1, "no number"),
    ],
)
def test_what_cannot_be_recorded_is_named_at_its_step_and_the_steps_before_are_kept(tmp_path, env, kept, what):
    recorded = record(env, tmp_path / "d", task="lab/short")
    with pytest.raises(EpisodeError, match=what):
        play(recorded)
    recorded.step(np.zeros(1, np.float32))  # the loop goes on, unrecorded
    recorded.close()
    [episode] = Dataset.open(tmp_path / "d")
    assert len(episode) == kept and episode.info["broken_off"] and not episode.info["terminated"]


def test_actions_outside_their_bounds_are_refused(tmp_path):
    with record(Short(), tmp_path / "d", task="lab/short") as env:
        with pytest.raises(ObservationError, match=r"value 37 at element 0, outside -1…1.*step 0"):
            play(env, (37.0,))
        play(env, (1.000001,))  # by rounding
    assert [len(e) for e in Dataset.open(tmp_path / "d")] == [3]
    x, r = np.zeros((5, 2)), np.zeros(5)
    write_episode(tmp_path / "e", x, x + 0.5, r, task="lab/robot")
    with pytest.raises(ObservationError, match=r"value 50 at element 1.*step 2"):
        write_episode(tmp_path / "e", x, x + np.array([[0, 0]] * 2 + [[0, 50]] + [[0, 0]] * 2), r, task="lab/robot")
    assert len(Dataset.open(tmp_path / "e")) == 1


SEEN = Box(-np.inf, np.inf, (2,), np.float64)
ENDLESS = Spec("continuous", (2,), "float64", (-np.inf,), (np.inf,))


@pytest.mark.parametrize(
    "actions, spec",
    [
        (np.zeros((5, 2)), (SEEN, Box(-np.inf, np.inf, (2,), np.float64))),
        (np.zeros((5, 2)), TaskSpec({"observation": ENDLESS}, {"action": ENDLESS})),
        (["a"] * 5, (SEEN, Text(5))),
        (np.zeros((5, 16, 16, 3), np.uint8), (SEEN, Box(0, 255, (16, 16, 3), np.uint8))),
    ],
)
def test_actions_that_nobody_could_be_taught_are_refused(tmp_path, actions, spec):
    with pytest.raises(SpecError, match=r"no bounds|action of kind"):
        write_episode(tmp_path / "d", np.zeros((5, 2)), actions, np.zeros(5), task="lab/robot", spec=spec)
    assert not (tmp_path / "d").exists()


def test_arrays_that_are_refused_leave_nothing_behind(tmp_path):
    x, r = np.zeros((5, 2)), np.zeros(5)
    for what, seen, rewards in (
        ("at least one step", np.zeros((0, 7)), r[:0]), ("NaN", x + np.nan, r), ("2 values for 5", x[:2], r),
        (r"shape \(5, 1\), expected one number a step", x, r[:, None]), ("no field at all", {}, r),
        ("float128|longdouble", x.astype(np.longdouble), r),
    ):  # fmt: skip
        with pytest.raises((EpisodeError, SpecError), match=what):
            write_episode(tmp_path / "d", seen, x[: len(rewards)], rewards, task="lab/robot")
    with pytest.raises(EpisodeError, match=r"no field at all.*action"):
        write_episode(tmp_path / "d", x, {}, r, task="lab/robot")
    assert not (tmp_path / "d").exists()
    write_episode(tmp_path / "d", np.zeros((5, 3)), x, r, task="lab/robot")


def test_two_leaves_of_one_path_are_not_one(tmp_path):
    x, r = np.zeros((5, 2)), np.zeros(5)
    for seen in ({"a/b": x, "a": {"b": x + 1}}, {1: x, "1": x}):
        with pytest.raises(SpecError, match="two leaves are called"):
            write_episode(tmp_path / "d", seen, x, r, task="lab/robot")
    env = Short()
    env.observation_space = gymnasium.spaces.Dict({"a/b": Discrete(2), "a": gymnasium.spaces.Dict(b=Discrete(3))})
    with pytest.raises(SpecError, match="two leaves are called 'a/b'"):
        record(env, tmp_path / "d", task="lab/short")


def test_a_longdouble_box_is_refused(tmp_path):
    env = Short()
    env.observation_space = Box(-1, 1, (2,), np.longdouble)
    with pytest.raises(SpecError, match=r"(float128|longdouble) cannot be stored"):
        record(env, tmp_path / "d", task="lab/short")


@pytest.mark.parametrize(
    ("said", "kept"), [(np.nan, None), (None, None), (np.array([True]), True), (np.bool_(False), False), (1, True)]
)
def test_success_is_a_truth_value_or_not_said(tmp_path, said, kept):
    class Sure(Short):
        def step(self, action):
            return *super().step(action)[:4], {"success": said}

    with record(Sure(), tmp_path / "d", task="lab/short") as env:
        play(env)
    assert Dataset.open(tmp_path / "d").index[0].success is kept


def test_success_that_says_two_things_is_refused(tmp_path):
    class Unsure(Short):
        def step(self, action):
            return *super().step(action)[:4], {"success": np.array([True, False])}

    with record(Unsure(), tmp_path / "d", task="lab/short") as env, pytest.raises(EpisodeError, match="success"):
        play(env)
