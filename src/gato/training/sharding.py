"""A network spread over ranks (FSDP2): each holds a slice of the rows of every weight, its gradient and its moments.

One group per block, and one for the rest: the tables that embed and, tied, predict stay whole from the first layer to the
last. Gradients are summed, not averaged: the loop divides by the targets of the whole step. In bf16 the slices stay
float32; what is gathered for a pass is bfloat16, and gradients are reduced in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gato.model import Gato


def shard(model: Gato, world: int, device: str, bf16: bool) -> None:
    """In place, over all ranks. Every rank must hold the same weights (the same seed, or the same checkpoint)."""
    mesh = init_device_mesh(device.split(":")[0], (world,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
            module.set_reduce_scatter_unused_params(True)  # one rank's batch has images, another's has none


def like(whole: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    """This rank's slice of a tensor that it holds whole, placed as `template` is; the tensor itself in one process, or
    where it is a slice already."""
    if isinstance(whole, DTensor):
        return whole
    if not isinstance(template, DTensor):
        return whole.to(template.device)
    return distribute_tensor(
        whole.to(template.device_mesh.device_type), template.device_mesh, template.placements, src_data_rank=None
    )


def whole(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Sharded tensors put together again, on the CPU of every rank. A collective: all ranks call it."""
    return {k: (v.full_tensor() if isinstance(v, DTensor) else v).detach().cpu() for k, v in tensors.items()}


def clip_gradients(parameters: Iterable[torch.nn.Parameter], most: float) -> float:
    """Scale the gradients to a norm of at most `most`; the norm before, over all ranks."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, most)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
