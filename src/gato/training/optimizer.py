"""Optimisers and the learning rate: AdamW as the paper has it, or Muon for the matrices of the blocks (a switch of ours)."""

from __future__ import annotations

import math
from typing import Any

import torch

from gato.training.muon import Muon
from gato.training.recipe import Recipe

Optimizers = dict[str, torch.optim.Optimizer]


def make_optimizers(model: torch.nn.Module, recipe: Recipe) -> Optimizers:
    """{"adamw": …} or {"adamw": …, "muon": …}. Vectors and embeddings are not decayed."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and n.startswith("blocks.") and not n.endswith("_bias")]
    chosen = {id(p) for p in matrices}
    rest = [(n, p) for n, p in named if id(p) not in chosen]
    decayed = [p for n, p in rest if p.ndim >= 2 and n.startswith("embed.patch")]
    tables = [p for n, p in rest if n.startswith("embed.") and not n.startswith("embed.patch")]
    plain = [p for _, p in rest if not any(p is q for q in (*decayed, *tables))]
    table_rate = recipe.learning_rate if recipe.table_learning_rate is None else recipe.table_learning_rate
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"params": tables, "weight_decay": 0.0, "lr": table_rate},
    ]
    if recipe.optimizer == "adamw":
        groups[0]["params"] = [*decayed, *matrices]
    optimizers: Optimizers = {
        "adamw": torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, fused=True)
    }
    if recipe.optimizer == "muon":
        precision = torch.float32 if recipe.precision == "float32" else torch.bfloat16
        optimizers["muon"] = Muon(matrices, recipe.muon_learning_rate, recipe.weight_decay, precision=precision)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def learning_rate(peak: float, progress: float, recipe: Recipe) -> float:
    """Linear from 1e-7 to the peak over the warm-up, then a cosine to `final_ratio` of it at progress 1."""
    if progress < recipe.warmup:
        return 1e-7 + (peak - 1e-7) * progress / recipe.warmup
    x = min(1.0, (progress - recipe.warmup) / max(1 - recipe.warmup, 1e-9))
    return peak * (recipe.final_ratio + (1 - recipe.final_ratio) * 0.5 * (1 + math.cos(math.pi * x)))
