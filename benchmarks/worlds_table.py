"""The reference scores as Markdown tables, printed, or put between the marks of docs/worlds.md.

    python benchmarks/worlds_table.py                       # print
    python benchmarks/worlds_table.py --write docs/worlds.md

Everything comes from the registry and from `src/gato/worlds/references/`, which `benchmarks/references.py` measures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gato.worlds import Reference, Task, registry

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
LISTED = (
    "dm-control-suite",
    "dm-manipulation-playground",
    "rgb-stacking",
    "sokoban",
    "ale-atari",
)  # task by task; of the others a summary


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), ["---"] * len(list(head)), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def shown(reference: Reference | None) -> str:
    return f"{number(reference.mean)} ± {number(reference.std)} ({reference.episodes})" if reference else "–"


def by_domain() -> dict[str, list[Task]]:
    domains: dict[str, list[Task]] = {}
    for task in registry().values():
        domains.setdefault(task.domain, []).append(task)
    return domains


def summary() -> str:
    """One row per domain: how many tasks, how many have which reference, and the means over the latter."""
    rows = []
    for domain, tasks in by_domain().items():
        random, expert = (
            [t.references[kind].mean for t in tasks if kind in t.references] for kind in ("random", "expert")
        )
        spread = f"{number(np.mean(expert))} ({number(min(expert))} … {number(max(expert))})" if expert else "–"
        rows.append(
            [f"`{domain}/*`", str(len(tasks)), tasks[0].score, str(len(random)), str(len(expert)),
             number(np.mean(random)) if random else "–", spread]
        )  # fmt: skip
    head = (
        "domain",
        "tasks",
        "score",
        "random measured",
        "expert measured",
        "random, mean",
        "expert, mean (least … most)",
    )
    return table(head, rows)


def listing(domain: str) -> str:
    """One row per task of the domain that has an expert reference."""
    rows = [
        [
            f"`{t.id}`",
            t.expert_name,
            shown(t.references.get("random")),
            shown(t.references["expert"]),
            f"{number(t.published['score'])} ({t.published['agent']})" if t.published else "–",
        ]
        for t in by_domain()[domain]
        if "expert" in t.references
    ]
    return table(("task", "expert", "random", "expert score", "best published"), rows)


def page() -> str:
    return "\n\n".join([summary(), "Mean ± standard deviation (episodes):", *map(listing, LISTED)])


def write(file: Path) -> None:
    """Replace what stands between the two marks."""
    text = file.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    file.write_text(f"{before}\n\n{page()}\n\n{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this file")
    args = parser.parse_args()
    if args.write:
        write(args.write)
    else:
        print(page())


if __name__ == "__main__":
    main()
