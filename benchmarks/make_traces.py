"""Traces of slow experts: one finished episode is one saved trace, and a run that is killed goes on where it was.

    python benchmarks/make_traces.py 'ale-atari/*' --episodes 8 --out DIR              # as long as it takes
    python benchmarks/make_traces.py 'ale-atari/*' --episodes 8 --out DIR --part 0/2   # and 1/2 beside it, on another core
    python benchmarks/make_traces.py 'ale-atari/*' --out DIR --report                  # the table, while it runs

DIR lies outside the checkout. Episode 0 of every task is played first, then episode 1 and so on, so whatever the hour at
which it is stopped, all tasks have got about as far. One task is one Parquet file, `DIR/ale-atari--alien.parquet`, written
anew beside the old one and renamed after each episode; such files go into `src/gato/worlds/traces/` as they are. Beside it
`DIR/seconds.jsonl` has a line for every episode: what it scored and what it cost.

Even episodes are clean, the task's own start and no noise: they are the expert's score. Odd ones begin from wide
starts and execute some random actions, while the expert's own choices are kept as targets.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from gato.errors import ExpertError
from gato.rollouts.loop import CLEAN, ExpertPolicy, LocalSlot, Noise, Unit, episode_seed, rollout
from gato.worlds import Task, find, select
from gato.worlds.atari_scores import LITERATURE
from gato.worlds.traces import Trace, read_traces, record, trace_path, write_traces

NOISE = Noise(scale=0.05, burst=0.01, burst_steps=6)
CLEAN_EVERY = 2
GIVEN_UP = 20  # indices of starts that an expert may give up per task, beyond the episodes asked for


def unit(task_id: str, index: int) -> Unit:
    """Episode `index` of a task's traces."""
    clean = index % CLEAN_EVERY == 0
    return Unit(task_id, episode_seed(task_id, index), noise=CLEAN if clean else NOISE, wide=not clean)


def is_clean(trace: Trace) -> bool:
    return trace.executed is None and not trace.facts.get("wide")


def score_of(task: Task, trace: Trace) -> float:
    return float(bool(trace.facts.get("success"))) if task.score == "success" else trace.total_return


def recorded(task_id: str, out: Path) -> list[Trace]:
    path = trace_path(task_id, out)
    return read_traces(task_id, path) if path.is_file() else []


def record_one(task: Task, index: int, out: Path) -> None:
    """Play episode `index` and add its trace. Nothing is written before the episode is over."""
    slot = LocalSlot()
    began, worked = time.perf_counter(), time.process_time()
    facts = {"task": task.id, "index": index}
    try:
        (episode,) = rollout([unit(task.id, index)], [slot], ExpertPolicy(name=task.expert_name))
        trace = record(episode, slot.env)
        write_traces(trace_path(task.id, out), task.id, [*recorded(task.id, out), trace])
        facts |= {
            "return": trace.total_return,
            "success": episode.success,
            "steps": len(trace),
            "clean": is_clean(trace),
        }
    except ExpertError as error:
        facts |= {"gave_up": error.what}
    finally:
        slot.close()
    facts |= {
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
    }
    with open(out / "seconds.jsonl", "a+") as file:
        file.seek(max(0, file.tell() - 1))
        torn = file.read() not in ("", "\n")  # a killed run may have left half a line
        file.write("\n" * torn + json.dumps(facts) + "\n")
    print(json.dumps(facts), flush=True)


def _lines(out: Path) -> list[dict]:
    file = out / "seconds.jsonl"
    lines = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # a line that a killed run left half written; its trace is there all the same
            continue
    return lines


def next_index(task_id: str, out: Path) -> int:
    """The lowest index that has neither a trace nor been given up."""
    seeds = {trace.seed for trace in recorded(task_id, out)}
    tried = {line["index"] for line in _lines(out) if line["task"] == task_id and "gave_up" in line}
    index = 0
    while index in tried or unit(task_id, index).seed in seeds:
        index += 1
    return index


def run(tasks: list[Task], episodes: int, out: Path, hours: float) -> None:
    until = time.monotonic() + hours * 3600
    for number in range(episodes):
        for task in tasks:
            while len(recorded(task.id, out)) <= number:
                if time.monotonic() > until:
                    print("out of time")
                    return
                index = next_index(task.id, out)
                if index >= episodes + GIVEN_UP:
                    print(f"{task.id}: its expert gave up too often")
                    break
                record_one(task, index, out)


def report(tasks: list[Task], out: Path) -> str:
    """A Markdown table of the clean episodes: the expert beside people and chance."""
    costs: dict[str, list[float]] = {}
    for line in _lines(out):
        costs.setdefault(line["task"], []).append(line["processor_seconds"])
    rows = [
        "| task | traces | clean | expert: mean (least … most) | random, ours | random, literature | human, literature "
        "| human-normalised | processor seconds an episode | kB |",
        "| --- |" + " --- |" * 9,
    ]
    above = compared = 0
    for task in tasks:
        traces = recorded(task.id, out)
        scores = [score_of(task, t) for t in traces if is_clean(t)]
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
        seconds = f"{np.mean(costs[task.id]):.0f}" if task.id in costs else "–"
        size = trace_path(task.id, out).stat().st_size / 1e3
        rows.append(
            f"| `{task.id}` | {len(traces)} | {len(scores)} | {mean:.6g} ({min(scores):.6g} … {max(scores):.6g}) "
            f"| {'–' if ours is None else format(ours.mean, '.6g')} | {'–' if chance is None else chance} "
            f"| {'–' if human is None else human} | {normalised or '–'} | {seconds} | {size:.0f} |"
        )
    total = sum(map(sum, costs.values())) / 3600
    rows += ["", f"Above the average human: {above} of {compared}. Processor hours: {total:.1f}."]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", help="task ids or globs, comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="where the traces and their costs are kept")
    parser.add_argument("--episodes", type=int, default=8, help="traces per task")
    parser.add_argument("--hours", type=float, default=float("inf"), help="begin no episode after so long")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="every Nth task from the Ith on, for N processes")
    parser.add_argument("--report", action="store_true", help="print the table of what is there, and play nothing")
    arguments = parser.parse_args()
    tasks = [task for task in select(arguments.tasks) if task.make_expert is not None and task.deterministic]
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.report:
        print(report(tasks, arguments.out))
        return
    part, parts = map(int, arguments.part.split("/"))
    run([find(task.id) for task in tasks[part::parts]], arguments.episodes, arguments.out, arguments.hours)


if __name__ == "__main__":
    main()
