"""Rounds of acting and training on what went best: what is kept, whose seeds, and that a game is learned from random play."""

import json
import shutil

import numpy as np
import pytest

from gato.cli import main
from gato.episodes import Episode
from gato.episodes.store import Dataset, dataset_folder
from gato.episodes.writer import DatasetWriter
from gato.errors import OutputExistsError, RecipeError
from gato.evaluation.improve import _best_steps, _to_go, draw, gain, improve, own_recipe
from gato.model.bundle import Bundle
from gato.policy import load
from gato.rollouts.collect import collect
from gato.training.start import start_run
from gato.worlds import Reference, find

TASK = "gym/Match-v0"  # conftest's
NETWORK = {"layer_width": 32, "num_attention_heads": 2, "key_value_size": 16, "feedforward_hidden_size": 64}
SMALL = ["steps=2", "discrete=greedy", "slots=2", "slot_tokens=512", "window_tokens=128", "precision=float32", "prompt_share=0.0",
         'window_timesteps={"*": 1}', *(f"model.{k}={v}" for k, v in NETWORK.items())]  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory, tokenizer, match):
    """A network that has hardly begun, and the random play that it learned from."""
    folder = tmp_path_factory.mktemp("begun")
    tokenizer.save(folder / "tokenizer.model")
    collect([find(TASK)], 60, folder / "data", workers=0, policy="random", progress=False)
    bundle = start_run(
        "tiny", SMALL, [folder / "data"], folder / "train", folder / "tokenizer.model", "cpu", processes=1
    )
    return load(bundle).bundle, Dataset.open(dataset_folder(folder / "data", TASK)), folder


def test_a_game_is_learned_from_random_play(begun, tmp_path):
    bundle, random_play, _ = begun
    recipe = own_recipe(bundle).override(["steps=30", "slots=1", "optimizer=muon", "learning_rate=0.003"])
    settings = {"rounds": 2, "episodes": 60, "keep": 0.2, "judged": 10, "workers": 0}
    record = improve(bundle, find(TASK), random_play, recipe, tmp_path, **settings)
    first, *rounds = record["rounds"]
    assert [r["round"] for r in rounds] == [1, 2]
    assert 4 < random_play.returns.mean() < 6  # chance, though world and player have one seed
    assert first["score"] < 10 and rounds[-1]["score"] > 15

    own = [Dataset.open(dataset_folder(tmp_path / f"round-{n}", TASK)) for n in (1, 2)]
    seen = [[e.info["seed"] for e in d] for d in (random_play, *own)]
    assert len({*seen[0], *seen[1], *seen[2]}) == 60 + 60 + 60  # no seed twice
    for n, played in ((1, own[:1]), (2, own)):
        returns = np.concatenate([random_play.returns, *(d.returns for d in played)])
        kept = returns[returns >= rounds[n - 1]["bar"]]
        assert rounds[n - 1]["kept"] == len(kept) and kept.min() >= np.sort(returns)[-int(0.2 * len(returns)) - 1]
    assert rounds[1]["kept_own"] <= rounds[1]["kept"]
    trained = Bundle.load(tmp_path / "round-1/train/bundle")
    assert trained.card["data"][0]["episodes"] == rounds[0]["kept"]
    assert trained.trained("steps") == 2 + 30

    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.safetensors")}
    (tmp_path / "round-2/scores.json").unlink()
    assert improve(bundle, find(TASK), random_play, recipe, tmp_path, **settings) == record  # what is there stays
    with pytest.raises(OutputExistsError, match="keep"):
        improve(bundle, find(TASK), random_play, recipe, tmp_path, **settings | {"keep": 0.5})
    assert before == {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.safetensors")}


def test_a_game_is_learned_from_the_timesteps_that_went_better(begun, tmp_path):
    bundle, random_play, _ = begun
    recipe = own_recipe(bundle, "steps").override(["steps=20", "slots=1", "optimizer=muon", "learning_rate=0.003"])
    settings = {"by": "steps", "explore": 0.3, "discount": 0.0, "rounds": 2, "episodes": 30, "judged": 10, "workers": 0}
    record = improve(bundle, find(TASK), random_play, recipe, tmp_path, **settings)
    assert record["rounds"][0]["score"] < 10 and record["rounds"][-1]["score"] > 15
    played = Dataset.open(dataset_folder(tmp_path / "round-1", TASK))
    noise = sorted(e.info.get("noise", {}).get("scale", 0.0) for e in played)
    assert noise == [0.0] * 10 + [0.15] * 10 + [0.3] * 10
    with pytest.raises(OutputExistsError, match="explore"):
        improve(bundle, find(TASK), random_play, recipe, tmp_path, **settings | {"explore": 0.2})
    with pytest.raises(RecipeError, match="single timesteps"):
        wide = recipe.replace(window_timesteps={"*": 4})
        improve(bundle, find(TASK), random_play, wide, tmp_path / "wide", **settings)
    assert not (tmp_path / "wide").exists()


def test_what_is_kept_is_skill_not_luck(tmp_path, match):
    """A right name brings a point four times of five, a wrong one once of five: of the points, 4/7 are for right names."""
    spec, rng = find(TASK).spec, np.random.default_rng(0)
    with DatasetWriter(dataset_folder(tmp_path, TASK), TASK, spec, {"source": "test"}) as writer:
        for n in range(100):
            shown, meant, done = rng.integers(4, size=(3, 20))
            points = (rng.random(20) < np.where(done == shown, 0.8, 0.2)).astype(np.float32)
            episode = Episode(
                TASK, {"observation": shown}, {"action": meant}, points, {"action": done}, {"source": "gato", "seed": n}
            )
            writer.add(episode, n)
    kept, told = _best_steps(Dataset.open(dataset_folder(tmp_path, TASK)), keep=0.2, discount=0.0, seed=0)
    episodes = list(kept)
    right = np.concatenate([e.actions["action"] == e.observations["observation"] for e in episodes])
    assert told == {"kept_steps": len(right), "of_steps": 2000} and 400 < len(right) < 700
    assert right.mean() > 0.7
    assert all(e.executed is None and len(e.rewards) == len(e.observations["observation"]) for e in episodes)


def test_a_round_that_nobody_won_teaches_nothing(begun, tmp_path, monkeypatch):
    bundle, random_play, _ = begun
    monkeypatch.setattr("gato.evaluation.improve._to_go", lambda rewards, discount: np.zeros(len(rewards)))
    recipe = own_recipe(bundle, "steps").override(["steps=2", "slots=1"])
    settings = {"by": "steps", "rounds": 1, "episodes": 3, "judged": 2, "workers": 0}
    record = improve(bundle, find(TASK), random_play, recipe, tmp_path, **settings)
    assert record["rounds"][1]["kept_steps"] == 0 and record["rounds"][1]["of_steps"] == 60
    assert not (tmp_path / "round-1/train").exists()
    assert improve(bundle, find(TASK), random_play, recipe, tmp_path, **settings) == record


def test_what_follows_is_discounted():
    assert _to_go(np.array([1, 0, 4], np.float32), 0.5).tolist() == [2.0, 2.0, 4.0]


def test_from_the_command_line(begun, tmp_path):
    _, _, folder = begun
    words = ["improve", folder / "train", "--tasks", TASK, "--data", folder / "data", "--out", tmp_path / "out", "--rounds", 1,
             "--episodes", 3, "--judged", 2, "--workers", 0, "--set", "steps=2", "slots=1"]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main([str(w) for w in words])
    assert stopped.value.code == 0
    record = json.loads((tmp_path / "out" / TASK / "improve.json").read_text())
    assert record["protocol"]["episodes"] == 3 and len(record["rounds"]) == 2
    assert (tmp_path / "out/improve.png").stat().st_size > 5000


def test_two_datasets_of_a_task_are_refused_before_anything_is_played(begun, tmp_path, capsys):
    _, _, folder = begun
    shutil.copytree(folder / "data", tmp_path / "more")
    both = ["--tasks", TASK, "--data", folder / "data", tmp_path / "more", "--out", tmp_path / "out"]
    for verb in (["improve"], ["finetune", "--demonstrations", 1]):
        with pytest.raises(SystemExit, match="2"):
            main([str(w) for w in [verb[0], folder / "train", *both, *verb[1:], "--device", "cpu"]])
        said = capsys.readouterr().err
        assert f"two datasets of {TASK}" in said and str(folder / "data") in said and str(tmp_path / "more") in said
    assert not (tmp_path / "out").exists()


def test_the_gain_over_an_expert_is_welchs():
    low = gain(np.array([1.0, 2.0, 3.0, 4.0]), Reference(2.0, 1.0, 9))
    # By hand: variances of the means 5/12 and 1/9, standard error 0.7265, 4.70 degrees of freedom, t = 2.619.
    assert low == pytest.approx([0.5, 0.5 - 1.903, 0.5 + 1.903], abs=0.003)
    assert gain(np.full(5, 3.0), Reference(2.0, 0.0, 20)) == [1.0, 1.0, 1.0]
    assert gain(np.array([3.0, 4.0]), Reference(2.0, 0.0, 1)) == [1.5, None, None]  # who knows how far others are?
    assert gain(np.array([3.0]), Reference(2.0, 1.0, 9)) == [1.0, None, None]


def test_a_single_demonstration_gives_a_gain_without_an_interval(begun, tmp_path, match, capsys):
    """Of somebody else's function, whose score is that of what it did."""
    bundle, _, _ = begun
    collect([find(TASK)], 1, tmp_path / "data", workers=0, policy=f"{__name__}:always_two", progress=False)
    one = Dataset.open(dataset_folder(tmp_path / "data", TASK))
    recipe = own_recipe(bundle).override(["steps=1", "slots=1"])
    record = improve(bundle, find(TASK), one, recipe, tmp_path, rounds=1, episodes=3, judged=2, workers=0)
    assert record["expert"]["std"] == 0.0 and record["expert"]["episodes"] == 1
    assert [r["over_expert"][1:] for r in record["rounds"]] == [[None, None]] * 2
    assert json.loads((tmp_path / "improve.json").read_text(), parse_constant=pytest.fail)["rounds"] == record["rounds"]
    assert " over its expert" in capsys.readouterr().out and draw([record], tmp_path / "improve.png").exists()


def always_two(env, seed):
    return lambda observation, info: 2


def test_a_task_it_does_not_know(begun, tmp_path):
    bundle, random_play, _ = begun
    with pytest.raises(RecipeError, match="not trained on sokoban"):
        improve(bundle, find("sokoban/7x7-1-box"), random_play, own_recipe(bundle), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_what_rounds_do_not_have(begun, tmp_path):
    bundle, random_play, folder = begun
    own = own_recipe(bundle)
    for word in ("return_filter=0.8", "validation_share=0.1", "return_ranks=4", "reward_shown=True"):
        with pytest.raises(RecipeError, match=f"rounds do not have {word.split('=')[0]}"):
            improve(bundle, find(TASK), random_play, own.override([word]), tmp_path / "nothing")
    told = start_run(
        "tiny", [*SMALL, "reward_shown=True"], [folder / "data"], tmp_path / "told", folder / "tokenizer.model", "cpu",
        processes=1,
    )  # fmt: skip
    with pytest.raises(RecipeError, match="told of returns or rewards"):
        improve(load(told).bundle, find(TASK), random_play, own, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_rounds_begin_from_the_recipes_seed(begun, tmp_path):
    bundle, random_play, _ = begun
    recipe = own_recipe(bundle).override(["steps=1", "slots=1", "seed=40"])
    improve(bundle, find(TASK), random_play, recipe, tmp_path, rounds=1, episodes=3, judged=2, workers=0)
    assert json.loads((tmp_path / "round-1/train/bundle/card.json").read_text())["recipe"]["seed"] == 41
