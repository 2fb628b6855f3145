"""Worker processes that hold environments, watched over: a worker that dies or hangs is replaced and its work redone.

    with WorkerPool(2) as pool:
        for units, result in pool.map_units(units, play): ...      # whole episodes inside the workers
        episodes = rollout(units, pool.slots(8), policy)           # environments there, the policy here

What a unit yields depends on the unit alone, so redoing it from its seed gives what an undisturbed run would have
given. A slot does so by playing back the actions of the episode so far, and checks that the rewards come out the same.

Workers are fresh interpreters (no fork: torch and OpenMP threads do not survive one), import no torch, use one thread,
and end with this process however it ends: they hang on a pipe that only it holds. What a simulator had started of its
own, processes and shared memory, goes with its worker (`remains.py`).
"""

from __future__ import annotations

import contextlib
import copy
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import spawn
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler  # between our own processes only; nothing on disk
from typing import Any

from gato.errors import ExpertError, GatoError, SimulatorMissingError, UsageError, WorldCrashError, WorldError
from gato.rollouts import remains
from gato.rollouts.loop import LocalSlot, Transition, Unit
from gato.worlds import Task, find, register, registry

Beat = Callable[[], None]
Play = Callable[[list[Unit], LocalSlot, Beat], Any]  # must be picklable; calls `beat` at least once per step

BEAT_SECONDS = 1.0  # how often a busy worker says that it lives
CHUNK_SECONDS = 0.3  # a message to a worker is worth about this much work
MAX_CHUNK = 256
START_SECONDS = 60.0  # for an interpreter and numpy, or for making an environment, on a machine that is busy
MAX_FALSE_STARTS = 5
IN_WORKER = "GATO_WORKER"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


# -- inside a worker --------------------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """A worker's whole life: answer messages until the connection closes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.set_inheritable(descriptor, False)  # a simulator's own processes must not hold it open when we are gone
    connection = Connection(descriptor)
    slots: dict[Any, LocalSlot] = {}
    registry()  # part of starting, not of the first unit
    connection.send(("ready", None))
    while True:
        try:
            verb, payload = connection.recv()
        except EOFError:
            break
        if verb == "main":  # the user's script defines a task or an expert that we need
            spawn.prepare(payload)
        elif verb == "task":
            if payload.id not in registry():
                register(payload)
        elif verb == "play":
            connection.send(("done", _play(connection, slots, *payload)))
        elif verb == "slots":
            beat = _beating(connection)
            answers = [(i, _answer(_slot(connection, slots, i), slots, beat, i, *command)) for i, *command in payload]
            connection.send(("done", answers))
    for index in list(slots):
        _discard(slots, index)


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        os.read(0, 1)  # nothing is ever written: this returns when the parent is gone
    with contextlib.suppress(Exception):
        remains.clear(os.getpid(), remains.shared_memory([os.getpid()]), spare=os.getpid())
    os._exit(1)


def _beating(connection: Connection) -> Beat:
    """Tell the parent now and then that the work goes on."""
    last = time.monotonic()

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last > BEAT_SECONDS:
            last = time.monotonic()
            connection.send(("beat", None))

    return beat


def _play(connection: Connection, slots: dict[Any, LocalSlot], play: Play, units: list[Unit]) -> Any:
    try:
        return play(units, _slot(connection, slots, "play"), _beating(connection))
    except Exception as error:
        _discard(slots, "play")
        return _as_gato_error(error, units[0])


def _slot(connection: Connection, slots: dict[Any, LocalSlot], index: Any) -> LocalSlot:
    if index not in slots:
        slots[index] = LocalSlot(making=lambda begins: connection.send(("making", begins)))
    return slots[index]


def _answer(
    slot: LocalSlot, slots: dict[Any, LocalSlot], beat: Beat, index: int, verb: str, argument: Any
) -> Transition | GatoError:
    beat()
    try:
        if verb == "reset":
            slot.reset(argument)
        else:
            slot.step(argument)
        return slot.receive()
    except Exception as error:
        _discard(slots, index)
        return _as_gato_error(error, argument if verb == "reset" else None)


def _discard(slots: dict[Any, LocalSlot], index: Any) -> None:
    """Whatever state these environments are in, nobody shall meet them again."""
    with contextlib.suppress(Exception):
        slots.pop(index).close()


def _as_gato_error(error: Exception, unit: Unit | None) -> GatoError:
    where = f"{unit.task} seed {unit.seed}" if unit else ""
    return error if isinstance(error, GatoError) else WorldError(f"{type(error).__name__}: {error}", where=where)


# -- a worker seen from outside ---------------------------------------------------------------------------------------


class _Died(Exception):
    """A worker ended, or said nothing for too long."""


class _Worker:
    """One process, started when it is first needed."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self.ready = False
        self.making = False  # an environment, which may take longer than any step
        self.heard = 0.0
        self._owed = 0  # answers that are still to come: only the last is to who asks now
        self._known: set[str] = set()
        self._has_main = False

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            self._connection = self._start()
        return self._connection

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # A worker that stops in the middle of a message, or never reads ours, is as good as dead.
            for option, seconds in ((socket.SO_RCVTIMEO, self._deadline), (socket.SO_SNDTIMEO, START_SECONDS)):
                whole = max(1, round(max(seconds, self._deadline)))
                ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, 0))
            serving = f"from gato.rollouts.pool import serve; serve({theirs.fileno()})"
            line = f"import sys; sys.path[:] = {sys.path!r}; {serving}"
            self._process = subprocess.Popen(
                [sys.executable, "-c", line],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for this process, which then closes the pool
                env={**os.environ, IN_WORKER: "1", **dict.fromkeys(THREADS, "1")},
            )
            self.heard = time.monotonic()
            return Connection(ours.detach())

    def send(self, verb: str, payload: Any) -> None:
        message = ForkingPickler.dumps((verb, payload))
        if verb != "slots" and not self._has_main and b"__main__" in bytes(message):
            self._has_main = True
            data = spawn.get_preparation_data("worker")
            kept = ("sys_path", "sys_argv", "orig_dir", "dir", "init_main_from_name", "init_main_from_path")
            self._put(ForkingPickler.dumps(("main", {name: data[name] for name in kept if name in data})))
        self._owed += verb in ("play", "slots")
        self._put(message)
        self.heard = time.monotonic()

    def tell(self, task_id: str) -> None:
        """Let the worker know a task that only this process has registered."""
        if task_id in self._known:
            return
        self._known.add(task_id)
        task = find(task_id)
        bare = Task(**{name: getattr(task, name) for name in Task.__dataclass_fields__})
        try:
            ForkingPickler.dumps(bare)
        except Exception as error:  # of many kinds: a lambda, an open file, …
            if task_id in registry.__wrapped__() or task_id.startswith("gym/"):
                return  # a worker finds it by itself
            raise UsageError(
                f"this task cannot be sent to a worker process: {error}",
                where=task_id,
                fix="make its environment and its expert by functions at the top of a module; or 0 workers",
            ) from error
        self.send("task", bare)

    def _put(self, message: Any) -> None:
        try:
            self.connection.send_bytes(message)
        except BlockingIOError as error:
            raise _Died("does not read what it is sent") from error
        except OSError as error:
            raise _Died(self.last_words()) from error

    def receive(self, deadline: float) -> tuple[str, Any]:
        """The next message. Raises _Died when the worker ends or is silent for `deadline` seconds."""
        patience = self.patience(deadline)
        try:
            while not self.connection.poll(min(1.0, left := max(0.0, self.heard + patience - time.monotonic()))):
                if self.ended and not self.connection.poll():  # though something that it forked holds the connection
                    raise _Died(self.last_words())
                if not left:
                    raise _Died(f"did not answer for {patience:g} seconds")
            verb, payload = self.connection.recv()
        except BlockingIOError as error:
            raise _Died("stopped in the middle of a message") from error
        except (EOFError, OSError) as error:
            raise _Died(self.last_words()) from error
        self.heard, self.ready = time.monotonic(), True
        self.making = verb == "making" and payload
        if verb == "done":
            self._owed -= 1
            if self._owed:  # what a rollout that was left early had asked: it only shows that the worker lives
                return "beat", None
        return verb, payload

    def result(self, deadline: float) -> Any:
        while True:
            verb, payload = self.receive(deadline)
            if verb == "done":
                return payload

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def overdue(self, deadline: float) -> bool:
        return time.monotonic() - self.heard > self.patience(deadline)

    def patience(self, deadline: float) -> float:
        return deadline if self.ready and not self.making else max(deadline, START_SECONDS)

    def last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5) if self._process else 0
            return f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        return "closed its connection"

    def ask_to_end(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def end(self, patience: float = 0.0) -> None:
        """Wait `patience` seconds for the process to end by itself, then kill it. Nothing of it stays."""
        if self._process is None:
            return
        self.ask_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if patience:
                self._process.wait(timeout=patience)
        alive = self._process.poll() is None
        shared = remains.shared_memory([self._process.pid]) if alive else set()  # can be read while it lives
        self._process.kill()
        self._process.wait()
        remains.clear(self._process.pid, shared)
        if self._process.stdin:
            self._process.stdin.close()
        self._process = None


@dataclass
class _Job:
    units: list[Unit]
    attempts: int = 0  # how often it was redone alone
    began: float = 0.0


class WorkerPool:
    """`workers` processes (0: everything in this one). A context manager; `close` leaves no process and no file open.

    `deadline`: seconds a worker may stay silent within one step of one environment before it is killed. `retries`: how
    often a unit that crashes its worker (or its world) is redone before it is a WorldCrashError naming task and seed.
    """

    def __init__(self, workers: int, deadline: float = 60.0, retries: int = 3):
        if workers < 0:
            raise UsageError(f"{workers} workers", fix="pass 0 or more")
        if os.environ.get(IN_WORKER):
            raise UsageError(
                "a worker process was asked to start workers: your script runs again in each of them",
                fix='put what it does under `if __name__ == "__main__":`',
            )
        self.deadline, self.retries = deadline, retries
        self.restarts = 0  # workers replaced so far
        self._false_starts = 0  # how many in a row died before they could do anything
        self._workers = [_Worker(deadline) for _ in range(workers)]
        self._local = LocalSlot() if not workers else None
        self._local_slots: list[LocalSlot] = []

    def __len__(self) -> int:
        return len(self._workers)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.ask_to_end()  # all of them at once
        ends = time.monotonic() + 2.0
        for worker in self._workers:
            worker.end(patience=max(0.1, ends - time.monotonic()))
        self._workers = []
        for slot in [*self._local_slots, *([self._local] if self._local else [])]:
            slot.close()
        self._local_slots, self._local = [], None

    @property
    def process_ids(self) -> list[int]:
        return [w.process_id for w in self._workers if w.process_id]

    def _replace(self, worker: _Worker) -> None:
        worker.end()
        self.restarts += 1
        self._workers[self._workers.index(worker)] = _Worker(self.deadline)

    def _bury(self, worker: _Worker, reason: _Died) -> bool:
        """Replace a worker that died. True if it had begun to work, so that what it did may be to blame.

        Raises WorldCrashError when workers die again and again before that.
        """
        self._replace(worker)
        self._false_starts = 0 if worker.ready else self._false_starts + 1
        if self._false_starts > MAX_FALSE_STARTS:
            raise WorldCrashError(
                f"worker processes do not start: the last one {reason}",
                fix="gato doctor; or 0 workers, to see the error here",
            )
        return worker.ready

    # -- whole episodes in the workers --------------------------------------------------------------------------------

    def map_units(
        self,
        units: Iterable[Unit],
        play: Play,
        give_up: Callable[[Unit, GatoError], Any] | None = None,
    ) -> Iterator[tuple[list[Unit], Any]]:
        """`play(chunk, slot, beat)` in the workers for chunks of the units; yields (chunk, result) as they finish.

        `units` may grow while this runs (it is asked again after every result). A unit that keeps crashing is a
        WorldCrashError, or whatever `give_up(unit, error)` returns. Other GatoErrors are raised here.
        """
        if self._local is not None:
            for unit in _Growing(units) if isinstance(units, list) else units:
                yield [unit], self._play_here(unit, play, give_up)
            return
        chunks, again = _Chunks(units), deque[_Job]()
        busy: dict[_Worker, _Job] = {}
        try:
            while True:
                for worker in self._workers:
                    job = None if worker in busy else again.popleft() if again else chunks.next_job()
                    if job is not None:
                        busy[worker] = self._begin(worker, job, play)
                if not busy:
                    return
                wait([w.connection for w in busy], timeout=1.0)
                for worker, job in list(busy.items()):
                    if not (worker.connection.poll() or worker.ended or worker.overdue(self.deadline)):
                        continue
                    try:
                        verb, result = worker.receive(self.deadline)
                    except _Died as reason:
                        del busy[worker]
                        if not self._bury(worker, reason):
                            again.appendleft(job)
                            continue
                        verb, result = "died", WorldCrashError(f"the worker {reason}")
                    if verb == "done":
                        del busy[worker]
                    if verb in ("beat", "ready", "making"):
                        continue
                    if _worth_redoing(result):
                        yield from self._retry(job, result, again, give_up)
                    elif isinstance(result, GatoError):
                        raise result
                    else:
                        chunks.took(job.units, time.monotonic() - job.began)
                        yield job.units, result
        finally:
            for worker in busy:  # nobody asks any more, or something went wrong: what still runs concerns no one
                self._replace(worker)

    def _play_here(self, unit: Unit, play: Play, give_up: Callable[[Unit, GatoError], Any] | None) -> Any:
        """Without workers: redone and given up on as in one, but for what takes the process with it."""
        for attempt in range(self.retries + 1):
            assert self._local is not None
            try:
                return play([unit], self._local, lambda: None)
            except WorldError as error:
                if not _worth_redoing(error):
                    raise
                self._local.close()
                self._local = LocalSlot()
                if attempt == self.retries:
                    crash = _crash(unit, error, self.retries + 1)
                    if give_up is None:
                        raise crash from error
                    return give_up(unit, crash)

    def _begin(self, worker: _Worker, job: _Job, play: Play) -> _Job:
        with contextlib.suppress(_Died):  # seen again, and dealt with, when the answer is awaited
            for task_id in {unit.task for unit in job.units}:
                worker.tell(task_id)
            worker.send("play", (play, job.units))
        job.began = time.monotonic()
        return job

    def _retry(
        self, job: _Job, error: GatoError, again: deque[_Job], give_up: Callable[[Unit, GatoError], Any] | None
    ) -> Iterator[tuple[list[Unit], Any]]:
        """Redo the units of a failed chunk one by one, so that a bad one is known; give up on one that failed often."""
        if len(job.units) > 1:
            again.extend(_Job([unit]) for unit in job.units)
        elif job.attempts < self.retries:
            again.append(replace(job, attempts=job.attempts + 1))
        else:
            unit = job.units[0]
            crash = _crash(unit, error, self.retries + 1)
            if give_up is None:
                raise crash from error
            yield [unit], give_up(unit, crash)

    # -- environments in the workers, the policy here -----------------------------------------------------------------

    def slots(self, num_slots: int) -> list[Any]:
        """Slots for `rollout`, spread over the workers. Steps of one worker's slots travel in one message."""
        if not self._workers:
            self._local_slots += (made := [LocalSlot() for _ in range(num_slots)])
            return list(made)
        hubs = [_Hub(self, k) for k in range(min(num_slots, len(self._workers)))]
        return [RemoteSlot(hubs, hubs[i % len(hubs)], i) for i in range(num_slots)]


def _worth_redoing(result: Any) -> bool:
    """Whether a world crashed, by an exception or with its process."""
    return isinstance(result, WorldError) and not isinstance(result, ExpertError | SimulatorMissingError)


def _crash(unit: Unit, error: GatoError, times: int) -> WorldCrashError:
    place = f"{unit.task} seed {unit.seed}"
    return WorldCrashError(
        f"failed {times} times: {error.what}",
        where=place if error.where in ("", place) else f"{place}; {error.where}",
        fix="mend the world; if it is merely slow, a longer --deadline (deadline=…)",
    )


class _Chunks:
    """Units of one task at a time, as many as are worth about `worth` seconds. A list may grow meanwhile."""

    def __init__(self, units: Iterable[Unit], worth: float = CHUNK_SECONDS):
        self._units: Iterator[Unit] = _Growing(units) if isinstance(units, list) else iter(units)
        self._worth = worth  # seconds
        self._held: Unit | None = None  # drawn already, but of another task than the chunk before
        self._seconds: dict[str, float] = {}  # per unit of a task

    def next_job(self) -> _Job | None:
        first = self._held or next(self._units, None)
        self._held = None
        if first is None:
            return None
        chunk, limit = [first], 1
        if first.task in self._seconds:
            limit = min(MAX_CHUNK, int(self._worth / max(self._seconds[first.task], 1e-6)))
        while len(chunk) < limit and (unit := next(self._units, None)) is not None:
            if unit.task != first.task:
                self._held = unit
                break
            chunk.append(unit)
        return _Job(chunk)

    def took(self, units: list[Unit], seconds: float) -> None:
        task, each = units[0].task, seconds / len(units)
        old = self._seconds.get(task, each)
        self._seconds[task] = min(each, (old + each) / 2)  # quick to forget how long the simulator took to start


class _Growing(Iterator[Unit]):
    """Over a list that may grow after its end was reached."""

    def __init__(self, units: list[Unit]):
        self._units, self._next = units, 0

    def __next__(self) -> Unit:
        if self._next >= len(self._units):
            raise StopIteration
        self._next += 1
        return self._units[self._next - 1]


@dataclass
class _History:
    """One slot's episode so far: enough to play it again in another process."""

    unit: Unit
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


class _Hub:
    """The slots of one worker: gathers their commands into one message, and hands out the answers."""

    def __init__(self, pool: WorkerPool, place: int):
        self._pool, self._place = pool, place
        self._outbox: dict[int, tuple[str, Any]] = {}
        self._asked: dict[int, tuple[str, Any]] = {}
        self._answers: dict[int, Transition] = {}
        self._histories: dict[int, _History] = {}
        self._lost: set[int] = set()  # slots whose episode is gone from the worker, to be played back first

    @property
    def _worker(self) -> _Worker:
        return self._pool._workers[self._place]

    def put(self, index: int, verb: str, argument: Any) -> None:
        self._outbox[index] = (verb, argument)

    def flush(self) -> None:
        """Send what has gathered, if the worker is not at work already."""
        if self._asked or not self._outbox:
            return
        self._asked, self._outbox = self._outbox, {}
        if not self._lost:
            with contextlib.suppress(_Died):  # seen again, and dealt with, when the answer is awaited
                self._send([(index, *command) for index, command in self._asked.items()])

    def take(self, index: int) -> Transition:
        while index not in self._answers:
            self.flush()
            self._collect()
        return self._answers.pop(index)

    def _collect(self) -> None:
        """Wait for the answers to what was asked; what crashed is redone slot by slot, so that a bad one is known."""
        commands, self._asked = self._asked, {}
        errors: dict[int, WorldError] = {}
        if not self._lost:
            try:
                for index, answer in self._worker.result(self._pool.deadline):
                    if _worth_redoing(answer):
                        errors[index] = answer
                        self._lost.add(index)
                    else:
                        self._note(index, *commands.pop(index), answer)
            except _Died as reason:
                if self._bury(reason):
                    errors = dict.fromkeys(commands, WorldCrashError(f"the worker {reason}"))
        for index, (verb, argument) in commands.items():
            self._redo(index, verb, argument, errors.get(index))

    def _redo(self, index: int, verb: str, argument: Any, error: WorldError | None) -> None:
        """One command, on whatever worker there is now. `error` is how it failed before, if it did."""
        failures = int(error is not None)
        while error is None or failures <= self._pool.retries:
            answer: Transition | GatoError
            try:
                if verb == "step" and index in self._lost:
                    self._play_back(index)
                self._lost.discard(index)
                self._send([(index, verb, argument)])
                [(_, answer)] = self._worker.result(self._pool.deadline)
            except _Died as reason:
                if not self._bury(reason):
                    continue
                answer = WorldCrashError(f"the worker {reason}")
            except WorldError as failure:  # while playing back
                answer = failure
            if not isinstance(answer, WorldError) or not _worth_redoing(answer):
                return self._note(index, verb, argument, answer)
            error, failures = answer, failures + 1
            self._lost.add(index)
        unit = argument if verb == "reset" else self._histories[index].unit
        raise _crash(unit, error, failures) from error

    def _bury(self, reason: _Died) -> bool:
        self._lost = set(self._histories)
        return self._pool._bury(self._worker, reason)

    def _play_back(self, index: int) -> None:
        """Bring a slot to where it was. Raises WorldError if the episode comes out differently."""
        history = self._histories[index]
        commands = [(index, "reset", history.unit), *((index, "step", action) for action in history.actions)]
        rewards = [0.0, *history.rewards]
        for k in range(0, len(commands), 64):
            self._send(commands[k : k + 64])
            for step, (_, answer) in enumerate(self._worker.result(self._pool.deadline), start=k):
                if isinstance(answer, GatoError):
                    raise answer
                if float(answer.reward) != rewards[step]:
                    raise WorldError(
                        f"it does not play back: reward {answer.reward} at step {step - 1}, it was {rewards[step]}",
                        where=f"{history.unit.task} seed {history.unit.seed}",
                    )

    def _send(self, commands: list[tuple[int, str, Any]]) -> None:
        for _, verb, argument in commands:
            if verb == "reset":
                self._worker.tell(argument.task)
        self._worker.send("slots", commands)

    def _note(self, index: int, verb: str, argument: Any, answer: Transition | GatoError) -> None:
        if isinstance(answer, GatoError):
            raise answer
        if verb == "reset":
            self._histories[index] = _History(argument)
            self._lost.discard(index)
        else:
            self._histories[index].actions.append(argument)
            self._histories[index].rewards.append(float(answer.reward))
        self._answers[index] = answer


class RemoteSlot:
    """One environment in a worker. `reset` and `step` only note what to do; the first `receive` sends for everybody."""

    def __init__(self, hubs: list[_Hub], hub: _Hub, index: int):
        self._hubs, self._hub, self.index = hubs, hub, index

    def reset(self, unit: Unit) -> None:
        self._hub.put(self.index, "reset", unit)

    def step(self, action: Any) -> None:
        self._hub.put(self.index, "step", copy.deepcopy(action))  # to be sent later, and perhaps played again

    def receive(self) -> Transition:
        for hub in self._hubs:
            hub.flush()
        return self._hub.take(self.index)
