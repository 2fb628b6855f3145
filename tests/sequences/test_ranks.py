"""Return conditioning: ranks by hand, the same tokens in memory and on the shelf, and an agent that does as well as it is asked to."""

import numpy as np
import pytest

from gato.episodes import Episode
from gato.episodes.store import Dataset, dataset_folder
from gato.errors import UsageError
from gato.evaluation.evaluate import evaluate_task
from gato.policy import load
from gato.rollouts.collect import collect
from gato.rollouts.pool import WorkerPool
from gato.sequences.ranks import RETURN_RANK, num_ranks, rank_edges, ranked, ranked_spec
from gato.training import load_recipe
from gato.training.data import load_stores, shelve
from gato.training.start import start_run
from gato.worlds import find

SMALL = ["steps=120", "slots=1", "slot_tokens=512", "window_tokens=128", "precision=float32", "prompt_share=0.0", "discrete=greedy",
         "optimizer=muon", "learning_rate=0.003", "return_ranks=4", 'window_timesteps={"*": 1}', "model.layer_width=32",
         "model.num_attention_heads=2", "model.key_value_size=16", "model.feedforward_hidden_size=64"]  # fmt: skip


def test_ranks_by_hand():
    edges = rank_edges(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 4)
    assert edges.tolist() == [2.0, 3.0, 4.0]

    def rank(value):
        episode = Episode("dummy/x", {"a": np.zeros(2)}, {}, np.array([value, 0], np.float32))
        return ranked(episode, edges).observations[RETURN_RANK].tolist()

    assert [rank(v) for v in (-9, 1, 2, 3.5, 4, 99)] == [[0, 0], [0, 0], [1, 1], [2, 2], [3, 3], [3, 3]]
    alike = rank_edges(np.full(7, 2.0), 4)
    assert ranked(Episode("dummy/x", {}, {}, np.array([2.0])), alike).observations[RETURN_RANK].tolist() == [3]


def test_the_spec_has_one_observation_more():
    spec = find("sokoban/7x7-1-box").spec
    more = ranked_spec(spec, 8)
    assert num_ranks(more) == 8 and num_ranks(spec) == 0 and ranked_spec(spec, 0) == spec
    assert {*more.observation} - {*spec.observation} == {RETURN_RANK} and list(more.observation) == sorted(
        more.observation
    )


def now_and_then(env, seed):
    """A player who in some episodes is right most of the time, and in others wrong."""
    rng = np.random.default_rng([seed, 1])
    skill = rng.random()
    return lambda shown, info: int(shown) if rng.random() < skill else (int(shown) + int(rng.integers(1, 4))) % 4


@pytest.fixture(scope="module")
def played(tmp_path_factory, match):
    folder = tmp_path_factory.mktemp("played")
    collect([find(match)], 80, folder, workers=0, policy=now_and_then, progress=False)
    return folder


def test_memory_and_shelf_hold_the_same(played, tokenizer, tmp_path):
    recipe = load_recipe("tiny").override([*SMALL, "model.vocabulary_size=1024", "return_filter=0.5"])
    (held,) = load_stores([played], recipe.config(), tokenizer, recipe)
    (shelved,) = shelve([played], recipe.config(), tokenizer, recipe, tmp_path)
    plain = recipe.replace(return_ranks=0)
    (without,) = shelve([played], plain.config(), tokenizer, plain, tmp_path)
    shelved.make()
    assert held.tokens.ids.tolist() == shelved.table.tokens.ids.tolist()
    assert shelved.folder != without.folder and shelved.outline.starts[1] == without.outline.starts[1] + 1


def test_it_does_as_well_as_it_is_asked_to(played, tokenizer, tmp_path, match):
    tokenizer.save(tmp_path / "tokenizer.model")
    bundle = start_run("tiny", SMALL, [played], tmp_path / "run", tmp_path / "tokenizer.model", "cpu", processes=1)
    returns = Dataset.open(dataset_folder(played, match)).returns
    assert 8 < returns.mean() < 12

    def score(**acting):
        agent = load(bundle)
        agent.bundle.acting |= acting
        with WorkerPool(0) as pool:
            return np.mean(evaluate_task(agent, find(match), 20, pool)[0].episodes)

    assert score() > 18 and score(return_rank=0) < 5
    assert score() == score(return_rank=3) == score(return_rank=99)
    with pytest.raises(UsageError, match="return_rank"):
        score(return_rank=-1)
