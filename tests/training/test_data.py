"""The stream of batches: a pure function of the step, whoever prepares it and wherever it begins."""

import numpy as np
import pytest

from gato.rollouts.collect import collect
from gato.training import Recipe, make_mixture
from gato.training.data import shelve, stream, tokenise
from gato.worlds import find

RECIPE = Recipe(slots=4, slot_tokens=256, window_tokens=256, lazy=True, model={"vocabulary_size": 1024})


@pytest.fixture(scope="module")
def mixture(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("streamed")
    collect([find("dummy/count")], 6, folder / "data", workers=0, progress=False)
    stores = shelve([folder / "data"], RECIPE.config(), tokenizer, RECIPE, folder / "tokens")
    assert not (folder / "tokens").exists()
    tokenise(stores)
    assert stores[0].folder.exists()
    return make_mixture(stores, RECIPE)


def same(a, b):
    for name, value in vars(a).items():
        other = getattr(b, name)
        assert value == other if value is None or isinstance(value, int | tuple) else np.array_equal(value, other), name


def take(mixture, parts, of, step, count, workers=0):
    with stream(mixture, parts, of, step, workers) as steps:
        return [next(steps) for _ in range(count)]


def test_element_s_is_step_s(mixture):
    for step, batches in zip(range(7, 10), take(mixture, range(2), 2, 7, 3), strict=True):
        for part, batch in enumerate(batches):
            same(batch, mixture.batch(step, part, 2))


def test_workers_change_nothing(mixture):
    alone, beside = take(mixture, range(2), 2, 3, 5), take(mixture, range(2), 2, 3, 5, workers=2)
    for ours, theirs in zip(alone, beside, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)


def test_any_number_of_ranks_sees_the_same_global_batch(mixture):
    """Which part a slot is in depends on how many parts there are, never what is in the slot."""
    whole = sorted(w.spans for i in range(4) for w in mixture.slot(11, i))
    for world in (1, 2, 4):
        batches = [take(mixture, [rank], world, 11, 1)[0][0] for rank in range(world)]
        ids = np.sort(np.concatenate([b.targets.numpy() for b in batches]))
        assert np.array_equal(ids, np.sort(take(mixture, [0], 1, 11, 1)[0][0].targets.numpy()))
    assert whole == sorted(w.spans for i in range(4) for w in mixture.slot(11, i))
