"""A run that was stopped, killed or damaged goes on as if nothing had been, or says by name what is wrong."""

import json
import os
import shutil
import signal
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import gato
import gato.training.log as training_log
import gato.training.loop as loop
from gato.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointMissingError,
    DatasetChangedError,
    OutputExistsError,
)
from gato.model import Gato
from gato.rollouts.collect import collect
from gato.sequences import Mixture
from gato.training import Recipe, load_stores, make_mixture, train
from gato.training.checkpoint import State, load_checkpoint, save_checkpoint
from gato.training.optimizer import make_optimizers
from gato.training.start import resume_run, start_run
from gato.worlds import find

RECIPE = Recipe(
    name="test", steps=12, slots=2, slot_tokens=256, window_tokens=256, window_timesteps={"*": 2}, prompt_share=0.25,
    learning_rate=2e-3, precision="float32", save_every_seconds=1e9,
    model={
        "layer_width": 32, "num_attention_heads": 2, "key_value_size": 16, "feedforward_hidden_size": 64,
        "num_transformer_blocks": 2, "dropout_rate": 0.1, "stochastic_depth": 0.1,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory, tokenizer):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    collect([find("dummy/count")], 10, folder, workers=0, progress=False)
    return load_stores([folder], RECIPE.config(), tokenizer, RECIPE)


@pytest.fixture(autouse=True)
def every_step_in_the_log(monkeypatch):
    monkeypatch.setattr(training_log, "LOG_EVERY_SECONDS", 0.0)


def at_step(step, act):
    def watch(report):
        if report.record["step"] == step:
            act()

    return watch


def weights(run):
    return load_file(run / "bundle" / "model.safetensors")


def log_of(run):
    keys = ("step", "tokens", "loss", "loss/dummy", "learning_rate", "grad_norm")
    return [{k: r[k] for k in keys} for r in map(json.loads, (run / "log.jsonl").read_text().splitlines())]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("changes", "processes"),
    [({}, 1), ({"optimizer": "muon"}, 1), ({"accumulate": 2}, 1), ({}, 2)],
    ids=["adamw", "muon", "accumulate", "processes"],
)
def test_stopped_by_a_signal_and_resumed_is_the_same_run(stores, tokenizer, tmp_path, capsys, changes, processes):
    """SIGTERM, as a machine going away sends it, twice; weights and log are the uninterrupted run's to the bit. Dropout
    and stochastic depth are on, so that the random state must be right too."""
    recipe = RECIPE.replace(**changes)
    train(recipe, stores, tokenizer, tmp_path / "whole", processes=processes)
    run = tmp_path / "two parts"
    for resume, step in ((False, 5), (True, 9)):
        torch.manual_seed(1234 + step)  # whatever this process did before does not matter
        with pytest.raises(SystemExit) as stopped:
            train(
                recipe,
                stores,
                tokenizer,
                run,
                resume=resume,
                processes=processes,
                watch=at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM)),
            )
        assert stopped.value.code == 130
        assert f"gato train --resume '{run}'\n" in capsys.readouterr().err  # a line to be pasted into a shell
        assert not (run / "bundle").exists()
        assert (run / "checkpoints" / "last").read_text() in (f"step-{step:08d}", f"step-{step + 1:08d}")
    train(recipe, stores, tokenizer, run, resume=True, processes=processes)
    assert same(weights(tmp_path / "whole"), weights(run))
    assert log_of(tmp_path / "whole") == log_of(run)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_killed_between_checkpoints_repeats_the_steps(stores, tokenizer, tmp_path):
    """A crash at step 8, the last checkpoint of step 4: steps 5 to 8 are done again, and written once."""
    train(RECIPE, stores, tokenizer, tmp_path / "whole")
    run = tmp_path / "parts"

    class Crash(Exception):
        pass

    def crash():
        raise Crash

    with pytest.raises(SystemExit):
        train(RECIPE, stores, tokenizer, run, watch=at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    last = int((run / "checkpoints" / "last").read_text()[5:])
    with pytest.raises(Crash):
        train(RECIPE, stores, tokenizer, run, resume=True, watch=at_step(8, crash))
    assert int((run / "checkpoints" / "last").read_text()[5:]) == last < 8
    assert len(log_of(run)) == 8
    train(RECIPE, stores, tokenizer, run, resume=True)
    assert log_of(run) == log_of(tmp_path / "whole") and same(weights(run), weights(tmp_path / "whole"))


@pytest.mark.parametrize("processes", [1, 2])
def test_the_clock_is_of_training_alone(stores, tokenizer, tmp_path, monkeypatch, processes):
    """A step takes a second; opening the stream, looking at the network and judging it a hundred each. Stopped on the way, a
    run of eight seconds still has eight steps."""
    now, draw, opened = [0.0], Mixture.batch, loop.stream

    def take(seconds):
        now[0] += seconds
        return 0.0

    def batch(self, *numbers):
        take(1.0)
        return draw(self, *numbers)

    @contextmanager
    def opening(*numbers):
        take(100.0)
        with opened(*numbers) as data:
            yield data

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(loop, "stream", opening)
    monkeypatch.setattr(Mixture, "batch", batch)
    stop = at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    recipe, scored = RECIPE.replace(seconds=8.0), []
    for resume in (False, True):
        with pytest.raises(SystemExit) if not resume else nullcontext():
            bundle = train(
                recipe, stores, tokenizer, tmp_path / "run", resume=resume, processes=processes,
                watch=None if resume else stop, visit=lambda *_: take(100.0), score_every=2,
                score=lambda b: scored.append((b.card["steps"], b.card["seconds"])) or take(100.0),
            )  # fmt: skip
    assert (bundle.card["steps"], bundle.card["seconds"]) == (8, 8.0) and now[0] > 1200
    assert scored == [(n, float(n)) for n in (2, 4, 6, 8)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["elapsed_seconds"] for r in lines] == list(range(1, 9))


def test_the_best_of_a_resumed_run_is_of_this_try(stores, tokenizer, tmp_path):
    """Killed at step 9, the last checkpoint of step 4: what was judged since is forgotten, and what is kept has its score in the
    record, be it less than one that went."""
    run = tmp_path / "run"
    best = lambda: [gato.load(f).bundle.card["steps"] for f in sorted(run.glob("best-step-*"))]  # noqa: E731
    read = lambda: [(r["step"], r["score"]) for r in map(json.loads, (run / "scores.jsonl").read_text().splitlines())]  # noqa: E731

    class Killed(Exception):
        pass

    def kill():
        raise Killed

    def go(scores, until, every, act=kill, **more):
        scores = iter(scores)
        with pytest.raises((Killed, SystemExit)):
            train(
                RECIPE, stores, tokenizer, run, watch=at_step(until, act), score=lambda bundle: next(scores),
                score_every=every, **more,
            )  # fmt: skip

    go([0.5], 3, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert read() == [(3, 0.5)] and best() == [3]
    go([0.9, 0.7], 9, 3, resume=True)
    assert read() == [(3, 0.5), (6, 0.9), (9, 0.7)] and best() == [6]
    go([0.2], 5, 5, resume=True)
    assert read() == [(3, 0.5), (5, 0.2)] and best() == [5]
    (other,) = run.glob("best-step-*")
    shutil.copytree(other, run / "best-step-00000006")  # as if killed while one took the other's place
    go([0.1, 0.0], 9, 3, resume=True)
    assert read() == [(3, 0.5), (6, 0.1), (9, 0.0)] and best() == [6]


def test_a_finished_run_resumed_changes_nothing(stores, tokenizer, tmp_path):
    run = tmp_path / "run"
    train(RECIPE, stores, tokenizer, run)
    before = {p: p.read_bytes() for p in (run / "bundle").rglob("*") if p.is_file()}
    again = train(RECIPE, stores, tokenizer, run, resume=True)
    assert {p: p.read_bytes() for p in (run / "bundle").rglob("*") if p.is_file()} == before
    assert same({k: v for k, v in again.model.state_dict().items()}, weights(run)) and len(log_of(run)) == 12


def test_another_run_is_refused(stores, tokenizer, tmp_path):
    run = tmp_path / "run"
    train(RECIPE, stores, tokenizer, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(OutputExistsError, match="--resume"):
        train(RECIPE, stores, tokenizer, run)
    with pytest.raises(OutputExistsError, match="another recipe"):
        train(RECIPE.replace(learning_rate=1e-3), stores, tokenizer, run, resume=True)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_damage_is_named_and_nothing_is_started(stores, tokenizer, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(SystemExit):
        train(RECIPE, stores, tokenizer, run, watch=at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    folder = run / "checkpoints" / (run / "checkpoints" / "last").read_text()
    log = (run / "log.jsonl").read_bytes()
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        at = int(rng.integers(len(whole)))
        for broken in (whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :], whole[: len(whole) // 2], b""):
            path.write_bytes(broken)
            with pytest.raises(CheckpointCorruptError, match=path.name):
                train(RECIPE, stores, tokenizer, run, resume=True)
        path.write_bytes(whole)
    (run / "checkpoints" / "last").write_text("step-99999999")
    with pytest.raises(CheckpointMissingError):
        train(RECIPE, stores, tokenizer, run, resume=True)
    assert (run / "log.jsonl").read_bytes() == log
    (run / "checkpoints" / "last").write_text(folder.name)
    train(RECIPE, stores, tokenizer, run, resume=True)


# -- the checkpoint by itself ---------------------------------------------------------------------------------------------


def stepped(stores, recipe, steps=2):
    """A network and its optimisers after some real steps."""
    torch.manual_seed(0)
    model = Gato(recipe.config()).train()
    optimizers = make_optimizers(model, recipe)
    mixture = make_mixture(stores, recipe)
    for step in range(steps):
        model(mixture.batch(step)).square().mean().backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizers


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_all_of_the_state_comes_back(stores, tmp_path, kind):
    """Weights, moments, counters and the clock. (What dropout draws follows from the step.)"""
    recipe = RECIPE.replace(optimizer=kind)
    model, optimizers = stepped(stores, recipe)
    save_checkpoint(tmp_path, model, optimizers, State(2, 1000, 3.5))
    other = Gato(recipe.config())
    others = make_optimizers(other, recipe)
    assert load_checkpoint(tmp_path, other, others) == State(2, 1000, 3.5)
    assert same(model.state_dict(), other.state_dict())
    for name, optimizer in optimizers.items():
        a, b = optimizer.state_dict()["state"], others[name].state_dict()["state"]
        assert a.keys() == b.keys() and len(a)
        for i in a:
            assert a[i].keys() == b[i].keys()
            assert all(torch.equal(torch.as_tensor(a[i][k]), torch.as_tensor(b[i][k])) for k in a[i])


def test_another_optimizer_or_network_is_refused(stores, tmp_path):
    muon = RECIPE.replace(optimizer="muon")
    model, optimizers = stepped(stores, muon)
    save_checkpoint(tmp_path, model, optimizers, State(1))
    with pytest.raises(CheckpointMismatchError, match="muon"):
        load_checkpoint(tmp_path, model, make_optimizers(model, RECIPE))
    wider = Gato(RECIPE.config().replace(feedforward_hidden_size=128))
    with pytest.raises(
        CheckpointMismatchError, match=r"blocks\.0\.feedforward\.hidden is \(64, 32\), expected \(128, 32\)"
    ):
        load_checkpoint(tmp_path, wider, make_optimizers(wider, muon))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_is_never_cleaned_up(stores, tmp_path, keep):
    """Not even where savers were killed half-way, or a later checkpoint of an abandoned attempt lies about."""
    model, optimizers = stepped(stores, RECIPE, 1)
    folder = tmp_path / "checkpoints"
    for name in ("step-00000003.tmp-1-aa", "step-00000009.tmp-2-bb", "step-00000009"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(b"half")
    for step in range(1, 6):
        save_checkpoint(tmp_path, model, optimizers, State(step), keep_last=keep)
        assert load_checkpoint(tmp_path, model, optimizers).step == step
    assert len([*folder.glob("step-*")]) == keep and not [*folder.glob("*.tmp-*")]


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_old_one(stores, tmp_path, monkeypatch):
    import gato.training.checkpoint as module

    model, optimizers = stepped(stores, RECIPE, 1)
    save_checkpoint(tmp_path, model, optimizers, State(1))

    def full(path, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError):
        save_checkpoint(tmp_path, model, optimizers, State(2))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["last", "step-00000001"]
    assert load_checkpoint(tmp_path, model, optimizers).step == 1


def test_no_checkpoint_is_a_named_error(stores, tmp_path):
    model, optimizers = stepped(stores, RECIPE, 0)
    with pytest.raises(CheckpointMissingError):
        load_checkpoint(tmp_path, model, optimizers)


def test_data_that_changed_meanwhile_are_refused(tmp_path, tokenizer):
    """A run that goes on learns from what it began with: a topped-up dataset is named, and nothing is written."""
    collect([find("dummy/count")], 3, tmp_path / "data", workers=0, progress=False)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.to_bytes())
    recipe = tmp_path / "small.py"
    recipe.write_text(f"from gato.training import Recipe\nrecipe = Recipe(**{RECIPE.replace(steps=1).to_json()!r})\n")
    run = tmp_path / "run"
    start_run(str(recipe), [], [tmp_path / "data"], run, tmp_path / "tokenizer.model", "cpu", processes=1)
    shutil.rmtree(run / "bundle")
    collect([find("dummy/count")], 4, tmp_path / "data", workers=0, progress=False)
    with pytest.raises(DatasetChangedError, match="dummy/count is not what it was"):
        resume_run(run, "cpu", processes=1)
    assert not (run / "bundle").exists()
    shutil.rmtree(tmp_path / "data")
    collect([find("dummy/count")], 3, tmp_path / "data", workers=0, progress=False)
    assert resume_run(run, "cpu", processes=1) == run / "bundle"  # the same episodes again are the same data
    assert (run / "bundle" / "MANIFEST.json").exists()
