"""Every world keeps the contract, and the suite notices every way not to.

The ordinary run takes a few tasks of each installed domain; `pytest -m conformance` takes all of them.
"""

from collections import defaultdict

import pytest

from gato.errors import SimulatorMissingError
from gato.testing import RULES, Conformance, ConformanceError, check_expert, check_task
from gato.worlds import Task, register, registry
from gato.worlds.dummy import counting_expert, make_faulty

# Other tests register broken worlds in the dummy's domain.
ALL = [task for task in registry().values() if task.installed and (task.domain != "dummy" or task.id == "dummy/count")]


def few() -> list[Task]:
    """The first and the last of each installed domain whose episodes do not take many seconds."""
    domains = defaultdict(list)
    for task in ALL:
        if not task.meta.get("slow"):
            domains[task.domain].append(task)
    return [task for tasks in domains.values() for task in {t.id: t for t in (tasks[0], tasks[-1])}.values()]


@pytest.mark.parametrize("task", few(), ids=lambda task: task.id)
def test_a_few_tasks_of_each_world(task):
    result = check_task(task, steps=40, expert_steps=2)
    assert set(result.held) | set(result.skipped) == set(RULES)


@pytest.mark.conformance
@pytest.mark.parametrize("task", ALL, ids=lambda task: task.id)
def test_every_installed_task(task):
    check_task(task)


BROKEN = {
    "nan": "observations",
    "inf": "observations",
    "wrong-shape": "observations",
    "wrong-dtype": "observations",
    "out-of-range": "observations",
    "missing-key": "observations",
    "extra-key": "observations",
    "object": "observations",
    "raise-reset": "observations",
    "raise-step": "observations",
    "nan-reward": "rewards",
    "no-success": "success",
    "unseeded": "same-seed",
    "one-seed": "seeds-differ",
    "shared": "not-shared",
    "changes-action": "not-shared",
    "constant": "not-constant",
    "endless": "ends",
    "wide-sticks": "wide",
    "raise-close": "close",
}


def faulty(kind: str) -> Task:
    score = "success" if kind == "no-success" else "return"
    return Task(f"dummy/{kind}", make_faulty(kind), counting_expert, score, max_steps=40)


@pytest.mark.parametrize(("kind", "rule"), BROKEN.items())
def test_each_fault_breaks_its_rule(kind, rule):
    # Closing comes with the second environment already, which belongs to another rule.
    skip = ("same-seed",) if rule == "close" else ()
    with pytest.raises(ConformanceError) as caught:
        check_task(faulty(kind), skip=skip)
    assert caught.value.rule == rule
    assert f"dummy/{kind}" in caught.value.where and caught.value.exit_code == 5 and caught.value.fix


@pytest.mark.parametrize(
    ("expert", "said"),
    [
        (lambda env, seed: lambda o, i: {"button": 16, "stick": [0.0, 0.0]}, "16"),
        (lambda env, seed: lambda o, i: {"button": 1, "stick": [0.0, 1.5]}, "stick is 1.5 at element 1"),
        (lambda env, seed: lambda o, i: {"button": 1, "stick": [0.0, float("nan")]}, "NaN"),
        (lambda env, seed: lambda o, i: {"button": 1}, "missing"),
        (lambda env, seed: lambda o, i: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_an_expert_that_acts_illegally_is_found(expert, said):
    task = Task("dummy/illegal", registry()["dummy/count"].make_env, expert, max_steps=40)
    with pytest.raises(ConformanceError, match=said) as caught:
        check_task(task)
    assert caught.value.rule == "expert"


def test_what_is_skipped_is_said():
    result = check_task("dummy/count", skip=("seeds-differ",))
    assert isinstance(result, Conformance) and "seeds-differ" not in result.held
    assert result.skipped == {"seeds-differ": "asked for", "success": "the score is the return"}
    assert check_task(faulty("one-seed"), skip=("seeds-differ",)).steps > 0
    with pytest.raises(ConformanceError, match="no rule"):
        check_task("dummy/count", skip=("seeds-difer",))


def test_a_simulator_that_is_absent_is_no_broken_rule():
    task = Task("dummy/absent", make_faulty("nan"), requires=("a_simulator_that_nobody_has",), extra="absent")
    with pytest.raises(SimulatorMissingError, match="gato-agent\\[absent\\]"):
        check_task(task)


def test_an_expert_no_better_than_chance_is_found():
    assert check_expert("dummy/count", episodes=2)[1] > 15
    lazy = register(
        Task(
            "dummy/lazy",
            registry()["dummy/count"].make_env,
            lambda env, seed: lambda o, i: {"button": 0, "stick": [1, 1]},
            max_steps=40,
        )
    )
    with pytest.raises(ConformanceError, match="expert-better"):
        check_expert(lazy, episodes=2)
    registry().pop(lazy.id)
