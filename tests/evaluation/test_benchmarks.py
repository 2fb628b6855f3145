"""Benchmarks whose results stay: intervals are of what they say, and a record holds what was measured alike."""

import importlib.util
import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_gain_over_all_tasks_draws_within_each():
    """Tasks that differ, and whose episodes do not, leave no doubt; networks that differ do, by as much in all tasks."""
    gain = load("coverage").gain
    tasks = np.broadcast_to(np.array([0.0, 50.0, 100.0])[:, None, None], (3, 4, 10))
    found = gain(tasks, tasks + 5, np.random.default_rng(0))
    assert found == {"clean": 50.0, "covering": 55.0, "gain": 5.0, "low": 5.0, "high": 5.0}
    seeds = np.array([-10.0, 0.0, 0.0, 10.0])[None, :, None]
    whole = gain(tasks, tasks + seeds, np.random.default_rng(0))
    alone = gain(tasks[:1], (tasks + seeds)[:1], np.random.default_rng(0))
    assert whole["low"] == alone["low"] < -5 and whole["high"] == alone["high"] > 5


def test_rows_of_planning_are_kept_where_they_were_measured_alike(tmp_path, capsys):
    planning, file = load("planning"), tmp_path / "planning.json"
    facts = {"command": "… --episodes 20", "agent": "Agent(a)", "acting": {"discrete": "sample"}, "torch": "2.11"}
    rows = [{"task": "sokoban/7x7-1-box"}, {"task": "babyai/go-to-local"}]
    assert planning.kept(file, facts) == {} and not capsys.readouterr().err
    file.write_text(json.dumps({**facts, "tasks": rows}))
    assert list(planning.kept(file, facts)) == [row["task"] for row in rows] and not capsys.readouterr().err
    for name in facts:
        assert planning.kept(file, {**facts, name: "another"}) == {} and f"({name})" in capsys.readouterr().err
