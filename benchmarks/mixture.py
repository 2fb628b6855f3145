"""How soon a mixture over many datasets begins, and what it opens: many small real datasets, one process.

    python benchmarks/mixture.py --datasets 1000 --state ~/mixture        # → results/mixture.json

The datasets are recorded once (the counting world, 3 episodes each, under ids of their own, with texts in one of ten) and
kept in the state folder. Measured in a fresh process, best of --repeats:

* `start`: from `shelve` to a mixture that is ready to draw (manifests and indices verified, shares known);
* `first_step`: the first batch, datasets tokenised as they are met (`opened` of them);
* `again`: start and first step of the same run resumed, tables on the shelf;
* `warm_step`: a step once every table it needs is there, beside one drawn from the same data in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SPLIT = ("dummy", "meta-world", "babyai", "procgen", "dm-control-suite")  # domains, in turn


def make(state: Path, count: int) -> None:
    """Datasets 0 … count - 1 that are not there yet."""
    from gato.episodes import Episode, Spec, TaskSpec
    from gato.episodes.writer import DatasetWriter

    rng = np.random.default_rng(0)
    for k in range(count):
        folder = state / "data" / f"{k:05d}"
        if (folder / "MANIFEST.json").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        observation = {"values": Spec("continuous", (8 + k % 16,), "float32")}
        if k % 10 == 0:
            observation["mission"] = Spec("text", (), "str")
        spec = TaskSpec(observation, {"stick": Spec("continuous", (4,), "float32", (-1.0,) * 4, (1.0,) * 4)})
        with DatasetWriter(folder, f"{SPLIT[k % len(SPLIT)]}/task-{k:05d}", spec, {"source": "made"}) as writer:
            for n in range(3):
                steps = int(rng.integers(20, 80))
                leaves = {
                    p: rng.normal(size=(steps, *s.shape)).astype(s.dtype)
                    if s.kind != "text"
                    else [f"go to room {n}"] * steps
                    for p, s in spec.observation.items()
                }
                actions = {"stick": rng.uniform(-1, 1, (steps, 4)).astype(np.float32)}
                writer.add(Episode(writer.task, leaves, actions, np.zeros(steps, np.float32)))


def measure(state: Path) -> dict[str, float]:
    """In this process, with whatever is on the shelf."""
    from gato.recipes.paper import recipe
    from gato.tokens.text import TextTokenizer
    from gato.training.data import make_mixture, shelve

    recipe = recipe.replace(
        size="tiny", slots=64, accumulate=1, weights={domain: 1.0 for domain in SPLIT}, return_filter=None
    )
    tokenizer = TextTokenizer.load(state / "tokenizer.model")
    begun = time.perf_counter()
    stores = shelve([state / "data"], recipe.config(), tokenizer, recipe, state / "shelf")
    loaded = time.perf_counter()
    mixture = make_mixture(stores, recipe)
    ready = time.perf_counter()
    mixture.batch(0)
    first = time.perf_counter()
    opened = sum("table" in vars(s) for s in stores)
    mixture.batch(0)
    warm = time.perf_counter()
    held = load_memory([s for s in stores if "table" in vars(s)])
    mine = make_mixture(held, recipe)
    mine.batch(0)
    before = time.perf_counter()
    mine.batch(1)
    inside = time.perf_counter()
    return {
        "datasets": len(stores), "start": ready - begun, "open": loaded - begun, "shares": ready - loaded,
        "first_step": first - ready, "opened": opened, "warm_step": warm - first, "warm_step_in_memory": inside - before,
    }  # fmt: skip


def load_memory(stores):
    from gato.sequences import TokenStore

    return [TokenStore.build(s.task, s.codec, s.dataset) for s in stores]


def once(state: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--state", str(state), "--once"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "gato-mixture")
    parser.add_argument("--out", type=Path, default=Path("results/mixture.json"))
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        print(json.dumps(measure(args.state)))
        return
    from gato.demo import tokenizer_in

    tokenizer_in(args.state, 1024)
    make(args.state, args.datasets)
    fresh, again = [], []
    for _ in range(args.repeats):
        shutil.rmtree(args.state / "shelf", ignore_errors=True)
        fresh.append(once(args.state))
        again.append(once(args.state))
    best = {name: min(r[name] for r in fresh) for name in fresh[0]}
    record = {
        "protocol": {
            "what": __doc__.split("\n", 1)[0], "datasets": args.datasets, "episodes_each": 3, "slots": 64, "slot_tokens": 1024,
            "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "repeats": args.repeats,
            "seconds": "best of repeats, each a process of its own; importing the package not counted",
        },
        "seconds": {name: round(value, 4) for name, value in best.items() if name not in ("datasets", "opened")},
        "opened_for_the_first_step": best["opened"],
        "again": {name: round(min(r[name] for r in again), 4) for name in ("start", "first_step")},
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
