"""Figures of the policy server: times of a decision, what it refuses, and what it survives.

    python benchmarks/serving.py BUNDLE TASK --seconds 10 --fuzz 500      # writes results/serving.json
    python benchmarks/serving.py BUNDLE TASK --hertz 20 --minutes 10      # writes results/serving_20hz.json

1, 8 and 64 sessions at once that all ask as fast as they are answered, over HTTP with msgpack; then more sessions than the
declared capacity, of which only those beyond it may be refused, with 429 or 503. Server and callers share the machine, so
the times are of both. A PNG of 20 kB that would fill half a gigabyte must be refused quickly. `--fuzz N` then runs the two
tests that attack a server of a small network: ten thousand malformed socket messages, and N requests of each operation made
from the OpenAPI description, half of them valid and half not (fewer where there is nothing to vary). 0 leaves them out.

With `--hertz`, one client plays the task on a clock instead: at every tick it sends the observation, and the action is
due before the next tick. A tick that finds the client still waiting is a missed deadline, each of them if there are
several; the environment's own step is taken after the answer, and a tick lost to it alone is counted apart.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import math
import os
import platform
import re
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from gato.client import Client, ServerError
from gato.episodes import flatten, unflatten
from gato.worlds import find

ROOT = Path(__file__).parents[1]
CAPACITY, BEYOND = 64, 16


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("bundle", type=Path)
    words.add_argument("task")
    words.add_argument("--seconds", type=float, default=10.0)
    words.add_argument("--hertz", type=float, help="ask at this rate for --minutes and count missed deadlines")
    words.add_argument("--minutes", type=float, default=10.0)
    words.add_argument("--fuzz", type=int, default=500)
    words.add_argument("--out", type=Path)
    said = words.parse_args()
    if said.hertz is not None and not said.hertz > 0:
        words.error("--hertz: a number above 0")
    said.out = said.out or Path("results", f"serving_{said.hertz:g}hz.json" if said.hertz else "serving.json")
    line = [
        sys.executable,
        "-m",
        "gato",
        "serve",
        str(said.bundle),
        "--port",
        "0",
        "--sessions",
        str(CAPACITY),
        "--device",
        "cpu",
    ]
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        agent = server.stdout.readline().strip()
        found = re.search(r"http\S+", server.stdout.readline())
        assert found, "the server did not start"
        observation, _ = find(said.task).make().reset(seed=0)
        if said.hertz:
            rows, picture = [on_a_clock(found[0], said.task, said.hertz, 60 * said.minutes)], None
        else:
            counts = (1, 8, CAPACITY, CAPACITY + BEYOND)
            rows = [measure(found[0], said.task, observation, count, said.seconds) for count in counts]
            picture = expanding_picture(found[0])
    finally:
        server.terminate()
        server.wait(30)
    record = {
        "command": " ".join(["python benchmarks/serving.py BUNDLE", *sys.argv[2:]]),
        "agent": agent, "task": said.task, "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(), "load_average": [round(x, 1) for x in os.getloadavg()], "capacity": CAPACITY,
        "rows": rows,
    }  # fmt: skip
    if picture is not None:
        record["expanding_picture"] = picture
    write(record, said.out)  # the attacks take long
    if said.fuzz and not said.hertz:
        record["malformed_socket_messages"] = attacked("test_sockets.py::test_ten_thousand_malformed_messages", {}) | {
            "messages": 10_000
        }
        each_mode = {"GATO_FUZZ_EXAMPLES": str(-(-said.fuzz // 2))}
        record["schemathesis"] = attacked("test_fuzz.py", each_mode) | {"examples_per_operation": said.fuzz}
    write(record, said.out)
    print(json.dumps(record, indent=1))


def write(record: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")


def measure(url: str, task: str, observation: object, count: int, seconds: float) -> dict[str, Any]:
    """`count` sessions, each in a thread of its own."""
    times: list[float] = []
    refused: Counter[str] = Counter()
    errors: list[Exception] = []
    everybody = threading.Barrier(count)
    over = threading.Event()

    def act(seed: int) -> None:
        session = None
        try:
            with Client(url) as client:
                try:
                    session = client.session(task, seed=seed)
                    session.act(observation)
                except ServerError as error:
                    refused[str(error.status)] += 1
                everybody.wait(120)  # all who got a place hold it now
                ends = time.perf_counter() + seconds
                while session is not None and (began := time.perf_counter()) < ends:
                    session.act(observation)
                    times.append(time.perf_counter() - began)
                over.wait(120)
                if session is not None:
                    session.close()
        except (ServerError, OSError, threading.BrokenBarrierError) as error:
            errors.append(error)

    threads = [threading.Thread(target=act, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()
    p50, p99 = (1e3 * float(np.percentile(times, q)) for q in (50, 99))
    return {
        "sessions": count, "acting": count - sum(refused.values()), "refused": dict(refused), "errors": len(errors),
        "p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "decisions": len(times),
        "decisions_per_second": round(len(times) / seconds, 1),
    }  # fmt: skip


def on_a_clock(url: str, task: str, hertz: float, seconds: float) -> dict[str, float]:
    """Play the task in real time: how many actions came after the tick that they were due at."""
    env, times, episodes = find(task).make(), [], 1
    missed = late_world = 0
    with Client(url) as client, client.session(task, seed=0) as session:
        observation, _ = env.reset(seed=0)
        session.act(observation)  # the first decision of a process takes memory and kernels
        session.reset(seed=0)
        period, began, tick = 1 / hertz, time.perf_counter(), 0
        while tick < seconds * hertz:
            time.sleep(max(0.0, began + tick * period - time.perf_counter()))
            asked = time.perf_counter()
            action = session.act(observation)
            answered = time.perf_counter()
            times.append(answered - asked)
            waited = max(0, math.ceil((answered - began) / period) - 1 - tick)
            missed += waited
            observation, _, terminated, truncated, _ = env.step(
                unflatten(flatten(action, "action"), env.action_space, "action")
            )
            if terminated or truncated:
                observation, _ = env.reset(seed=episodes)
                session.reset(seed=episodes)
                episodes += 1
            lost = max(0, math.ceil((time.perf_counter() - began) / period) - 1 - tick - waited)
            late_world += lost
            tick += 1 + waited + lost
    env.close()
    p50, p99, longest = (1e3 * float(np.percentile(times, q)) for q in (50, 99, 100))
    return {
        "hertz": hertz, "seconds": seconds, "asked": len(times), "missed_deadlines": missed, "lost_to_the_environment": late_world,
        "p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "longest_ms": round(longest, 2), "episodes": episodes,
    }  # fmt: skip


def expanding_picture(url: str, times: int = 20, side: int = 13_000) -> dict[str, Any]:
    """A PNG of one bit a pixel whose rows compress to nothing, sent again and again."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(side // 8 + 1)) for _ in range(side)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    body = json.dumps({"image": base64.b64encode(png).decode()}).encode()
    took, statuses = [], Counter[str]()
    where = urllib.parse.urlsplit(url)
    for _ in range(times):
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        began = time.perf_counter()
        connection.request("POST", "/v1/caption", body, {"content-type": "application/json"})
        statuses[str(connection.getresponse().status)] += 1
        took.append(1e3 * (time.perf_counter() - began))
        connection.close()
    return {
        "file_bytes": len(png), "decoded_bytes": 3 * side * side, "statuses": dict(statuses),
        "min_ms": round(min(took), 2), "p50_ms": round(float(np.median(took)), 2), "max_ms": round(max(took), 2),
    }  # fmt: skip


def attacked(test: str, settings: dict[str, str]) -> dict[str, Any]:
    """A test of `tests/serving` in a process of its own: how many passed and failed."""
    line = [sys.executable, "-m", "pytest", "--tb=short", "-m", "", f"tests/serving/{test}"]
    began = time.perf_counter()
    done = subprocess.run(line, env={**os.environ, **settings}, capture_output=True, text=True, cwd=ROOT)
    print(done.stdout, done.stderr, file=sys.stderr)  # what failed and why
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|skipped|error)", last)}
    names = re.findall(r"^FAILED \S+::(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return {**counts, "exit": done.returncode, "failed": names, "seconds": round(time.perf_counter() - began, 1)}


if __name__ == "__main__":
    main()
