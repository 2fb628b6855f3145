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
from gato.sequences.returns import LAST_REWARD, RETURN_RANK, num_ranks, rank_edges, tell, told_spec
from gato.training import load_recipe
from gato.training.data import load_stores, shelve
from gato.training.start import start_run
from gato.worlds import find

SMALL = ["steps=120", "slots=1", "slot_tokens=512", "window_tokens=128", "precision=float32", "prompt_share=0.0", "discrete=greedy",
         "optimizer=muon", "learning_rate=0.003", "return_ranks=4", 'window_timesteps={"*": 1}', "model.layer_width=32",
         "model.num_attention_heads=2", "model.key_value_size=16", "model.feedforward_hidden_size=64"]  # fmt: skip


def test_what_is_told_by_hand():
    returns = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert rank_edges(returns, 4).tolist() == [2.0, 3.0, 4.0]
    spec = told_spec(find("sokoban/7x7-1-box").spec, 4, True)

    def told(value, among=returns):
        return tell(
            Episode("dummy/x", {"image": np.zeros(2)}, {}, np.array([value, 0], np.float32)), spec, among
        ).observations

    ranks = [told(v)[RETURN_RANK].tolist() for v in (-9, 1, 2, 3.5, 4, 99)]
    assert ranks == [[0, 0], [0, 0], [1, 1], [2, 2], [3, 3], [3, 3]]
    assert told(2.0, np.full(7, 2.0))[RETURN_RANK].tolist() == [3, 3]
    assert told(3.5)[LAST_REWARD].tolist() == [0.0, 3.5]  # the last step's is never seen: there is nothing after it


def test_the_spec_has_more_observations():
    spec = find("sokoban/7x7-1-box").spec
    more = told_spec(spec, 8, True)
    assert num_ranks(more) == 8 and num_ranks(spec) == 0 and told_spec(spec, 0, False) == spec
    assert {*more.observation} - {*spec.observation} == {RETURN_RANK, LAST_REWARD}
    assert list(more.observation) == sorted(more.observation)


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


def test_foretold_observations_do_not_change_how_a_dataset_weighs(played, tokenizer, tmp_path):
    """`loss_by="tokens"` weighs targets by how many there are; numbers that are foretold beside them weigh what
    `observation_loss` says."""
    recipe = load_recipe("tiny").override([*SMALL, "model.vocabulary_size=1024"])
    shares = []
    for weight in (0.0, 0.1):
        told = recipe.replace(observation_loss=weight)
        (held,) = load_stores([played], told.config(), tokenizer, told)
        (shelved,) = shelve([played], told.config(), tokenizer, told, tmp_path / str(weight))
        shares += [held.target_share, shelved.target_share]
    assert shares == pytest.approx([shares[0]] * 4) and held.tokens.targets.mean() > 1.5 * shares[0]


def test_what_is_set_aside_is_set_aside_in_memory_too(played, tokenizer, tmp_path):
    recipe = load_recipe("tiny").override([*SMALL, "model.vocabulary_size=1024", "validation_share=0.3"])
    (held,) = load_stores([played], recipe.config(), tokenizer, recipe)
    (shelved,) = shelve([played], recipe.config(), tokenizer, recipe, tmp_path)
    assert held.num_episodes == shelved.num_episodes < 80


def test_a_rank_is_the_same_on_both_sides(played, tokenizer, tmp_path):
    """What is validated on is ranked among what was trained on, not among itself."""
    recipe = load_recipe("tiny").override([*SMALL, "model.vocabulary_size=1024", "validation_share=0.1"])
    trained, aside = (shelve([played], recipe.config(), tokenizer, recipe, tmp_path, (), v)[0] for v in (False, True))
    returns = aside.dataset.returns
    edges = rank_edges(returns[trained.chosen], 4)
    wanted = np.searchsorted(edges, returns[aside.chosen], side="right")
    assert [int(e.observations[RETURN_RANK][0]) for e in aside._read(aside.chosen)] == wanted.tolist()
    among_themselves = np.searchsorted(rank_edges(returns[aside.chosen], 4), returns[aside.chosen], side="right")
    assert wanted.tolist() != among_themselves.tolist()


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
    assert score() == score(return_rank=3)
    for wrong in (-1, 4):
        with pytest.raises(UsageError, match="return_rank"):
            score(return_rank=wrong)
