"""What every task takes in and gives out, recorded once for the pages of the worlds: `src/gato/worlds/references/specs.json`.

    python benchmarks/worlds_specs.py                    # every domain whose simulator is installed
    python benchmarks/worlds_specs.py 'dm-control-*'     # only these

    {"meta-world": {"leaves": [{"side": "observation", "path": "observation", "kind": "continuous", "tasks": 50,
                                "shapes": [[39]], "low": [null, null], "high": [null, null]}, …],
                    "tasks": {"push": [39, 0, 0, 4], …}}, …}

Leaves of one path are taken together over the tasks of a domain: the shapes that occur (the least and the greatest where there
are more than three), the least and the greatest lower bound, and the same of the upper bound; null is infinity. A task is
[numbers and discrete values observed, image patches of 16×16, texts, action values]. With this file the pages need no simulator.
Domains are written as they are done, so an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import os
from pathlib import Path
from typing import Any

import gato.worlds
from gato.episodes.spec import Spec, TaskSpec, task_spec
from gato.worlds import Task, registry

FILE = Path(gato.worlds.__file__).parent / "references" / "specs.json"
PATCH = 16


def patches(spec: Spec) -> int:
    """Tokens of an image, whose sides are taken to the nearest multiple of sixteen."""
    *frames, height, width, _ = spec.shape
    return math.prod(frames) * math.prod(max(1, round(side / PATCH)) for side in (height, width))


def sizes(spec: TaskSpec) -> list[int]:
    """[numbers and discrete values observed, image patches, texts, action values]."""
    seen = spec.observation.values()
    return [
        sum(s.size for s in seen if s.kind in ("discrete", "continuous")),
        sum(patches(s) for s in seen if s.kind == "image"),
        sum(s.kind == "text" for s in seen),
        sum(s.size for s in spec.action.values()),
    ]


def leaves(specs: list[TaskSpec]) -> list[dict[str, Any]]:
    """One record per leaf, over all tasks that have it, in the order of the paths."""
    found: dict[tuple[str, str, str], list[Spec]] = {}
    for spec in specs:
        for side in ("observation", "action"):
            for path, leaf in getattr(spec, side).items():
                found.setdefault((side, path, leaf.kind), []).append(leaf)
    rows = []
    for (side, path, kind), same in sorted(found.items(), key=lambda item: (item[0][0] == "action", item[0])):
        shapes = sorted({leaf.shape for leaf in same})
        row: dict[str, Any] = {"side": side, "path": path, "kind": kind, "tasks": len(same)}
        row["shapes"] = [list(s) for s in (shapes if len(shapes) <= 3 else [shapes[0], shapes[-1]])]
        if kind in ("discrete", "continuous"):
            row["low"] = span([v for leaf in same for v in leaf.low])
            row["high"] = span([v for leaf in same for v in leaf.high])
        rows.append(row)
    return rows


def span(values: list[float]) -> list[float | None]:
    return [round(v, 4) if math.isfinite(v) else None for v in (min(values), max(values))]


def record(tasks: list[Task]) -> dict[str, Any]:
    """The domain's record. Makes every environment once."""
    specs = {}
    for task in tasks:
        env = task.make()
        specs[task.id.partition("/")[2]] = task_spec(env, task.id)
        env.close()
    return {"leaves": leaves(list(specs.values())), "tasks": {name: sizes(spec) for name, spec in specs.items()}}


def written(known: dict[str, Any]) -> str:
    """A line per leaf and per eight tasks, so that a change reads well and the file stays small."""
    parts = []
    for domain, record_ in sorted(known.items()):
        rows = ",\n".join(f"   {json.dumps(row)}" for row in record_["leaves"])
        pairs = [f"{json.dumps(name)}: {json.dumps(size)}" for name, size in sorted(record_["tasks"].items())]
        lines = ",\n".join("   " + ", ".join(pairs[i : i + 8]) for i in range(0, len(pairs), 8))
        parts.append(f' {json.dumps(domain)}: {{\n  "leaves": [\n{rows}\n  ],\n  "tasks": {{\n{lines}\n  }}\n }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="?", default="*", help="glob over the domains")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    domains: dict[str, list[Task]] = {}
    for task in registry().values():
        if fnmatch.fnmatch(task.domain, args.domains):
            domains.setdefault(task.domain, []).append(task)
    for domain, tasks in domains.items():
        if not all(task.installed for task in tasks):
            print(f"{domain}: left as it is, {tasks[0].pip_line or 'not installed'}")
            continue
        known = json.loads(args.out.read_text()) if args.out.exists() else {}
        known[domain] = record(tasks)
        beside = args.out.with_suffix(f".{os.getpid()}.tmp")
        beside.write_text(written(known))
        os.replace(beside, args.out)
        print(f"{domain}: {len(tasks)} tasks, {len(known[domain]['leaves'])} leaves", flush=True)


if __name__ == "__main__":
    main()
