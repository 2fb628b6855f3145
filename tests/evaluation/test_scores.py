"""Scores: by hand, against scipy, and the properties that no rounding may break."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean

from gato.errors import DataError
from gato.evaluation.scores import (
    TaskScores,
    aggregate,
    expert_normalised,
    iqm,
    read_results,
    resampled_means,
    results,
    tasks_at,
    thresholds,
    write_results,
)

BY_HAND = [
    TaskScores("a/one", [1, 1, 0, 1], random=0.0, expert=1.0, measure="success"),  # 75
    TaskScores("a/two", [10.0, 20.0], random=5.0, expert=25.0),  # 50
    TaskScores("b/three", [-100.0] * 3, random=-200.0, expert=-100.0),  # 100
    TaskScores("b/four", [0.0], random=1.0, expert=3.0),  # -50
    TaskScores("c/five", [12.0], random=0.0, expert=10.0),  # 120
]


def test_golden_by_hand():
    record = results({"seed": 0}, BY_HAND)
    assert [t["id"] for t in record["tasks"]] == ["a/one", "a/two", "b/four", "b/three", "c/five"]
    assert [t["expert_normalised"] for t in record["tasks"]] == [75.0, 50.0, -50.0, 100.0, 120.0]
    found = record["aggregates"]
    assert found["domains"] == {"a": 62.5, "b": 25.0, "c": 120.0}
    assert found["mean_of_domain_means"] == pytest.approx((62.5 + 25 + 120) / 3)
    assert found["mean"] == pytest.approx(59.0)
    assert found["median"] == 75.0
    assert found["iqm"] == pytest.approx((50 + 75 + 100) / 3)
    assert (found["tasks"], found["tasks_at_50"], found["tasks_at_80"]) == (5, 4, 2)
    curve = dict(zip(found["thresholds"]["percent"], found["thresholds"]["tasks"], strict=True))
    assert (curve[0], curve[50], curve[55], curve[75], curve[100], curve[105], curve[120], curve[125]) == (
        4, 4, 3, 3, 2, 1, 1, 0,
    )  # fmt: skip
    assert set(record) == {"protocol", "tasks", "aggregates", "language"}
    assert record["protocol"]["seed"] == 0


def test_an_expert_no_better_than_random_is_listed_and_not_scored():
    flat = [
        TaskScores("a/flat", [5.0, 5.0], random=3.0, expert=3.0),
        TaskScores("a/worse", [5.0], random=3.0, expert=2.0),
        TaskScores("a/unmeasured", [5.0], random=None, expert=2.0),
        TaskScores("a/crashed", [], random=0.0, expert=2.0),
    ]
    alone, beside = results({}, BY_HAND), results({}, [*BY_HAND, *flat])
    by_id = {t["id"]: t for t in beside["tasks"]}
    for task in flat:
        assert by_id[task.id]["expert_normalised"] is None and by_id[task.id]["interval"] is None
        assert by_id[task.id]["unscored"]
    assert beside["aggregates"].pop("unscored") == sorted(t.id for t in flat)
    assert alone["aggregates"].pop("unscored") == []
    assert beside["aggregates"] == alone["aggregates"]


def test_dummy_never_counts_but_is_shown():
    with_dummy = results({}, [*BY_HAND, TaskScores("dummy/count", [1.0], random=0.0, expert=1.0)])
    assert with_dummy["aggregates"] == results({}, BY_HAND)["aggregates"]
    assert [t["expert_normalised"] for t in with_dummy["tasks"] if t["domain"] == "dummy"] == [100.0]


def test_nothing_scored_is_not_an_error():
    record = results({}, [TaskScores("dummy/count", [1.0], random=0.0, expert=1.0)])
    assert record["aggregates"]["mean_of_domain_means"] is None
    assert record["aggregates"]["tasks"] == 0
    json.dumps(record, allow_nan=False)


def test_scores_that_are_not_numbers_and_doubles_are_errors():
    with pytest.raises(DataError, match=r"a/one"):
        TaskScores("a/one", [1.0, math.nan], random=0.0, expert=1.0)
    with pytest.raises(DataError, match="twice"):
        results({}, [BY_HAND[0], BY_HAND[0]])


def test_intervals_hold_what_they_promise():
    """An interval of a coin's mean over 50 throws covers the truth in about 95 of 100 experiments."""
    rng = np.random.default_rng(0)
    covered, width = 0, []
    for i in range(300):
        task = TaskScores(f"coin/{i}", rng.integers(0, 2, 50).astype(float), random=0.0, expert=1.0, measure="success")
        low, high = results({}, [task], replicates=400)["aggregates"]["intervals"]["mean_of_domain_means"]
        covered += low <= 50 <= high
        width.append(high - low)
    assert 0.90 <= covered / 300 <= 0.98
    assert np.mean(width) == pytest.approx(
        2 * 1.96 * 50 / math.sqrt(50), rel=0.1
    )  # 95 % of a binomial mean, in percent


def test_groups_count_alike_and_only_episodes_are_drawn_again():
    """[0, 1] and [10]: a replicate's mean is 5, 5.25 or 5.5, in one, two and one of four cases."""
    values, counts = np.unique(resampled_means([[0.0, 1.0], [10.0]], 4000), return_counts=True)
    assert values.tolist() == [5.0, 5.25, 5.5]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_same_seed_same_interval_and_the_seed_matters():
    task = TaskScores("a/noisy", np.random.default_rng(1).normal(size=20), random=-1.0, expert=1.0)
    first, again, other = (results({}, [task], seed=s)["tasks"][0]["interval"] for s in (0, 0, 1))
    assert first == again != other
    assert first[0] < task.expert_normalised < first[1]


def test_resampling_stays_inside_a_task():
    """Two tasks that are each constant have no spread, however far apart they are: pooling them would show some."""
    record = results({}, [TaskScores("a/low", [0.0] * 9, 0.0, 1.0), TaskScores("a/high", [1.0] * 9, 0.0, 1.0)])
    assert record["aggregates"]["intervals"]["mean"] == [50.0, 50.0]


@pytest.mark.parametrize("count", range(1, 14))
def test_iqm_is_the_trimmed_mean(count):
    values = np.random.default_rng(count).normal(50, 30, (7, count))
    np.testing.assert_allclose(iqm(values), trim_mean(values, 0.25, axis=1))


def test_counts_survive_rounding():
    assert tasks_at(np.array([expert_normalised(0.1 + 0.7, 0.0, 1.0)]), 80) == 1
    assert thresholds([79.9999999999], [80])["tasks"] == [1]
    assert thresholds([79.99], [80])["tasks"] == [0]


finite = st.floats(-1e3, 1e3, allow_subnormal=False)
task_lists = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(finite, min_size=1, max_size=6), finite, st.floats(0.1, 1e3)),
    min_size=1,
    max_size=9,
)


def _tasks(drawn, scale=1.0, shift=0.0):
    return [
        TaskScores(f"{d}/{i}", [scale * e + shift for e in eps], scale * low + shift, scale * (low + gap) + shift)
        for i, (d, eps, low, gap) in enumerate(drawn)
    ]


@settings(max_examples=60, deadline=None)
@given(task_lists, st.randoms(use_true_random=False))
def test_order_says_nothing(drawn, random):
    shuffled = [(d, random.sample(eps, len(eps)), low, gap) for d, eps, low, gap in drawn]
    tasks, others = _tasks(drawn), _tasks(shuffled)
    random.shuffle(others)
    one, two = (results({}, t, replicates=50)["aggregates"] for t in (tasks, others))
    for name in ("mean_of_domain_means", "mean", "median", "iqm"):
        assert one[name] == pytest.approx(two[name], rel=1e-9, abs=1e-9)
    assert np.allclose(one["intervals"]["iqm"], two["intervals"]["iqm"])


@settings(max_examples=60, deadline=None)
@given(task_lists, st.sampled_from([0.25, 2.0, 16.0]), st.sampled_from([-8.0, 0.0, 64.0]))
def test_the_unit_of_the_return_says_nothing(drawn, scale, shift):
    one, two = (aggregate(*_normalised(t)) for t in (_tasks(drawn), _tasks(drawn, scale, shift)))
    for name in ("mean_of_domain_means", "mean", "median", "iqm"):
        assert one[name] == pytest.approx(two[name], rel=1e-6, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(task_lists, st.integers(0, 8), st.floats(0, 1e3))
def test_a_better_task_never_lowers_an_aggregate(drawn, which, gain):
    values, domains = _normalised(_tasks(drawn))
    better = values.copy()
    better[which % len(values)] += gain
    before, after = aggregate(values, domains), aggregate(better, domains)
    for name in ("mean_of_domain_means", "mean", "median", "iqm", "tasks_at_50", "tasks_at_80"):
        assert after[name] >= before[name] - 1e-6
    counts = thresholds(values)["tasks"]
    assert all(a >= b for a, b in itertools.pairwise(counts))


def _normalised(tasks):
    return np.array([t.expert_normalised for t in tasks]), [t.domain for t in tasks]


def test_file_there_and_back(tmp_path):
    record = results({"seed": np.int64(3)}, BY_HAND, {"captions": {"exact": np.float64(0.5)}})
    file = write_results(record, tmp_path / "results.json")
    assert read_results(file)["tasks"] == record["tasks"]
    assert read_results(file)["protocol"]["seed"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_an_unwritable_number_leaves_the_old_file_whole(tmp_path):
    file = write_results(results({}, BY_HAND), tmp_path / "results.json")
    before = file.read_bytes()
    with pytest.raises(ValueError):
        write_results(results({"loss": math.inf}, BY_HAND), file)
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"protocol": {}, "tasks": []}', '{"protocol": {}, "tasks": [{}], "aggregates": {}}']
)
def test_a_broken_file_is_named(tmp_path, text):
    file = tmp_path / "results.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=r"results\.json") as error:
        read_results(file)
    assert error.value.fix
