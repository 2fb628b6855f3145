"""The pages about worlds are those that the package makes: complete cards, pages up to date, specs as the simulators have them."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import worlds_pages as pages
from benchmarks import worlds_specs as recorder
from gato.worlds import Reference, registry
from gato.worlds.cards import CARDS, PAPER, DomainCard

ROOT = Path(__file__).parents[2]


OWN = pages.by_domain()


def test_every_domain_has_a_complete_card_and_no_card_is_left_over():
    assert set(CARDS) == set(OWN) | {"gym"}
    may_be_empty = {"more", "pictures"}
    for domain, card in CARDS.items():
        empty = {f.name for f in fields(DomainCard) if not getattr(card, f.name)} - may_be_empty
        has_expert = domain == "gym" or any(task.make_expert for task in OWN[domain])
        assert empty <= ({"fails"} if not has_expert else set()), f"{domain}: {empty}"
        assert all(name in registry() and name.startswith(f"{domain}/") for name in card.pictures), domain


def test_the_rows_of_the_paper_are_all_there():
    assert (len(PAPER), sum(row.tasks for row in PAPER)) == (16, 596)  # Table 1's own totals
    for row in PAPER:
        assert row.domains or (row.nearest and row.why), row.name
        assert set(row.domains + row.nearest) <= set(CARDS), row.name


def test_the_pages_are_those_of_the_package(tmp_path):
    """Made in a process of its own, as a reader would."""
    (tmp_path / "worlds.md").write_text((ROOT / "docs/worlds.md").read_text())
    command = [sys.executable, ROOT / "benchmarks/worlds_pages.py", "--write", tmp_path]
    subprocess.run(command, check=True, timeout=120, cwd=ROOT)
    stale = "python benchmarks/worlds_pages.py --write docs"
    made = {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*.md")}
    kept = {name: (ROOT / "docs" / name).read_text() for name in made if (ROOT / "docs" / name).exists()}
    assert made == kept, stale
    assert {f"worlds/{file.name}" for file in (ROOT / "docs/worlds").glob("*.md")} | {"worlds.md"} == set(made), stale


def test_every_page_is_in_the_menu_and_every_picture_is_there_and_small():
    menu = set(re.findall(r"worlds/([a-z0-9-]+)\.md", (ROOT / "mkdocs.yml").read_text()))
    assert menu == set(CARDS)
    for domain, card in CARDS.items():
        if card.pictures:
            assert 500 < (ROOT / f"docs/images/worlds/{domain}.png").stat().st_size <= pages.MAX_BYTES, domain


def test_every_task_stands_on_its_page():
    for domain, tasks in OWN.items():
        rows = set(re.findall(r"^\| `([^`]+)` \|", (ROOT / f"docs/worlds/{domain}.md").read_text(), re.MULTILINE))
        assert {task.id.partition("/")[2] for task in tasks} <= rows, domain


def test_every_task_has_a_recorded_spec():
    for domain, tasks in OWN.items():
        if domain != "dm-lab":  # cannot be had
            assert set(pages.specs()[domain]["tasks"]) == {task.id.partition("/")[2] for task in tasks}, domain
            assert all(leaf["tasks"] <= len(tasks) for leaf in pages.specs()[domain]["leaves"])


@pytest.mark.parametrize(
    "name",
    ["sokoban/8x8-2-boxes", "classic-control/pendulum-v1", "babyai/go-to-local", "dummy/count", "meta-world/push"],
)
def test_the_recorded_spec_is_that_of_the_simulator(name):
    task = registry()[name]
    if not task.installed:
        pytest.skip(task.pip_line)
    live, (domain, short) = recorder.record([task]), name.split("/")
    recorded = pages.specs()[domain]
    assert live["tasks"][short] == recorded["tasks"][short]
    known = {(leaf["side"], leaf["path"], leaf["kind"]): leaf for leaf in recorded["leaves"]}
    for leaf in live["leaves"]:
        beside = known[leaf["side"], leaf["path"], leaf["kind"]]
        if beside["tasks"] == len(recorded["tasks"]) and len(beside["shapes"]) == 1:
            assert leaf["shapes"] == beside["shapes"]


def test_leaves_of_several_tasks_are_taken_together():
    from gymnasium.spaces import Box, Dict, Discrete

    from gato.episodes.spec import TaskSpec, specs_from_space

    def spec(size, values, bound):
        seen = Dict(state=Box(-bound, bound, (size,)), picture=Box(0, 255, (64, 80, 3), "uint8"))
        return TaskSpec(specs_from_space(seen, "observation"), specs_from_space(Discrete(values), "action"))

    both = [spec(3, 4, 1.0), spec(17, 6, 2.5)]
    rows = {(row["side"], row["path"]): row for row in recorder.leaves(both)}
    state = rows["observation", "state"]
    assert (state["shapes"], state["low"], state["high"]) == ([[3], [17]], [-2.5, -1.0], [1.0, 2.5])
    assert rows["action", "action"]["high"] == [3.0, 5.0]
    assert recorder.sizes(both[1]) == [17, 20, 0, 1]
    assert json.loads(recorder.written({"a": {"leaves": recorder.leaves(both), "tasks": {"x": [17, 20, 0, 1]}}}))["a"][
        "tasks"
    ]


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (-1e-9, "0"),
        (0.98765, "0.988"),
        (-1.25, "−1.25"),
        (868, "868"),
        (12345.6, "12,346"),
        (0.00075, "0.0008"),
        (30, "30"),
    ],
)
def test_numbers_are_short_and_plain(value, text):
    assert pages.number(value) == text


def test_intervals():
    """Wilson: 10 of 10 is [0.722, 1], 8 of 10 [0.490, 0.943] (textbook); Student: t(0.975, 3) = 3.182."""
    assert pages.interval(Reference(1.0, 0.0, 10), "success") == pytest.approx((0.7225, 1.0), abs=1e-3)
    assert pages.interval(Reference(0.8, 0.42, 10), "success") == pytest.approx((0.490, 0.943), abs=1e-3)
    assert pages.interval(Reference(100.0, 2.0, 4), "return") == pytest.approx((100 - 3.182, 100 + 3.182), abs=1e-2)
    assert pages.interval(Reference(7.0, 0.0, 1), "return") is None
