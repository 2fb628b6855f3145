"""What traces of Atari say of their expert, beside people and chance, as a Markdown table.

    python benchmarks/atari_table.py DIR [GLOB]        DIR is the state of benchmarks/make_traces.py, or traces/

Scores of clean episodes: the task's own starts, no noise. Human and random scores of the literature are those of
`gato.worlds.atari_scores`; human-normalised is the usual (score - random) / (human - random).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from gato.worlds import Task, select
from gato.worlds.atari_scores import LITERATURE
from gato.worlds.traces import Trace, read_traces, trace_path


def score_of(task: Task, trace: Trace) -> float:
    return float(bool(trace.facts.get("success"))) if task.score == "success" else trace.total_return


def report(tasks: list[Task], out: Path) -> str:
    """A Markdown table of the clean episodes: the expert beside people and chance."""
    rows = [
        "| task | traces | clean | expert: mean (least … most) | random, ours | random, literature | human, literature "
        "| human-normalised | core seconds an episode | kB |",
        "| --- |" + " --- |" * 9,
    ]
    above = compared = 0
    total = 0.0
    for task in tasks:
        traces = read_traces(task.id, trace_path(task.id, out)) if trace_path(task.id, out).is_file() else []
        scores = [score_of(task, t) for t in traces if not t.facts.get("noise") and not t.facts.get("wide")]
        if not scores:
            continue
        mean = float(np.mean(scores))
        chance, human = LITERATURE.get(task.id.removeprefix("ale-atari/"), (None, None))
        ours = task.references.get("random")
        normalised = ""
        if human is not None and chance is not None:
            compared += 1
            above += mean > human
            normalised = f"{100 * (mean - chance) / (human - chance):.0f} %"
        total += sum(t.seconds for t in traces)
        seconds = f"{np.mean([t.seconds for t in traces]):.0f}"
        size = trace_path(task.id, out).stat().st_size / 1e3
        rows.append(
            f"| `{task.id}` | {len(traces)} | {len(scores)} | {mean:.6g} ({min(scores):.6g} … {max(scores):.6g}) "
            f"| {'–' if ours is None else format(ours.mean, '.6g')} | {'–' if chance is None else chance} "
            f"| {'–' if human is None else human} | {normalised or '–'} | {seconds} | {size:.0f} |"
        )
    rows += ["", f"Above the average human: {above} of {compared}. Core hours: {total / 3600:.1f}."]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="?", default="ale-atari/*")
    arguments = parser.parse_args()
    print(report(select(arguments.tasks), arguments.folder))


if __name__ == "__main__":
    main()
