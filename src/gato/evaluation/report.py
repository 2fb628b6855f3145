"""Report: a run's numbers, curves and films become one page that can be mailed, printed or read on a phone.

    write_report(Path("runs/demo"))  →  runs/demo/report.html

What is read, all but the first where it is there:

    results.json          scores.results(): protocol, tasks, aggregates, language
    train/log.jsonl       (or log.jsonl) one JSON object a line: step, tokens, loss, loss/<domain>, …
    media/index.json      [{"task", "file", "caption", "return", "expert_normalised"}], files beside it

`results["language"]` may hold numbers, nested as they like, and `samples`: pictures {"image": file in media/,
"predicted", "true"} and texts {"prompt", "continuation"}. `protocol["notes"]` is a list of things a reader must know.

The page holds its pictures within, runs no script and asks nothing of the network: its own content security policy
forbids it. Everything shown is escaped. What could not be read is said on the page, never left out in silence.
"""

from __future__ import annotations

import base64
import io
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gato.evaluation.charts import Bar, bars, curve, esc, percent, short, steps
from gato.evaluation.scores import UNCOUNTED_DOMAINS, read_results, write_whole

_MIME = {".webp": "image/webp", ".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


def write_report(run: Path) -> Path:
    """Write `report.html` into the run's folder, whole or not at all. Raises DataError for a broken results.json."""
    run = Path(run)
    return write_whole(run / "report.html", render(_gather(run)))


@dataclass
class _Run:
    """All that the page shows. `notes` are the run's own, and what the page could not find."""

    results: dict[str, Any]
    log: list[dict[str, Any]]
    media: list[dict[str, Any]]  # entries of index.json with "source", a data URI, and "size" in pixels
    captions: list[dict[str, Any]]  # the same for language samples with a picture
    texts: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[dict[str, Any]]:
        return self.results["tasks"]

    @property
    def counted(self) -> list[dict[str, Any]]:
        return [t for t in self.tasks if t["expert_normalised"] is not None and t["domain"] not in UNCOUNTED_DOMAINS]


# -- reading ----------------------------------------------------------------------------------------------------------


def _gather(run: Path) -> _Run:
    results = read_results(run / "results.json")
    notes = results["protocol"].get("notes") or []
    found = _Run(results, [], [], [], [], [notes] if isinstance(notes, str) else [str(n) for n in notes])
    found.log = read_log(
        next((f for f in (run / "train/log.jsonl", run / "log.jsonl") if f.is_file()), run), found.notes
    )
    for entry in _media_index(run / "media", found.notes):
        _add_picture(found.media, entry, entry.get("file"), run, found.notes)
    for sample in (results.get("language") or {}).get("samples") or []:
        if not isinstance(sample, Mapping):
            continue
        if "image" in sample:
            _add_picture(found.captions, sample, sample["image"], run, found.notes)
        else:
            found.texts.append(dict(sample))
    return found


def read_log(file: Path, notes: list[str] | None = None) -> list[dict[str, Any]]:
    """The training log in order of steps, one record a step (the later one, where a run was resumed).

    A line cut short by a kill is left out and noted; no file is an empty log.
    """
    if not file.is_file():
        return []
    records: dict[int, dict[str, Any]] = {}
    broken = 0
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            records[int(record["step"])] = record
        except (ValueError, TypeError, KeyError):
            broken += bool(line.strip())
    if broken and notes is not None:
        notes.append(f"{broken} line{'s' if broken > 1 else ''} of the training log could not be read.")
    return [records[step] for step in sorted(records)]


def _media_index(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Entries of index.json, in order of tasks."""
    file = folder / "index.json"
    if not file.is_file():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return sorted((dict(e) for e in entries), key=lambda e: str(e.get("task", "")))
    except (ValueError, TypeError):
        notes.append("media/index.json could not be read, so no film is shown.")
        return []


def _add_picture(into: list, entry: Mapping[str, Any], name: Any, run: Path, notes: list[str]) -> None:
    """Add the entry with its picture inlined. Only pictures inside the run are taken: a page is passed around."""
    for file in (run / "media" / str(name), run / str(name)):
        inside = file.resolve().is_relative_to(run.resolve())
        if inside and file.suffix.lower() in _MIME and file.is_file():
            data = file.read_bytes()
            try:
                with Image.open(io.BytesIO(data)) as image:
                    size = image.size
            except OSError:
                notes.append(f"media/{name} is not a picture that can be read.")
                return
            source = f"data:{_MIME[file.suffix.lower()]};base64,{base64.b64encode(data).decode()}"
            into.append({**entry, "source": source, "size": size})
            return
    notes.append(f"media/{name} is not there.")


# -- the page ---------------------------------------------------------------------------------------------------------


def render(run: _Run) -> str:
    """The whole page as one string."""
    folder = resources.files("gato.evaluation")
    sections = (_hero, _figures, _films, _tasks, _language, _learning, _table, _open_loop, _protocol)
    return string.Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        title=esc(f"Gato: {percent(run.results['aggregates'].get('mean_of_domain_means'), 1)} of expert"),
        css=(folder / "page.css").read_text(encoding="utf-8").strip(),
        body="\n".join(filter(None, (section(run) for section in sections))),
        footer="Everything on this page is inside this one file. <code>gato report RUN</code> draws it again.",
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _hero(run: _Run) -> str:
    found, counted = run.results["aggregates"], run.counted
    headline, domains = found.get("mean_of_domain_means"), found.get("domains") or {}
    parameters = run.results["protocol"].get("parameters")
    weights = f"{short(parameters)} weights" if isinstance(parameters, int | float) else "weights"
    title = f"One network, {_count(len(counted), 'task')}, {_count(len(domains), 'domain')}"
    low, high = _interval(found, "mean_of_domain_means")
    between = f" The 95 % interval is {low:.1f} to {high:.1f} %." if low is not None else ""
    number = "–" if headline is None else f"{percent(headline, 1).removesuffix(' %')}<small>%</small>"
    unscored = found.get("unscored") or []
    absent = f" {_count(len(unscored), 'task is', 'tasks are')} listed below but not scored." if unscored else ""
    facts = [
        (
            f"tasks at {level} % or more",
            f"{found[f'tasks_at_{level}']} of {len(counted)}",
            _whole_interval(found, level),
        )
        for level in (50, 80)
        if f"tasks_at_{level}" in found
    ]
    facts += [
        (label, percent(found[name], 1), _span(found, name))
        for label, name in (("mean over tasks", "mean"), ("median", "median"), ("interquartile mean", "iqm"))
        if found.get(name) is not None
    ]
    cells = "".join(f"<div><dt>{esc(k)}</dt><dd>{esc(v)}<small>{esc(s)}</small></dd></div>" for k, v, s in facts)
    notes = "".join(f"<li>{esc(note)}</li>" for note in run.notes)
    aside = f'<aside class="notes"><ul>{notes}</ul></aside>' if notes else ""
    return (
        f'<header><p class="kicker">Gato · evaluation</p><h1>{esc(title)}</h1><div class="hero">'
        f'<div class="number">{number}</div><div><p>of the experts, as the mean of the domain means.{esc(between)}'
        f"{esc(absent)}</p><p>0 % is random play. 100 % is the expert of each task, from whose demonstrations the "
        f"network learned. One set of {weights} does everything on this page.</p></div></div>"
        f'<dl class="facts">{cells}</dl>{aside}</header>'
    )


def _figures(run: _Run) -> str:
    found, counted = run.results["aggregates"], run.counted
    domains = found.get("domains") or {}
    if not counted or not domains:
        return ""
    intervals = (found.get("intervals") or {}).get("domains") or {}
    rows = []
    for name, mean in sorted(domains.items(), key=lambda item: -item[1]):
        number = sum(t["domain"] == name for t in counted)
        title = f"{name}: {percent(mean, 1)} of expert{_between(intervals.get(name))}, {_count(number, 'task')}"
        rows.append(Bar(name, mean, intervals.get(name), title, strong=True))
    values = [t["expert_normalised"] for t in counted]
    return (
        '<section class="pair"><figure><div class="chart-title">Percent of expert, by domain</div>'
        f"{bars(rows)}<figcaption><b>Figure 1.</b> Means over the tasks of each domain, with 95 % intervals from "
        "resampled episodes. The headline is the mean of these.</figcaption></figure>"
        '<figure><div class="chart-title">Tasks that reach x % of their expert</div>'
        f"{steps(values)}<figcaption><b>Figure 2.</b> How many of the {len(counted)} tasks are at or above each "
        "percentage, as in Figure 5 of the Gato paper.</figcaption></figure></section>"
    )


def _films(run: _Run) -> str:
    cards = []
    for entry in run.media:
        task = str(entry.get("task", ""))
        words = [str(entry["caption"])] if entry.get("caption") else []
        if isinstance(entry.get("return"), int | float):
            words.append(f"return {entry['return']:.3g}")
        score = entry.get("expert_normalised")
        shown = percent(score) if isinstance(score, int | float) else ""
        cards.append(
            _card(entry, task, f'<div class="score"><span>{esc(_name(task))}</span><span>{shown}</span></div>'
                  f"<div>{esc(task.split('/')[0])}</div>{esc(' · '.join(words))}")
        )  # fmt: skip
    return _section("Watch it", f'<div class="cards">{"".join(cards)}</div>' if cards else "")


def _card(entry: Mapping[str, Any], alt: str, caption: str) -> str:
    pixels = ' class="pixels"' if max(entry["size"]) <= 100 else ""
    return (
        f'<figure class="card"><img{pixels} src="{entry["source"]}" alt="{esc(alt)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _tasks(run: _Run) -> str:
    means = run.results["aggregates"].get("domains") or {}
    rows, previous = [], None

    def order(task: Mapping[str, Any]) -> tuple[Any, ...]:
        """The best domain first, in it the best task, and what is not scored last."""
        score = task["expert_normalised"]
        return -means.get(task["domain"], -1e9), task["domain"], score is None, -(score or 0.0), task["id"]

    for task in sorted(run.tasks, key=order):
        value, domain = task["expert_normalised"], task["domain"]
        title = f"{task['id']}: {percent(value, 1)} of expert{_between(task.get('interval'))}"
        if value is None:
            title = f"{task['id']} is not scored: {task.get('unscored') or 'no reference'}"
        rows.append(
            Bar(_name(task["id"]), value, task.get("interval"), title, heading=domain if domain != previous else "")
        )
        previous = domain
    if not rows:
        return ""
    episodes = sorted({int(t.get("episodes") or 0) for t in run.tasks} - {0})
    each = f"{episodes[0]}" if len(episodes) == 1 else f"{episodes[0]} to {episodes[-1]}" if episodes else "no"
    uncounted = (
        " The dummy world tests the software and never counts." if "dummy" in {t["domain"] for t in run.tasks} else ""
    )
    return _section(
        "Task by task",
        f"<figure>{bars(rows)}<figcaption><b>Figure 3.</b> Percent of expert on every task, {each} episodes each, "
        f"with 95 % intervals from resampled episodes.{uncounted}</figcaption></figure>",
    )


def _language(run: _Run) -> str:
    numbers = {
        k: v
        for k, v in _flatten(run.results.get("language") or {})
        if not isinstance(v, list | Mapping) and v is not None
    }
    body = ""
    if numbers:
        body += '<p class="numbers">'
        body += (
            "".join(f"<span>{esc(_label(k))} <b>{esc(_value(k, v))}</b></span>" for k, v in numbers.items()) + "</p>"
        )
    cards = []
    for sample in run.captions:
        predicted, true = str(sample.get("predicted", "")), sample.get("true")
        verdict = ""
        if true is not None:
            right = predicted.strip() == str(true).strip()
            verdict = (
                '<div class="right">✓ exactly right</div>'
                if right
                else f'<div class="wrong">✗ it is: {esc(true)}</div>'
            )
        asked = f"{esc(sample['question'])} " if sample.get("question") else ""
        cards.append(_card(sample, predicted, f"{asked}<q>{esc(predicted)}</q>{verdict}"))
    if cards:
        body += f'<div class="cards">{"".join(cards)}</div>'
    for sample in run.texts:
        given = sample.get("prompt") or ""
        made = sample.get("continuation") or sample.get("predicted") or sample.get("text") or ""
        body += f'<blockquote><span class="given">{esc(given)}</span>{esc(made)}</blockquote>'
    return _section("The same weights see and write", body)


def _learning(run: _Run) -> str:
    axis = "tokens" if any("tokens" in r for r in run.log) else "step"
    records = [r for r in run.log if isinstance(r.get(axis), int | float)]
    if not records:
        return ""
    unit = "tokens" if axis == "tokens" else "steps"
    end = float(records[-1][axis])

    def drawn(name: str, small: bool) -> str:
        points = [(r[axis], r[name]) for r in records if isinstance(r.get(name), int | float)]
        if not points:
            return ""
        x, y = np.array(points, np.float64).T
        last = float(y[-max(1, len(y) // 50) :].mean())
        title = "all targets" if name == "loss" else name.removeprefix("loss/")
        shown = curve(x, y, unit, small=small, x_end=end)
        return shown and f'<div><div class="chart-title">{esc(title)}<span>{last:.3f}</span></div>{shown}</div>'

    names = sorted({k for r in records for k in r if k.startswith("loss/") and not k.startswith("loss/kind/")})
    multiples = "".join(drawn(name, True) for name in names)
    seconds = records[-1].get("elapsed_seconds")
    took = f" in {duration(seconds)}" if isinstance(seconds, int | float) else ""
    return _section(
        "How it learned",
        f"<figure>{drawn('loss', False)}"
        + (f'<div class="multiples">{multiples}</div>' if multiples else "")
        + f"<figcaption><b>Figure 4.</b> Training loss in nats per target against {unit} seen ({short(end)}{took}), "
        "over everything and for each domain. Faint: as logged; strong: averaged. At the top right, the mean of the "
        "last fiftieth.</figcaption></figure>",
    )


def _table(run: _Run) -> str:
    rows = []
    for task in sorted(run.tasks, key=lambda t: t["id"]):
        low_high = task.get("interval")
        shown = percent(task["expert_normalised"], 1)
        why = f' title="{esc(task.get("unscored", ""))}"' if task["expert_normalised"] is None else ""
        measure = task.get("measure", "")
        cells = [*(_number(task[k]) for k in ("score", "random", "expert")), shown]
        between = f"{low_high[0]:.0f} to {low_high[1]:.0f}".replace("-", "−") if low_high else ""
        rows.append(
            f"<tr><td><span>{esc(task['domain'])}/</span>{esc(_name(task['id']))}</td>"
            f"<td><small>{esc(measure)}</small></td>"
            + "".join(f"<td{why}>{esc(cell)}</td>" for cell in cells)
            + f"<td><small>{esc(between)}</small></td><td>{esc(task.get('episodes', ''))}</td>"
            + f"<td>{_share((task.get('facts') or {}).get('legal_mass'))}</td></tr>"
        )
    heads = (
        "task",
        "measure",
        "score",
        "random",
        "expert",
        "% of expert",
        "95 % interval",
        "episodes",
        "mass on legal ids",
    )
    unscored = [
        f"{t['id']}: {t.get('unscored') or 'no reference'}" for t in run.tasks if t["expert_normalised"] is None
    ]
    note = (
        "Mass on legal ids: the probability that the softmax over the whole vocabulary put on the ids which the action "
        "could take; the agent chooses among those alone."
    )
    note += f" Not scored: {esc('; '.join(unscored))}." if unscored else ""
    foot = f"<figcaption>{note}</figcaption>"
    head = "".join(f"<th>{h}</th>" for h in heads)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    return _section("Raw scores", f"<figure>{table}{foot}</figure>" if rows else "")


def _open_loop(run: _Run) -> str:
    """Errors of single actions beside the score of whole episodes: is it the learning that lacks, or the data?"""
    rows = []
    unplayed = [
        {"id": t, "domain": t.split("/")[0], "teacher_forced": errors, "expert_normalised": None}
        for t, errors in (run.results.get("open_loop") or {}).items()
    ]
    for task in sorted((t for t in [*run.tasks, *unplayed] if t.get("teacher_forced")), key=lambda t: t["id"]):
        for path, leaf in task["teacher_forced"]["actions"].items():
            discrete = leaf["kind"] == "discrete"
            cells = (
                percent(100 * leaf["accuracy"], 1) if discrete else "–",
                "–" if discrete else _number(leaf["mean_absolute_error"]),
                "–" if discrete else percent(100 * leaf["of_half_range"], 1),
                f"{leaf['nll']:.2f}",
                percent(task["expert_normalised"], 1),
            )
            rows.append(
                f"<tr><td><span>{esc(task['domain'])}/</span>{esc(_name(task['id']))}</td><td><small>{esc(path)}</small></td>"
                + "".join(f"<td>{esc(cell)}</td>" for cell in cells)
                + "</tr>"
            )
    heads = ("task", "action", "right", "off by", "of half range", "nats per token", "own play, % of expert")
    head = "".join(f"<th>{h}</th>" for h in heads)
    return _section(
        "Single actions on held-out demonstrations",
        f'<figure><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        "<figcaption>With the demonstrator's own history before it, as in training (teacher forcing). A task with small "
        "errors here and a low score has demonstrations that cover too little of where the agent gets to; one with large "
        "errors has not been learned.</figcaption></figure>"
        if rows
        else "",
    )


def _share(value: Any) -> str:
    """A share as percent: nearly all of it must not look like all of it."""
    if not isinstance(value, int | float):
        return "–"
    return f"{min(100 * value, 99.99) if value < 1 else 100:.2f} %"


def _protocol(run: _Run) -> str:
    known = {k: v for k, v in run.results["protocol"].items() if k != "notes"}
    items = "".join(
        f"<dt>{esc(_label(k))}</dt><dd>{esc(_value(k, v))}</dd>" for k, v in _flatten(known) if v not in (None, [], "")
    )
    return _section("Protocol", f'<dl class="protocol">{items}</dl>' if items else "")


# -- words ------------------------------------------------------------------------------------------------------------


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _name(task_id: str) -> str:
    return task_id.split("/", 1)[-1]


def _interval(found: Mapping[str, Any], name: str) -> tuple[float, float] | tuple[None, None]:
    low_high = (found.get("intervals") or {}).get(name)
    return (low_high[0], low_high[1]) if low_high else (None, None)


def _span(found: Mapping[str, Any], name: str) -> str:
    low, high = _interval(found, name)
    return "" if low is None else f"{low:.1f} to {high:.1f}".replace("-", "−")


def _whole_interval(found: Mapping[str, Any], level: int) -> str:
    low, high = _interval(found, f"tasks_at_{level}")
    return "" if low is None else f"{low:.0f} to {high:.0f}"


def _between(low_high: Sequence[float] | None) -> str:
    return f" ({low_high[0]:.1f} to {low_high[1]:.1f})".replace("-", "−") if low_high else ""


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "−")


def _label(key: str) -> str:
    """training_seconds → training time; the value has the unit."""
    words = key.replace("_", " ")
    return words.removesuffix("seconds") + "time" if words.endswith("seconds") else words


def _value(key: str, value: Any) -> str:
    """A fact as a reader wants it: seconds as minutes, thousands apart, shares as percent."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_value("", v) for v in value)
    if isinstance(value, int | float):
        if key.endswith("seconds"):
            return duration(value)
        if (
            isinstance(value, float)
            and 0 <= value <= 1
            and key.endswith(("exact", "exact_match", "accuracy", "share", "mass"))
        ):
            return percent(100 * value, 1)
        return (
            f"{value:,}"
            if isinstance(value, int) and abs(value) >= 10_000
            else f"{value:.4g}"
            if isinstance(value, float)
            else str(value)
        )
    return str(value)


def duration(seconds: float) -> str:
    """598 → 9 min 58 s."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _flatten(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested facts one below the other; a group of short ones, such as versions, on one line."""
    for key, value in values.items():
        if (
            isinstance(value, Mapping)
            and value
            and not before
            and all(isinstance(v, str) and len(v) < 24 for v in value.values())
        ):
            yield key, ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{key} · ")
        elif key != "samples":
            yield f"{before}{key}", value
