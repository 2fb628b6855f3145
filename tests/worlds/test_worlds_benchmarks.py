"""The benchmarks of worlds: every domain has its row, a killed run goes on, and replaying is set beside making."""

import json
import os
from pathlib import Path

import pytest

from benchmarks import replay, worlds
from gato.worlds import find, registry
from gato.worlds.cards import CARDS

ROOT = Path(__file__).parents[2]


def test_every_domain_has_a_row():
    assert set(worlds.RAW) | worlds.NO_SIMULATOR == set(CARDS)
    for domain, (name, _) in worlds.RAW.items():
        assert name.startswith(f"{domain}/") and (domain == "gym" or name in registry()), name


def test_both_sides_take_turns_and_the_goal_is_judged():
    row = worlds.measure(find(worlds.RAW["gym"][0]), worlds.RAW["gym"][1], 0.01, 3)
    assert row["steps_per_second"] > 0 < row["raw_steps_per_second"]
    assert row["reached"] == (row["added_us"] <= 20 if "us added" in row["goal"] else row["ratio"] >= 0.9)


def test_a_world_of_ours_alone_has_no_ratio():
    row = worlds.measure(find("sokoban/7x7-1-box"), worlds.none, 0.01, 2)
    assert row["steps_per_second"] > 0 and "ratio" not in row and "reached" not in row


def test_collecting_with_one_worker_and_with_two(monkeypatch):
    monkeypatch.setattr(worlds, "COLLECTED", ("dummy/count",))
    row = worlds.workers(3, 1)
    assert row["tasks"] == ["dummy/count"] and set(row["steps_per_second"]) == {"1", "2"} and "reached" in row


def test_a_run_goes_on_where_it_stopped(tmp_path):
    file, calls = tmp_path / "state.json", []

    def part(name, reached):
        def make():
            calls.append(name)
            return {"task": "x", "reached": reached}

        return make

    first = worlds.State(file)
    first.add("babyai", part("babyai", True))
    again = worlds.State(file)
    again.add("babyai", part("babyai", True))
    again.add("vizdoom", part("vizdoom", False))
    assert calls == ["babyai", "vizdoom"]
    result = worlds.record(json.loads(file.read_text()))
    assert result["summary"] == {"compared": 2, "reached": 1, "missed": ["vizdoom"]}
    assert [row["domain"] for row in result["worlds"]] == ["babyai", "vizdoom"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no processor affinity here")
def test_one_core_is_given_back():
    before = os.sched_getaffinity(0)
    with worlds.one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_a_replay_is_set_beside_the_making():
    row = replay.measure(find("classic-control/cartpole-v1"), None, 30, 2)
    assert row["steps"] == 30 == row["return"] and row["came_true"] == "to the bit" and not row["rendered"]
    assert row["times"] == pytest.approx(row["make_seconds"] / row["replay_seconds"], rel=0.1, abs=0.2)
    assert "goal" not in row  # it took less than ten seconds to make
    assert replay.summary([row])["judged"] == 0
    slow = row | {"goal": 20.0, "reached": True, "times": 162.6}
    assert replay.summary([row, slow]) == {"tasks": 2, "judged": 1, "reached": 1, "least_times": 162.6}


def test_replaying_traces_that_are_there(tmp_path):
    from gato.rollouts.tracing import collect_traces

    collect_traces([find("sokoban/7x7-1-box")], 1, tmp_path, workers=0)
    row = replay.measure(find("sokoban/7x7-1-box"), tmp_path, None, 1)
    assert row["made"].startswith("before") and row["rendered"] and row["steps"] > 0
