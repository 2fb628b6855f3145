"""What a simulator leaves behind when its process dies: processes that it had started, and shared memory.

ViZDoom's engine, for one, is a process of its own: it waits for ever for a controller that was killed, and keeps 11 MB
of shared memory. A worker leads a process group (its id is the worker's), by which such processes are found, and by what
they map, the memory. Both are looked up in /proc, so this is for Linux. What a worker shared that died by itself is
known by those processes alone; a file that none of them had mapped yet stays.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

PROC = Path("/proc")
SHARED = "/dev/shm/"
PATIENCE = 0.5  # seconds to end by themselves: Python's own tracker of shared memory clears up and goes


def shared_memory(process_ids: list[int]) -> set[str]:
    """Files of shared memory that these processes map."""
    found: set[str] = set()
    for process_id in process_ids:
        with contextlib.suppress(OSError):
            for line in (PROC / str(process_id) / "maps").read_text().splitlines():
                if SHARED in line and not line.endswith("(deleted)"):
                    found.add(line[line.index(SHARED) :])
    return found


def clear(group: int, shared: set[str] | None = None, spare: int | None = None) -> None:
    """End every process of the group but `spare`, and remove what they shared, and `shared`, where nobody else maps it."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # nobody is left, which is nearly always so
        left = []
    else:
        left = _others(group, spare)
    shared = shared_memory(left) | (shared or set())
    for sent, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, 2.0)):
        for process_id in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process_id, sent)
        ends = time.monotonic() + patience
        while left and time.monotonic() < ends:
            time.sleep(0.01)
            left = _others(group, spare)
    shared = {path for path in shared if os.path.exists(path)}
    if shared:
        for path in shared - shared_memory([p for p in _processes() if p != spare]):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _processes() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()] if PROC.is_dir() else []


def _others(group: int, spare: int | None) -> list[int]:
    return [process_id for process_id in _processes() if process_id != spare and _group(process_id) == group]


def _group(process_id: int) -> int | None:
    """The process group of a process that has not ended."""
    try:
        state, _, group = (PROC / str(process_id) / "stat").read_text().rsplit(")", 1)[1].split()[:3]
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(group)
