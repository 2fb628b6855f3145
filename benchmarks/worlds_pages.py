"""The pages about worlds: one for each domain under docs/worlds/, and the tables of docs/worlds.md.

    python benchmarks/worlds_pages.py --write docs            # all of it; needs no simulator
    python benchmarks/worlds_pages.py sokoban                 # print one page
    python benchmarks/worlds_pages.py --pictures 'procgen'    # draw docs/images/worlds/procgen.png; needs the simulator

Everything comes from the package: tasks from the registry, prose from `gato.worlds.cards`, scores from
`references/DOMAIN.json` (`benchmarks/references.py` measures them), specs from `references/specs.json`
(`benchmarks/worlds_specs.py` records them), traces from `traces/made.json`. In docs/worlds.md only what stands between
`<!-- domains -->`, `<!-- paper -->`, `<!-- traces -->` and their ends is replaced. A test compares the committed pages with what this makes.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import importlib
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gato.worlds
from gato.worlds import Reference, Task
from gato.worlds.atari_scores import LITERATURE
from gato.worlds.cards import CARDS, PAPER, DomainCard

TRACES = Path(__file__).parents[1] / "traces/made.json"
REFERENCES = Path(gato.worlds.__file__).parent / "references"
DOCS = Path(__file__).parents[1] / "docs"
Z = 1.959964  # of a two-sided 95 % interval
TILE_HEIGHT, MAX_BYTES = 144, 30_000
LOOKING = {"miniworld", "dm-control-maze"}


# -- what there is ------------------------------------------------------------------------------------------------------


@functools.cache
def by_domain() -> dict[str, list[Task]]:
    """The package's own tasks; those that others have registered are not ours to describe."""
    domains: dict[str, list[Task]] = {}
    for module in gato.worlds.DOMAINS:
        for task in importlib.import_module(f"gato.worlds.{module}").tasks():
            domains.setdefault(task.domain, []).append(task)
    return domains


@functools.cache
def specs() -> dict[str, Any]:
    return json.loads((REFERENCES / "specs.json").read_text())


@functools.cache
def records(domain: str) -> dict[str, Any]:
    file = REFERENCES / f"{domain}.json"
    return json.loads(file.read_text()) if file.exists() else {}


# -- numbers ------------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three significant digits, more only before the point, at most four after it; no exponent."""
    digits = min(4, max(0, 2 - math.floor(math.log10(abs(value))))) if value else 0
    text = f"{value:,.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "0") else text.replace("-", "−")


def interval(reference: Reference, score: str) -> tuple[float, float] | None:
    """95 %: Wilson's for a share of successes, Student's for a mean of returns; None of a single episode."""
    n, mean = reference.episodes, reference.mean
    if score == "success":
        middle, half = mean + Z * Z / (2 * n), Z * math.sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n))
        return (middle - half) / (1 + Z * Z / n), (middle + half) / (1 + Z * Z / n)
    if n < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * reference.std / math.sqrt(n)
    return mean - half, mean + half


def shown(reference: Reference | None, score: str) -> str:
    """`860 [859, 861]`, or a dash."""
    if reference is None:
        return "–"
    between = interval(reference, score)
    return number(reference.mean) + (f" [{', '.join(number(edge) for edge in between)}]" if between else "")


def published(task: Task) -> str:
    """What the literature has, with who played; sources stand below the table."""
    if task.published:
        return f"{number(task.published['score'])} ({task.published['agent']})"
    name = task.id.partition("/")[2]
    if task.domain == "ale-atari" and name in LITERATURE:
        return f"{number(human(task))} (human)"
    if task.domain == "procgen":
        least, most = task.meta["published_range"]
        return f"{number(least)} (blind) … {number(most)} (greatest)"
    return ""


# -- Markdown -----------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def bound(low: Sequence[float | None], high: Sequence[float | None]) -> str:
    """`[−1, 1]`; `in [−40, 100]` where tasks or elements differ."""
    ends = [
        ("−∞" if v is None and i == 0 else "∞" if v is None else number(v)) for i, v in enumerate((low[0], high[1]))
    ]
    if low == high == [None, None]:
        return "unbounded"
    return ("" if low[0] == low[1] and high[0] == high[1] else "within ") + f"[{', '.join(ends)}]"


def shape(shapes: Sequence[Sequence[int]]) -> str:
    return " … ".join("×".join(map(str, s)) or "one" for s in shapes)


def leaf_table(domain: str) -> str:
    """One row per leaf of observation and action, over all tasks of the domain."""
    if domain not in specs():
        return ""
    known, total = specs()[domain], len(specs()[domain]["tasks"])
    rows = []
    for leaf in known["leaves"]:
        values = ""
        if leaf["kind"] == "discrete":
            few, many = (int(leaf["high"][i] - leaf["low"][i]) + 1 for i in (0, 1))
            values = f"{few} values" if few == many else f"{min(few, many)} to {max(few, many)} values"
        elif leaf["kind"] == "continuous":
            values = bound(leaf["low"], leaf["high"])
        elif leaf["kind"] == "image":
            values = "0 to 255"
        share = "all" if leaf["tasks"] == total else str(leaf["tasks"])
        where = "–" if leaf["kind"] == "text" else shape(leaf["shapes"])
        rows.append([leaf["side"], f"`{leaf['path']}`", leaf["kind"], where, values, share])
    return table(("side", "leaf", "kind", "shape", "values", "in tasks"), rows)


def sees(domain: str, name: str) -> str:
    """`39 → 4`, `16 patches, 3 → 1`, `50, text → 1`: what is observed at a step and what is done."""
    if name not in specs().get(domain, {}).get("tasks", {}):
        return "–"
    values, patches, texts, actions = specs()[domain]["tasks"][name]
    seen = [f"{patches} patches"] * bool(patches) + [str(values)] * bool(values) + ["text"] * texts
    return f"{', '.join(seen)} → {actions}"


def score_table(domain: str) -> str:
    tasks = by_domain()[domain]
    with_published = any(published(task) for task in tasks)
    rows = []
    for task in tasks:
        name, references, record = task.id.partition("/")[2], task.references, records(domain).get(task.id, {})
        counts = [str(references[kind].episodes) if kind in references else "–" for kind in ("random", "expert")]
        failed = record.get("expert_failures")
        row = [
            f"`{name}`",
            sees(domain, name),
            str(task.max_steps),
            task.expert_name if task.make_expert else "none",
            shown(references.get("random"), task.score),
            shown(references.get("expert"), task.score),
            "–" if counts == ["–", "–"] else " / ".join(counts),
            "–" if failed is None else str(failed),
            number(record["seconds_per_episode"]) if "seconds_per_episode" in record else "–",
        ]
        rows.append(row + [published(task) or "–"] * with_published)
    head = ["task", "sees → does", "steps", "expert", "random", "expert's score", "episodes", "failed", "s"]
    return table(head + ["published"] * with_published, rows)


def sources(domain: str) -> str:
    """Where the published scores are from: a place, and the agents that it has them of."""
    found: dict[str, set[str]] = {}
    for task in by_domain()[domain]:
        if task.published:
            found.setdefault(task.published["source"].partition(", ")[0], set()).add(task.published["agent"])
    said = "; ".join(f"{', '.join(sorted(agents))}: {place}" for place, agents in sorted(found.items()))
    file = f"`src/gato/worlds/references/{domain}.published.json`"
    return f"Published: {said}; file and steps of each in {file}." if said else ""


def versions(domain: str) -> str:
    found: dict[str, set[str]] = {}
    for record in records(domain).values():
        for name, version in record.get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {' and '.join(sorted(found[name]))}" for name in sorted(found))


def counted(number_: int, noun: str) -> str:
    return f"{number_} {noun}{'' if number_ == 1 else 's'}"


def page(domain: str) -> str:
    """The page of one domain."""
    card, tasks = CARDS[domain], by_domain().get(domain, [])
    parts = [
        f"# {domain}",
        "<!-- made by benchmarks/worlds_pages.py: change it there, or in gato.worlds.cards -->",
        card.what,
    ]
    if card.pictures:
        names = [name.partition("/")[2] for name in card.pictures]
        parts.append(f"![{', '.join(names)}](../images/worlds/{domain}.png)")
        parts.append(f"*{'From left to right: ' * (len(names) > 1)}{listed(names)}.*")
    if card.more:
        parts.append(card.more)
    parts += [install(card, tasks), "## What it sees and does"]
    parts.append(
        f"* **Observation**: {card.seen}\n* **Action**: {card.done}\n* **Score**: {card.score}\n* **Wide starts**: {card.wide}"
    )
    parts += [leaves] if (leaves := leaf_table(domain)) else []
    parts += ["## Expert", card.how] + [f"**Where it fails**: {card.fails}"] * bool(card.fails)
    parts += [without] if (without := no_expert(tasks)) else []
    if tasks:
        parts += ["## Scores", how_measured(domain), score_table(domain)]
        parts += [notes] if (notes := special_notes(tasks)) else []
    return "\n\n".join([*parts, "## Beside the paper", beside_paper(domain, card)]) + "\n"


def install(card: DomainCard, tasks: list[Task]) -> str:
    lines = [f"Simulator: {card.simulator}."]
    if tasks and (line := tasks[0].pip_line):
        lines.append("```bash\n" + line.replace(" && ", " && \\\n  ") + "\n```")
    elif tasks and tasks[0].requires:
        lines.append(f"Install: {tasks[0].notes}.")
    else:
        lines[0] += " Nothing to install."
    return "\n\n".join(lines)


def no_expert(tasks: list[Task]) -> str:
    without = [task for task in tasks if task.make_expert is None]
    if not without or len(without) == len(tasks):
        return ""
    names = listed(task.id.partition("/")[2] for task in without)
    return f"{len(without)} of {counted(len(tasks), 'task')} have no expert: {names}."


def how_measured(domain: str) -> str:
    tasks = by_domain()[domain]
    numbers = [sum(kind in task.references for task in tasks) for kind in ("random", "expert")]
    score = tasks[0].score
    text = (
        f"{counted(len(tasks), 'task')}, {sum(t.make_expert is not None for t in tasks)} with an expert; random play is measured on "
        f"{numbers[0]}, the expert on {numbers[1]}."
    )
    if any(numbers):
        kind = (
            "Share of successes with Wilson's 95 % interval"
            if score == "success"
            else "Mean return with its 95 % interval (Student's)"
        )
        text += (
            f" {kind}; *episodes*: of random play / of the expert; *failed*: episodes the expert gave up, not in the mean; *s*: the "
            f"expert's seconds an episode on one core, simulator included."
        )
    if shared := {task.same_world.partition("/")[0] for task in tasks if task.same_world}:
        senses = f"of {listed(shared)}" if shared != {domain} else "of the same task from state"
        text += f" The scores are those {senses}: the same world, played by the same expert, which does not look at the observation."
    if measured_with := versions(domain):
        text += f" Measured with {measured_with}."
    return " ".join(filter(None, (text, sources(domain), beside_published(tasks))))


def beside_published(tasks: list[Task]) -> str:
    """On how many tasks the expert comes up to what was published: the human, half of Procgen's range, 80 % of an agent."""
    told = [task for task in tasks if published(task)]
    measured = [(task, task.references["expert"].mean) for task in told if "expert" in task.references]
    if not measured:
        return ""
    if tasks[0].domain == "ale-atari":
        come = f"it is above the human on {sum(ours > human(task) for task, ours in measured)}"
    elif tasks[0].domain == "procgen":
        come = (
            f"its normalised return is 0.5 or more on {sum(normalised(task, ours) >= 0.5 for task, ours in measured)}"
        )
    else:
        come = f"it has 80 % of that or more on {sum(ours >= 0.8 * task.published['score'] for task, ours in measured)}"
    return f"{counted(len(told), 'task')} have a published score; the expert is measured on {len(measured)} of them, and {come}."


def human(task: Task) -> float:
    return LITERATURE[task.id.partition("/")[2]][1]


def normalised(task: Task, score: float) -> float:
    """Of a Procgen game: 0 for who sees nothing, 1 for the most that can be had."""
    least, most = task.meta["published_range"]
    return (score - least) / (most - least)


def special_notes(tasks: list[Task]) -> str:
    """What the registry notes of single tasks that it does not note of most."""
    usual = max((task.notes for task in tasks), key=[task.notes for task in tasks].count)
    if sum(task.notes == usual for task in tasks) < 0.8 * len(tasks):
        return ""
    prefix = usual.partition(";")[0]
    return "\n".join(
        f"* `{task.id.partition('/')[2]}`: {task.notes.removeprefix(usual).removeprefix('; ') if usual else task.notes}."
        for task in tasks
        if task.notes != usual and (not usual or task.notes.startswith(prefix))
    )


def beside_paper(domain: str, card: DomainCard) -> str:
    own = [row for row in PAPER if domain in row.domains]
    near = [row for row in PAPER if domain in row.nearest]
    lines = [f"Table 1: {row.name}, {counted(row.tasks, 'task')}; its data came from {row.agent}." for row in own]
    lines += [
        f"Stands in for {row.name} ({counted(row.tasks, 'task')}), which cannot be had: see [Worlds](../worlds.md)."
        for row in near
    ]
    return "\n\n".join([*lines, card.differs])


# -- the index ----------------------------------------------------------------------------------------------------------


def index_domains() -> str:
    rows = []
    for domain, card in CARDS.items():
        tasks = by_domain().get(domain, [])
        experts = sum(task.make_expert is not None for task in tasks)
        measured = sum({"random", "expert"} <= set(task.references) for task in tasks)
        extra = f"`{tasks[0].extra}`" if tasks and tasks[0].extra else "–"
        rows.append([
            f"[`{domain}/{'*' if tasks else 'ENV-ID'}`](worlds/{domain}.md)", str(len(tasks)) if tasks else "any", card.observation, card.action,
            tasks[0].score if tasks else "return", card.expert, f"{experts} / {measured}" if tasks else "–", plain(card.simulator), extra,
        ])  # fmt: skip
    head = (
        "domain",
        "tasks",
        "observation",
        "action",
        "score",
        "expert",
        "with expert / measured",
        "simulator, licence",
        "extra",
    )
    total = sum(len(tasks) for tasks in by_domain().values())
    all_tasks = [task for tasks in by_domain().values() for task in tasks]
    line = (
        f"{total} tasks in {len(by_domain())} domains, {sum(t.make_expert is not None for t in all_tasks)} with an expert. Measured: random "
        f"play on {sum('random' in t.references for t in all_tasks)}, the expert on {sum('expert' in t.references for t in all_tasks)}; "
        f"on {sum(map(beyond_doubt, all_tasks))} the expert is better beyond doubt (Welch's test, one-sided, p < 0.001)."
    )
    return f"{table(head, rows)}\n\n{line}"


def beyond_doubt(task: Task) -> bool:
    """Whether the expert is better than random play, by both measurements."""
    from scipy.stats import ttest_ind_from_stats

    if not {"random", "expert"} <= set(task.references):
        return False
    expert, random = task.references["expert"], task.references["random"]
    if expert.std == random.std == 0:  # nothing to test: the same at every episode
        return expert.mean > random.mean and min(expert.episodes, random.episodes) >= 8
    sides = [(reference.mean, reference.std, reference.episodes) for reference in (expert, random)]
    return bool(ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False, alternative="greater").pvalue < 0.001)


def plain(text: str) -> str:
    """Without the links."""
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)


def link(domain: str) -> str:
    tasks = by_domain().get(domain, [])
    return f"[`{domain}`](worlds/{domain}.md) ({len(tasks)})"


def index_paper() -> str:
    rows = [
        [
            row.name,
            str(row.tasks),
            row.agent,
            ", ".join(map(link, row.domains)) or "–",
            ", ".join(map(link, row.nearest)) or "–",
        ]
        for row in PAPER
    ]
    missing = "\n".join(f"* **{row.name}.** {row.why}" for row in PAPER if row.why)
    head = ("row of Table 1", "tasks", "its agents", "here (tasks)", "nearest (tasks)")
    return f"{table(head, rows)}\n\nWhat cannot be had:\n\n{missing}"


def index_traces() -> str:
    """What `benchmarks/make_traces.py --publish` says of the repository's traces, by domain."""
    made: dict[str, list[dict[str, Any]]] = {}
    for task, record in json.loads(TRACES.read_text()).items():
        made.setdefault(task.partition("/")[0], []).append(record)
    rows = []
    for domain, records in made.items():
        several = sorted({record["episodes"] for record in records})
        rows.append([
            f"`{domain}`", str(len(records)), " or ".join(map(str, several)), f"{sum(r['timesteps'] for r in records):,}",
            f"{sum(r['core_hours'] for r in records):.2g}", f"{sum(r['bytes'] for r in records) / 1e6:.1f}",
        ])  # fmt: skip
    return table(("domain", "tasks", "episodes each", "timesteps", "core hours to make", "MB"), rows)


def filled(text: str) -> str:
    """The index with its tables made anew."""
    for mark, made in (("domains", index_domains()), ("paper", index_paper()), ("traces", index_traces())):
        begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        text = f"{text[: text.index(begin) + len(begin)]}\n\n{made}\n\n{text[text.index(end) :]}"
    return text


def pages(docs: Path) -> dict[Path, str]:
    """Every file this makes, with what should stand in it."""
    made = {docs / "worlds" / f"{domain}.md": page(domain) for domain in CARDS}
    return made | {docs / "worlds.md": filled((docs / "worlds.md").read_text())}


# -- pictures -----------------------------------------------------------------------------------------------------------


def view(task: Task, seed: int) -> np.ndarray:
    """What the world looks like some steps after its start: random ones, or in first person the expert's, which lead somewhere."""
    env = task.make(render=True)
    try:
        observation, info = env.reset(seed=seed)
        env.action_space.seed(seed)
        policy = task.expert(env.unwrapped, seed) if task.domain in LOOKING else lambda *_: env.action_space.sample()
        for _ in range(20):
            observation, _, terminated, truncated, info = env.step(policy(observation, info))
            if terminated or truncated:
                env.reset(seed=seed)
                break
        return np.asarray(env.render())
    finally:
        env.close()


def contact_sheet(domain: str) -> bytes:
    """A PNG with one picture per task of the card, side by side, in as many colours as the limit of bytes allows."""
    from PIL import Image

    tiles = []
    for i, task_id in enumerate(CARDS[domain].pictures):
        picture = Image.fromarray(view(gato.worlds.find(task_id), 7 + i))
        size = (round(picture.width * TILE_HEIGHT / picture.height), TILE_HEIGHT)
        small = picture.height < TILE_HEIGHT
        tiles.append(picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS))
    sheet = Image.new("RGB", (sum(t.width for t in tiles) + 4 * (len(tiles) - 1), TILE_HEIGHT), "white")
    at = 0
    for tile in tiles:
        sheet.paste(tile, (at, 0))
        at += tile.width + 4
    for colours in (128, 64, 32, 16, 8):
        buffer = io.BytesIO()
        sheet.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MAX_BYTES:
            return buffer.getvalue()
    raise AssertionError(f"{domain}: {buffer.tell()} bytes even in eight colours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", nargs="?", help="print the page of this one")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="write all pages into this folder")
    parser.add_argument("--pictures", metavar="GLOB", help="draw the pictures of these domains")
    args = parser.parse_args()
    for domain in fnmatch.filter(CARDS, args.pictures or ""):
        if CARDS[domain].pictures:
            file = (args.write or DOCS) / "images" / "worlds" / f"{domain}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(contact_sheet(domain))
            print(f"{file}: {file.stat().st_size} bytes", flush=True)
    if args.write:
        (args.write / "worlds").mkdir(exist_ok=True)
        for file, text in pages(args.write).items():
            file.write_text(text)
    if args.domain:
        print(page(args.domain))


if __name__ == "__main__":
    main()
