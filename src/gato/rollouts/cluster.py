"""A Ray cluster: work units, addressed by task and seeds, are done by processes on many machines, and redone where one dies.

    with Cluster("auto") as cluster:
        for units, result in cluster.map_units(units, play): ...     # as WorkerPool's, anywhere

A member is a Ray actor on one CPU of the cluster. It keeps a supervised `WorkerPool` of one process, so that a world which
crashes or hangs is dealt with on the spot, as in a local run; what is dealt with here is the loss of a member itself, with
its machine or by a kill. Its unit is done again by another. Only this process writes, and it writes what it receives: so
nothing is lost and nothing is there twice, and since a unit's result depends on the unit alone, it is what a local run gives.

Every machine needs this package, of this version, and what the worlds need. Ray pickles what its own processes tell one
another, so whoever may connect to a cluster may run programs on it: keep it on a network of your own. No file is loaded
in this way. Ray's reports of its usage are switched off.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gato.errors import GatoError, ResourceError, UsageError
from gato.installed import pip_line
from gato.rollouts.loop import Unit
from gato.rollouts.pool import Play, WorkerPool, _Chunks
from gato.worlds import Task, find, register, registry

CHUNK_SECONDS = 2.0  # a message to another machine is worth about this much work
RETRIES = 3  # how often a unit is done again whose member was lost
CONNECT_SECONDS = 10.0
State = dict[str, Any]  # what a member keeps from one call to the next


def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leave CUDA_VISIBLE_DEVICES as it is, unasked
    try:
        import ray
    except ImportError:
        raise UsageError("Ray is not installed", where="--cluster", fix=pip_line("cluster")) from None
    return ray


@dataclass
class _Job:
    payload: Any
    attempts: int = 0  # how often a member was lost over it
    began: float = 0.0


class Cluster:
    """`address`: `auto` for the one that runs on this machine (or that RAY_ADDRESS names), else HOST:PORT of its head.
    `workers`: members; one per CPU of the cluster if not given. `deadline`: as of a WorkerPool. `threads` of computation,
    and `gpus`, that each member uses.

    A context manager. Raises UsageError without Ray, ResourceError where no cluster answers.
    """

    def __init__(
        self, address: str, workers: int | None = None, deadline: float = 60.0, threads: int = 1, gpus: float = 0
    ):
        ray = self._ray = _ray()
        self._ours = not ray.is_initialized()
        if self._ours:
            _check_reachable(address)
            try:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                raise _unreachable(address, str(error).split("\n")[0]) from error
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < 1:
            self.close()
            raise ResourceError("the cluster has no CPU", where=address, fix="ray status shows what it has")
        self.address, self.deadline, self.lost = address, deadline, 0
        count = max(1, min(workers or cpus, cpus) // (1 if workers else threads))
        member = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_concurrency=1)(_Member)
        self._make = lambda: member.remote(_version())
        self._members = [self._make() for _ in range(count)]

    def __len__(self) -> int:
        return len(self._members)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for member in getattr(self, "_members", []):
            with contextlib.suppress(Exception):
                self._ray.kill(member)
        self._members = []
        if self._ours:
            self._ray.shutdown()

    # -- work ---------------------------------------------------------------------------------------------------------

    def share(self, value: Any) -> Any:
        """Something every call needs, sent to each machine once; `fetch` it there."""
        return self._ray.put(value)

    def map(self, function: Callable[[State, Any], Any], payloads: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(payload, function(state, payload)) in whatever order they finish. Raises the GatoErrors of the function."""
        waiting = iter(payloads)
        for job, result in self._run(lambda: next(map(_Job, waiting), None), function):
            yield job.payload, result

    def map_units(
        self,
        units: Iterable[Unit],
        play: Play,
        give_up: Callable[[Unit, GatoError], Any] | None = None,
    ) -> Iterator[tuple[list[Unit], Any]]:
        """What `WorkerPool.map_units` does. `units` may grow while this runs."""
        chunks = _Chunks(units, CHUNK_SECONDS)
        how = self.share((play, give_up, self.deadline))

        def next_job() -> _Job | None:
            chunk = chunks.next_job()
            return None if chunk is None else _Job((how, chunk.units, told({u.task for u in chunk.units})))

        for job, results in self._run(next_job, _play_units):
            chunks.took(job.payload[1], time.monotonic() - job.began)
            yield from results

    def _run(
        self, next_job: Callable[[], _Job | None], function: Callable[[State, Any], Any]
    ) -> Iterator[tuple[_Job, Any]]:
        ray, again, busy = self._ray, deque[_Job](), dict[Any, tuple[Any, _Job]]()  # by the reference of the answer
        idle = list(self._members)
        while True:
            while idle:
                job = again.popleft() if again else next_job()
                if job is None:
                    break
                member, job.began = idle.pop(), time.monotonic()
                busy[member.call.remote(function, job.payload)] = (member, job)
            if not busy:
                return
            done, _ = ray.wait(list(busy), num_returns=1)
            for answer in done:
                member, job = busy.pop(answer)
                try:
                    result = ray.get(answer)
                except (
                    ray.exceptions.RayActorError,
                    ray.exceptions.WorkerCrashedError,
                    ray.exceptions.ObjectLostError,
                ) as error:
                    idle.append(self._replace(member, job, error))
                    again.append(job)
                    continue
                except ray.exceptions.RayError as error:
                    raise ResourceError(
                        f"a member of the cluster failed: {_reason(error)}", where=self.address,
                        fix=f"see that gato-agent {_version()} and the worlds' packages are on every machine",
                    ) from error  # fmt: skip
                idle.append(member)
                if isinstance(result, GatoError):
                    raise result
                yield job, result

    def _replace(self, member: Any, job: _Job, error: Exception) -> Any:
        """Another member in its place. Raises ResourceError where the same job has lost several."""
        self.lost += 1
        job.attempts += 1
        with contextlib.suppress(Exception):
            self._ray.kill(member)  # where only its answer was lost
        if job.attempts > RETRIES:
            raise ResourceError(
                f"the cluster lost {job.attempts} members over the same work: {_reason(error)}", where=self.address,
                fix="look for memory that ran out (ray status, dmesg), or run it without --cluster",
            )  # fmt: skip
        self._members[self._members.index(member)] = new = self._make()
        return new


def _check_reachable(address: str) -> None:
    """Ray itself would take long to give up, or abort."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "//" in address or not host or not port.isdecimal():
        raise UsageError(
            f"--cluster {address}",
            fix="auto, or HOST:PORT of the head as `ray start --head` prints it, port 6379 as a rule",
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, reason: str) -> ResourceError:
    return ResourceError(
        f"no Ray cluster answers: {reason}", where=f"--cluster {address}",
        fix="ray start --head begins one on this machine; ray start --address HOST:6379 joins another to it",
    )  # fmt: skip


def _reason(error: Exception) -> str:
    """The last line of what Ray says: the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _version() -> str:
    import gato

    return gato.__version__


def told(task_ids: Iterable[str]) -> list[Task]:
    """Tasks that only this process has registered, as a member can be told of them."""
    own = [t for t in sorted(task_ids) if t not in registry.__wrapped__() and not t.startswith("gym/")]
    return [Task(**{name: getattr(find(t), name) for name in Task.__dataclass_fields__}) for t in own]


# -- inside a member --------------------------------------------------------------------------------------------------


class _Member:
    """A process of the cluster. What it keeps lives as long as it does."""

    def __init__(self, version: str):
        self._state: State = {}
        self._version = version

    def call(self, function: Callable[[State, Any], Any], payload: Any) -> Any:
        """The function's result, or its GatoError."""
        try:
            if self._version != _version():
                raise ResourceError(
                    f"gato-agent {_version()} here, {self._version} where the work comes from", where=socket.gethostname(),
                    fix="install the same version on every machine",
                )  # fmt: skip
            return function(self._state, payload)
        except GatoError as error:
            return error


def fetch(shared: Any) -> Any:
    """What the cluster's owner has shared."""
    return _ray().get(shared)


def learn(tasks: Iterable[Task]) -> None:
    """Know the tasks that the cluster's owner has told of."""
    for task in tasks:
        if task.id not in registry():
            register(task)


def _play_units(state: State, payload: Any) -> list[tuple[list[Unit], Any]]:
    how, units, tasks = payload
    play, give_up, deadline = fetch(how)
    learn(tasks)
    if "pool" not in state:
        state["pool"] = WorkerPool(1, deadline)
    return list(state["pool"].map_units(list(units), play, give_up))
