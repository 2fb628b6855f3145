"""Words and pictures: `gato chat`, `caption`, `answer`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from gato.cli.checks import check_some, check_within, device_named
from gato.errors import GatoError, UnknownNameError, UsageError, nearest


@dataclass
class Chat:
    """Talk to the agent: one reply to a text, or a conversation. `/image FILE`, `/new`, `/system TEXT` and `/quit` are for the latter.

    A bundle that was not trained on dialogues goes on with the text instead. `gato chat [BUNDLE] [TEXT]`.
    """

    words: Positional[tuple[str, ...]] = ()
    """What to reply to; a conversation, line by line, if left out. Before it a bundle; the generalist if there is none."""
    system: str = ""
    """What stands before the dialogue."""
    image: Path | None = None
    """A picture, a film or a folder of frames to talk about."""
    jobs: Path | None = None
    """A JSONL file of {"text", and if you like "image", "system"}, each a dialogue of its own."""
    out: Path | None = None
    """With --jobs: JSONL, a line for every reply; what is there already is not done again."""
    max_tokens: int = 64
    temperature: float = 0.7
    seed: int = 0
    device: str = "auto"

    def run(self) -> None:
        check_within("--max-tokens", self.max_tokens, 1)
        check_within("--temperature", self.temperature, 0)
        check_within("--seed", self.seed, 0)
        bundle, words = _bundle_first(self.words)
        if len(words) > 1:
            raise UsageError(f"{len(words)} texts", fix='gato chat [BUNDLE] ["TEXT"]: a text is one word, in quotes')
        text = words[0] if words else None
        if self.jobs is not None and text is not None:
            raise UsageError("a text and a file of jobs", fix="one of the two")
        if self.out is not None and self.jobs is None:
            raise UsageError("--out goes with --jobs", fix="--jobs FILE.jsonl")
        from gato.policy import load

        agent = load(bundle, device_named(self.device))
        if self.jobs is not None:
            _skilled(agent.talks or agent.talks_about_pictures or agent.answers_questions, "dialogues or texts", bundle)
            self._batch(agent)
            return
        talk = agent.conversation(self.system, self.image)
        if text is not None:
            self._say(talk, text)
            return
        shown = sys.stdin.isatty()
        if shown:
            print("/image FILE shows a picture, /new forgets, /system TEXT begins anew with it, /quit ends")
        while True:
            try:
                line = input("> " if shown else "").strip()
            except EOFError:
                return
            word, _, rest = line.partition(" ")
            try:
                if word in ("/quit", "/exit"):
                    return
                if word == "/image":
                    agent.look(rest.strip()) if rest.strip() else None  # what cannot be read is said now
                    talk.show(Path(rest.strip()) if rest.strip() else None)
                elif word == "/new":
                    talk = agent.conversation(self.system, talk.image)
                elif word == "/system":
                    self.system = rest.strip()
                    talk = agent.conversation(self.system, talk.image)
                elif word.startswith("/"):
                    raise UsageError(f"no command {word}", fix=nearest(word, ("/image", "/new", "/system", "/quit")))
                elif line:
                    self._say(talk, line)
            except GatoError as error:
                if not shown:
                    raise
                print(f"error[{error.code}] {error.what}", file=sys.stderr)

    def _say(self, talk: Any, text: str) -> None:
        begun = not talk.is_dialogue  # what goes on with a text is shown as it is
        for piece in talk.say(text, self.max_tokens, self.temperature, self.seed):
            print(piece if begun else piece.lstrip(" "), end="", flush=True)
            begun = begun or bool(piece.strip())
        print()

    def _batch(self, agent: Any) -> None:
        assert self.jobs is not None
        from gato.corpora.dialogues import Turn
        from gato.policy.jobs import path_of, read_jobs

        beside = self.jobs.parent

        def work(part: Any) -> Any:
            return [
                {"reply": agent.chat(
                    job["text"], self.max_tokens, self.temperature, self.seed,
                    history=[Turn("system", system)] if (system := job.get("system", self.system)) else [],
                    image=path_of(job, beside) if job.get("image") else self.image,
                )} for job in part
            ]  # fmt: skip

        _run_jobs(read_jobs(self.jobs, ["text"]), work, self.out, 1, lambda r: f"{r['text']}\n  {r['reply']}")


@dataclass
class Caption:
    """What is in these pictures, films, folders, or the images that a .jsonl lists. `gato caption [BUNDLE] IMAGES`."""

    words: Positional[tuple[str, ...]]
    """The images. Before them a bundle; the generalist if there is none."""
    clips: bool = False
    """Each folder is one clip: its pictures are the frames, in the order of their names."""
    out: Path | None = None
    """JSONL, a line for every caption as soon as it is there; what is there already is not done again."""
    max_tokens: int = 48
    batch: int = 32
    """So many at once."""
    json: bool = False
    device: str = "auto"

    def run(self) -> None:
        bundle, words = _bundle_first(self.words)
        images = tuple(map(Path, words))
        check_some(images, "a picture", "gato caption [BUNDLE] PICTURES")
        check_within("--max-tokens", self.max_tokens, 1)
        check_within("--batch", self.batch, 1)
        jobs, beside = _image_jobs(images, self.clips, ["image"])
        from gato.policy import load
        from gato.policy.jobs import path_of

        agent = load(bundle, device_named(self.device))
        _skilled(agent.captions_pictures or agent.captions_clips, "captions", bundle)

        def work(part: Any) -> Any:
            return [{"caption": c} for c in agent.captions([path_of(job, beside) for job in part], self.max_tokens)]

        _run_jobs(jobs, work, self.out, self.batch, lambda r: f"{r['image']}: {r['caption']}", self.json)


@dataclass
class Answer:
    """The reply to a question about a picture, or about every picture of a folder, or to those that a .jsonl lists.
    `gato answer [BUNDLE] IMAGE [QUESTION]`.
    """

    words: Positional[tuple[str, ...]]
    """A picture, a film (its last picture), a folder, or a .jsonl of {"image", "question"}; and the question. Before them a
    bundle; the generalist if there is none."""
    clips: bool = False
    """A folder is one clip: the question is about its last picture."""
    out: Path | None = None
    """JSONL, a line for every reply as soon as it is there; what is there already is not done again."""
    max_tokens: int = 16
    batch: int = 32
    """So many at once."""
    json: bool = False
    device: str = "auto"

    def run(self) -> None:
        check_within("--max-tokens", self.max_tokens, 1)
        check_within("--batch", self.batch, 1)
        bundle, words = _bundle_first(self.words)
        if len(words) not in (1, 2):
            raise UsageError("a picture and a question are needed", fix='gato answer [BUNDLE] IMAGE "what is red?"')
        image, question = Path(words[0]), words[1] if len(words) == 2 else None
        listed = image.suffix == ".jsonl"
        if not listed and question is None:
            raise UsageError("a question is needed", fix='gato answer [BUNDLE] IMAGE "what is red?"')
        jobs, beside = _image_jobs((image,), self.clips, ["image"] if question else ["image", "question"])
        jobs = [j if isinstance(j, GatoError) else {**j, "question": j.get("question") or question} for j in jobs]
        from gato.policy import load
        from gato.policy.jobs import path_of

        agent = load(bundle, device_named(self.device))
        _skilled(agent.answers_questions, "questions", bundle)

        def work(part: Any) -> Any:
            shown, asked = [path_of(job, beside) for job in part], [job["question"] for job in part]
            return [{"reply": reply} for reply in agent.answers(shown, asked, self.max_tokens)]

        alone = len(jobs) == 1 and not listed and not image.is_dir()
        line: Callable[[Any], str] = (lambda r: r["reply"]) if alone else (lambda r: f"{r['image']}: {r['reply']}")
        if alone and self.json and self.out is None:
            print(json.dumps({"question": question, **work(jobs)[0]}))
        else:
            _run_jobs(jobs, work, self.out, self.batch, line, self.json)


def _skilled(known: bool, what: str, bundle: str | None) -> None:
    """Raises UnknownNameError before the first of many jobs, where none could be done."""
    if not known:
        raise UnknownNameError(
            f"this bundle was not trained on {what}", where=bundle or "the generalist", fix=f"a recipe with a {what} dataset"
        )  # fmt: skip


def _bundle_first(words: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The bundle that the words may begin with, and the rest. What looks like a folder's path, and is none, was to be one."""
    from gato.policy.shipped import names_bundle

    def meant(word: str) -> bool:
        return "/" in word and not any(c.isspace() for c in word) and not Path(word).suffix and not os.path.exists(word)

    first = words[0] if words and (names_bundle(words[0]) or meant(words[0])) else None
    return first, words[first is not None :]


def _image_jobs(paths: tuple[Path, ...], clips: bool, needed: list[str]) -> tuple[list[dict[str, Any]], Path | None]:
    """A job for every picture, and the folder in which relative ones may be: that of the .jsonl, where one lists them."""
    if len(paths) == 1 and paths[0].suffix == ".jsonl":
        from gato.policy.jobs import read_jobs

        return read_jobs(paths[0], needed), paths[0].parent
    from gato.policy.sight import shown_in

    return [{"image": str(path)} for path in shown_in(list(paths), clips=clips)], None


def _run_jobs(
    jobs: list[dict[str, Any]], work: Any, out: Path | None, size: int, line: Callable[[Any], str], as_json: bool = False
) -> None:  # fmt: skip
    """Many at a time with a bar on a terminal; lines into `out`, or printed. Exit code 3 where some could not be read."""
    from gato.policy.jobs import run_jobs

    said: list[Any] = []

    def say(record: Any) -> None:
        if out is None and not as_json:
            print(line(record), flush=True)
        said.append(record)

    with _bar(len(jobs), out is not None) as advance:
        outcome = run_jobs(jobs, work, out, size=size, tell=advance, say=say)
    if as_json:
        print(json.dumps(said, indent=1, ensure_ascii=False))
    elif out is not None:
        print(f"{outcome.done:,} done, {outcome.before:,} were there → {out}")
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    if outcome.problems:
        raise SystemExit(3)


@contextlib.contextmanager
def _bar(total: int, on: bool) -> Iterator[Callable[[int], None]]:
    """A bar with time left on a terminal; elsewhere, or for what prints its lines, nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (on and console.is_terminal)) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
