"""The same run on one process and on many, through torchrun's environment: sharded, saved, resumed elsewhere, and ended by
name where a rank is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from ranks import Ranks, ids_of, losses_of, train_once
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

import gato
from gato.errors import CheckpointCorruptError
from gato.model import Gato
from gato.rollouts.collect import collect
from gato.training import Recipe, load_recipe
from gato.training.checkpoint import load_checkpoint
from gato.training.optimizer import make_optimizers
from gato.worlds import find

RECIPE = Recipe(
    name="test", steps=6, slots=4, accumulate=2, slot_tokens=128, window_tokens=128, window_timesteps={"*": 2},
    prompt_share=0.25, learning_rate=2e-3, precision="float32", save_every_seconds=1e9,
    model={
        "patch_embedder": "linear",  # the dummy world's patches are flat: GroupNorm makes noise of them, Adam steps of noise
        "layer_width": 32, "num_attention_heads": 2, "key_value_size": 16, "feedforward_hidden_size": 64,
        "num_transformer_blocks": 2, "dropout_rate": 0.1, "stochastic_depth": 0.1, "vocabulary_size": 1024,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("ranks")
    collect([find("dummy/count")], 10, folder / "data", workers=0, progress=False)
    (folder / "tokenizer.model").write_bytes(tokenizer.to_bytes())
    return folder


def go(place, out, recipe, world, environment=None, **options):
    return Ranks(
        train_once, recipe.to_json(), str(place / "data"), str(place / "tokenizer.model"), str(out), options,
        world=world, log=out.with_suffix(".log"), environment=environment,
    )  # fmt: skip


def weights(run):
    return load_file(run / "bundle" / "model.safetensors")


def farthest(a, b):
    return max(float((a[k] - b[k]).abs().max()) for k in a)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_two_ranks_do_what_one_does(place, tmp_path, kind):
    """Weights after six steps with dropout, the loss of every step, which windows were seen."""
    recipe = RECIPE.replace(optimizer=kind, muon_learning_rate=0.005)
    for world in (1, 2):
        (tmp_path / f"ids{world}").mkdir()
        ranks = go(place, tmp_path / f"run{world}", recipe, world, ids=str(tmp_path / f"ids{world}"))
        assert ranks.end() == [0] * world, ranks.said()
    one, two = tmp_path / "run1", tmp_path / "run2"
    assert ids_of(tmp_path / "ids1") == ids_of(tmp_path / "ids2")
    assert losses_of(one) == pytest.approx(losses_of(two), rel=1e-5) and len(losses_of(two)) == 6
    assert farthest(weights(one), weights(two)) < 1e-5
    assert gato.load(two / "bundle").bundle.card["steps"] == 6


def test_slices_in_bf16_learn_as_autocast_does(place, tmp_path):
    """bf16 weights in the pass, float32 slices, gradients reduced in float32: the losses of one process with autocast, as far
    as three digits go, with the residual patch embedder and every kind of position."""
    model = {
        **RECIPE.model,
        "patch_embedder": "resnet",
        "patch_stem_width": 32,
        "dropout_rate": 0.0,
        "stochastic_depth": 0.0,
    }
    for position in ("rope", "xl"):
        recipe = RECIPE.replace(precision="bf16", model={**model, "position": position}, learning_rate=1e-3)
        runs = [tmp_path / f"{position}{world}" for world in (1, 2)]
        for world, run in zip((1, 2), runs, strict=True):
            ranks = go(place, run, recipe, world)
            assert ranks.end() == [0] * world, ranks.said()
        assert losses_of(runs[0]) == pytest.approx(losses_of(runs[1]), rel=0.01)
        assert all(w.dtype == torch.float32 for w in weights(runs[1]).values())


@pytest.mark.parametrize("kind", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_saved_by_some_resumed_by_others(place, tmp_path, kind):
    """Three steps at two ranks and three more at one; and the other way about. The run is the uninterrupted one."""
    recipe = RECIPE.replace(optimizer=kind, muon_learning_rate=0.005, keep_every=3)
    whole = tmp_path / "whole"
    assert go(place, whole, recipe, 1).end() == [0]
    for first, second in ((2, 1), (1, 2)):
        run = tmp_path / f"from{first}"
        assert go(place, run, recipe, first).end() == [0] * first
        (run / "checkpoints" / "last").write_text("step-00000003")
        for path in sorted((run / "bundle").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (run / "bundle").rmdir()
        for path in sorted((run / "checkpoints" / "step-00000006").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (run / "checkpoints" / "step-00000006").rmdir()
        ranks = go(place, run, recipe, second, resume=True)
        assert ranks.end() == [0] * second, ranks.said()
        assert losses_of(run) == pytest.approx(losses_of(whole), rel=1e-5)
        assert farthest(weights(run), weights(whole)) < 1e-5
        facts = json.loads((run / "checkpoints" / "step-00000006" / "MANIFEST.json").read_text())["facts"]
        assert facts["format"] == ("sharded" if second == 2 else "whole")


def test_a_table_of_contents_that_names_code_is_refused(place, tmp_path):
    """Even where its hash is the manifest's; PyTorch's own reader would have run it."""
    import pickle

    from gato.episodes.manifest import sha256_of, write_manifest

    run = tmp_path / "run"
    ranks = go(place, run, RECIPE.replace(steps=1), 2)
    assert ranks.end() == [0, 0], ranks.said()
    folder = run / "checkpoints" / "step-00000001"
    model = Gato(RECIPE.config())
    optimizers = make_optimizers(model, RECIPE)
    assert load_checkpoint(run, model, optimizers).step == 1
    witness = tmp_path / "witness"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    evil = pickle.dumps(Evil())
    path = folder / "shards" / ".metadata"
    path.write_bytes(evil)
    with pytest.raises(CheckpointCorruptError, match=r"\.metadata"):
        load_checkpoint(run, model, optimizers)
    record = json.loads((folder / "MANIFEST.json").read_text())
    record["files"]["shards/.metadata"] = {"bytes": len(evil), "sha256": sha256_of(evil)}
    write_manifest(folder, "checkpoint", record["files"], record["facts"])
    with pytest.raises(CheckpointCorruptError, match=r"posix\.mkdir"):
        load_checkpoint(run, model, optimizers)
    assert not witness.exists()
    with pytest.raises(AttributeError):
        FileSystemReader(folder / "shards").read_metadata()
    assert witness.exists()


def stop_at_two(rank, team):
    """Rank 1 sits down at step 2, outside of every collective."""
    _at_step(rank, team, 2, lambda: time.sleep(600))


def freeze_at_two(rank, team):
    _at_step(rank, team, 2, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def die_at_two(rank, team):
    _at_step(rank, team, 2, lambda: os.kill(os.getpid(), signal.SIGKILL))


def skip_at_two(rank, team):
    """Rank 1 leaves out the sum of step 2, and goes on."""
    if rank == 1:
        add = team.sum
        team.sum = lambda p, numbers, step: [1.0, 1.0, 1.0, 0.0] if step == 2 else add(p, numbers, step)


def _at_step(rank, team, step, do):
    from gato.sequences import Mixture

    if rank == 1:
        whole = Mixture.batch

        def batch(self, now, part=0, parts=1):
            if now == step:
                do()
            return whole(self, now, part, parts)

        Mixture.batch = batch


@pytest.mark.parametrize("fault", [stop_at_two, freeze_at_two, die_at_two, skip_at_two])
def test_a_lost_rank_ends_the_run_by_name(place, tmp_path, fault):
    began = time.monotonic()
    ranks = go(place, tmp_path / "run", RECIPE, 2, {"GATO_TIMEOUT": "4"}, fault=fault)
    ranks.processes[0].join(30)
    took = time.monotonic() - began
    codes = [ranks.processes[0].exitcode, ranks.end(5 if fault is not stop_at_two else 30)[1]]
    assert codes[0] == 6 and took < 30, (codes, ranks.said())
    assert re.search("rank 1 (was at step 2|has not been heard|died|is at step 3)", ranks.said()), ranks.said()
    assert codes[1] == {freeze_at_two: None, die_at_two: -9}.get(fault, 6)
    assert not (tmp_path / "run" / "bundle").exists()


@pytest.mark.slow
def test_the_command_line_under_torchrun(place, tmp_path):
    """The very line of the documentation, with a rank that is killed and the run resumed."""
    recipe = tmp_path / "mine.py"
    recipe.write_text(f"from gato.training import Recipe\nrecipe = Recipe.from_json({RECIPE.to_json()!r})\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "gato", "train"]
    line = [*torchrun, str(recipe), "--data", str(place / "data"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    line += ["--tokenizer", str(place / "tokenizer.model")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "= 2 ranks × 1 parts × 2 slots" in done.stderr, done.stderr
    assert (tmp_path / "run" / "bundle" / "MANIFEST.json").exists()
    again = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert again.returncode != 0 and "output-exists" in again.stderr


# -- one process ----------------------------------------------------------------------------------------------------------


def test_muon_is_torchs_in_bfloat16():
    """To the bit; and in float32 it makes all singular values nearly one."""
    from gato.training.muon import Muon, orthogonalise

    torch.manual_seed(0)
    shapes = [(32, 32), (64, 32), (32, 96)]
    mine, theirs = ([torch.nn.Parameter(torch.randn(s, generator=torch.Generator().manual_seed(7))) for s in shapes] for _ in range(2))  # fmt: skip
    a, b = Muon(mine, 0.02, 0.1), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for _ in range(3):
        for p, q in zip(mine, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        a.step(), b.step()
    assert all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))
    for shape in shapes:
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), torch.float32))
        assert float(values.min()) > 0.3 and float(values.max()) < 1.3


def test_parts_do_not_depend_on_the_ranks():
    from gato.training.team import Team

    assert [Team.parts_of(12, world) for world in (1, 2, 3, 4, 6, 12)] == [12] * 6
    assert [Team.parts_of(1, world) for world in (1, 2, 3)] == [1, 2, 3] and Team.parts_of(64, 256) == 256


def test_the_plan_counts_what_the_network_is(capsys):
    from gato.training.plan import Plan

    recipe = RECIPE.replace(slots=12, accumulate=3, optimizer="muon")
    model = Gato(recipe.config())
    total = sum(p.numel() for p in model.parameters())
    matrices = sum(p.numel() for p in make_optimizers(model, recipe)["muon"].param_groups[0]["params"])
    plan = Plan.of(recipe, "cpu", 2, sharded=True)
    assert plan.tokens == 12 * 128 and (plan.ranks, plan.parts, plan.slots) == (2, 2, 3)
    assert plan.parameters == total and plan.weights == 4 * total // 2
    assert plan.optimizer == pytest.approx((8 * total - 4 * matrices) / 2, rel=0.02)
    assert f"{total:,} parameters" in str(plan) and "float32" in str(plan)
    assert "step       1,536 tokens = 2 ranks × 2 parts × 3 slots × 128" in str(plan)
    uneven = Plan.of(
        RECIPE.replace(slots=6, accumulate=1), "cpu", 4, sharded=False
    )  # two ranks have two slots, two have one
    assert uneven.tokens == 6 * 128 and "step       768 tokens ≤ 4 ranks × 1 parts × 2 slots × 128" in str(uneven)
    lighter = Plan.of(recipe.replace(activation_checkpointing=True), "cpu", 2, sharded=True)
    assert lighter.activations < plan.activations


def test_the_plans_example_is_what_it_says():
    from gato.training import plan

    said = str(plan.Plan.of(load_recipe("paper").replace(size="gato-79m"), "cuda", 8, sharded=True))
    assert textwrap.indent(said, "    ") in plan.__doc__


@pytest.mark.parametrize(
    "changes", [{"activation_checkpointing": True}, pytest.param({"compile": True}, marks=pytest.mark.slow)]
)
def test_memory_and_speed_change_no_number(place, tmp_path, changes):
    if "compile" in changes:
        try:
            torch.compile(lambda x: torch.nn.functional.gelu(x) * 2)(torch.ones(8))
        except Exception as error:  # of whichever compiler is here
            pytest.skip(f"torch.compile does not work on this machine: {type(error).__name__}")
    for name, recipe in (("plain", RECIPE), ("other", RECIPE.replace(**changes))):
        ranks = go(place, tmp_path / name, recipe, 1)
        assert ranks.end(300) == [0], ranks.said()
    plain, other = losses_of(tmp_path / "plain"), losses_of(tmp_path / "other")
    assert plain == (other if "activation_checkpointing" in changes else pytest.approx(other, rel=1e-5))
    assert np.isfinite(list(plain.values())).all()
