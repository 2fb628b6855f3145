"""A config is checked where it is written down; a bundle from before that still loads."""

import json

import pytest
import torch

from gato.errors import RecipeError
from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle
from gato.training import load_recipe


@pytest.mark.parametrize(
    "word", ["task_token=no", "task_token=1", "stochastic_depth=yes", "stochastic_depth=1.0", "dropout_rate=2", "dropout_rate=-0.1",
             "num_transformer_blocks=0", "num_transformer_blocks=two", "num_transformer_blocks=2.0", "patch_stem_stride=0",
             "patch_stem_stride=17", "num_group_norm_groups=0", "feedforward_hidden_size=0", "feedforward_hidden_size=63",
             "local_position_encoding_size=-5", "token_sequence_length=0", "vocabulary_size=100", "position=alibi", "encodings=null"],
)  # fmt: skip
def test_a_field_with_a_wrong_value(word):
    """`task_token=no` would else be a word, and so true."""
    with pytest.raises(RecipeError, match=word.partition("=")[0]):
        load_recipe("tiny").override([f"model.{word}"])


@pytest.mark.parametrize("field", ["actions_size", "img_patch_size", "continuous_values_size", "discretize_depth"])
def test_what_is_fixed_is_refused(field):
    with pytest.raises(RecipeError, match="fixed"):
        GatoConfig.tiny().replace(**{field: 18})


@pytest.mark.parametrize(
    ("position", "heads", "each"), [("rope", 2, 15), ("xl", 1, 15), ("rope", 1, 16), ("xl", 2, 15), ("learned", 1, 15)]
)
def test_what_is_turned_by_pairs_is_even(position, heads, each):
    sizes = {"position": position, "num_attention_heads": heads, "key_value_size": each, "layer_width": heads * each}
    if each % 2 and (position, heads) in (("rope", 2), ("xl", 1)):
        with pytest.raises(RecipeError, match="even"):
            GatoConfig.tiny().replace(**sizes)
    else:
        GatoConfig.tiny().replace(**sizes)


def test_odd_but_sound():
    config = GatoConfig.tiny().replace(num_residual_blocks=0, dropout_rate=0, stochastic_depth=0.5)
    assert Gato(config).num_parameters and GatoConfig.from_json(config.to_json()) == config


def test_a_bundle_from_before_the_check_loads(tokenizer, tmp_path):
    """Of a network whose task tokens were switched on by a word, and whose `actions_size` nobody read."""
    from gato.episodes.manifest import sha256_of, write_manifest

    config = GatoConfig.tiny().replace(num_transformer_blocks=1, task_token=True)
    torch.manual_seed(0)
    folder = Bundle(config, Gato(config).eval(), tokenizer).save(tmp_path / "bundle")
    old = json.dumps({**config.to_json(), "task_token": "False", "actions_size": 18, "parallel_actions": 0}).encode()
    (folder / "config.json").write_bytes(old)
    record = json.loads((folder / "MANIFEST.json").read_text())
    record["files"]["config.json"] = {"bytes": len(old), "sha256": sha256_of(old)}
    write_manifest(folder, "bundle", record["files"], record["facts"])
    assert Bundle.load(folder).config == config
