"""The map from the paper to the code: everything it names exists, its page is up to date, and the constants are the paper's."""

import ast
import dataclasses
import functools
import json
import re
from pathlib import Path

import pytest
import torch

from gato import paper
from gato.cli import Evaluate, main
from gato.errors import RecipeError
from gato.evaluation import few_shot
from gato.model import GatoConfig
from gato.training import load_recipe
from gato.training.optimizer import learning_rate, make_optimizers

ROOT = Path(__file__).parents[1]
FACTS = [(section.title, f) for section in paper.PAPER for f in section.facts]


@functools.cache
def names_of(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


@functools.cache
def deviations() -> dict[str, set[str]]:
    """{section: first cells of its tables}"""
    parts = re.split(r"^## (.*)$", (ROOT / "docs/deviations.md").read_text(), flags=re.MULTILINE)[1:]
    return {
        title: {line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")}
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def test_every_named_thing_is_there():
    gone = []
    for _, f in FACTS:
        for name in f.code:
            try:
                paper.resolve(name)
            except LookupError as error:
                gone.append(str(error))
        for name in f.tests:
            file, _, test = name.partition(":")
            if not (ROOT / "tests" / file).exists() or test not in names_of(ROOT / "tests" / file):
                gone.append(f"{name}: no such test")
        if f.deviation and f.deviation.row not in deviations().get(f.deviation.section, ()):
            gone.append(f"{f.deviation.row}: no such row under {f.deviation.section}")
    assert not gone, "\n".join(gone)


def test_every_fact_has_code_and_a_test_or_a_reason():
    for title, f in FACTS:
        assert (f.code and f.tests) or f.deviation, f"{title}: {f.says}"
        assert not f.tests or f.code, f"{title}: {f.says}"
    said = [f.says for _, f in FACTS]
    assert len(said) == len(set(said)) > 100


@pytest.mark.parametrize(
    "name",
    [
        "model/embed.py:PatchEmbeder", "model/embe.py:PatchEmbedder", "model/config.py:GatoConfig.layer_widht",
        "training/recipe.py:Recipe.wieghts", "model/embed.py:PatchEmbedder.forwards",
    ],
)  # fmt: skip
def test_what_is_gone_is_named(name):
    with pytest.raises(LookupError, match=re.escape(name)):
        paper.resolve(name)


def test_what_is_there_is_found():
    assert paper.resolve("model/config.py:GatoConfig") is GatoConfig
    assert paper.resolve("model/config.py:GatoConfig.layer_width") == 768
    assert isinstance(paper.resolve("training/recipe.py:Recipe.weights"), dataclasses.Field)  # made by a factory


def test_the_page_is_up_to_date():
    stale = "python -m gato.paper > docs/paper_map.md"
    assert (ROOT / "docs/paper_map.md").read_text() == paper.as_markdown(), stale


def test_doctor_prints_it(capsys):
    printed = []
    for words in (["doctor", "--paper"], ["doctor", "--paper", "--json"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert not stopped.value.code
        printed.append(capsys.readouterr().out)
    rows = json.loads(printed[1])
    assert [(r["section"], r["fact"]) for r in rows] == [(title, f.says) for title, f in FACTS]
    for row in rows:
        assert set(row) == {"section", "fact", "code", "tests", "deviation"}
        for word in (row["fact"], *row["code"], *row["tests"]):
            assert word in printed[0]


# -- the paper's constants, as the paper has them -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, blocks, heads, width, hidden, key",
    [("large", 24, 16, 2048, 8192, 128), ("baseline", 12, 12, 1536, 6144, 128), ("small", 8, 24, 768, 3072, 32)],
)
def test_the_three_sizes(size, blocks, heads, width, hidden, key):
    config = getattr(GatoConfig, size)()
    assert config == GatoConfig(
        num_transformer_blocks=blocks, num_attention_heads=heads, layer_width=width, feedforward_hidden_size=hidden,
        key_value_size=key, token_sequence_length=1024, vocabulary_size=32000, continuous_values_size=1024,
        actions_size=1024, img_patch_size=16, num_residual_blocks=1, num_group_norm_groups=32, discretize_depth=128,
        local_position_encoding_size=512, position="xl", dropout_rate=0.0, stochastic_depth=0.1, separate_discrete=False,
        smooth_bin_rows=False, task_token=False, observation_bins="mu_law", patch_embedder="resnet", encodings="learned",
        action_position=True, parallel_actions=False,
    )  # fmt: skip
    assert heads * key == width and config.vocabulary.size == 33025


def test_what_cannot_be_normalised_in_groups():
    with pytest.raises(RecipeError, match="48"):
        GatoConfig.small().replace(patch_stem_width=48)


def test_pretraining():
    recipe = load_recipe("paper")
    assert (recipe.steps, recipe.slots, recipe.slot_tokens, recipe.window_tokens) == (1_000_000, 512, 1024, 1024)
    assert (recipe.optimizer, recipe.betas, recipe.eps, recipe.weight_decay) == ("adamw", (0.9, 0.95), 1e-8, 0.1)
    assert recipe.warmup * recipe.steps == 15_000
    rates = {step: learning_rate(recipe.learning_rate, step / recipe.steps, recipe) for step in (0, 15_000, 1_000_000)}
    assert rates == pytest.approx({0: 1e-7, 15_000: 1e-4, 1_000_000: 1e-5})
    assert rates[15_000] / rates[1_000_000] == pytest.approx(10)
    assert (recipe.prompt_share, recipe.return_filter, recipe.clip) == (0.25, 0.8, 1.0)
    assert (recipe.text_targets, recipe.observation_loss, recipe.loss_by, recipe.smooth_targets) == (
        True,
        0,
        "targets",
        0,
    )
    assert recipe.config() == GatoConfig.large()
    assert recipe.discrete == recipe.continuous == "sample"
    layer = torch.nn.Linear(4, 4)
    made = make_optimizers(layer, recipe)["adamw"]
    assert isinstance(made, torch.optim.AdamW)
    assert all((g["betas"], g["eps"], g["lr"]) == ((0.9, 0.95), 1e-8, 1e-4) for g in made.param_groups)


def test_table_one():
    """Sample weights in percent; the printed ones sum to 85.21 (control) and 14.72."""
    weights = dict(load_recipe("paper").weights)
    language = {"text": 6.7, "pages": 4.0, "captions": 2.68, "questions": 1.34}
    control = {
        "dm-lab": 9.35, "ale-atari": 9.5, "ale-atari-extended": 10.0, "sokoban": 1.33, "babyai": 9.06, "dm-control-suite": 4.62,
        "dm-control-suite-pixels": 7.07, "dm-control-suite-random-small": 3.04, "dm-control-suite-random-large": 3.04,
        "meta-world": 8.96, "procgen": 5.34, "rgb-stacking": 1.33 + 1.33, "modular-rl": 8.23,
        "dm-manipulation-playground": 1.68, "playroom": 1.33,
    }  # fmt: skip
    assert weights == pytest.approx(control | language)
    assert sum(control.values()) == pytest.approx(85.21, abs=0.01)
    assert sum(language.values()) == pytest.approx(14.72, abs=0.01)


def test_fine_tuning():
    recipe = load_recipe("finetune")
    assert (recipe.steps, recipe.slots, recipe.slot_tokens) == (10_000, 64, 1024)
    assert (recipe.betas, recipe.eps, recipe.weight_decay) == ((0.9, 0.95), 1e-8, 0.0)  # AdamW without decay is Adam
    assert {learning_rate(recipe.learning_rate, x, recipe) for x in (0.0, 0.3, 1.0)} == {1e-5}
    assert recipe.model == {"dropout_rate": 0.1, "stochastic_depth": 0.0}
    assert (few_shot.EVALUATE_EVERY, few_shot.EVALUATION_EPISODES, few_shot.SMOOTHED) == (100, 10, 5)
    assert (few_shot.BEST, few_shot.DRAWN) == (2000, 1000)
    assert Evaluate.episodes == 50
