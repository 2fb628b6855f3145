"""Several processes, one step. Alone, forked on one CPU, or started by torchrun on any number of machines.

    alone      one process
    forked     --processes N on a CPU: each holds all of the network, gradients are summed through shared memory. One
               thread per process keeps all cores busy; many small operations shared among threads do not
    torchrun   RANK, WORLD_SIZE, LOCAL_RANK: the network is sharded over the ranks (`gato.training.sharding`), which sums
               gradients by itself; what is summed here are a few numbers

Every rank says where it is (`at`), and a watch (`gato.training.heartbeat`) ends the run with the name of the rank that died,
hangs or went another way, GATO_TIMEOUT seconds (90) after it did.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from gato.errors import GatoError, TeamError, UsageError
from gato.training.heartbeat import Heartbeat

PATIENCE = timedelta(hours=12)  # of the collectives themselves: the watch ends a run long before


def timeout() -> float:
    """Seconds without progress after which a run is given up: GATO_TIMEOUT. Raises UsageError."""
    text = os.environ.get("GATO_TIMEOUT", "90")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"GATO_TIMEOUT={text}", fix="a number of seconds above 0")
    return seconds


class Team:
    """Rank `rank` of `world`, in a `with`. Alone, everything here does nothing."""

    sharded = False

    def __init__(self, rank: int = 0, world: int = 1, store: Any = None, others: Sequence[Any] = ()):
        self.rank, self.world, self.store = rank, world, store
        self.lead = rank == 0
        self._others = list(others)
        self._heartbeat: Heartbeat | None = None
        self._control: Any = None  # a group of its own for numbers: no collective of the network can be mistaken for it
        if world > 1:
            self._heartbeat = Heartbeat(rank, world, store, timeout(), self._give_up)

    # -- one step ---------------------------------------------------------------------------------------------------------

    def parts(self, accumulate: int) -> int:
        """In how many parts a step's slots are taken: `accumulate`, or the next multiple of the ranks. Where the ranks
        divide `accumulate`, the parts, and so the noise of dropout, are those of any other number of ranks that does."""
        return self.parts_of(accumulate, self.world)

    @staticmethod
    def parts_of(accumulate: int, world: int) -> int:
        return -(-accumulate // world) * world

    def at(self, step: int, where: str, patient: bool = False) -> None:
        """Say where this rank is. `patient`: it may stay there (evaluating, compiling) as long as it lives."""
        if self._heartbeat is not None:
            self._heartbeat.at(step, where, patient)

    def sum(self, parameters: Iterable[torch.nn.Parameter], numbers: list[float], step: int) -> list[float]:
        """Sum a few numbers over all ranks and, where the network is not sharded, the gradients, in place: zeros where
        nothing was touched. Raises TeamError where a rank is at another step: it skipped something that the others did."""
        grads = []
        for p in () if self.sharded else parameters:
            if p.grad is None:  # not touched by this rank's part of the batch, be it the whole
                p.grad = torch.zeros_like(p)
            grads.append(p.grad)
        if self.world == 1:
            return numbers
        steps = [0.0] * self.world
        steps[self.rank] = float(step)
        kind = torch.float64 if self.sharded else torch.float32
        flat = torch.cat([*(g.reshape(-1) for g in grads), torch.tensor([*numbers, *steps], dtype=kind)])
        with self.naming_the_lost():
            dist.all_reduce(flat, group=self._control)
        at = 0
        for g in grads:
            g.copy_(flat[at : at + g.numel()].view_as(g))
            at += g.numel()
        *sums, steps = [*flat[at : at + len(numbers)].tolist(), flat[at + len(numbers) :].tolist()]
        self._check_steps([round(s) for s in steps])
        return sums

    def _check_steps(self, steps: list[int]) -> None:
        if len(set(steps)) == 1:
            return
        usual = max(set(steps), key=lambda s: (steps.count(s), -s))
        odd = ", ".join(f"rank {r} is at step {s}" for r, s in enumerate(steps) if s != usual)
        raise TeamError(
            f"{odd}, the others at step {usual}: it skipped a collective", where=f"rank {self.rank}",
            fix="resume from the last checkpoint: gato train --resume DIR",
        )  # fmt: skip

    def add_up(self, numbers: Any) -> Any:
        """A small float64 array, summed over all ranks."""
        if self.world == 1:
            return numbers
        total = torch.as_tensor(numbers, dtype=torch.float64).clone()
        with self.naming_the_lost():
            dist.all_reduce(total, group=self._control)
        return total.numpy()

    # -- what one does for all --------------------------------------------------------------------------------------------

    def first(self, name: str, do: Callable[[], str]) -> str:
        """Rank 0 does it and the others wait for what it returned. Its error is everybody's: TeamError on the others."""
        if self.world == 1:
            return do()
        if self.lead:
            try:
                said = do()
            except BaseException as error:
                self.store.set(f"first/{name}", f"-{error}")
                raise
            self.store.set(f"first/{name}", f"+{said}")
            return said
        return self.await_first(name)

    def await_first(self, name: str) -> str:
        self.store.wait([f"first/{name}"], PATIENCE)
        said = self.store.get(f"first/{name}").decode()
        if said[0] == "-":
            raise TeamError(f"rank 0 stopped: {said[1:]}", where=name)
        return said[1:]

    # -- a rank that is lost ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """A collective that breaks off becomes a TeamError with the rank that broke it."""
        try:
            yield
        except RuntimeError as error:
            if self._heartbeat is None or not _is_of_a_collective(error):
                raise
            raise TeamError(
                self._heartbeat.verdict or self._who_died(), where=f"rank {self.rank}",
                fix="resume from the last checkpoint: gato train --resume DIR",
            ) from error  # fmt: skip

    def _who_died(self) -> str:
        assert self._heartbeat is not None
        ends = time.monotonic() + 4 * self._heartbeat.interval + 1
        while time.monotonic() < ends:
            gone = [(r, p.exitcode) for r, p in enumerate(self._others, 1) if p.exitcode is not None]
            if gone:
                return ", ".join(f"rank {r} died (exit code {code})" for r, code in gone)
            silent = self._heartbeat.silent(2.5 * self._heartbeat.interval)
            if silent:
                return ", ".join(f"rank {r} died or was cut off" for r in silent)
            time.sleep(0.05)
        return "a rank broke off a collective: " + self._heartbeat.positions()

    def _give_up(self, verdict: str) -> None:
        """From the watch's thread, while the main one sits in a collective or hangs."""
        living = [p for p in self._others if p.exitcode is None]
        if living:  # ours: with them gone, the collective ends, and the main thread says why
            for process in living:
                os.kill(process.pid, signal.SIGKILL)
            return
        error = TeamError(verdict, where=f"rank {self.rank}", fix="gato train --resume DIR")
        os.write(2, f"error[{error.code}] {error.what}\n  where: {error.where}\n  next:  {error.fix}\n".encode())
        os._exit(error.exit_code)

    # -- beginning and end ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Team:
        if self._heartbeat is not None:
            self._heartbeat.start()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._heartbeat is None:
            return
        together = kind is None or issubclass(kind, SystemExit)  # stopped by a signal, that is, all of them
        self._heartbeat.stop(clean=together)
        if together or not self.sharded:
            dist.destroy_process_group()
        self.store, self._heartbeat = (
            None,
            None,
        )  # now, not when rubbish is collected: perhaps in a process forked later


class Forked(Team):
    """Ranks of one machine's CPU, forked from rank 0."""

    def __init__(self, rank: int, world: int, port: int, others: Sequence[Any] = ()):
        torch.set_num_threads(1)
        store = dist.TCPStore("127.0.0.1", port, world, is_master=rank == 0, timeout=timedelta(seconds=timeout()))
        dist.init_process_group(
            "gloo", store=dist.PrefixStore("group", store), rank=rank, world_size=world, timeout=PATIENCE
        )
        super().__init__(rank, world, store, others)


class Torchrun(Team):
    """This process's place among those that torchrun started."""

    sharded = True

    def __init__(self, device: str):
        if device.split(":")[0] == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        else:
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        store, rank, world = next(dist.rendezvous("env://"))
        backend = "nccl" if device.split(":")[0] == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=dist.PrefixStore("group", store), rank=rank, world_size=world, timeout=PATIENCE
        )
        super().__init__(rank, world, dist.PrefixStore("gato", store))
        self._control = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.savers = dist.new_group(backend="gloo", timeout=PATIENCE)  # a checkpoint is written beside the training


def under_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


def _is_of_a_collective(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text.lower() or "Connection" in text or "NCCL" in text


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fork(others: int, work: Callable[[int], Any]) -> list[Any]:
    """Start ranks 1 … `others`, which run `work(rank)`. Forked, so that the token stores are shared, not copied; safe
    because nothing has used more than one thread before. No daemons, which may not start workers that prepare batches:
    whoever calls this sees to their end (`dismiss`)."""
    context = mp.get_context("fork")
    started = []
    for rank in range(1, others + 1):
        process = context.Process(target=_rank, args=(work, rank), daemon=False)
        process.start()
        started.append(process)
    return started


@contextlib.contextmanager
def keeping_threads() -> Iterator[None]:
    """PyTorch's number of threads is afterwards what it was: who trained in several processes of one each is not left with one."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def dismiss(others: Sequence[Any]) -> None:
    """Whatever ended rank 0: the others, which its collectives now break off for, end by themselves, or are killed."""
    for process in others:
        process.join(30)
        process.kill()
        process.join()


def _rank(work: Callable[[int], Any], rank: int) -> None:
    gc.freeze()  # what rank 0 had lying about (threads' ends, connections) must not be torn down here
    try:
        work(rank)
    except GatoError as error:
        os._exit(error.exit_code)  # rank 0 says it
    os._exit(0)


def sensible(slots: int, accumulate: int = 1) -> int:
    """Processes for a training on this machine's CPU: one per core, at most four, and no more parts than slots."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return next(
        n for n in range(max(1, min(cores, 4, slots)), 0, -1) if n == 1 or Team.parts_of(accumulate, n) <= slots
    )
