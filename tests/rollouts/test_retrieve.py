"""Retrieve and replay: the demonstrated action for a demonstrated observation, the nearest one's for any other."""

import json

import gymnasium
import numpy as np
import pytest

from gato.cli import main
from gato.episodes import Dataset, DatasetWriter, Episode, Spec, TaskSpec
from gato.episodes.likeness import Memory
from gato.errors import DatasetMissingError
from gato.rollouts import LocalSlot, Unit, rollout
from gato.rollouts.collect import collect
from gato.rollouts.retrieve import Retrieval
from gato.worlds import find


def demonstrations(folder, task, episodes):
    (result,) = collect([find(task)], episodes, folder, workers=0, progress=False)
    return result.folder


def gato(*words):
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.fixture(scope="module")
def dummy(tmp_path_factory):
    return demonstrations(tmp_path_factory.mktemp("dummy"), "dummy/count", 20)  # so many that every count was seen


def test_every_demonstrated_observation_gives_its_own_action(dummy):
    """The dummy's observations hold every kind, and each of them tells the step."""
    dataset = Dataset.open(dummy)
    memory = Memory.of(dataset)
    assert {spec.kind for spec in memory.observation.values()} == {"image", "text", "discrete", "continuous"}
    for episode in list(dataset)[:2]:
        for t in range(0, len(episode), 7):
            at = memory.nearest({path: values[t] for path, values in episode.observations.items()})
            for path, values in episode.actions.items():
                np.testing.assert_array_equal(memory.actions[path][at], values[t])


def test_the_nearest_is_taken():
    """One number, three demonstrations: 0.1 is nearest to 0, 0.9 to 1, whatever the scale."""

    class Line(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    from gato.episodes import stack_episode, task_spec

    spec = task_spec(Line(), "dummy/line")
    rows = [{"observation": np.array([x], np.float32)} for x in (0.0, 1000.0, 2000.0, 0.0)]
    episode = stack_episode(
        "dummy/line",
        spec,
        rows,
        [{"action": np.array([a], np.float32)} for a in (0.1, 0.2, 0.3, 0.4)],
        [0.0] * 4,
        None,
        {},
    )

    class Held:
        folder, task, num_timesteps = "here", "dummy/line", 4

        def __init__(self):
            self.spec = spec

        def __iter__(self):
            return iter([episode])

    policy = Retrieval([Held()]).policy("dummy/line", 1)

    def act(x):
        return float(policy.act({3: np.array([x], np.float32)}, {3: {}})[3]["action"][0])

    assert [round(act(x), 1) for x in (100.0, 900.0, 5000.0)] == [0.1, 0.2, 0.3]
    assert round(act(0.0), 1) == 0.1  # of equals the earliest


def test_a_real_task_by_replay(tmp_path):
    """Twelve demonstrations of Meta-World's drawer do other starts too, and the same ones in the same way."""
    pytest.importorskip("metaworld")
    folder = demonstrations(tmp_path, "meta-world/drawer-close", 12)
    retrieval = Retrieval.open([folder])
    units = [Unit("meta-world/drawer-close", seed) for seed in range(900, 906)]
    played = list(rollout(units, [LocalSlot()], retrieval.policy("meta-world/drawer-close", 1)))
    assert sum(bool(e.success) for e in played) >= 5
    assert {e.info["source"] for e in played} == {"retrieve"}
    (again,) = rollout(units[:1], [LocalSlot()], retrieval.policy("meta-world/drawer-close", 1))
    first = next(e for e in played if e.info["seed"] == 900)
    np.testing.assert_array_equal(first.actions["action"], again.actions["action"])


def test_the_evaluator_takes_it(dummy, tmp_path, capsys):
    out = tmp_path / "scores"
    words = ["evaluate", "--policy", "retrieve", "--data", dummy, "--out", out, "--episodes", 2]
    assert gato(*words, "--workers", 0, "--no-film") == 0
    record = json.loads((out / "results.json").read_text())
    assert record["protocol"]["acting"].startswith("retrieve") and "dummy/count" in record["protocol"]["data"]
    (task,) = record["tasks"]
    assert task["score"] > 17  # episodes have 20 to 40 steps, each right action earns 1
    assert (out / "report.html").exists()


def test_what_is_missing_is_named(dummy, tmp_path, capsys):
    with pytest.raises(DatasetMissingError, match="no demonstrations of meta-world/reach"):
        Retrieval.open([dummy]).policy("meta-world/reach", 1)
    with DatasetWriter(tmp_path / "none", "dummy/count", find("dummy/count").spec):
        pass
    with pytest.raises(DatasetMissingError, match="no timestep"):
        Retrieval.open([tmp_path / "none"]).policy("dummy/count", 1)
    assert gato("evaluate", "--policy", "retrieve", "--out", tmp_path / "a") == 2
    assert "--data" in capsys.readouterr().err
    assert gato("evaluate", "bundle", "--policy", "retrieve", "--data", dummy, "--out", tmp_path / "b") == 2


def test_a_column_that_hardly_varies_far_from_zero():
    """Added up one after another in float32, 300,000 readings about 4,096 have a mean that is off by more than they vary."""
    spec = TaskSpec({"x": Spec("continuous", (1,), "float32")}, {"a": Spec("discrete", (), "int64", (0.0,), (1.0,))})
    x = 4096 + np.random.default_rng(0).normal(0, 0.05, (300_000, 1)).astype(np.float32)
    episode = Episode("own/far", {"x": x}, {"a": np.zeros(len(x), np.int64)}, np.zeros(len(x), np.float32))
    memory = Memory.build(spec, [episode], "test")
    assert abs(memory.keys.mean()) < 0.01 and memory.keys.std() == pytest.approx(1, abs=0.01)
