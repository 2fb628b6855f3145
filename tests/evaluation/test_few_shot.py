"""Few-shot fine-tuning: nested subsets, the smoothed maximum, held-out tasks, and one real round on a real task."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gato.cli import main
from gato.episodes.store import Dataset
from gato.errors import OutputExistsError, RecipeError
from gato.evaluation.few_shot import draw, few_shot, nested_subsets, smoothed_best
from gato.evaluation.scores import TaskScores
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.rollouts.collect import collect
from gato.tokens.timestep import DISCRETE
from gato.training import load_recipe, train
from gato.training.start import finetune_recipe
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
    assert gato([*command, "--processes", "2"]) == 2
    assert "trains in one process" in capsys.readouterr().err


def test_a_folder_holds_the_runs_of_one_protocol(data, pretrained, tmp_path):
    """Another size or start is more of the same; another bundle, recipe, dataset or way of evaluating is not."""
    bundle, dataset, task, out = Bundle.load(pretrained), Dataset.open(data / TASK), find(TASK), tmp_path / "out"
    recipe = load_recipe("finetune").override([*SMALL, "steps=1"])
    settings = {"episodes": 1, "every": 1, "workers": 0}
    few_shot({"pretrained": bundle}, task, dataset, recipe, [1], 1, out, **settings)
    more = few_shot(
        {"pretrained": bundle, "scratch": None}, task, dataset, recipe, [1, 3], 1, out, **settings, like=bundle
    )
    assert len(more["runs"]) == 4
    before = {f: f.read_bytes() for f in out.rglob("*.json")}

    other = Bundle.load(pretrained)
    with torch.no_grad():
        other.model.embed.table[0, 0] += 1
    collect([find(TASK)], 4, tmp_path / "fewer", workers=0, progress=False)
    fewer = Dataset.open(tmp_path / "fewer" / TASK)
    for name, changed in {
        "start pretrained": (other, dataset, recipe, settings),
        "demonstrations": (bundle, fewer, recipe, settings),
        "recipe": (bundle, dataset, recipe.replace(learning_rate=0.01), settings),
        "episodes": (bundle, dataset, recipe, settings | {"episodes": 2}),
        "every": (bundle, dataset, recipe.replace(steps=2), settings | {"every": 2}),
    }.items():
        start, shown, trained_by, judged = changed
        with pytest.raises(OutputExistsError, match=f"otherwise: .*{name}"):
            few_shot({"pretrained": start}, task, shown, trained_by, [1], 1, out, **judged)
    assert before == {f: f.read_bytes() for f in out.rglob("*.json")}


@pytest.mark.parametrize("start", ["pretrained", "scratch"])
def test_what_is_evaluated_is_what_is_saved(data, pretrained, tmp_path, monkeypatch, start):
    """With task tokens and prompts, and told of returns: the token that it learned, the prompt, the spec."""
    bundle = Bundle.load(pretrained)
    torch.manual_seed(0)
    config = bundle.config.replace(task_token=True)
    bundle = replace(bundle, config=config, model=Gato(config).eval())
    learned, played = [], []

    def noting(recipe, stores, *args, **kwargs):
        learned.extend(stores)
        return train(recipe, stores, *args, **kwargs)

    def judging(agent, task, episodes, pool):
        played.append((agent.bundle, agent.bundle.model.training))
        return TaskScores(task.id, [0.0], None, None), None

    monkeypatch.setattr("gato.evaluation.few_shot.train", noting)
    monkeypatch.setattr("gato.evaluation.evaluate.evaluate_task", judging)
    words = [*SMALL, "steps=2", "prompt_share=0.5", "return_ranks=4", "reward_shown=true", "observation_loss=0.5",
             'window_timesteps={"*": 2}']  # fmt: skip
    starts = {start: bundle if start == "pretrained" else None}
    recipe, dataset = finetune_recipe(bundle, "finetune", words), Dataset.open(data / TASK)
    few_shot(starts, find(TASK), dataset, recipe, [3], 1, tmp_path, every=2, workers=0, like=bundle)

    (store,), ((judged, training),) = learned, played
    saved = Bundle.load(tmp_path / f"runs/{start}-3-0/bundle")
    assert list(judged.tasks) == list(saved.tasks) == ([*bundle.tasks, TASK] if start == "pretrained" else [TASK])
    assert judged.config == saved.config and judged.acting == saved.acting and not training
    a, b = judged.tasks[TASK], saved.tasks[TASK]
    assert a.spec == b.spec and {"return_rank", "last_reward"} <= set(a.spec.observation)
    assert a.window_timesteps == b.window_timesteps == 2
    read = [card.codec(TASK).encode(card.tasks[TASK].prompt).ids.tolist() for card in (judged, saved)]
    first = slice(int(store.starts[0]), int(store.starts[store.episodes[1]]))
    assert read[0] == read[1] == store.tokens.ids[first].tolist()  # its own first demonstration, behind the same token
    seen = (store.tokens.positions >= 0) & (store.tokens.kinds == DISCRETE)
    assert store.tokens.targets[seen].any()  # what it sees is foretold too


def test_what_the_protocol_decides_is_not_the_recipes(data, pretrained, tmp_path):
    bundle, dataset = Bundle.load(pretrained), Dataset.open(data / TASK)
    for word, said in (
        ("return_filter=0.8", "return_filter=0.8"),
        ("validation_share=0.1", "validation_share=0.1"),
        ("steps=3", "3 steps, an evaluation every 4"),
    ):
        recipe = load_recipe("finetune").override([*SMALL, word])
        with pytest.raises(RecipeError, match=said):
            few_shot({"pretrained": bundle}, find(TASK), dataset, recipe, [1], 1, tmp_path / "out", every=4, workers=0)
    assert not (tmp_path / "out").exists()


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
