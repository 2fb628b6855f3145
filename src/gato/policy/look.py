"""Where the first layer looks: attention of the separator, from which an action is predicted, over its timestep.

The paper shows such maps in section 6. They are taken over the tokens of one timestep alone, without what the agent
remembers of earlier ones, so each head's weights say how it shares its gaze between the parts of one observation.
"""

from __future__ import annotations

import numpy as np
import torch

from gato.model.bundle import Bundle
from gato.policy.batch import _rows, pack
from gato.tokens import Tokens
from gato.tokens.timestep import SEPARATOR


@torch.inference_mode()
def first_layer_attention(bundle: Bundle, tokens: Tokens) -> np.ndarray:
    """Weights (heads, n) of the separator of one timestep over the n tokens up to and including itself."""
    end = int(np.flatnonzero(tokens.kinds == SEPARATOR)[0])
    batch, _, _ = pack([_rows(tokens, 0, end + 1)], tokens)
    x = bundle.model.embed(batch.to(next(bundle.model.parameters()).device), bundle.model.embed.vocabulary())
    block = bundle.model.blocks[0]
    return block.attention.weights(block.norm1(x), end).cpu().numpy()  # type: ignore[union-attr, operator]
