"""Sessions: observation → action, for many callers at once.

A session holds one slot of a batch; the slots of a batch play whatever tasks they are asked to. What several sessions ask while the network is at work is answered together in its
next pass: callers who wait for one another share a pass, and one who is alone waits for nobody. All of it runs in one
thread, so that no two passes meet in a cache.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gato.errors import GatoError, known_instead
from gato.policy import Agent, AgentPolicy
from gato.policy.batch import Part
from gato.serving.limits import Limits, Refused

T = TypeVar("T")
BENCH = 8  # slots of a first batch; their memory is taken when the first is needed and given back when the last is free


class Bench:
    """A batch of slots for sessions that act alike, on tasks that see about as far."""

    def __init__(self, agent: Agent, tasks: list[str], acting: dict[str, Any], slots: int = BENCH):
        self.policy: AgentPolicy = agent.policy(tasks, slots, **acting)
        self.size, self.free = slots, list(range(slots))[::-1]


@dataclass
class Session:
    """One caller's episode."""

    id: str
    task: str
    acting: dict[str, Any]
    seed: int
    bench: Bench
    slot: int
    used: float
    step: int = 0
    busy: bool = False
    born: float = field(default_factory=time.time)


class Sessions:
    """The table of live sessions. Use it from the event loop only."""

    def __init__(self, agent: Agent, limits: Limits, clock: Callable[[], float] = time.monotonic):
        self.agent, self._limits, self._clock = agent, limits, clock
        self._table: dict[str, Session] = {}
        self._benches: dict[Any, list[Bench]] = {}
        self._lengths: dict[Any, dict[str, int]] = {}  # of what each task sees: the power of two above it
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="act")
        self._waiting: list[tuple[Session, dict[str, Any], asyncio.Future]] = []
        self._drain: asyncio.Task | None = None
        self._opening = 0
        self.expired = self.passes = 0

    def __len__(self) -> int:
        return len(self._table)

    # -- coming and going ---------------------------------------------------------------------------------------------

    async def open(self, task: str, seed: int = 0, acting: dict[str, Any] | None = None) -> Session:
        """Raises Refused: 404 for an unknown task, 503 when all places are taken."""
        acting = acting or {}
        if task not in self.agent.tasks:
            known = known_instead(task[:100], self.agent.tasks)
            raise Refused(404, "unknown-task", f"this agent does not know {task[:100]!r}", "task", known)
        self.expire()
        if len(self._table) + self._opening >= self._limits.sessions:
            raise Refused(503, "full", f"all {self._limits.sessions} sessions are in use", "sessions", retry_after=1)
        self._opening += 1
        try:
            bench, slot = await self.run(self._seat, task, acting, seed)
        finally:
            self._opening -= 1
        session = Session(secrets.token_urlsafe(12), task, acting, seed, bench, slot, self._clock())
        self._table[session.id] = session
        return session

    def _seat(self, task: str, acting: dict[str, Any], seed: int) -> tuple[Bench, int]:
        """A free slot, in a new batch if need be. In the acting thread."""
        tasks = self._alike(task, acting)
        benches = self._benches.setdefault(_key(tasks, acting), [])
        bench = next((b for b in benches if b.free), None)
        if bench is None:
            # Twice as many as before: a pass costs little more for 32 than for 8, and many batches are many passes.
            slots = max(BENCH, sum(b.size for b in benches))
            bench = Bench(self.agent, tasks, acting, slots)
            benches.append(bench)
        slot = bench.free.pop()
        bench.policy.reset(slot, seed, task)
        return bench, slot

    def _alike(self, task: str, acting: dict[str, Any]) -> list[str]:
        """The tasks that share a batch with this one: what they see is of a length with it, up to a factor of two. (Every
        slot's share of a pass is as long as the longest one's.)"""
        known = self._lengths.setdefault(acting.get("memory"), {})
        if not known:
            known |= {
                t: Part.of(self.agent.bundle, t, {**self.agent.bundle.acting, **acting}).window.bit_length()
                for t in self.agent.tasks
            }
        return [t for t in self.agent.tasks if known[t] == known[task]]

    def _leave(self, session: Session) -> None:
        session.bench.free.append(session.slot)
        if len(session.bench.free) == session.bench.size:
            key = _key(self._alike(session.task, session.acting), session.acting)
            self._benches[key].remove(session.bench)
            if not self._benches[key]:
                del self._benches[key]

    def get(self, session_id: str) -> Session:
        """Raises Refused (404)."""
        self.expire()
        if session_id not in self._table:
            raise _unknown()
        session = self._table[session_id]
        session.used = self._clock()
        return session

    async def close(self, session_id: str) -> None:
        session = self.get(session_id)
        if session.busy:
            raise _busy()
        del self._table[session.id]
        await self.run(self._leave, session)

    def expire(self) -> int:
        """Forget sessions that nobody used for `idle_seconds`. How many."""
        late = self._clock() - self._limits.idle_seconds
        gone = [s for s in self._table.values() if s.used < late and not s.busy]
        for session in gone:
            del self._table[session.id]
            self._thread.submit(self._leave, session)
        self.expired += len(gone)
        return len(gone)

    # -- acting -------------------------------------------------------------------------------------------------------

    async def reset(self, session: Session, seed: int | None = None) -> None:
        """Begin a new episode."""
        self._still_there(session)
        session.seed = session.seed if seed is None else seed
        await self.run(session.bench.policy.reset, session.slot, session.seed, session.task)
        session.step = 0

    async def act(self, session: Session, observation: dict[str, Any]) -> dict[str, Any]:
        """Checked leaves → action leaves. Raises Refused (409) for a session that is asked twice at once, (404) for one that was
        closed meanwhile, GatoError."""
        self._still_there(session)
        session.busy = True
        answer: asyncio.Future = asyncio.get_running_loop().create_future()
        # Not in a `finally`: a caller may go away while the pass is on, and the slot is in use until it is over.
        answer.add_done_callback(lambda _: self._release(session))
        self._waiting.append((session, observation, answer))
        if self._drain is None or self._drain.done():
            self._drain = asyncio.create_task(self._answer())
        action = await asyncio.shield(answer)
        session.step += 1
        return action

    def _still_there(self, session: Session) -> None:
        """Whoever holds a session that was closed may not act in the slot of the next."""
        if self._table.get(session.id) is not session:
            raise _unknown()
        if session.busy:
            raise _busy()

    def _release(self, session: Session) -> None:
        session.busy, session.used = False, self._clock()

    async def _answer(self) -> None:
        """Pass after pass, until nobody waits."""
        while self._waiting:
            jobs, self._waiting = self._waiting, []
            try:
                results = await self.run(self._decide, [(s, o) for s, o, _ in jobs])
            except Exception as error:
                results = [error] * len(jobs)
            for (_, _, answer), result in zip(jobs, results, strict=True):
                if answer.cancelled():
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _decide(self, jobs: list[tuple[Session, dict[str, Any]]]) -> list[Any]:
        """Actions (or what went wrong) for each job, one pass per batch. In the acting thread."""
        results: list[Any] = [None] * len(jobs)
        together: dict[int, list[int]] = {}
        for j, (session, _) in enumerate(jobs):
            together.setdefault(id(session.bench), []).append(j)
        for group in together.values():
            try:
                self._pass(jobs, group, results)
            except GatoError as error:
                if len(group) == 1:
                    results[group[0]] = error
                    continue
                for j in group:  # nothing was written yet: whoever is to blame fails alone
                    try:
                        self._pass(jobs, [j], results)
                    except GatoError as own:
                        results[j] = own
            except Exception as error:  # unforeseen, and no concern of those in other batches
                for j in group:
                    results[j] = error
        return results

    def _pass(self, jobs: list[tuple[Session, dict[str, Any]]], group: list[int], results: list[Any]) -> None:
        policy = jobs[group[0]][0].bench.policy
        self.passes += 1
        actions = policy.act({jobs[j][0].slot: jobs[j][1] for j in group})
        for j in group:
            results[j] = actions[jobs[j][0].slot]

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """In the acting thread, after what is there already."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def shut(self) -> None:
        """Answer those who wait, then forget everybody."""
        if self._drain is not None:
            await asyncio.gather(self._drain, return_exceptions=True)
        self._table.clear()
        self._benches.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)


def _key(tasks: list[str], acting: dict[str, Any]) -> tuple[Any, ...]:
    return (tasks[0], *sorted(acting.items()))


def _unknown() -> Refused:
    fix = "POST /v1/sessions opens one"
    return Refused(404, "unknown-session", "no such session (it may have expired)", "session_id", fix)


def _busy() -> Refused:
    return Refused(409, "busy", "this session is still deciding", "session_id", "wait for its answer", retry_after=1)
