"""Where every rank of a team is, and which one the others wait for in vain.

A thread of every rank writes, a few times within the timeout, where its main thread is: (beats, moves, step, place,
patient). It reads the others' too. A rank whose beats stop is dead or cut off; one whose beats go on while its moves stop
hangs, or waits for another that does. When nobody has moved for the whole timeout, the rank to name is the one that is not
where the others wait: it hangs elsewhere, or it went on without them.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

Position = tuple[int, int, int, str, bool]  # beats, moves, step, place, patient
DONE = "done"


class Heartbeat:
    def __init__(self, rank: int, world: int, store: Any, timeout: float, give_up: Callable[[str], None]):
        self.interval = min(5.0, timeout / 12)
        self.verdict: str | None = None
        self._rank, self._world, self._timeout, self._give_up = rank, world, timeout, give_up
        self._store = store.clone()  # a connection of its own: another call may block on the first
        self._store.set_timeout(timedelta(seconds=timeout))
        self._mine: Position = (0, 0, 0, "start", True)
        self._seen: dict[int, tuple[Position, float, float]] = {}  # rank → position, last beat, last move (own clock)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True, name="gato-heartbeat")

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self, clean: bool) -> None:
        self._stopping.set()
        self._thread.join(self._timeout)
        if clean:
            self.at(self._mine[2], DONE, True)
            with contextlib.suppress(RuntimeError):
                self._beat()

    def at(self, step: int, place: str, patient: bool) -> None:
        with self._lock:
            self._mine = (self._mine[0], self._mine[1] + 1, step, place, patient)

    def silent(self, seconds: float) -> list[int]:
        """Ranks that have not been heard of for so long, and did not say that they were done."""
        now = time.monotonic()
        return [
            r for r, (p, beat, _) in self._seen.items() if r != self._rank and p[3] != DONE and now - beat > seconds
        ]

    def positions(self) -> str:
        return ", ".join(f"rank {r} {_place(p)}" for r, (p, _, _) in sorted(self._seen.items()))

    def _run(self) -> None:
        heard = time.monotonic()
        while not self._stopping.wait(self.interval):
            try:
                self._beat()
                self._listen()
                heard = time.monotonic()
                verdict = self._judge()
            except RuntimeError:  # the store is gone, and whoever held it; mostly the collectives break off at once
                gone = time.monotonic() - heard > self._timeout
                verdict = "rank 0, which keeps the store, cannot be reached" if gone else None
            if verdict:
                self.verdict = verdict
                self._give_up(verdict)
                return

    def _beat(self) -> None:
        with self._lock:
            self._mine = (self._mine[0] + 1, *self._mine[1:])
            said = json.dumps(self._mine)
        self._store.set(f"beat/{self._rank}", said)

    def _listen(self) -> None:
        keys = [f"beat/{r}" for r in range(self._world)]
        now = time.monotonic()
        for r, key in enumerate(keys):
            if not self._store.check([key]):
                continue
            position: Position = tuple(json.loads(self._store.get(key)))
            known = self._seen.get(r)
            beat = now if known is None or known[0][0] != position[0] else known[1]
            move = now if known is None or known[0][1] != position[1] else known[2]
            self._seen[r] = position, beat, move

    def _judge(self) -> str | None:
        lost = self.silent(self._timeout)
        if lost:
            return ", ".join(
                f"rank {r} has not been heard of for {self._timeout:.0f} s; it {_place(self._seen[r][0])}" for r in lost
            )
        now = time.monotonic()
        at = {r: p for r, (p, _, _) in self._seen.items()}
        if len(at) < self._world or any(p[4] for p in at.values() if p[3] != DONE):
            return None
        if any(now - move <= self._timeout for _, _, move in self._seen.values()):
            return None
        odd = _odd_ones(at)
        said = ", ".join(f"rank {r} {_place(at[r])}" for r in sorted(odd))
        rest = ", ".join(f"rank {r} {_place(p)}" for r, p in sorted(at.items()) if r not in odd)
        waits = f"; {rest}" if rest else ""
        return f"no progress for {self._timeout:.0f} s: {said}{waits}"


def _place(p: Position) -> str:
    return "had finished" if p[3] == DONE else f"was at step {p[2]}, {p[3]}"


COLLECTIVE = ("computing", "summing", "updating", "saving")  # places where a rank may wait for the others


def _odd_ones(at: dict[int, Position]) -> set[int]:
    """Who to name: those outside of every collective; else those that are not where most are, in a tie those ahead."""
    outside = {r for r, p in at.items() if not p[3].startswith(COLLECTIVE)}
    if outside:
        return outside
    places = Counter((p[2], p[3]) for p in at.values())
    order = {name: i for i, name in enumerate(COLLECTIVE)}

    def ahead(place: tuple[int, str]) -> tuple[int, int]:
        return place[0], next(i for name, i in order.items() if place[1].startswith(name))

    usual = max(places, key=lambda place: (places[place], tuple(-x for x in ahead(place))))
    return {r for r, p in at.items() if (p[2], p[3]) != usual} or set(at)
