"""Cached decisions against uncached ones, counted: the figure the README quotes.

pytest -m slow -s tests/policy/test_cached.py        # 10,000 decisions of each kind of position
"""

import numpy as np
import pytest
import torch

from gato.model import Gato, GatoConfig
from gato.model.bundle import Bundle, TaskCard
from gato.policy import Agent
from gato.rollouts import LocalSlot, Unit, rollout
from gato.sequences import Segment, TokenStore, collate
from gato.worlds import find

TASK = "dummy/count"
CLOSE = 1e-4  # two logits nearer than this may change places


def compare(tokenizer, position, decisions):
    """{"decisions", "error" (of logits, relative to the largest), "other" (another greedy action), "excused"}."""
    torch.manual_seed(0)
    config = GatoConfig.tiny().replace(
        layer_width=128, num_attention_heads=4, feedforward_hidden_size=256, num_transformer_blocks=3,
        vocabulary_size=tokenizer.size, position=position, token_sequence_length=1024,
    )  # fmt: skip
    acting = {"discrete": "greedy", "continuous": "greedy", "temperature": 1.0}
    bundle = Bundle(config, Gato(config).eval(), tokenizer, {TASK: TaskCard(find(TASK).spec, None)}, acting, {})
    codec = bundle.codec(TASK)
    legal = codec.legal()
    steps = 900 // (codec.fixed_tokens + 8)  # whole episodes that fit into the window: nothing is forgotten
    policy = Agent(bundle).policy(TASK, 1)
    out = {"decisions": 0, "error": 0.0, "other": 0, "excused": 0}
    seed = 0
    decoder = bundle.decoder()
    of_hidden = decoder.logits
    recorded: list[torch.Tensor] = []

    def remembered(hidden, low=0, high=None):
        recorded.append(bundle.model.logits(hidden))
        return of_hidden(hidden, low, high)

    decoder.logits = remembered
    while out["decisions"] < decisions:
        recorded.clear()
        episode = next(rollout([Unit(TASK, seed, max_steps=steps)], [LocalSlot()], policy))
        seed += 1
        store = TokenStore.build(TASK, codec, [episode])
        batch = collate([Segment(0, ((0, len(store.tokens)),))], [store])
        with torch.no_grad():
            full = bundle.model.logits(bundle.model.hidden_states(batch))
        rows = np.concatenate([np.arange(end - 1 - len(legal), end - 1) for end in store.starts[1:]])
        cached = torch.cat(recorded)
        assert len(cached) == len(rows)
        for c, f, block in zip(cached, full[rows], legal * len(episode), strict=True):
            out["decisions"] += 1
            out["error"] = max(out["error"], float((c - f).abs().max() / f.abs().max()))
            best = f[block.low : block.high].topk(2)
            if int(best.indices[0]) != int(c[block.low : block.high].argmax()):
                near = float(best.values[0] - best.values[1]) < CLOSE
                out["excused" if near else "other"] += 1
    return out


def check(found):
    print(found)
    assert found["error"] <= 1e-5 and found["other"] == 0, found


@pytest.mark.parametrize("position", ["rope", "xl"])
def test_a_few_hundred_decisions(tokenizer, position):
    check(compare(tokenizer, position, 400))


@pytest.mark.slow
@pytest.mark.parametrize("position", ["rope", "xl"])
def test_ten_thousand_decisions(tokenizer, position):
    check(compare(tokenizer, position, 10_000))
