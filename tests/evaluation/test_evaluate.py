"""Evaluation: scores that no number of workers changes, and how fast they were made."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from gato.episodes import check_same
from gato.episodes.manifest import lock_file
from gato.errors import OutputExistsError, ResourceError, SimulatorMissingError, SpecError
from gato.evaluation.evaluate import evaluate, evaluate_task, play
from gato.evaluation.watching import watch
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.rollouts.collect import collect
from gato.rollouts.pool import WorkerPool
from gato.rollouts.retrieve import Retrieval
from gato.worlds import find, register, registry
from gato.worlds.dummy import CountingWorld


class Changed(CountingWorld):
    """The counting world after somebody changed it."""

    def __init__(self, change):
        super().__init__()
        self.action_space = spaces.Dict(
            {**self.action_space.spaces, **{k: v for k, v in change.items() if k != "text"}}
        )
        if "text" in change:
            self.observation_space = spaces.Dict({**self.observation_space.spaces, "text": change["text"]})


class Painted(CountingWorld):
    """The counting world, drawn on one canvas."""

    canvas = np.zeros((64, 64, 3), np.uint8)

    def render(self):
        self.canvas[:] = self.count
        return self.canvas


def test_a_film_shows_every_step(tmp_path):
    count = find("dummy/count")
    collect([count], 1, tmp_path, workers=0, progress=False)
    film = play(Retrieval.open([tmp_path]), count, Painted(), 0, 5)
    assert np.diff(film[:, 0, 0, 0].astype(int)).tolist() == [1] * 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stick": spaces.Box(-1, 1, (3,), np.float32)}, "action stick was continuous 2, and continuous 3"),
        (
            {"stick": spaces.Box(-9, 9, (2,), np.float32)},
            r"action stick was bounds \[-1.0\] … \[1.0\], and \[-9.0\] … \[9.0\]",
        ),
        ({"button": spaces.Discrete(16, start=1)}, r"action button was bounds \[0.0\] … \[15.0\]"),
        ({"lever": spaces.Discrete(2)}, "action lever was nothing, and discrete scalar of 2"),
        ({"text": spaces.Discrete(2)}, "observation text was text, and discrete scalar of 2"),
    ],
    ids=["shape", "bounds", "start", "new", "kind"],
)
def test_a_world_that_was_changed_is_not_played(tokenizer, tmp_path, change, said):
    count = find("dummy/count")
    config = GatoConfig.tiny().replace(vocabulary_size=tokenizer.size)
    ways = {"discrete": "sample", "continuous": "sample", "temperature": 1.0}
    agent = Agent(Bundle(config, Gato(config).eval(), tokenizer, {count.id: TaskCard(count.spec, 1)}, ways, {}))
    changed = replace(count, make_env=lambda render=False: Changed(change))
    with pytest.raises(SpecError, match=said) as caught:
        evaluate(agent, [changed], 1, tmp_path, workers=0, film=False, progress=False)
    assert caught.value.where == "dummy/count"
    with pytest.raises(SpecError, match=said):
        watch(agent, changed, agent.policy(count.id, 1), [3], lambda moment: None, max_steps=4)
    with WorkerPool(0) as pool:
        [held] = collect([count], 1, tmp_path / "data", workers=0, progress=False)
        with pytest.raises(SpecError, match=said):
            evaluate_task(Retrieval.open([held.folder]), changed, 1, pool)
    wider = replace(count, make_env=lambda render=False: Changed({"stick": spaces.Box(-1, 1, (2,), np.float64)}))
    check_same(count.spec, wider.spec, "")  # the type of a number is no matter


@pytest.mark.parametrize(
    "real", ["babyai/go-to-local", pytest.param("dm-control-suite/cartpole-swingup", marks=pytest.mark.slow)]
)
def test_the_same_scores_from_one_worker_and_from_eight(tokenizer, tmp_path, capfd, real):
    """Bit for bit, with actions sampled: the counting world and a simulator, eight episodes side by side."""
    tasks = [find("dummy/count"), find(real)]
    if not tasks[1].installed:
        pytest.skip(tasks[1].pip_line)
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=128, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size,
    )  # fmt: skip
    cards = {task.id: TaskCard(task.spec, 1) for task in tasks}
    ways = {"discrete": "sample", "continuous": "sample", "temperature": 1.0}
    agent = Agent(Bundle(config, Gato(config).eval(), tokenizer, cards, ways, {}))
    found = {}
    for workers in (1, 8):
        out = tmp_path / str(workers)
        evaluate(agent, tasks, 8, out, workers=workers, film=False)
        found[workers] = json.loads((out / "results.json").read_text())
    for one, eight in zip(found[1]["tasks"], found[8]["tasks"], strict=True):
        for facts in (one["facts"], eight["facts"]):
            assert facts.pop("seconds") >= 0 and facts.pop("steps_per_second") > 0
        assert one == eight
        assert len(one["episode_scores"]) == 8
    assert any(len(set(task["episode_scores"])) > 1 for task in found[1]["tasks"])
    assert found[1]["aggregates"] == found[8]["aggregates"]
    protocol = found[8]["protocol"]
    assert protocol["environment_steps"] == sum(t["facts"]["environment_steps"] for t in found[8]["tasks"])
    assert protocol["environment_steps_per_second"] > 0
    assert "dummy/count: " in (said := capfd.readouterr().err) and "steps/s" in said


class Falling(CountingWorld):
    """The counting world, which cannot be made while the file that it watches is there."""

    watched = None

    def __init__(self):
        if Falling.watched.exists():
            raise ResourceError("this world does not start", where=str(Falling.watched), fix="remove it")
        super().__init__()


def counting_agent(tokenizer):
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(vocabulary_size=tokenizer.size)
    ways = {"discrete": "sample", "continuous": "sample", "temperature": 1.0}
    return Agent(
        Bundle(config, Gato(config).eval(), tokenizer, {"dummy/count": TaskCard(find("dummy/count").spec, 1)}, ways, {})
    )


@pytest.fixture
def falls():
    yield register(replace(find("dummy/count"), id="dummy/falls", make_env=lambda render=False: Falling()))
    del registry()["dummy/falls"]


def test_what_was_played_is_kept_when_a_world_fails(tokenizer, tmp_path, capsys, falls):
    """The same call goes on with what is missing; another agent, or other settings, do not mix with it."""
    torch.manual_seed(0)
    count = find("dummy/count")
    tasks = [count, falls]
    cards = {task.id: TaskCard(count.spec, 1) for task in tasks}
    ways = {"discrete": "sample", "continuous": "sample", "temperature": 1.0}
    config = GatoConfig.tiny().replace(vocabulary_size=tokenizer.size)
    agent = Agent(Bundle(config, Gato(config).eval(), tokenizer, cards, ways, {}))
    out, whole = tmp_path / "out", tmp_path / "whole"
    Falling.watched = tmp_path / "broken"
    evaluate(agent, tasks, 3, whole, workers=0, progress=False)
    Falling.watched.touch()
    with pytest.raises(ResourceError, match="does not start"):
        evaluate(agent, tasks, 3, out, workers=0, progress=False)
    assert not (out / "results.json").exists()
    [piece] = (out / "played").iterdir()
    before = piece.read_bytes()
    for other in ({"episodes": 2}, {"seed": 1}, {"film": False}):
        said = {"episodes": 3, **other}
        with pytest.raises(OutputExistsError, match="began otherwise"):
            evaluate(agent, tasks, said.pop("episodes"), out, workers=0, progress=False, **said)
    another = Agent(Bundle(config, Gato(config).eval(), tokenizer, cards, ways, {}))
    with pytest.raises(OutputExistsError, match="agent"):
        evaluate(another, tasks, 3, out, workers=0, progress=False)
    assert piece.read_bytes() == before
    Falling.watched.unlink()
    evaluate(agent, tasks, 3, out, workers=0)
    assert "1 of 2 tasks were played before" in capsys.readouterr().err
    assert sorted(f.name for f in out.iterdir()) == sorted(f.name for f in whole.iterdir()) == ["media", "results.json"]
    one, other = (json.loads((folder / "results.json").read_text()) for folder in (out, whole))
    for record in (one, other):
        for task in record["tasks"]:
            task["facts"].pop("seconds"), task["facts"].pop("steps_per_second")
    assert one["tasks"] == other["tasks"] and one["aggregates"] == other["aggregates"]


class Unseen(CountingWorld):
    """The counting world, which cannot be drawn."""

    def render(self):
        raise OSError("no canvas")


def test_a_film_that_fails_costs_no_scores(tokenizer, tmp_path):
    agent, count = counting_agent(tokenizer), find("dummy/count")
    unseen = replace(count, make_env=lambda render=False: Unseen() if render else CountingWorld())
    record = evaluate(agent, [unseen], 2, tmp_path, workers=0, progress=False)
    assert record["protocol"]["notes"] == ["dummy: state plots in place of films, OSError: no canvas"]
    assert len(record["tasks"][0]["episode_scores"]) == 2 and (tmp_path / "media/dummy--count.png").exists()


def test_what_is_there_is_not_replaced_unasked(tokenizer, tmp_path):
    """Neither what another process is writing nor what one has written; nor is anything begun without a simulator."""
    agent, count = counting_agent(tokenizer), find("dummy/count")
    absent = replace(count, id="dummy/absent", requires=("no_such_module",))
    with pytest.raises(SimulatorMissingError):
        evaluate(agent, [count, absent], 1, tmp_path / "out", workers=0, film=False, progress=False)
    assert not (tmp_path / "out").exists()
    with lock_file(tmp_path / "out/results.json"), pytest.raises(OutputExistsError, match="is writing here"):
        evaluate(agent, [count], 1, tmp_path / "out", workers=0, film=False, progress=False)
    evaluate(agent, [count], 1, tmp_path / "out", workers=0, film=False, progress=False)
    before = (tmp_path / "out/results.json").read_bytes()
    with pytest.raises(OutputExistsError, match="holds results"):
        evaluate(agent, [count], 2, tmp_path / "out", workers=0, film=False, progress=False)
    assert (tmp_path / "out/results.json").read_bytes() == before
    evaluate(agent, [count], 2, tmp_path / "out", workers=0, film=False, progress=False, overwrite=True)
    assert len(json.loads((tmp_path / "out/results.json").read_text())["tasks"][0]["episode_scores"]) == 2
