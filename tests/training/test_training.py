"""The loss by hand, the schedule's ends, learning for real, and a resumed run that is the same run."""

import json
import math
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

import gato.training.log as training_log
import gato.training.loop as loop
from gato.errors import NonFiniteError, OutputExistsError, RecipeError, TeamError, UnknownNameError
from gato.model import Gato
from gato.rollouts.collect import collect
from gato.tokens.timestep import CONTINUOUS, DISCRETE
from gato.training import Recipe, load_recipe, load_stores, train
from gato.training.loss import target_weights, token_losses
from gato.training.optimizer import learning_rate, make_optimizers
from gato.training.start import absent_weights, start_run
from gato.worlds import find

RECIPE = Recipe(
    name="test", steps=24, slots=4, slot_tokens=256, window_tokens=256, window_timesteps={"*": 2}, prompt_share=0.25,
    learning_rate=2e-3, precision="float32", save_every_seconds=0.0, keep_last=99,
    model={"layer_width": 64, "num_attention_heads": 2, "feedforward_hidden_size": 128, "num_transformer_blocks": 2, "dropout_rate": 0.1},
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("data")
    collect([find("dummy/count")], 40, folder, workers=0, progress=False)
    return folder


def stores_of(data, recipe, tokenizer):
    return load_stores([data], recipe.config(), tokenizer, recipe)


def test_loss_by_hand():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    losses = token_losses(logits, torch.tensor([0, 2]), torch.tensor([DISCRETE, DISCRETE]), 0)
    assert losses.tolist() == pytest.approx([-math.log(0.7), -math.log(0.8)])


def test_smooth_loss_by_hand():
    first, width = 4, 1024
    logits = torch.randn(2, first + width + 3, generator=torch.Generator().manual_seed(0))
    log_p = torch.log_softmax(logits, -1)
    bell = np.array([math.exp(-0.5 * (k / 2.0) ** 2) for k in range(-5, 6)])
    bell /= bell.sum()
    target = first + 500
    wanted = -sum(w * float(log_p[0, target + k]) for k, w in zip(range(-5, 6), bell, strict=True))
    kinds = torch.tensor([CONTINUOUS, DISCRETE])
    losses = token_losses(logits, torch.tensor([target, 2]), kinds, first, smooth=2.0)
    assert float(losses[0]) == pytest.approx(wanted, rel=1e-5)
    assert float(losses[1]) == pytest.approx(-float(log_p[1, 2]), rel=1e-5)
    edge = token_losses(logits[:1], torch.tensor([first + width - 1]), kinds[:1], first, smooth=2.0)
    inside = -sum(
        w * float(log_p[0, min(first + width - 1 + k, first + width - 1)])
        for k, w in zip(range(-5, 6), bell, strict=True)
    )
    assert float(edge[0]) == pytest.approx(inside, rel=1e-5)  # the tail stays in the block


def test_only_actions_are_smoothed():
    logits = torch.randn(2, 1030, generator=torch.Generator().manual_seed(0))
    targets, kinds = torch.tensor([500, 500]), torch.tensor([CONTINUOUS, CONTINUOUS])
    hard, soft = (token_losses(logits, targets, kinds, 4, smooth=s) for s in (0.0, 2.0))
    losses = token_losses(logits, targets, kinds, 4, 2.0, torch.tensor([True, False]))
    assert losses.tolist() == pytest.approx([float(hard[0]), float(soft[1])]) and not torch.allclose(hard, soft)


def test_datasets_may_count_by_their_tokens():
    """A document is all targets, a grid world one token in fifty: its targets count fifty times as much."""
    assert target_weights([1.0, 0.02, 0.5]).tolist() == pytest.approx([1, 50, 2])


def test_learning_rate_ends():
    recipe = Recipe(steps=100, warmup=0.1, final_ratio=0.1)
    rates = [learning_rate(1e-4, x, recipe) for x in (0.0, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([1e-7, 1e-4, 0.55e-4, 1e-5])


def test_recipes():
    assert load_recipe("demo").seconds and load_recipe("paper").slots * load_recipe("paper").slot_tokens == 512 * 1024
    pythons = RECIPE.override(["reward_shown=True", "model.task_token=False", "seconds=None"])
    assert (pythons.reward_shown, pythons.model["task_token"], pythons.seconds) == (True, False, None)
    changed = RECIPE.override(["steps=7", "model.layer_width=96", "model.num_attention_heads=3", "optimizer=muon"])
    assert (changed.steps, changed.config().layer_width, changed.optimizer) == (7, 96, "muon")
    with pytest.raises(UnknownNameError, match="learning_rate"):
        RECIPE.override(["learning_rat=1"])
    with pytest.raises(UnknownNameError, match="demo"):
        load_recipe("dmeo")
    with pytest.raises(RecipeError):
        RECIPE.replace(weights={"*": 0.0})


def test_it_learns_to_count(data, tokenizer, tmp_path):
    """The right action is read off the observation; a shift by one step anywhere would make it a guess."""
    recipe = RECIPE.replace(
        steps=400,
        optimizer="muon",
        learning_rate=3e-3,
        prompt_share=0.0,
        window_timesteps={"*": 1},
        save_every_seconds=1e9,
    )
    recipe = recipe.override(["model.dropout_rate=0.0"])
    bundle = train(recipe, stores_of(data, recipe, tokenizer), tokenizer, tmp_path / "run")
    from gato.evaluation.evaluate import evaluate_task
    from gato.policy import Agent
    from gato.rollouts.pool import WorkerPool

    bundle.acting = {"discrete": "greedy", "continuous": "mean"}
    with WorkerPool(0) as pool:
        scores, _ = evaluate_task(Agent(bundle), find("dummy/count"), 4, pool)
    assert np.mean(scores.episodes) > 0.8 * find("dummy/count").references["expert"].mean
    assert scores.facts["legal_mass"] > 0.95


def final(run):
    return torch.cat(
        [
            t.flatten().float()
            for _, t in sorted(
                __import__("safetensors.torch", fromlist=["x"]).load_file(run / "bundle" / "model.safetensors").items()
            )
        ]
    )


def log_of(run):
    return [(r["step"], r["loss"]) for r in map(json.loads, (run / "log.jsonl").read_text().splitlines())]


def test_a_resumed_run_is_the_same_run(data, tokenizer, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(training_log, "LOG_EVERY_SECONDS", 0.0)
    stores = stores_of(data, RECIPE, tokenizer)
    train(RECIPE, stores, tokenizer, tmp_path / "whole")

    class Enough(Exception):
        pass

    def stop_at_ten(report):
        if report.record["step"] == 10:
            raise Enough

    with pytest.raises(Enough):
        train(RECIPE, stores, tokenizer, tmp_path / "parts", watch=stop_at_ten)
    with pytest.raises(OutputExistsError):
        train(RECIPE, stores, tokenizer, tmp_path / "parts")
    with pytest.raises(OutputExistsError):
        train(RECIPE.replace(seed=1), stores, tokenizer, tmp_path / "parts", resume=True)
    train(RECIPE, stores, tokenizer, tmp_path / "parts", resume=True)
    assert torch.equal(final(tmp_path / "whole"), final(tmp_path / "parts"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_accumulated_parts_are_one_batch(data, tokenizer, tmp_path):
    """The same slots in one part or in four: the same step, to rounding. No dropout: it is drawn per part."""
    finals = []
    for accumulate in (1, 4):
        recipe = RECIPE.replace(steps=3, accumulate=accumulate, warmup=0.0).override(["model.dropout_rate=0.0"])
        train(recipe, stores_of(data, recipe, tokenizer), tokenizer, tmp_path / str(accumulate))
        finals.append(final(tmp_path / str(accumulate)))
    # Patch positions are drawn per part, so that the two differ where images are seen; nothing else may.
    assert (finals[0] - finals[1]).abs().mean() < 2e-4


def test_processes_share_a_batch(data, tokenizer, tmp_path):
    recipe = RECIPE.replace(steps=4)
    torch.set_num_threads(1)
    train(recipe, stores_of(data, recipe, tokenizer), tokenizer, tmp_path / "two", processes=2)
    records = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 4 and records[-1]["tokens"] > 3 * 4 * 200


@pytest.mark.parametrize("error", [ZeroDivisionError, TeamError])
def test_no_process_outlives_a_run_that_breaks_off(data, tokenizer, tmp_path, monkeypatch, error):
    """Because of something in rank 0, or because rank 1 freezes."""
    torch.set_num_threads(1)
    monkeypatch.setenv("GATO_TIMEOUT", "5")

    def watch(report):  # after the first step
        [other] = multiprocessing.active_children()
        if error is ZeroDivisionError:
            raise error
        os.kill(other.pid, signal.SIGSTOP)

    stores = stores_of(data, RECIPE, tokenizer)
    with pytest.raises(error):
        train(RECIPE, stores, tokenizer, tmp_path / "run", processes=2, watch=watch)
    assert not multiprocessing.active_children()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_who_trained_in_several_processes_has_the_threads_it_had(data, tokenizer, tmp_path, monkeypatch, two_threads):
    """Also after an error, from a command's words, and to train once more after it used them all."""
    monkeypatch.setenv("GATO_TIMEOUT", "5")

    def broken(report):
        raise ZeroDivisionError

    recipe, many = RECIPE.replace(steps=2), torch.randn(512, 512)
    stores = stores_of(data, recipe, tokenizer)
    with pytest.raises(ZeroDivisionError):
        train(recipe, stores, tokenizer, tmp_path / "broken", processes=2, watch=broken)
    assert torch.get_num_threads() == 2 and (many @ many).exp().sum() > 0
    train(recipe, stores, tokenizer, tmp_path / "two", processes=2)
    assert torch.get_num_threads() == 2
    tokenizer.save(tmp_path / "tokenizer.model")
    words = ["steps=1", "slots=2", "slot_tokens=128", "model.layer_width=64", "model.num_attention_heads=2"]
    start_run("tiny", words, [data], tmp_path / "run", tmp_path / "tokenizer.model", "cpu", processes=2)
    assert torch.get_num_threads() == 2


def test_more_processes_than_slots_are_refused_before_anything_is_written(data, tokenizer, tmp_path):
    recipe = RECIPE.replace(accumulate=2)
    with pytest.raises(RecipeError, match="--processes 4"):
        train(recipe, stores_of(data, recipe, tokenizer), tokenizer, tmp_path / "run", processes=5)
    assert not list((tmp_path / "run").glob("*.json"))


def test_nothing_is_updated_by_a_gradient_that_is_not_finite(data, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "token_losses", lambda *a, **k: token_losses(*a, **k) * torch.tensor(float("nan")))
    with pytest.raises(NonFiniteError, match="step 0"):
        train(RECIPE, stores_of(data, RECIPE, tokenizer), tokenizer, tmp_path / "run")
    assert not (tmp_path / "run" / "bundle").exists()


def test_absent_domains_are_named(data, tokenizer):
    recipe = RECIPE.replace(weights={"dummy": 1.0, "procgen": 2.0, "*": 1.0, "sokoban/7*": 0.0})
    assert absent_weights(recipe, stores_of(data, recipe, tokenizer)) == ["procgen"]
    assert absent_weights(load_recipe("paper"), stores_of(data, RECIPE, tokenizer))[0] == "dm-lab"


@pytest.mark.parametrize(
    "word", ["optimizer=AdamW", "loss_by=token", "precision=fp32", "discrete=argmax", "slots=0", "accumulate=0", "window_tokens=0",
             "steps=many", "learning_rate=fast", 'weights={"*": "x"}', "hold_out=babyai", "save_async=1", "betas=[0.9]", "clip=-1",
             "seed=1.5", "learning_rate=NaN", "clip=0", "temperature=0", "steps=0", "seconds=0", "eps=0", "betas=[1.0,0.95]",
             "betas=[0.9,-1]", 'window_timesteps={"*":0}', 'window_timesteps={"*":-3}', "warmup=20", 'weights={"*":Infinity}',
             "return_ranks=1", "return_ranks=1025"],
)  # fmt: skip
def test_a_recipe_with_a_wrong_value(word):
    """A misspelt optimiser would otherwise leave the blocks untrained, without a word."""
    with pytest.raises(RecipeError, match=word.partition("=")[0]):
        load_recipe("tiny").override([word])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "\nfrom gato.training import Recipe\n\nrecipe = Recipe(name='x', stepz=3)\n",
            ("line 4", "stepz", "did you mean steps"),
        ),
        ("recipe = (\n", ("line 1", "SyntaxError")),
        ("\nimport gato_there_is_no_such\n", ("line 2", "gato_there_is_no_such")),
        ("def f():\n    return 1 / 0\nf()\n", ("line 2", "division by zero")),
        ("x = 'a\0b'\n", ("own.py", "null bytes")),
    ],
)
def test_a_file_that_does_not_load_is_a_recipe_error(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(text)
    for name in ("own.py", "./own.py", str(tmp_path / "own.py")):
        with pytest.raises(RecipeError) as error:
            load_recipe(name)
        assert all(word in str(error.value) for word in (*said, "own.py"))


def test_an_error_that_says_what_is_wrong_passes(tmp_path):
    (tmp_path / "own.py").write_text("from gato.training import Recipe\nrecipe = Recipe(name='own', slots=0)\n")
    with pytest.raises(RecipeError, match=r"slots=0 \[own\]"):
        load_recipe(str(tmp_path / "own.py"))


def test_a_record_with_a_field_that_is_none(data):
    assert Recipe.from_json(json.loads(json.dumps(RECIPE.to_json()))) == RECIPE
    with pytest.raises(RecipeError, match="'stepz'") as error:
        Recipe.from_json({**RECIPE.to_json(), "stepz": 3})
    assert "did you mean steps" in error.value.fix


def test_a_model_word_beside_the_whole_model():
    """In their order: the whole, then a field of it; what is no model is refused by name, whatever follows."""
    changed = RECIPE.override(['model={"layer_width":64,"num_attention_heads":2}', "model.dropout_rate=0.2"])
    assert changed.model == {"layer_width": 64, "num_attention_heads": 2, "dropout_rate": 0.2}
    with pytest.raises(RecipeError, match="model=3"):
        RECIPE.override(["model=3", "model.dropout_rate=0.2"])


def test_every_weight_has_one_optimizer():
    for name in ("tiny", "demo"):
        recipe = load_recipe(name)
        model = Gato(recipe.config())
        groups = [g["params"] for o in make_optimizers(model, recipe).values() for g in o.param_groups]
        held = [id(p) for params in groups for p in params]
        assert sorted(held) == sorted(id(p) for p in model.parameters())
