"""A slice of every figure; the whole is `make endurance`. Nothing is written to the results."""

import os

import pytest

figures = pytest.importorskip("figures")
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs fork and kill")

SHARE = {
    "pickles": 0.34,
    "archives": 0.2,
    "truncations": 0.2,
    "ranks-equal": 0.25,
    "ranks-elastic": 2 / 12,
    "lost-ranks": 0.25,
}
SLOW = (
    "kills-collector",
    "lost-ranks",
    "ranks-equal",
    "ranks-elastic",
)  # over half a minute where processors are shared
NAMES = [
    "archives", "disk-full", "flips-checkpoint", "flips-dataset", "kills", "kills-collector", "kills-in-save", "lost-ranks",
    "non-finite", "pickles", "ranks-elastic", "ranks-equal", "truncations", "two-runs",
]  # fmt: skip


def test_the_list_is_whole():
    assert sorted(figures.figures()) == NAMES


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES])
def test_a_slice(name):
    figure = figures.figures()[name]
    record = figures.slice_of(figure, SHARE.get(name, 0.05))
    assert record["done"] >= 1 and not record["failures"], record


def test_a_figure_goes_on_where_it_stopped(tmp_path):
    """Trials are done once, in any number of pieces, and what fails is kept."""
    tried = []

    def trial(place, i, rng):
        assert place == "place"
        tried.append((i, rng.random()))
        if i == 3:
            raise figures.Failure("this one")
        return "kind"

    figure = figures.Figure("x", 6, lambda folder: "place", trial, "says")
    record = figures.fresh()
    for n in (2, 4, 6):
        figures.advance(figure, record, n, 60, lambda: None)
    assert [i for i, _ in tried] == list(range(6))
    said = figures.result(figure, record)
    assert (said["n"], said["failures"], said["whole"], said["kinds"]) == (6, 1, True, {"kind": 5})
    again = figures.fresh()
    figures.advance(figure, again, 6, 60, lambda: None)
    assert tried[:6] == tried[6:]
