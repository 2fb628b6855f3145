"""Few-shot fine-tuning: nested subsets, the smoothed maximum, held-out tasks, and one real round on a real task."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gato.cli import main
from gato.episodes.store import Dataset
from gato.errors import RecipeError
from gato.evaluation.few_shot import draw, few_shot, nested_subsets, smoothed_best
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.rollouts.collect import collect
from gato.training import load_recipe
from gato.worlds import find

TASK = "babyai/go-to-red-ball-grey"
SMALL = ["steps=4", "slots=2", "slot_tokens=256", "window_tokens=256", "precision=float32", "prompt_share=0.0"]


def gato(words):
    with pytest.raises(SystemExit) as stopped:
        main([str(w) for w in words])
    return stopped.value.code


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pytest.importorskip("minigrid")
    folder = tmp_path_factory.mktemp("data")
    collect([find(TASK)], 6, folder, workers=0, progress=False)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, tokenizer):
    """An untrained network that says it was trained on the counting world."""
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=32, num_attention_heads=2, key_value_size=16, feedforward_hidden_size=64, num_transformer_blocks=2
    )
    acting = {"discrete": "sample", "continuous": "sample", "temperature": 1.0}
    card = {"data": [{"task": "dummy/count", "episodes": 1, "timesteps": 1, "tokens": 1}], "recipe": {}}
    bundle = Bundle(
        config, Gato(config).eval(), tokenizer, {"dummy/count": TaskCard(find("dummy/count").spec, 1)}, acting, card
    )
    folder = tmp_path_factory.mktemp("pretrained") / "bundle"
    bundle.save(folder)
    return folder


@given(st.integers(1, 2500), st.integers(0, 5))
def test_subsets_are_nested_and_drawn_from_the_best(n, series):
    returns = np.random.default_rng(n).normal(size=n)
    sizes = [s for s in (1, 3, 5, 10, 100, 1000) if s <= n]
    subsets = nested_subsets(returns, sizes, series)
    assert [len(subsets[s]) for s in sizes] == sizes
    for small, large in itertools.pairwise(sizes):
        assert subsets[small].tolist() == subsets[large][:small].tolist()
    best = set(np.argsort(-returns)[:2000].tolist())
    assert set(subsets[sizes[-1]].tolist()) <= best and len(set(subsets[sizes[-1]].tolist())) == sizes[-1]


def test_series_differ():
    returns = np.zeros(500)
    assert nested_subsets(returns, [100], 0)[100].tolist() != nested_subsets(returns, [100], 1)[100].tolist()


def test_more_than_there_are():
    with pytest.raises(RecipeError, match="10 demonstrations of 6"):
        nested_subsets(np.zeros(6), [1, 10], 0)


def test_smoothed_by_hand():
    assert smoothed_best([0, 0, 10, 0, 0, 0, 5, 5, 5, 5, 5]) == 5.0  # the lone 10 counts 2
    assert smoothed_best([1.0, 3.0]) == 2.0


def test_a_task_that_was_trained_on_is_refused(data, pretrained, tmp_path):
    bundle = Bundle.load(pretrained)
    bundle.card["data"].append({"task": TASK})
    dataset = Dataset.open(data / TASK)
    with pytest.raises(RecipeError, match="held out"):
        few_shot({"pretrained": bundle}, find(TASK), dataset, load_recipe("finetune"), [1], 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_round_through_the_command_line(data, pretrained, tmp_path, capsys):
    out = tmp_path / "few"
    command = [
        "finetune", str(pretrained), "--tasks", TASK, "--data", str(data), "--out", str(out), "--demonstrations", "1", "3",
        "--series", "2", "--every", "2", "--episodes", "2", "--workers", "0", "--device", "cpu", "--set", *SMALL,
    ]  # fmt: skip
    assert gato(command) == 0
    record = json.loads((out / "few_shot.json").read_text())
    runs = {(r["start"], r["demonstrations"], r["series"]) for r in record["runs"]}
    assert runs == {(s, n, k) for s in ("pretrained", "scratch") for n in (1, 3) for k in (0, 1)}
    assert all(len(r["scores"]) == 2 for r in record["runs"])  # steps 2 and 4
    assert (out / "few_shot.png").read_bytes()[:4] == b"\x89PNG"
    finished = {p: p.stat().st_mtime_ns for p in (out / "runs").glob("*.json")}
    assert gato(command) == 0  # nothing is done twice
    assert finished == {p: p.stat().st_mtime_ns for p in (out / "runs").glob("*.json")}
    draw({**record, "expert": None}, tmp_path / "plain.png")


def test_plain_fine_tuning_starts_from_the_bundle(data, pretrained, tmp_path):
    """Two steps at learning rate zero leave the weights where they were; dropout is the recipe's."""
    begin = ["finetune", pretrained, "--device", "cpu", "--data", data]
    words = ["--set", *SMALL, "learning_rate=0.0", "steps=2"]
    assert gato([*begin, "--tasks", "babyai/*", "--out", tmp_path / "out", *words]) == 0
    before, after = Bundle.load(pretrained), Bundle.load(tmp_path / "out" / "bundle")
    for name, value in before.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[name]), name
    assert after.config == before.config.replace(dropout_rate=0.1, stochastic_depth=0.0)
    assert list(after.tasks) == [*before.tasks, TASK]  # what it knew keeps its tokens


def test_what_cannot_be_fine_tuned_on(data, pretrained, tmp_path, capsys):
    assert gato(["finetune", pretrained, "--tasks", "sokoban/*", "--data", data, "--out", tmp_path / "x"]) == 3
    assert "no demonstrations of sokoban/*" in capsys.readouterr().err
    assert gato(["finetune", pretrained, "--tasks", TASK, "--data", data / "nothing", "--out", tmp_path / "x"]) == 3
    assert gato(["finetune", pretrained, "--tasks", TASK]) == 2
    assert not (tmp_path / "x").exists()
