"""The loss: cross-entropy at targets alone, summed and divided by the number of targets of the whole step."""

from __future__ import annotations

import torch

from gato.tokens.timestep import CONTINUOUS
from gato.tokens.values import NUM_BINS


def token_losses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    kinds: torch.Tensor,
    first_bin: int,
    smooth: float = 0.0,
    observed: torch.Tensor | None = None,
) -> torch.Tensor:
    """-log p of each target, float32 (M,). With `smooth` a continuous target is a bell of that many bins around its own, but
    for those that are `observed`: values of an observation, not of an action."""
    log_p = torch.log_softmax(logits.float(), dim=-1)
    if not smooth:
        return -log_p.gather(1, targets[:, None])[:, 0]
    reach = max(1, round(2.5 * smooth))
    offsets = torch.arange(-reach, reach + 1, device=targets.device)
    bell = torch.exp(-0.5 * (offsets / smooth) ** 2)
    bell = bell / bell.sum()
    hard = torch.zeros_like(bell)
    hard[reach] = 1.0
    continuous = (kinds == CONTINUOUS)[:, None]
    if observed is not None:
        continuous = continuous & ~observed[:, None]
    weights = torch.where(continuous, bell, hard)
    index = targets[:, None] + torch.where(continuous, offsets, 0)
    # At the ends of the block the bell's tail falls on the last bin, never on the next block.
    index = torch.where(continuous, index.clamp(first_bin, first_bin + NUM_BINS - 1), index)
    return -(log_p.gather(1, index) * weights).sum(1)


def target_weights(densities: list[float]) -> torch.Tensor:
    """For `loss_by="tokens"`: what a target of each dataset counts, float32. A document is all targets, a grid world one
    in sixty; weighing by the inverse lets each dataset pull as hard as its share of the tokens says."""
    weights = 1.0 / torch.tensor(densities).clamp(min=1e-4)
    return weights / weights.min()
