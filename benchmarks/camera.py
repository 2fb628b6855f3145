"""What the shadow pass costs: DM Control pictures of 64×64 in both looks, in turns, and side by side for the eye.

    python benchmarks/camera.py --write results/camera.json --picture docs/images/looks.png

A row per scene: frames per second with the plain look (no shadows, reflections, antialiasing; what the pixel tasks show) and
with the suite's own, their ratio, and how much the pictures have in common (correlation of their pixels). The two looks
take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
from PIL import Image

from gato.worlds.dm_control_pixels import BENCHMARK, pixel_task

SCENES = {domain: tasks[0] for domain, tasks in BENCHMARK.items()}
ROUNDS, ENLARGED = 3, 3


def measure(domain: str, task: str, frames: int) -> tuple[dict[str, float], np.ndarray]:
    """(the row, both pictures beside each other)."""
    envs = {look: pixel_task(domain, task, look).make() for look in ("plain", "suite")}
    seconds, pictures = dict.fromkeys(envs, 0.0), {}
    for env in envs.values():
        env.reset(seed=0)
        env.action_space.seed(0)
    for _ in range(ROUNDS):
        for look, env in envs.items():
            for _ in range(frames):
                env.unwrapped.step(env.action_space.sample())
                began = time.perf_counter()
                pictures[look] = env._picture()
                seconds[look] += time.perf_counter() - began
    for env in envs.values():
        env.close()
    plain, suite = (ROUNDS * frames / seconds[look] for look in ("plain", "suite"))
    alike = float(np.corrcoef(*(pictures[look].ravel() for look in ("plain", "suite")))[0, 1])
    row = {
        "plain_fps": round(plain, 1),
        "suite_fps": round(suite, 1),
        "times": round(plain / suite, 1),
        "alike": round(alike, 3),
    }
    return row, np.concatenate([pictures["plain"], pictures["suite"]], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20, help="per look and round, of three rounds")
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="left plain, right the suite's own, two scenes a row"
    )
    args = parser.parse_args()
    rows, pairs = {}, []
    for domain, task in SCENES.items():
        rows[domain], pair = measure(domain, task, args.frames)
        pairs.append(pair)
        print(f"{domain:14}", rows[domain], flush=True)
    if args.write:
        protocol = {
            "size": [64, 64],
            "frames": args.frames * ROUNDS,
            "processor": platform.processor() or platform.machine(),
        }
        args.write.write_text(json.dumps({"protocol": protocol, "scenes": rows}, indent=1) + "\n")
    if args.picture:
        while len(pairs) % 2:
            pairs.append(np.zeros_like(pairs[0]))
        sheet = np.concatenate([np.concatenate(pairs[i : i + 2], axis=1) for i in range(0, len(pairs), 2)])
        height, width = sheet.shape[:2]
        Image.fromarray(sheet).resize((width * ENLARGED, height * ENLARGED), Image.Resampling.NEAREST).save(
            args.picture
        )


if __name__ == "__main__":
    main()
