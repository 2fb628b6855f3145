"""Runs that begin from a bundle: whatever happens to them, they go on from it, and its tasks keep their tokens."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from gato.model.bundle import Bundle
from gato.rollouts.collect import collect
from gato.training import Recipe
from gato.training.start import finetune_run, resume_run, start_run
from gato.worlds import find

RECIPE = Recipe(
    name="small", steps=2, slots=2, slot_tokens=256, window_tokens=256, precision="float32",
    model={
        "layer_width": 32, "num_attention_heads": 2, "key_value_size": 16, "feedforward_hidden_size": 64,
        "num_transformer_blocks": 1, "task_token": True,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory, tokenizer):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("started")
    collect([find("sokoban/7x7-1-box"), find("sokoban/7x7-2-boxes")], 3, folder / "old", workers=0, progress=False)
    collect([find("dummy/count"), find("sokoban/7x7-2-boxes")], 3, folder / "new", workers=0, progress=False)
    (folder / "tokenizer.model").write_bytes(tokenizer.to_bytes())
    (folder / "small.py").write_text(f"from gato.training import Recipe\nrecipe = Recipe(**{RECIPE.to_json()!r})\n")
    start_run(
        str(folder / "small.py"), [], [folder / "old"], folder / "run", folder / "tokenizer.model", "cpu", processes=1
    )
    return folder


def test_tasks_keep_their_tokens(home, tmp_path):
    """dummy/count sorts before sokoban, but the network knew sokoban first: its token must not move."""
    before = Bundle.load(home / "run" / "bundle")
    after = Bundle.load(
        finetune_run(before, str(home / "small.py"), [], [home / "new"], tmp_path / "run", "cpu", processes=1)
    )
    assert list(before.tasks) == ["sokoban/7x7-1-box", "sokoban/7x7-2-boxes"]
    assert list(after.tasks) == [*before.tasks, "dummy/count"]
    for task in before.tasks:
        assert after.codec(task).identity == before.codec(task).identity
    assert [d["task"] for d in after.card["data"]] == ["dummy/count", "sokoban/7x7-2-boxes"]
    assert [run["steps"] for run in after.card["history"]] == [2]


def test_a_run_stopped_before_its_first_checkpoint_goes_on_from_the_bundle(home, tmp_path):
    bundle = Bundle.load(home / "run" / "bundle")
    run, words = tmp_path / "run", ["learning_rate=1e-12", "weight_decay=0.0"]  # so that what it began from shows
    whole = finetune_run(bundle, str(home / "small.py"), words, [home / "new"], run, "cpu", processes=1)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(whole)
    resume_run(run, "cpu", processes=1)
    began, ended = (load_file(f / "model.safetensors") for f in (home / "run" / "bundle", run / "bundle"))
    assert all(torch.allclose(began[k], ended[k], atol=1e-6) for k in began)
    assert list(json.loads((run / "bundle" / "tasks.json").read_text())) == [*bundle.tasks, "dummy/count"]
