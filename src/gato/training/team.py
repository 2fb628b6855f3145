"""Several processes, one step: gradients summed over ranks. On a CPU one thread per process and a sum through shared
memory keep all cores busy; many small operations shared among threads do not, least of all on a machine with other work.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


class Team:
    """Rank `rank` of `world`, in a `with`. Alone, everything here does nothing."""

    def __init__(self, rank: int = 0, world: int = 1, port: int = 0):
        self.rank, self.world = rank, world
        if world > 1:
            torch.set_num_threads(1)
            dist.init_process_group(
                "gloo",
                init_method=f"tcp://127.0.0.1:{port}",
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=600),
            )

    def sum(self, parameters: Iterable[torch.nn.Parameter], numbers: list[float]) -> list[float]:
        """Sum the gradients in place, and a few numbers, over all ranks: one message."""
        if self.world == 1:
            return numbers
        grads = []
        for p in parameters:
            if p.grad is None:  # not touched by this rank's part of the batch
                p.grad = torch.zeros_like(p)
            grads.append(p.grad)
        flat = torch.cat([*(g.reshape(-1) for g in grads), torch.tensor(numbers, dtype=torch.float32)])
        dist.all_reduce(flat)
        at = 0
        for g in grads:
            g.copy_(flat[at : at + g.numel()].view_as(g))
            at += g.numel()
        return flat[at:].tolist()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        if self.world > 1:
            dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fork(others: int, work, port: int) -> list[Any]:
    """Start ranks 1 … `others`, which run `work(rank, port)`. Forked, so that the token stores are shared, not copied;
    safe because nothing has used more than one thread before."""
    context = mp.get_context("fork")
    started = []
    for rank in range(1, others + 1):
        process = context.Process(target=_rank, args=(work, rank, port), daemon=True)
        process.start()
        started.append(process)
    return started


def _rank(work, rank: int, port: int) -> None:
    work(rank, port)
    os._exit(0)


def sensible(slots: int) -> int:
    """Processes for a training on this machine's CPU: one per core, at most four, never more than slots."""
    return max(
        1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4, slots)
    )
