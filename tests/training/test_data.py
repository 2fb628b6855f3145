"""The stream of batches: a pure function of the step, whoever prepares it and wherever it begins."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import Ranks, losses_of
from safetensors.torch import load_file

from gato.rollouts.collect import collect
from gato.tokens.text import TextTokenizer
from gato.training import Recipe, load_stores, make_mixture, train
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


# -- workers of a training in many processes ------------------------------------------------------------------------------

SMALL = RECIPE.replace(
    steps=2, slots=2, precision="float32", save_every_seconds=1e9,
    model={
        "layer_width": 32, "num_attention_heads": 2, "key_value_size": 16, "feedforward_hidden_size": 64,
        "num_transformer_blocks": 1, "patch_embedder": "linear",
    },
)  # fmt: skip


def train_in_two(rank, world, recipe, data, tokenizer, out):
    """A job of `Ranks`: one process, which forks another."""
    recipe, text = Recipe.from_json(recipe), TextTokenizer.load(Path(tokenizer))
    train(recipe, load_stores([Path(data)], recipe.config(), text, recipe), text, Path(out), processes=2)


@pytest.fixture
def go(tmp_path, tokenizer):
    collect([find("dummy/count")], 6, tmp_path / "data", workers=0, progress=False)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.to_bytes())

    def go(out, recipe):
        return Ranks(
            train_in_two, recipe.to_json(), str(tmp_path / "data"), str(tmp_path / "tokenizer.model"), str(out),
            log=out.with_suffix(".log"),
        )  # fmt: skip

    return go


def descendants(pid):
    """Numbers of all processes below one, whichever of its threads began them."""
    below = [
        int(p) for thread in Path(f"/proc/{pid}/task").iterdir() for p in (thread / "children").read_text().split()
    ]
    return [*below, *(p for child in below for p in descendants(child))]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_every_rank_may_have_workers(go, tmp_path):
    for workers in (0, 1):
        ranks = go(tmp_path / f"run{workers}", SMALL.replace(data_workers=workers))
        assert ranks.end() == [0], ranks.said()
    none, one = (load_file(tmp_path / run / "bundle" / "model.safetensors") for run in ("run0", "run1"))
    assert losses_of(tmp_path / "run0") == losses_of(tmp_path / "run1")
    assert all(torch.equal(none[k], one[k]) for k in none)


@pytest.mark.slow
def test_a_training_that_is_killed_leaves_no_process_behind(go, tmp_path):
    """kill -9 of rank 0: the other rank ends by itself, and so does every worker."""
    ranks = go(tmp_path / "run", SMALL.replace(steps=10**6, data_workers=1))
    lead, ends = ranks.processes[0].pid, time.monotonic() + 120
    while not (tmp_path / "run" / "log.jsonl").exists() and time.monotonic() < ends:  # the first step is done
        time.sleep(0.1)
    left = descendants(lead)
    os.kill(lead, signal.SIGKILL)
    assert len(left) >= 3, ranks.said()  # a rank, and a worker each
    ends = time.monotonic() + 60
    while any(map(alive, left)) and time.monotonic() < ends:
        time.sleep(0.1)
    survivors = [pid for pid in left if alive(pid)]
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)
    assert not survivors
