"""A bundle acts with nothing else, or says what is wrong with it: whole, or named, never half."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gato.model.bundle as module
from gato.corpora.text import python_docs
from gato.episodes.manifest import commit_folder
from gato.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointMissingError,
    GatoError,
    OutputExistsError,
    TokenizerError,
    UnknownNameError,
    UsageError,
)
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.rollouts import ExpertPolicy, LocalSlot, Unit, rollout
from gato.sequences import TokenStore, collate
from gato.sequences.batch import Segment
from gato.tokens.text import TextTokenizer
from gato.worlds import find


@pytest.fixture(scope="module")
def episode():
    return next(rollout([Unit("dummy/count", 3)], [LocalSlot()], ExpertPolicy()))


@pytest.fixture(scope="module", params=["rope", "xl"])
def bundle(request, tokenizer, episode):
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=32, num_attention_heads=2, key_value_size=16, feedforward_hidden_size=64, num_transformer_blocks=2,
        vocabulary_size=tokenizer.size, position=request.param,
    )  # fmt: skip
    model = Gato(config).eval()
    with torch.no_grad():
        model.embed.smooth.normal_()  # starts at zero: nothing would miss it
    tasks = {"dummy/count": TaskCard(find("dummy/count").spec, 2, episode)}
    return Bundle(
        config, model, tokenizer, tasks, {"discrete": "greedy"}, {"tokens": 5, "data": [{"task": "dummy/count"}]}
    )


@pytest.fixture
def saved(bundle, tmp_path):
    return bundle.save(tmp_path / "bundle")


def logits_of(bundle, episode):
    store = TokenStore.build("dummy/count", bundle.codec("dummy/count"), [episode])
    with torch.no_grad():
        return bundle.model(collate([Segment(0, ((0, int(store.starts[3])),))], [store]))


def repack(folder, change):
    """The same folder with files changed, under a manifest that is true of them: damage no checksum can see."""
    facts = json.loads((folder / "MANIFEST.json").read_text())["facts"]
    beside = folder.with_name("beside")
    shutil.copytree(folder, beside, ignore=shutil.ignore_patterns("MANIFEST.json"))
    for prompts in (folder / "prompts").rglob("MANIFEST.json"):  # datasets keep theirs
        shutil.copy(prompts, beside / prompts.relative_to(folder))
    change(beside, facts)
    shutil.rmtree(folder)
    return commit_folder(beside, folder, facts, kind="bundle")


def test_the_same_logits(bundle, saved, episode):
    again = Bundle.load(saved)
    assert torch.equal(logits_of(bundle, episode), logits_of(again, episode))
    assert again.config == bundle.config and not again.model.training
    assert again.acting == bundle.acting and again.card == bundle.card
    assert again.tokenizer.fingerprint == bundle.tokenizer.fingerprint
    card = again.tasks["dummy/count"]
    assert card.spec == bundle.tasks["dummy/count"].spec and card.window_timesteps == 2
    assert np.array_equal(card.prompt.observations["image"], episode.observations["image"])
    assert np.array_equal(card.prompt.actions["stick"], episode.actions["stick"])
    assert card.prompt.observations["text"] == episode.observations["text"]


def test_a_copy_of_a_copy_is_the_same_bytes(saved, tmp_path):
    """Nothing is added or lost by loading and saving."""
    again = Bundle.load(saved).save(tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.model", "tasks.json", "card.json"):
        assert (again / name).read_bytes() == (saved / name).read_bytes(), name


def test_it_does_not_touch_what_is_there(bundle, saved):
    before = (saved / "MANIFEST.json").read_bytes()
    with pytest.raises(OutputExistsError):
        bundle.save(saved)
    assert (saved / "MANIFEST.json").read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["bundle"]  # nothing half-written stays beside it


def test_a_save_that_fails_leaves_nothing(bundle, tmp_path, monkeypatch):
    def full(path, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError):
        bundle.save(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_every_flipped_bit_and_missing_file_is_named(saved):
    rng = np.random.default_rng(0)
    files = sorted(p for p in saved.rglob("*") if p.is_file())
    assert len(files) > 7
    for path in files:
        whole = path.read_bytes()
        for at in (0, len(whole) - 1, int(rng.integers(len(whole)))):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
            with pytest.raises(GatoError) as caught:
                Bundle.load(saved)
            assert path.name in str(caught.value) and caught.value.exit_code == 4, path
        path.unlink()
        with pytest.raises((CheckpointCorruptError, CheckpointMissingError)) as caught:
            Bundle.load(saved)
        assert path.name in str(caught.value)
        path.write_bytes(whole)
    Bundle.load(saved)


def test_tensors_that_do_not_fit_are_listed(saved):
    def change(folder, facts):
        tensors = load_file(folder / "model.safetensors")
        del tensors["blocks.1.attention.query"]
        tensors["blocks.0.attention.key"] = tensors["blocks.0.attention.key"][:5]
        tensors["blocks.7.attention.key"] = torch.zeros(2)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")

    repack(saved, change)
    with pytest.raises(CheckpointMismatchError) as caught:
        Bundle.load(saved)
    said = str(caught.value)
    assert "missing blocks.1.attention.query" in said and "unexpected blocks.7.attention.key" in said
    assert "blocks.0.attention.key is (5, 32), expected (32, 32)" in said and "model.safetensors" in said


def test_another_tokenizer_is_refused(saved, tokenizer):
    other = TextTokenizer.train((e.observations["text"][0] for e in itertools.islice(python_docs("train"), 40)), 1024)
    assert other.size == tokenizer.size and other.fingerprint != tokenizer.fingerprint
    repack(saved, lambda folder, facts: (folder / "tokenizer.model").write_bytes(other.to_bytes()))
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        Bundle.load(saved)


def test_a_tokenizer_of_another_size_is_refused(saved):
    def change(folder, facts):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"vocabulary_size": 2048}))

    repack(saved, change)
    with pytest.raises(TokenizerError):
        Bundle.load(saved)


def test_a_folder_of_another_kind_is_no_bundle(saved, tmp_path):
    with pytest.raises(CheckpointMissingError):
        Bundle.load(saved / "prompts" / "dummy" / "count")  # a dataset
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointMissingError, match=r"MANIFEST\.json"):
        Bundle.load(tmp_path / "empty")


def test_an_unknown_task_names_the_nearest(bundle):
    with pytest.raises(UnknownNameError, match="did you mean dummy/count"):
        bundle.codec("dummy/counts")
    assert bundle.codec("dummy/count").vocabulary == bundle.config.vocabulary


def test_a_bundle_in_half_the_bytes(bundle, episode, tmp_path):
    """bf16 on disk, float32 in memory: every weight is the nearest bf16, whatever is no number stays as it was."""
    whole, half = bundle.save(tmp_path / "whole"), bundle.save(tmp_path / "half", "bf16")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.55 * sizes[0]
    loaded = Bundle.load(half)
    for name, value in bundle.model.state_dict().items():
        stored = loaded.model.state_dict()[name]
        assert stored.dtype == value.dtype
        assert torch.equal(stored, value.bfloat16().to(value.dtype) if value.is_floating_point() else value), name
    with pytest.raises(UsageError, match=r"int8.*\n.*float32, bf16"):
        bundle.save(tmp_path / "eighth", "int8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half", "whole"]
    exact, rounded = logits_of(bundle, episode), logits_of(loaded, episode)
    assert 0 < (rounded - exact).norm() < 0.02 * exact.norm()
