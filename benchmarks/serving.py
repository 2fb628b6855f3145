"""How long a decision takes over the network's socket: 1, 8 and 64 sessions that all ask as fast as they are answered.

    python benchmarks/serving.py BUNDLE TASK --seconds 10                   # writes results/serving.json
    python benchmarks/serving.py BUNDLE TASK --hertz 20 --minutes 10        # writes results/serving_20hz.json

Server and callers share the machine, so the figures are of both. Beside the times stands how many sessions above the
declared capacity were refused, and with what.

With `--hertz`, one client plays the task on a clock instead: at every tick it sends the observation, and the action is
due before the next tick. A tick that finds the client still waiting is a missed deadline, each of them if there are
several; the environment's own step is taken after the answer, and a tick lost to it alone is counted apart.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from gato.client import Client, ServerError
from gato.episodes import flatten, unflatten
from gato.worlds import find

CAPACITY = 64


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("bundle", type=Path)
    words.add_argument("task")
    words.add_argument("--seconds", type=float, default=10.0)
    words.add_argument("--hertz", type=float, help="ask at this rate for --minutes and count missed deadlines")
    words.add_argument("--minutes", type=float, default=10.0)
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
        if said.hertz:
            rows: list[dict[str, Any]] = [on_a_clock(found[0], said.task, said.hertz, 60 * said.minutes)]
        else:
            observation, _ = find(said.task).make().reset(seed=0)
            rows = [measure(found[0], said.task, observation, count, said.seconds) for count in (1, 8, 64)]
            rows.append({"sessions": CAPACITY + 16, "refused": refusals(found[0], said.task, CAPACITY + 16)})
    finally:
        server.terminate()
        server.wait(30)
    record = {"agent": agent, "task": said.task, "processor": platform.processor() or platform.machine(), "rows": rows}
    said.out.parent.mkdir(parents=True, exist_ok=True)
    said.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def measure(url: str, task: str, observation: object, count: int, seconds: float) -> dict[str, Any]:
    """`count` sessions, each in a thread of its own."""
    times: list[float] = []
    errors: list[Exception] = []
    ends = time.perf_counter() + seconds

    def act(seed: int) -> None:
        try:
            with Client(url) as client, client.session(task, seed=seed) as session:
                session.act(observation)
                while (began := time.perf_counter()) < ends:
                    session.act(observation)
                    times.append(time.perf_counter() - began)
        except (ServerError, OSError) as error:
            errors.append(error)

    threads = [threading.Thread(target=act, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = (1e3 * float(np.percentile(times, q)) for q in (50, 99))
    return {
        "sessions": count, "p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "decisions_per_second": round(len(times) / seconds, 1),
        "errors": len(errors),
    }  # fmt: skip


def on_a_clock(url: str, task: str, hertz: float, seconds: float) -> dict[str, Any]:
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


def refusals(url: str, task: str, count: int) -> dict[str, int]:
    """HTTP statuses of those who came when all places were taken."""
    refused: Counter[str] = Counter()
    client, opened = Client(url), []
    for _ in range(count):
        try:
            opened.append(client.session(task))
        except ServerError as error:
            refused[str(error.status)] += 1
    for session in opened:
        session.close()
    return dict(refused)


if __name__ == "__main__":
    main()
