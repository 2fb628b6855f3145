"""Muon (Jordan et al. 2024): momentum whose matrices are made nearly orthogonal before they are applied.

torch.optim.Muon iterates in bfloat16 and on what each rank holds of a matrix. Here a matrix that is sharded over ranks is
gathered for the iteration (its rows alone do not tell which directions are long), and the iteration's precision can be
chosen: float32 where a run is float32, so that the same run on other ranks stays the same run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic: steep at zero, within [0.7, 1.2] after five rounds
ROUNDS = 5
EPSILON = 1e-7


def orthogonalise(matrix: torch.Tensor, precision: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """(rows, columns) → the same singular vectors, singular values near 1; Newton-Schulz, on the shorter side."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(precision, copy=True)
    x = x.T if tall else x
    x.div_(x.norm().clamp(min=EPSILON))
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay; a tall matrix moves √(rows / columns) as far."""

    def __init__(
        self, params: Iterable[Any], lr: float, weight_decay: float, momentum: float = 0.95,
        precision: torch.dtype = torch.bfloat16,
    ):  # fmt: skip
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing of ours evaluates twice
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
                ahead = p.grad.lerp(buffer, momentum)
                p.mul_(1 - rate * group["weight_decay"])
                p.add_(self._update(ahead), alpha=-rate * math.sqrt(max(1.0, p.shape[0] / p.shape[1])))

    def _update(self, ahead: torch.Tensor) -> torch.Tensor:
        if not isinstance(ahead, DTensor):
            return orthogonalise(ahead, self._precision)
        whole = orthogonalise(ahead.full_tensor(), self._precision).to(ahead.dtype)
        return distribute_tensor(whole, ahead.device_mesh, ahead.placements, src_data_rank=None)
