"""How long a decision takes over the network's socket: 1, 8 and 64 sessions that all ask as fast as they are answered.

    python benchmarks/serving.py BUNDLE TASK --seconds 10      # writes results/serving.json

Server and callers share the machine, so the figures are of both. Beside the times stands how many sessions above the
declared capacity were refused, and with what.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from gato.client import Client, ServerError
from gato.worlds import find

CAPACITY = 64


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("bundle", type=Path)
    words.add_argument("task")
    words.add_argument("--seconds", type=float, default=10.0)
    words.add_argument("--out", type=Path, default=Path("results/serving.json"))
    said = words.parse_args()
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
        rows = [measure(found[0], said.task, observation, count, said.seconds) for count in (1, 8, 64)]
        rows.append({"sessions": CAPACITY + 16, "refused": refusals(found[0], said.task, CAPACITY + 16)})
    finally:
        server.terminate()
        server.wait(30)
    record = {"agent": agent, "task": said.task, "processor": platform.processor() or platform.machine(), "rows": rows}
    said.out.parent.mkdir(parents=True, exist_ok=True)
    said.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def measure(url: str, task: str, observation: object, count: int, seconds: float) -> dict[str, float]:
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
