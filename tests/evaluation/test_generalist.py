"""benchmarks/generalist.py: what is stopped goes on, what is in is counted right, and the page is that of the results."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import generalist
from gato.errors import UsageError
from gato.evaluation.evaluate import evaluate_task
from gato.evaluation.scores import read_results
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import load
from gato.rollouts.pool import WorkerPool
from gato.worlds import find

ROOT = Path(__file__).parents[2]

TASK = "dummy/count"


@pytest.fixture(scope="module")
def bundle(tokenizer, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=64, num_attention_heads=2, feedforward_hidden_size=64, num_transformer_blocks=1,
        vocabulary_size=tokenizer.size,
    )  # fmt: skip
    cards = {TASK: TaskCard(find(TASK).spec, 1)}
    ways = {"discrete": "sample", "continuous": "mean", "temperature": 1.0}
    return Bundle(config, Gato(config).eval(), tokenizer, cards, ways, {}).save(tmp_path_factory.mktemp("b") / "bundle")


def test_what_was_stopped_goes_on_to_the_same_scores(bundle, tmp_path, monkeypatch):
    """The first twenty episodes are kept, and the rest are those that one uninterrupted evaluation plays."""
    words = [str(bundle), "--state", str(tmp_path / "s"), "--episodes", "23", "--workers", "0",
             "--results", str(tmp_path / "r.json")]  # fmt: skip
    with WorkerPool(0) as pool:
        whole, _ = evaluate_task(load(bundle), find(TASK), 23, pool)
    calls = []

    def stopped(*args, **kwargs):
        calls.append(kwargs["first"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate_task(*args, **kwargs)

    monkeypatch.setattr(generalist, "evaluate_task", stopped)
    with pytest.raises(KeyboardInterrupt):
        generalist.main(words)
    file = tmp_path / "s/gato/dummy--count.json"
    assert json.loads(file.read_text())["episodes"] == list(whole.episodes[:20])
    generalist.main(words)
    assert calls == [0, 20, 20]
    held = json.loads(file.read_text())
    assert held["episodes"] == list(whole.episodes)
    assert held["facts"]["environment_steps"] == whole.facts["environment_steps"]
    assert held["facts"]["legal_mass"] == pytest.approx(whole.facts["legal_mass"], abs=1e-4)
    assert held["facts"]["mean_return"] == pytest.approx(whole.facts["mean_return"])
    generalist.main(words)
    assert calls == [0, 20, 20]  # nothing is played twice
    record = read_results(tmp_path / "r.json")
    assert record["tasks"][0]["episode_scores"] == list(whole.episodes) and record["progress"]["evaluated"] == 1
    with pytest.raises(UsageError, match="something else"):
        generalist.main([*words, "--seed", "1"])


def test_where_the_state_is_gone_the_published_results_are_gone_on_from(bundle, tmp_path):
    words = [str(bundle), "--workers", "0", "--results", str(tmp_path / "r.json"), "--state"]
    generalist.main([*words, str(tmp_path / "whole"), "--episodes", "4"])
    whole = read_results(tmp_path / "r.json")
    generalist.main([*words, str(tmp_path / "first"), "--episodes", "2"])
    found = read_results(tmp_path / "r.json")
    baseline = {"protocol": {}, "tasks": [], "aggregates": {}, "failed": {}}
    told = {**found, "language": {"scenes": 3}, "baselines": {"retrieve": baseline}}
    told["tasks"][0]["teacher_forced"] = {"of_half_range": 0.5}
    (tmp_path / "r.json").write_text(json.dumps(told))
    generalist.main([*words, str(tmp_path / "elsewhere"), "--episodes", "4", "--restore"])
    record = read_results(tmp_path / "r.json")
    assert record["tasks"][0]["episode_scores"] == whole["tasks"][0]["episode_scores"]
    assert record["tasks"][0]["facts"]["environment_steps"] == whole["tasks"][0]["facts"]["environment_steps"]
    assert record["tasks"][0]["teacher_forced"] == {"of_half_range": 0.5}
    assert record["language"] == {"scenes": 3} and record["baselines"] == {"retrieve": baseline}
    with pytest.raises(UsageError, match="something else's: seeds"):
        generalist.main([*words, str(tmp_path / "other"), "--restore", "--seed", "1"])


def test_twenty_episodes_are_enough_of_a_slow_task():
    held = {"episodes": [0.0] * 20, "facts": {"seconds": 20 * 61.0}}
    assert generalist._left(held, 50) == 0
    held["facts"]["seconds"] = 20 * 59.0
    assert generalist._left(held, 50) == 30


def test_domains_take_turns():
    names = ["babyai/go-to-local", "babyai/go-to-obj", "babyai/open", "meta-world/reach", "sokoban/7x7-1-box"]
    told = [task.id for task in generalist.in_turns(map(find, names))]
    assert told == [names[0], names[3], names[4], names[1], names[2]]


@pytest.fixture
def state(tmp_path) -> Path:
    """Three tasks of five played, one failed; the baseline has one of them."""
    facts = {"environment_steps": 100, "seconds": 2.0, "steps_per_second": 50.0, "legal_mass": 0.9, "mean_return": 1.0}
    known = ["babyai/go-to-local", "dummy/count", "meta-world/push", "meta-world/reach", "procgen/coinrun"]
    protocol = {
        "episodes_per_task": 2, "seeds": "evaluation block 0", "acting": {"discrete": "sample"}, "parameters": 1234567,
        "processor": "some processor", "python": "3.11", "versions": {"torch": "2"},
    }  # fmt: skip
    for policy, scores in (
        ("gato", {known[2]: [1.0, 0.0], known[3]: [1.0, 1.0], known[4]: []}), ("retrieve", {known[3]: [0.0, 1.0]})
    ):  # fmt: skip
        folder = tmp_path / "state" / policy
        run = {"identity": policy, "protocol": protocol, "known": known, "not_installed": ["babyai/go-to-local"]}
        generalist.begin(folder, run)
        for task, values in scores.items():
            held = {"id": task, "episodes": values, "facts": facts if values else {}}
            held |= {} if values else {"failed": "the world died <twice> (E)"}
            generalist.file_of(folder, task).write_text(json.dumps(held))
    return tmp_path / "state"


def test_a_part_of_an_evaluation_says_that_it_is_one(state):
    record = generalist.assemble(state)
    assert record["progress"]["known"] == 5 and record["progress"]["evaluated"] == 2
    assert record["aggregates"]["domains"] == {"meta-world": 75.0} and record["aggregates"]["tasks_at_50"] == 2
    assert record["baselines"]["retrieve"]["tasks"][0]["expert_normalised"] == 50.0
    page = generalist.page(record)
    assert "**75.0 % of expert**" in page and "2 of the 5 tasks" in page and "not complete" in page
    (row,) = (line for line in page.splitlines() if line.startswith("| `meta-world`"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "2 of 2", "75.0 %", "50.0 to 100.0", "2 of 2", "50.0 % (1 of 2)", "87.0 % (45)", "65 %",
    ]  # fmt: skip
    assert "`procgen/coinrun`, the world died" in page and "`babyai/go-to-local`" in page.split("## Protocol")[1]
    assert page.count("<tr><td>") == 2


def test_language_stands_beside_what_is_known_without_looking(state):
    told = {
        "scenes": 300,
        "captions/scenes": {"exact_match": 0.887, "captions": 300},
        "captions/rooms": {"exact_match": 0.0, "true": 0.627, "true_of_another": 0.023},
        "questions/rooms": {"accuracy": 0.627, "chance": 0.302, "answer_prior": 0.227, "question_prior": 0.25},
        "text/python-docs": {"bits_per_byte": 2.1388, "trigram_bits_per_byte": 1.9051},
    }
    (state / "language.json").write_text(json.dumps(told))
    section = generalist.page(generalist.assemble(state)).split("## Language and pictures")[1].split("##")[0]
    assert [line.split(" | ")[1:] for line in section.splitlines() if line.startswith("| `")] == [
        ["89 % word for word", "– |"],
        ["63 % of captions true", "2 %, the same captions of other pictures |"],
        ["63 % of replies right", "30 %, the likeliest reply without looking |"],
        ["2.139 bits per byte", "1.905, an interpolated trigram on the same tokens |"],
    ]


def test_the_picture_and_the_page_are_made(state, tmp_path):
    words = [
        "--state",
        str(state),
        "--results",
        str(tmp_path / "r.json"),
        "--page",
        "--docs",
        str(tmp_path / "d/agent.md"),
    ]
    (tmp_path / "d").mkdir()
    generalist.main(words)
    assert (tmp_path / "d/images/agent-curve.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "d/agent.md").read_text() == generalist.page(read_results(tmp_path / "r.json"))


def test_a_bundle_gets_its_card_and_still_loads(bundle, state, tmp_path):
    """Without --state: the results are there already, and nothing is played."""
    results = tmp_path / "r.json"
    generalist.main(["--state", str(state), "--results", str(results)])
    generalist.main([str(bundle), "--card", "lab/own", "--results", str(results)])
    card = (bundle / "README.md").read_text()
    assert "# lab/own" in card and "**75.0 % of expert**" in card and "Only 2 of its 5 control tasks" in card
    assert load(bundle).tasks == [TASK]


def test_the_page_in_the_documentation_is_current():
    record = read_results(generalist.RESULTS) if generalist.RESULTS.is_file() else None
    assert (ROOT / "docs/agent.md").read_text() == generalist.page(record), "python benchmarks/generalist.py --page"
