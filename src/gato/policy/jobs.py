"""Jobs: many pictures, questions or messages, a few at a time, into a JSONL file that knows what is done.

    {"image": "a.png"}                           → {"image": "a.png", "caption": "a red ball at the top left"}
    {"image": "a.png", "question": "what …?"}    → the same and "reply"
    {"text": "has gato play a flag --fps?"}      → the same and "reply"

A line of the output is a line of the input with what the agent said added, in the same order, written as soon as it is said.
The same call again leaves out what is there; a line that was cut short is done anew. What cannot be read is reported, left out,
and tried again by the next call.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gato.corpora.reading import json_lines
from gato.errors import DataError, GatoError, OutputExistsError, UnknownNameError, UsageError

Record = dict[str, Any]
SAID = ("caption", "reply")  # fields that are added
OPTIONAL = ("image", "question", "system")  # texts, where they are there


@dataclass
class Outcome:
    """What a run of jobs came to."""

    done: int = 0  # by this call
    before: int = 0  # found in the output
    problems: list[str] = field(default_factory=list)


def read_jobs(file: Path, needed: Sequence[str]) -> list[Any]:
    """The records of a JSONL file, each with the fields that are needed; in place of one that cannot be done the DataError with
    its line. A relative `image` is beside the file.

    Raises that DataError where it is so with all of them, and UnknownNameError for no such file.
    """
    if not file.exists():
        raise UnknownNameError("no such file", where=str(file), fix="check the path")
    out: list[Any] = [_job(record, needed, f"{file} line {place.row}") for place, record in json_lines(file)]
    if out and all(isinstance(job, DataError) for job in out):
        raise out[0]
    return out


def _job(record: Record | DataError, needed: Sequence[str], where: str) -> Record | DataError:
    if isinstance(record, DataError):
        return record
    fix = json.dumps(dict.fromkeys(needed, "…"), ensure_ascii=False)
    for name in (*needed, *OPTIONAL):
        value = record.get(name)
        if value is None and name in needed:
            return DataError(f"a record without {name!r}", where=where, fix=fix)
        if not isinstance(value, str | None):
            return DataError(f"{name} is no text: {str(value)[:40]}", where=where, fix=fix)
    return record


def make_place(file: Path) -> Path:
    """Make the folder of a file, before the work that is to fill it. Raises UsageError where nothing can be written."""
    there = os.path.exists(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
    except OSError as error:
        raise UsageError(
            f"nothing can be written there: {error.strerror}", where=str(file), fix="another file"
        ) from error
    if not there:
        file.unlink()
    return file


def path_of(record: Record, beside: Path | None) -> Path:
    """Where a record's image is: as written, or, if that is not there, beside the file of jobs."""
    path = Path(record["image"])
    return beside / path if beside is not None and not path.is_absolute() and not os.path.exists(path) else path


def run_jobs(
    jobs: Sequence[Record | DataError],
    work: Callable[[Sequence[Record]], Sequence[Record]],
    out: Path | None,
    *,
    size: int = 32,
    tell: Callable[[int], None] = lambda count: None,
    say: Callable[[Record], None] = lambda record: None,
) -> Outcome:
    """Do what is not done yet, `size` at a time. `work` returns what is to be added to each record, in place of what a field of that
    name held; `tell` hears how many jobs are behind us, `say` each finished record. Where a batch cannot be read its records are
    tried one by one. Raises UsageError where `out` cannot be written."""
    good = [job for job in jobs if not isinstance(job, DataError)]
    done: Counter[str] = Counter()
    if out is not None:
        kept = list(finished(make_place(out)))
        done = _done(good, kept)
        if kept and not done:
            raise OutputExistsError("this file holds other results", where=str(out), fix="another --out")
    waiting = []
    for job in good:
        if done[_key(job)]:
            done[_key(job)] -= 1  # jobs may be alike: each line of the output is one of them
        else:
            waiting.append(job)
    outcome = Outcome(
        before=len(good) - len(waiting), problems=[str(job) for job in jobs if isinstance(job, DataError)]
    )
    tell(len(jobs) - len(waiting))
    for at in range(0, len(waiting), size):
        part = waiting[at : at + size]
        for job, said in _attempt(part, work, outcome):
            record = {**job, **said}
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
            say(record)
            outcome.done += 1
        tell(len(part))
    return outcome


def _attempt(part: Sequence[Record], work, outcome: Outcome) -> Iterator[tuple[Record, Record]]:
    try:
        yield from zip(part, work(part), strict=True)
    except GatoError as error:
        if len(part) == 1:
            outcome.problems.append(str(error))
            return
        for job in part:
            yield from _attempt([job], work, outcome)


def finished(out: Path) -> Iterator[Record]:
    """The whole lines of an output; what a killed run left of its last one is cut off the file."""
    if not out.exists():
        return
    content = out.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with out.open("r+b") as file:
            file.truncate(whole)
    for place, record in json_lines(out):
        if isinstance(record, DataError):
            raise OutputExistsError(
                "this file is no output of ours", where=f"{out} line {place.row}", fix="another --out"
            )
        yield record


def _done(jobs: Sequence[Record], kept: Sequence[Record]) -> Counter[str]:
    """Keys of the jobs that the output holds, and how often."""
    names = {name for job in jobs for name in job}
    held = Counter(_key({name: record[name] for name in names & record.keys()}) for record in kept)
    return held & Counter(map(_key, jobs))


def _key(job: Record) -> str:
    """What a job is known by: all that it says, but for what the agent says itself."""
    return json.dumps({name: value for name, value in job.items() if name not in SAID}, sort_keys=True)
