"""What an agent shows of a decision: the probabilities it chose from, and where its first layer looked."""

import numpy as np
import pytest
import torch

from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.policy.look import first_layer_attention
from gato.sequences import Segment, TokenStore, collate
from gato.tokens.timestep import IMAGE, SEPARATOR
from gato.worlds import find

TASK = "dummy/count"


def small(tokenizer, **config) -> Bundle:
    torch.manual_seed(1)
    sizes = {"layer_width": 64, "num_attention_heads": 2, "feedforward_hidden_size": 64, "num_transformer_blocks": 1}
    base = GatoConfig.tiny().replace(vocabulary_size=tokenizer.size, **sizes, **config)
    acting = {"discrete": "sample", "continuous": "mean", "temperature": 1.0}
    return Bundle(base, Gato(base).eval(), tokenizer, {TASK: TaskCard(find(TASK).spec, None)}, acting, {})


@pytest.mark.parametrize("position", ["rope", "xl", "learned"])
def test_the_weights_shown_are_those_of_the_forward_pass(tokenizer, position):
    """With the weights that `look` shows, the values of one layer give what the layer itself gives at the separator."""
    bundle = small(tokenizer, position=position)
    observation, _ = find(TASK).make().reset(seed=4)
    policy = Agent(bundle).policy(TASK, 1)
    tokens = bundle.codec(TASK).encode_observation(_flat(observation))
    shown = first_layer_attention(bundle, tokens)
    assert shown.shape == (2, len(tokens)) and np.allclose(shown.sum(1), 1, atol=1e-5)
    assert tokens.kinds[-1] == SEPARATOR and (shown[:, tokens.kinds == IMAGE] > 0).all()
    assert policy.act({0: observation})  # the same observation can be acted on

    from gato.episodes import Episode

    action = {k: v[None] for k, v in policy.act({0: observation})[0].items()}
    leaves = {k: [v] if isinstance(v, str) else np.asarray(v)[None] for k, v in _flat(observation).items()}
    store = TokenStore.build(TASK, bundle.codec(TASK), [Episode(TASK, leaves, action, np.zeros(1, np.float32))])
    batch = collate([Segment(0, ((0, len(store.tokens)),))], [store])
    block = bundle.model.blocks[0]
    with torch.no_grad():
        x = block.norm1(bundle.model.embed(batch, bundle.model.embed.vocabulary()))
        expected = block.attention(x, batch.groups)[len(tokens) - 1]
        values = block.attention._project(x)[: len(tokens), 2].transpose(0, 1)  # (H, n, d)
        mixed = (torch.from_numpy(shown)[:, None] @ values).flatten()
        assert torch.allclose(block.attention.out @ mixed, expected, atol=1e-5)


def test_probabilities_are_those_that_were_sampled_from(tokenizer):
    policy = Agent(small(tokenizer)).policy(TASK, 2)
    observation, _ = find(TASK).make().reset(seed=4)
    counts = np.zeros(16)
    for seed in range(200):
        policy.reset(1, seed)
        counts[int(policy.act({1: observation})[1]["button"])] += 1
    button, x, y = policy.probabilities(1)
    assert button.shape == (16,) and x.shape == y.shape == (1024,)
    assert np.isclose(button.sum(), 1, atol=1e-5)
    assert np.abs(counts / 200 - button).sum() < 0.5  # 200 draws from 16 values

    warm = button.copy()
    policy.change(temperature=0.25, discrete="greedy")
    policy.reset(1, 0)
    chosen = int(policy.act({1: observation})[1]["button"])
    cold = policy.probabilities(1)[0]
    assert chosen == warm.argmax() and cold.max() > warm.max()
    assert np.allclose(cold, warm**4 / (warm**4).sum(), atol=1e-4)


def _flat(observation):
    from gato.episodes import check_values, flatten

    return check_values(find(TASK).spec.observation, flatten(observation, "observation"), TASK)
