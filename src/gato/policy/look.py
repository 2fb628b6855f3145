"""What can be shown of a decision: the tokens of its timestep, the probabilities it was chosen from, and where the first
layer looked: attention of the separator, from which an action is predicted, over its timestep.

The paper shows such maps in section 6. They are taken over the tokens of one timestep alone, without what the agent
remembers of earlier ones, so each head's weights say how it shares its gaze between the parts of one observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gato.episodes import Episode, Spec
from gato.model.bundle import Bundle
from gato.policy.batch import _rows, pack
from gato.tokens import TimestepCodec, Tokens
from gato.tokens.show import meaning
from gato.tokens.timestep import SEPARATOR

SHOWN_ACTIONS, SHOWN_VALUES, SHOWN_BINS = 8, 24, 32


def timestep(codec: TimestepCodec, task: str, observation: Mapping[str, Any], action: Mapping[str, Any]) -> Tokens:
    """The tokens of one timestep, from checked leaves."""
    leaves = {k: [v] if isinstance(v, str) else np.asarray(v)[None] for k, v in observation.items()}
    done = {k: np.asarray(v)[None] for k, v in action.items()}
    return codec.encode(Episode(task, leaves, done, np.zeros(1, np.float32)))


def labels(codec: TimestepCodec, tokens: Tokens) -> list[str]:
    """What each token stands for, in a few characters."""
    return [meaning(codec, tokens, r).strip("'").replace(" of the bounds", "") for r in range(len(tokens))]


def choices(
    probabilities: Sequence[np.ndarray], spec: Mapping[str, Spec], action: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """For each of the first action tokens: what was chosen, and how probable each value (or range of values) was."""
    out: list[dict[str, Any]] = []
    for path, leaf in spec.items():
        low, high = (b.tolist() for b in leaf.bounds())
        for i, value in enumerate(np.asarray(action[path]).ravel().tolist()):
            p = probabilities[len(out)]
            name = path if leaf.size == 1 else f"{path}[{i}]"
            if leaf.kind == "discrete":
                chosen, start = int(value), int(low[i])
                shown = sorted({*np.argsort(-p)[:SHOWN_VALUES].tolist(), chosen - start})
                bars = [[int(k) + start, round(float(p[k]), 4)] for k in shown]
            else:
                chosen = value
                mass = p.reshape(SHOWN_BINS, -1).sum(1)
                width = (high[i] - low[i]) / SHOWN_BINS
                bars = [[round(low[i] + (k + 0.5) * width, 4), round(float(m), 4)] for k, m in enumerate(mass)]
            out.append(
                {"name": name, "kind": leaf.kind, "chosen": chosen, "low": low[i], "high": high[i], "bars": bars}
            )
    return out[:SHOWN_ACTIONS]


def first_layer_attention(bundle: Bundle, tokens: Tokens) -> np.ndarray:
    """Weights (heads, n) of the separator of one timestep over the n tokens up to and including itself."""
    return attention(bundle, tokens, [int(np.flatnonzero(tokens.kinds == SEPARATOR)[0])])


@torch.inference_mode()
def attention(bundle: Bundle, tokens: Tokens, rows: Sequence[int], layer: int = 0) -> np.ndarray:
    """How much some tokens of one timestep attend, on average, to each of its n tokens up to the last of them, in one
    layer: (heads, n). No token sees beyond itself, so an earlier one adds nothing to what stands behind it."""
    n = max(rows) + 1
    batch, _, _ = pack([_rows(tokens, 0, n)], tokens.table)
    batch = batch.to(next(bundle.model.parameters()).device)
    x = bundle.model.embed(batch, bundle.model.embed.vocabulary())
    for before in bundle.model.blocks[:layer]:
        x = before(x, batch.groups, last=False)
    block = bundle.model.blocks[layer]
    x = block.norm1(x)  # type: ignore[operator]
    each = [block.attention.weights(x, row) for row in rows]  # type: ignore[union-attr, operator]
    return torch.stack([F.pad(w, (0, n - w.shape[1])) for w in each]).mean(0).float().cpu().numpy()
