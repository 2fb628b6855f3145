"""The recorder of slow experts' traces, on a quick one: resumable in pieces, and what it writes comes true."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from gato.worlds import find
from gato.worlds.traces import read_traces, trace_path, verify

TASKS = ["classic-control/cartpole-v1", "classic-control/acrobot-v1"]


@pytest.fixture(scope="module")
def make_traces():
    path = Path(__file__).parents[2] / "benchmarks" / "make_traces.py"
    spec = importlib.util.spec_from_file_location("make_traces", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_in_pieces_is_the_run_in_one(make_traces, tmp_path):
    tasks = [find(TASKS[0])]
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
    make_traces.run(tasks, 3, whole, hours=1)
    make_traces.run(tasks, 1, pieces, hours=1)
    with open(pieces / "seconds.jsonl", "a") as file:
        file.write('{"task": "classic-cont')  # killed while writing; the next run begins a line of its own
    make_traces.run(tasks, 3, pieces, hours=1)
    one, other = (read_traces(TASKS[0], trace_path(TASKS[0], folder)) for folder in (whole, pieces))
    assert [(t.seed, t.total_return) for t in one] == [(t.seed, t.total_return) for t in other] and len(one) == 3
    assert [make_traces.is_clean(t) for t in one] == [True, False, True]
    assert verify(TASKS[0], trace_path(TASKS[0], pieces)) == 3
    report = make_traces.report(tasks, pieces)
    assert "| 3 | 2 | 500 (500 … 500) |" in report


def test_nothing_is_begun_when_the_time_is_over(make_traces, tmp_path):
    make_traces.run([find(t) for t in TASKS], 2, tmp_path, hours=0)
    assert not list(tmp_path.glob("*.parquet"))


def test_starts_that_the_expert_gave_up_are_passed_over(make_traces, tmp_path):
    (tmp_path / "seconds.jsonl").write_text(f'{{"task": "{TASKS[0]}", "index": 0, "gave_up": "stuck"}}\n')
    assert make_traces.next_index(TASKS[0], tmp_path) == 1
