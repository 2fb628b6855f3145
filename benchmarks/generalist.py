"""One bundle on all its control tasks, beside retrieve-and-replay and the published generalists: results and a page.

    python benchmarks/generalist.py BUNDLE --state DIR                                the agent
    python benchmarks/generalist.py BUNDLE --state DIR --teacher-forced --data DATA   single actions on demonstrations
    python benchmarks/generalist.py BUNDLE --state DIR --language                     captions, replies and text, held out
    python benchmarks/generalist.py --policy retrieve --data DATA --state DIR         the baseline, into the same results
    python benchmarks/generalist.py --page                                            docs/agent.md from the results
    python benchmarks/generalist.py BUNDLE --card NAME                                the bundle's README.md, with them

A task is a file in --state, written as its episodes end (after 20, and when all are there), so that the whole goes on
where it was stopped; --seconds begins nothing after that time. Domains take turns, so that a part of the tasks is
already a part of every domain. Every run writes results/generalist.json from all that is in --state: the form of
`gato evaluate`'s results.json, with `progress` (what is in and what is not) and `baselines`. Where the state is gone (another
machine), --restore begins it from the published results, so that more episodes are added to those.

Episodes are those of `gato evaluate`: the evaluation split's seeds, --episodes a task, or 20 where one takes over a
minute. Random play is 0 % by definition; its raw scores are the tasks' references.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gato.episodes import Dataset, Episode, find_datasets
from gato.errors import GatoError, UsageError
from gato.evaluation.charts import percent
from gato.evaluation.evaluate import evaluate_task, protocol_of
from gato.evaluation.open_loop import action_errors
from gato.evaluation.report import duration
from gato.evaluation.scores import TaskScores, read_results, results, write_results, write_whole
from gato.evaluation.telling import held_out, tell
from gato.model.bundle import Bundle
from gato.policy import Agent, load
from gato.policy.card import model_card
from gato.policy.shipped import bundle_in
from gato.rollouts.pool import WorkerPool
from gato.rollouts.retrieve import Retrieval
from gato.worlds import Task, find, registry, select

ROOT = Path(__file__).parents[1]
SPECIALISTS = ROOT / "results/specialists.json"
RESULTS, PAGE, CURVE = ROOT / "results/generalist.json", ROOT / "docs/agent.md", "images/agent-curve.png"
FEW, SLOW = 20, 60.0  # so many episodes are enough where one takes more than so many seconds
LANGUAGE, SCENES = "language.json", 300  # held-out scenes, questions, dialogues and clips, of each corpus
FORCED_EPISODES, FORCED_TIMESTEPS = 20, 2000  # of a task's demonstrations, at most
FEW_EPISODES = (
    " With so few episodes they are a little too narrow (of normal scores they hold the truth in 91 of 100 cases), and a count of tasks "
    "may lie at the end of its own."
)
COMMAND = "python benchmarks/generalist.py BUNDLE --state DIR"


# -- what others have published ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """Mean percent of expert over `tasks` tasks of a domain. `checked`: two independent transcriptions agree on it."""

    percent: float
    tasks: int
    checked: bool = False


# Reed et al. 2022 (arXiv 2205.06175), Table 8: the 1.18B network, 50 episodes a task. The number of tasks is Table 1's.
PAPER = {
    "dm-lab": Published(91.4, 254, True),
    "ale-atari": Published(30.9, 51, True),
    "ale-atari-extended": Published(57.8, 28),
    "sokoban": Published(68.0, 1),
    "babyai": Published(93.2, 46, True),
    "dm-control-suite": Published(63.6, 30, True),
    "dm-control-suite-pixels": Published(26.3, 28),
    "meta-world": Published(87.0, 45, True),
    "procgen": Published(60.8, 16),
    "rgb-stacking": Published(58.0, 1),
    "modular-rl": Published(62.9, 38),
    "dm-manipulation-playground": Published(83.8, 4),
}
PAPER_AT_50 = (450, 604)  # section 4.1: "over 450 out of 604 tasks" at half of their expert

# Model card of jat-project/jat, with arXiv 2402.09844: interquartile means, not means, of total rewards in percent of the
# expert, for its own experts. The card gives two digits.
JAT = {"ale-atari": 14.0, "babyai": 99.0, "meta-world": 65.0, "gym-mujoco": 85.0}


# -- playing, a file a task -------------------------------------------------------------------------------------------


def in_turns(tasks: Iterable[Task]) -> list[Task]:
    """The first task of each domain, then the second of each, and so on."""
    domains: dict[str, list[Task]] = {}
    for task in tasks:
        domains.setdefault(task.domain, []).append(task)
    rounds = range(max(map(len, domains.values()), default=0))
    return [mine[i] for i in rounds for mine in domains.values() if i < len(mine)]


def file_of(folder: Path, task: str) -> Path:
    return folder / f"{task.replace('/', '--')}.json"


def begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Say whose scores this folder holds. Raises UsageError where it holds another's."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run.json"
    if file.is_file() and (held := json.loads(file.read_text()))["identity"] != facts["identity"]:
        raise UsageError(
            "this folder holds the scores of something else",
            where=f"{folder}: {held['identity'][:12]}, not {facts['identity'][:12]}", fix="another --state",
        )  # fmt: skip
    write_whole(file, json.dumps(facts, indent=1) + "\n")


def restore(record: Mapping[str, Any], protocol: Mapping[str, Any], state: Path) -> None:
    """Begin a state that has nothing of a task from what was published of it. Raises UsageError for another bundle's results."""
    same = ("parameters", "training_tokens", "training_steps", "seeds", "acting")
    if other := [name for name in same if record["protocol"].get(name) != protocol.get(name)]:
        told = ", ".join(f"{name} {record['protocol'].get(name)}, not {protocol.get(name)}" for name in other)
        raise UsageError(f"the published results are something else's: {told}", fix="without --restore, from the start")
    for task in record["tasks"]:
        if not (file := file_of(state / "gato", task["id"])).is_file():
            kept = {name: task[name] for name in ("id", "facts", "measure", "teacher_forced") if name in task}
            write_whole(file, json.dumps({**kept, "episodes": task["episode_scores"]}) + "\n")
    if "language" in record and not (state / LANGUAGE).is_file():
        write_whole(state / LANGUAGE, json.dumps(record["language"], indent=1) + "\n")


def play(agent: Agent | Retrieval, task: Task, file: Path, episodes: int, workers: int, seed: int) -> dict[str, Any]:
    """All episodes of a task that are not yet in its file; returns what is in it then."""
    held = json.loads(file.read_text()) if file.is_file() else {"id": task.id, "episodes": [], "facts": {}}
    with WorkerPool(workers) as pool:  # of its own: simulators stay in a worker until it ends
        while (left := _left(held, episodes)) > 0:
            some = left if held["episodes"] else min(FEW, left)
            scores, _ = evaluate_task(agent, task, some, pool, seed, first=len(held["episodes"]))
            held["facts"] = _both(held["facts"], len(held["episodes"]), scores.facts, some)
            held |= {"episodes": [*held["episodes"], *scores.episodes], "measure": scores.measure}
            held.pop("failed", None)
            write_whole(file, json.dumps(held) + "\n")
    return held


def _left(held: Mapping[str, Any], episodes: int) -> int:
    played = len(held["episodes"])
    slow = played >= FEW and held["facts"]["seconds"] / played > SLOW
    return 0 if slow else episodes - played


def _both(one: Mapping[str, Any], n: int, other: Mapping[str, Any], m: int) -> dict[str, Any]:
    """Facts of n episodes and of m more."""
    if not n:
        return dict(other)
    steps, seconds = (one[k] + other[k] for k in ("environment_steps", "seconds"))
    mass = one["legal_mass"] * one["environment_steps"] + other["legal_mass"] * other["environment_steps"]
    return {
        "environment_steps": steps, "seconds": round(seconds, 2), "steps_per_second": round(steps / max(seconds, 1e-9), 1),
        "legal_mass": round(mass / steps, 5), "mean_return": (one["mean_return"] * n + other["mean_return"] * m) / (n + m),
    }  # fmt: skip


def demonstrations(folder: Path) -> list[Episode]:
    """The first episodes of a dataset, and no more timesteps than are needed for an error of two digits."""
    dataset = Dataset.open(folder)
    within = int(np.searchsorted(np.cumsum(dataset.lengths), FORCED_TIMESTEPS, side="right"))
    return dataset.episodes(range(min(len(dataset), FORCED_EPISODES, max(1, within))))


def evaluate_all(args: argparse.Namespace) -> None:
    """Play (or predict) what is missing in --state."""
    ends = time.monotonic() + args.seconds
    folder = args.state / args.policy
    datasets = {Dataset.open(f).task: f for f in find_datasets(args.data)} if args.data else {}
    agent: Agent | Retrieval
    if args.policy == "retrieve":
        agent = Retrieval(Dataset.open(f) for f in datasets.values())
        identity = "".join(sorted(Dataset.open(f).identity for f in datasets.values()))
    else:
        agent = load(args.bundle)
        identity = ((bundle_in(args.bundle) or args.bundle) / "MANIFEST.json").read_text()
    known = [find(task) for task in agent.tasks if task in registry() or task.startswith("gym/")]
    protocol = _without_data(protocol_of(agent, args.episodes, args.seed, 0.0))
    begin(
        folder,
        {
            "identity": hashlib.sha256(f"{identity} seed {args.seed}".encode()).hexdigest(),
            "protocol": protocol,
            "known": sorted(agent.tasks),
            "not_installed": sorted({*agent.tasks} - {task.id for task in known if task.installed}),
        },
    )
    if args.restore:
        restore(read_results(args.results), json.loads(json.dumps(protocol)), args.state)
    if args.language and isinstance(agent, Agent):
        if not (args.state / LANGUAGE).is_file():
            found = tell(agent, held_out(agent, SCENES), args.state / "media")
            write_whole(args.state / LANGUAGE, json.dumps({"scenes": SCENES, **found["corpora"]}, indent=1) + "\n")
        return
    wanted = {task.id for task in select(args.tasks)} if args.tasks else set(agent.tasks)
    for task in in_turns(t for t in known if t.installed and t.id in wanted):
        if time.monotonic() > ends:
            print("out of time; the same command goes on")
            return
        file = file_of(folder, task.id)
        try:
            if args.teacher_forced and isinstance(agent, Agent):
                _force(agent, task, file, datasets, args.held_out)
                continue
            player = Retrieval([Dataset.open(datasets[task.id])]) if args.policy == "retrieve" else agent
            held = play(player, task, file, args.episodes, args.workers, args.seed)
            print(f"{task.id}: {np.mean(held['episodes']):.4g} over {len(held['episodes'])} episodes", flush=True)
        except GatoError as error:  # one broken world does not stop the others; the page names it
            held = json.loads(file.read_text()) if file.is_file() else {"id": task.id, "episodes": [], "facts": {}}
            write_whole(file, json.dumps({**held, "failed": f"{error.what} ({error.code})"}) + "\n")
            print(f"{task.id}: {error}", flush=True)


def _force(agent: Agent, task: Task, file: Path, datasets: Mapping[str, Path], held_out: bool) -> None:
    held = json.loads(file.read_text()) if file.is_file() else {"id": task.id, "episodes": [], "facts": {}}
    if task.id in datasets and "teacher_forced" not in held:
        errors = action_errors(agent, task.id, demonstrations(datasets[task.id]))
        held["teacher_forced"] = {**errors, "held_out": held_out}
        write_whole(file, json.dumps(held) + "\n")
        print(f"{task.id}: {held['teacher_forced']['timesteps']} timesteps predicted", flush=True)


def _without_data(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The list of a baseline's datasets would be longer than its scores."""
    return {k: v for k, v in protocol.items() if k not in ("data", "evaluation_seconds")}


# -- results ----------------------------------------------------------------------------------------------------------


def scores_of(held: Mapping[str, Any]) -> TaskScores:
    """With the references as they are now: they may have been measured anew since the episodes were played."""
    task = find(held["id"])
    means = {kind: reference.mean for kind, reference in task.references.items()}
    return TaskScores(
        task.id, held["episodes"], means.get("random"), means.get("expert"), task.score, dict(held["facts"])
    )


def assemble(state: Path, published: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All that --state holds, as one results.json; a baseline that it does not hold is the published one. Raises UsageError
    where there is no agent in it."""
    run, held = _read(state / "gato")
    if run is None:
        raise UsageError("no agent has been evaluated here", where=str(state), fix=COMMAND)
    played = [h for h in held if h["episodes"]]
    record = results(
        {
            **run["protocol"],
            "environment_steps": sum(h["facts"]["environment_steps"] for h in played),
            "evaluation_seconds": round(sum(h["facts"]["seconds"] for h in played), 1),
            "fewer_episodes": f"{FEW} where an episode takes over {SLOW:.0f} s",
        },
        [scores_of(h) for h in played],
    )
    forced = {h["id"]: h["teacher_forced"] for h in held if "teacher_forced" in h}
    for task in record["tasks"]:
        task |= {"teacher_forced": forced[task["id"]]} if task["id"] in forced else {}
    record["progress"] = {
        "known": len(run["known"]), "known_by_domain": _count(run["known"]), "evaluated": len(played),
        "not_installed": run["not_installed"], "failed": {h["id"]: h["failed"] for h in held if "failed" in h},
    }  # fmt: skip
    if (state / LANGUAGE).is_file():
        record["language"] = json.loads((state / LANGUAGE).read_text())
    record["baselines"] = dict(published["baselines"]) if published else {}
    run, held = _read(state / "retrieve")
    if run is not None:
        baseline = results(run["protocol"], [scores_of(h) for h in held if h["episodes"]])
        kept = ("id", "domain", "score", "expert_normalised", "interval", "episodes", "episode_scores")
        record["baselines"]["retrieve"] = {
            "protocol": baseline["protocol"],
            "tasks": [{k: task[k] for k in kept} for task in baseline["tasks"]],
            "aggregates": baseline["aggregates"],
            "failed": {h["id"]: h["failed"] for h in held if "failed" in h},
        }
    return record


def _read(folder: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    if not (folder / "run.json").is_file():
        return None, []
    files = sorted(f for f in folder.glob("*.json") if f.name != "run.json")
    return json.loads((folder / "run.json").read_text()), [json.loads(f.read_text()) for f in files]


def _count(tasks: Iterable[str]) -> dict[str, int]:
    domains = [task.split("/", 1)[0] for task in tasks]
    return {domain: domains.count(domain) for domain in sorted(set(domains))}


# -- the page ---------------------------------------------------------------------------------------------------------


def page(record: Mapping[str, Any] | None) -> str:
    """docs/agent.md. Without results it says how they are made, and that there are none."""
    parts = ["# The agent", f"<!-- written by benchmarks/generalist.py --page: change it there -->\n\n{HOW}"]
    if record is None or not record["tasks"]:
        return "\n\n".join([*parts, f"No task has been evaluated yet: `{COMMAND}`.", limits(None)]) + "\n"
    parts += [headline(record), "## By domain", by_domain(record), beside(record)]
    if record["aggregates"]["tasks"]:
        parts += [f"![Share of tasks at or above each percentage of their expert]({CURVE})", curve_words(record)]
    forced = forced_table(record)
    parts += ["## Single actions", forced] if forced else []
    parts += ["## Beside specialists", specialists_table()] if SPECIALISTS.is_file() else []
    parts += ["## Language and pictures", language_table(record["language"])] if record.get("language") else []
    parts += ["## Task by task", by_task(record), "## Protocol", protocol(record), limits(record)]
    return "\n\n".join(parts) + "\n"


HOW = (
    "One network, one set of weights, on every control task it was trained on. A score is a mean over episodes from seeds "
    "that no training used, and a percentage says how far it is on the way from random play (0 %) to the task's expert "
    "(100 %); nothing is clipped. The headline is the mean of the domains' means, as in the paper."
)


def headline(record: Mapping[str, Any]) -> str:
    found, progress, facts = record["aggregates"], record["progress"], record["protocol"]
    told = f"{progress['evaluated']} of the {progress['known']} tasks that the network was trained on are in"
    if not found["tasks"]:
        return f"**No task with reference scores has been evaluated; {told}.**"
    low, high = found["intervals"]["mean_of_domain_means"]
    share = 100 * found["tasks_at_50"] / found["tasks"]
    lines = [
        f"**{percent(found['mean_of_domain_means'], 1)} of expert** ({_span(low, high)}) over {len(found['domains'])} domains "
        f"and {found['tasks']} scored tasks; {told}.",
        "",
        table(
            ("", "value", "95 % interval"),
            [
                [name, percent(found[key], 1), _span(*found["intervals"][key])]
                for key, name in (
                    ("mean_of_domain_means", "mean of domain means"), ("mean", "mean over tasks"),
                    ("median", "median"), ("iqm", "interquartile mean"),
                )
            ]
            + [
                [f"tasks at {level} % of expert or more", f"{found[f'tasks_at_{level}']} of {found['tasks']}",
                 "{:.0f} to {:.0f}".format(*found["intervals"][f"tasks_at_{level}"])]
                for level in (50, 80)
            ],
        ),
        "",
        f"Half of the expert or more on {share:.0f} % of the scored tasks; the paper says more than {PAPER_AT_50[0]} of "
        f"{PAPER_AT_50[1]} ({100 * PAPER_AT_50[0] / PAPER_AT_50[1]:.0f} %) of its own, with a network of 1.18 billion "
        f"parameters. This one has {facts['parameters']:,}.",
    ]  # fmt: skip
    return "\n".join(lines)


def by_domain(record: Mapping[str, Any]) -> str:
    """A row per domain, ours beside retrieval, the paper and JAT."""
    found, baseline = record["aggregates"], record["baselines"].get("retrieve")
    rows = []
    for domain, known in record["progress"]["known_by_domain"].items():
        scored = [t for t in record["tasks"] if t["domain"] == domain and t["expert_normalised"] is not None]
        at_50 = sum(t["expert_normalised"] >= 50 - 1e-9 for t in scored)
        span = _span(*found["intervals"]["domains"][domain]) if domain in found["domains"] else ""
        theirs, jat = PAPER.get(domain), JAT.get(domain)
        rows.append(
            [
                f"`{domain}`", f"{len(scored)} of {known}", percent(found["domains"].get(domain), 1), span,
                f"{at_50} of {len(scored)}" if scored else "–", _retrieved(scored, baseline),
                f"{percent(theirs.percent, 1)}{'' if theirs.checked else ' *'} ({theirs.tasks})" if theirs else "–",
                percent(jat) if jat is not None else "–",
            ]
        )  # fmt: skip
    head = ("domain", "tasks scored", "% of expert", "95 % interval", "at 50 % or more", "retrieve and replay",
            "Gato, 1.18B (tasks)", "JAT, IQM")  # fmt: skip
    return table(head, rows)


def _retrieved(scored: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any] | None) -> str:
    """The baseline's mean over those of these tasks that it has, with their number where it lacks some."""
    if baseline is None:
        return "–"
    has = {t["id"]: t["expert_normalised"] for t in baseline["tasks"]}
    both = [has[t["id"]] for t in scored if has.get(t["id"]) is not None]
    if not both:
        return "–"
    return percent(float(np.mean(both)), 1) + (f" ({len(both)} of {len(scored)})" if len(both) < len(scored) else "")


def beside(record: Mapping[str, Any]) -> str:
    said = [
        "The last two columns are others' numbers on their own tasks, experts and random scores, which were never "
        "published task by task: they say what a domain's difficulty is like, not who is better. *Gato* is Table 8 of "
        "[Reed et al. 2022](https://arxiv.org/abs/2205.06175), 50 episodes a task; those with an asterisk we could not check "
        "in a second source. *JAT* is the model card of `jat-project/jat` "
        "([Gallouédec et al. 2024](https://arxiv.org/abs/2402.09844)): interquartile means, which leave out the worst and "
        "the best quarter. *Retrieve and replay* acts by the action of the most similar demonstrated observation, "
        "with the same demonstrations and episodes, and learns nothing."
    ]
    baseline = record["baselines"].get("retrieve")
    if baseline and baseline["failed"]:
        said.append(f"It lacks {len(baseline['failed'])} tasks whose demonstrations are too many to be searched.")
    return " ".join(said)


def curve_words(record: Mapping[str, Any]) -> str:
    found = record["aggregates"]["thresholds"]
    at = dict(zip(found["percent"], found["tasks"], strict=True))
    total = record["aggregates"]["tasks"]
    shown = ", ".join(f"{at[level]} at {level} %" for level in (25, 50, 75, 100))
    return (
        f"How many tasks reach each percentage of their expert, as in the paper's Figure 5: of {total}, {shown}. "
        "The point is the paper's one number in words, of its own tasks."
    )


def by_task(record: Mapping[str, Any]) -> str:
    """A folded table; HTML, since a list of hundreds must fold where Markdown cannot."""
    retrieved = {t["id"]: t for t in record["baselines"].get("retrieve", {}).get("tasks", [])}
    rows = []
    for task in record["tasks"]:
        other = retrieved.get(task["id"], {})
        span = _span(*task["interval"]) if task["interval"] else ""
        cells = (
            task["measure"], _number(task["score"]), _number(task["random"]), _number(task["expert"]),
            percent(task["expert_normalised"], 1), span, str(task["episodes"]),
            percent(other.get("expert_normalised"), 1) if other else "–",
        )  # fmt: skip
        told = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr><td><code>{html.escape(task['id'])}</code></td>{told}</tr>")
    heads = ("task", "measure", "score", "random", "expert", "% of expert", "95 % interval", "episodes", "retrieve")
    head = "".join(f"<th>{h}</th>" for h in heads)
    return (
        f"<details><summary>{len(rows)} tasks</summary>\n<table><thead><tr>{head}</tr></thead><tbody>\n"
        + "\n".join(rows) + "\n</tbody></table>\n</details>"
    )  # fmt: skip


def forced_table(record: Mapping[str, Any]) -> str:
    """Errors of single actions, averaged over the tasks of a domain; empty where none were measured."""
    rows = []
    for domain in record["progress"]["known_by_domain"]:
        mine = [t["teacher_forced"] for t in record["tasks"] if t["domain"] == domain and "teacher_forced" in t]
        if mine:
            off, right = ([m[k] for m in mine if m[k] is not None] for k in ("of_half_range", "accuracy"))
            rows.append(
                [f"`{domain}`", str(len(mine)), percent(100 * float(np.mean(right)), 1) if right else "–",
                 percent(100 * float(np.mean(off)), 1) if off else "–",
                 percent(record["aggregates"]["domains"].get(domain), 1)]
            )  # fmt: skip
    if not rows:
        return ""
    head = (
        "domain",
        "tasks",
        "discrete actions right",
        "continuous ones off by, of half range",
        "own play, % of expert",
    )
    unseen = all(t["teacher_forced"]["held_out"] for t in record["tasks"] if "teacher_forced" in t)
    seen = "demonstrations that training did not see" if unseen else "demonstrations that it may have been trained on"
    return (
        f"{table(head, rows)}\n\nWith the demonstrator's own history before each action, on {seen}, at most "
        f"{FORCED_EPISODES} episodes a task. Small errors here and a "
        "low score mean demonstrations that cover too little of where the agent gets to; large ones, a task not learned."
    )


def language_table(told: Mapping[str, Any]) -> str:
    """A row per generated corpus: what the network makes of the part that it was not trained on."""
    rows = []
    for corpus, found in told.items():
        if corpus == "scenes":
            continue
        if "bits_per_byte" in found:
            score = f"{found['bits_per_byte']:.3f} bits per byte"
            beside = f"{found['trigram_bits_per_byte']:.3f}, an interpolated trigram on the same tokens"
        elif "accuracy" in found:
            score = f"{percent(100 * found['accuracy'])} of replies right"
            blind = max(found[k] for k in ("chance", "answer_prior", "question_prior") if k in found)
            beside = f"{percent(100 * blind)}, the likeliest reply without looking"
        elif "true" in found:
            score = f"{percent(100 * found['true'])} of captions true"
            beside = f"{percent(100 * found['true_of_another'])}, the same captions of other pictures"
        else:
            score, beside = f"{percent(100 * found['exact_match'])} word for word", "–"
        rows.append([f"`{corpus}`", score, beside])
    return (
        table(("corpus", "the agent", "beside it"), rows)
        + f"\n\nOf each corpus the first {told['scenes']} documents that are held out for ever, of text all; at temperature 0."
    )


def specialists_table() -> str:
    """What benchmarks/specialists.py measured."""
    found = json.loads(SPECIALISTS.read_text())
    rows = [
        [
            f"`{domain}`", str(row["tasks"]), f"{row['tokens'] / 1e6:.1f} M",
            *(f"{percent(row[who], 1)} ({_span(*row[f'{who}_interval'])})" for who in ("specialist", "generalist")),
        ]
        for domain, row in found["domains"].items()
    ]  # fmt: skip
    return (
        "The same network, trained on one domain alone, on as many tokens of it as the generalist had, and played on the same episodes "
        "(`benchmarks/specialists.py`): does it cost anything to learn the rest along? One training each.\n\n"
        + table(("domain", "tasks", "tokens", "specialist", "generalist"), rows)
    )


def protocol(record: Mapping[str, Any]) -> str:
    facts, progress = record["protocol"], record["progress"]
    counts = sorted({t["episodes"] for t in record["tasks"]})
    fewer = f" ({facts['fewer_episodes']})" if counts[-1] > FEW else ""
    lines = [
        f"{' or '.join(map(str, counts))} episodes a task{fewer}; seeds: {facts['seeds']}.",
        f"Acting: {', '.join(f'{k} {v}' for k, v in facts['acting'].items())}.",
        f"The network: {facts['parameters']:,} parameters" + _trained(facts) + ".",
        f"Intervals: {facts['statistics']['interval']}." + (FEW_EPISODES if counts[0] < FEW else ""),
        f"{facts['environment_steps']:,} environment steps in {duration(facts['evaluation_seconds'])} on {facts['processor']}; "
        f"Python {facts['python']}, {', '.join(f'{k} {v}' for k, v in facts['versions'].items())}.",
    ]
    if progress["evaluated"] < progress["known"]:
        lines.append(f"{progress['known'] - progress['evaluated']} tasks are not in: not played yet, or named below.")
    if progress["not_installed"]:
        lines.append(
            f"Without a world here (the simulator is not installed, or there is none): {_listed(progress['not_installed'])}."
        )
    if progress["failed"]:
        lines.append("Failed: " + "; ".join(f"`{task}`, {why}" for task, why in progress["failed"].items()) + ".")
    if record["aggregates"]["unscored"]:
        lines.append(f"Played, but without a percentage (no reference, or an expert no better than random): "
                     f"{_listed(record['aggregates']['unscored'])}.")  # fmt: skip
    return "\n".join(f"* {line}" for line in lines)


def _trained(facts: Mapping[str, Any]) -> str:
    told = ""
    if facts.get("training_tokens"):
        told += f", trained on {facts['training_tokens']:,} tokens"
    if facts.get("training_seconds"):
        told += f" in {duration(facts['training_seconds'])}"
    return told


def limits(record: Mapping[str, Any] | None) -> str:
    lines = [
        "One training run: intervals cover other episodes of this network, not other trainings.",
        "The experts are ours (scripts, planners, bots; `gato tasks` names them), so 100 % is not the 100 % of the paper, "
        "whose experts were trained agents; where an expert is weak, a percentage over 100 says little.",
        "Every task scored here was trained on. What it does with few demonstrations of a new one is another question.",
        "A domain of two tasks weighs in the headline as much as one of ninety.",
    ]
    if record is not None and record["progress"]["evaluated"] < record["progress"]["known"]:
        lines.insert(
            0, "The evaluation is not complete, and which tasks are in was decided by their order, not by chance."
        )
    return "## Limits\n\n" + "\n".join(f"* {line}" for line in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _listed(tasks: Sequence[str], most: int = 12) -> str:
    names = ", ".join(f"`{task}`" for task in tasks[:most])
    return names + (f" and {len(tasks) - most} more" if len(tasks) > most else "")


def _span(low: float, high: float) -> str:
    return f"{low:.1f} to {high:.1f}".replace("-", "−")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "−")


def draw(record: Mapping[str, Any], file: Path) -> None:
    """The paper's Figure 5 as shares: the agent, the baseline once it has played all of them, and the paper's number in words. PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.8, 3.4), dpi=150, layout="constrained")
    ax = figure.subplots()
    drawn = [("this agent", record["aggregates"], "#0d6e8c", 2.0)]
    baseline = record["baselines"].get("retrieve")
    # Of other tasks it would compare nothing.
    if baseline and baseline["aggregates"]["tasks"] == record["aggregates"]["tasks"]:
        drawn.append(("retrieve and replay", baseline["aggregates"], "#999999", 1.4))
    for name, found, colour, width in drawn:
        if total := found["tasks"]:
            shares = [100 * n / total for n in found["thresholds"]["tasks"]]
            ax.plot(
                found["thresholds"]["percent"], shares, color=colour, linewidth=width, label=f"{name}, {total} tasks"
            )
    ax.plot(50, 100 * PAPER_AT_50[0] / PAPER_AT_50[1], "o", color="#c9622b", label="Gato 1.18B: more than 450 of 604")
    ax.axvline(100, color="#bbbbbb", linewidth=0.8, linestyle="--")
    ax.set(xlim=(0, 150), ylim=(0, 101), xlabel="% of expert", ylabel="% of tasks at or above")
    ax.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="png", metadata={"Software": None})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, help="a bundle, or a run that holds one")
    parser.add_argument("--policy", choices=("gato", "retrieve"), default="gato")
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], help="demonstrations, for the baseline and --teacher-forced"
    )
    parser.add_argument("--state", type=Path, help="a file per task and policy")
    parser.add_argument("--tasks", default="", help="globs, comma-separated; all if not given")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no task after so many")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="block of evaluation seeds")
    parser.add_argument(
        "--teacher-forced", action="store_true", help="errors of single actions on --data, in place of play"
    )
    parser.add_argument("--language", action="store_true", help="captions, replies and text, in place of play")
    parser.add_argument("--held-out", action="store_true", help="say that training saw nothing of --data")
    parser.add_argument("--restore", action="store_true", help="begin --state from the scores in --results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", action="store_true", help="write the page from the results")
    parser.add_argument("--card", default="", metavar="NAME", help="write the model card of BUNDLE, under this name")
    parser.add_argument("--address", default="", help="what gato.load takes in the card; nothing for the package's own")
    parser.add_argument("--docs", type=Path, default=PAGE, help="where that page goes")
    args = parser.parse_args(argv)
    if args.policy == "retrieve" and not args.data:
        parser.error("--policy retrieve needs --data")
    if args.card and not args.bundle:
        parser.error("--card needs BUNDLE")
    if args.teacher_forced and not (args.data and args.bundle):
        parser.error("--teacher-forced needs BUNDLE and --data")
    if args.state:
        if args.bundle or args.policy == "retrieve":
            evaluate_all(args)
        if (args.state / "gato/run.json").is_file():
            published = read_results(args.results) if args.results.is_file() else None
            write_results(assemble(args.state, published), args.results)
            print(f"results: {args.results}")
    elif not (args.page or args.card):
        parser.error("--state, --page, --card, or several of them")
    record = read_results(args.results) if args.results.is_file() else None
    if args.card:
        folder = bundle_in(args.bundle) or args.bundle
        write_whole(folder / "README.md", model_card(Bundle.load(folder), args.card, record, address=args.address))
        print(f"card: {folder / 'README.md'}")
    if args.page:
        if record and record["aggregates"]["tasks"]:
            draw(record, args.docs.parent / CURVE)
        write_whole(args.docs, page(record))
        print(f"page: {args.docs}")


if __name__ == "__main__":
    main()
