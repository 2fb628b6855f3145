"""Benchmarks whose results stay: intervals are of what they say, and a record holds what was measured alike."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import coverage, demo_curve, planning, scaling
from gato.errors import UsageError
from gato.rollouts.collect import collect
from gato.worlds import find

ROOT = Path(__file__).parents[2]


def test_a_gain_over_all_tasks_draws_within_each():
    """Tasks that differ, and whose episodes do not, leave no doubt; networks that differ do, by as much in all tasks."""
    gain = coverage.gain
    tasks = np.broadcast_to(np.array([0.0, 50.0, 100.0])[:, None, None], (3, 4, 10))
    found = gain(tasks, tasks + 5, np.random.default_rng(0))
    assert found == {"clean": 50.0, "covering": 55.0, "gain": 5.0, "low": 5.0, "high": 5.0}
    seeds = np.array([-10.0, 0.0, 0.0, 10.0])[None, :, None]
    whole = gain(tasks, tasks + seeds, np.random.default_rng(0))
    alone = gain(tasks[:1], (tasks + seeds)[:1], np.random.default_rng(0))
    assert whole["low"] == alone["low"] < -5 and whole["high"] == alone["high"] > 5


def test_rows_of_planning_are_kept_where_they_were_measured_alike(tmp_path, capsys):
    file = tmp_path / "planning.json"
    facts = {"command": "… --episodes 20", "agent": "Agent(a)", "acting": {"discrete": "sample"}, "torch": "2.11"}
    rows = [{"task": "sokoban/7x7-1-box"}, {"task": "babyai/go-to-local"}]
    assert planning.kept(file, facts) == {} and not capsys.readouterr().err
    file.write_text(json.dumps({**facts, "tasks": rows}))
    assert list(planning.kept(file, facts)) == [row["task"] for row in rows] and not capsys.readouterr().err
    for name in facts:
        assert planning.kept(file, {**facts, name: "another"}) == {} and f"({name})" in capsys.readouterr().err


def test_a_point_of_the_demos_curve_is_of_the_demos_recipe(tmp_path):
    file = tmp_path / "1M" / "train" / "recipe.json"
    file.parent.mkdir(parents=True)
    with pytest.raises(UsageError, match="another recipe"):  # what it is of nobody knows
        demo_curve.point(tmp_path, 1, tmp_path, 1)
    words = ["steps=7", "seconds=null", "model.vocabulary_size=1024"]
    file.write_text(json.dumps(demo_curve.demo.override(words).to_json()))
    demo_curve.check(file)
    file.write_text(json.dumps(demo_curve.demo.override([*words, "slots=3"]).to_json()))
    (tmp_path / "1M" / "results.json").write_text("{}")
    with pytest.raises(UsageError, match="another recipe"):
        demo_curve.point(tmp_path, 1, tmp_path, 1)


def test_what_a_killed_training_cost_is_counted(tokenizer, tmp_path, monkeypatch):
    collect([find("dummy/count")], 30, tmp_path / "data", workers=0, progress=False)
    tokenizer.save(tmp_path / "tokenizer.model")
    recipe = scaling.recipe_of("small", 10**6).replace(steps=4, slots=1, slot_tokens=256, weights={"dummy": 1.0})
    recipe = recipe.override([f"model.vocabulary_size={tokenizer.size}"])
    monkeypatch.setattr(scaling, "recipe_of", lambda name, tokens: recipe)
    monkeypatch.setattr(scaling, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(scaling, "play", lambda bundle, episodes: {})
    measure = scaling.held_out_loss
    args = Namespace(tokens=0, data=[tmp_path / "data"], tokenizer=tmp_path / "tokenizer.model", state=tmp_path, batches=1, episodes=1)  # fmt: skip

    def killed(*_):
        raise KeyboardInterrupt

    spent = [0.0]
    for points, how in (((0.75,), killed), ((0.5, 1.0), measure)):
        monkeypatch.setattr(scaling, "POINTS", points)
        monkeypatch.setattr(scaling, "held_out_loss", how)
        try:
            scaling.learn("small", args)
        except KeyboardInterrupt:
            assert how is killed
        spent.append(json.loads((tmp_path / "small.json").read_text())["seconds"])
    assert 0 < spent[1] < spent[2]
