"""What can be said of this program, read from it: verbs, flags and defaults from the command line's source, tasks from
their registry, domains from their cards, errors with their exit codes; and what is said of itself when somebody first asks.

The command line's file is parsed, never imported: it stands above this room. So what the dialogues say of a flag is what
`gato VERB --help` says of it, in every version.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gato import errors, worlds
from gato.errors import GatoError
from gato.worlds.cards import CARDS


class Flag(NamedTuple):
    name: str  # "--episodes"
    default: str  # as written; empty where it must be given
    text: str  # its help, or empty


class Verb(NamedTuple):
    name: str  # "gato data ls"
    text: str  # what it does: the first sentence of its help
    flags: tuple[Flag, ...]


@functools.cache
def verbs() -> tuple[Verb, ...]:
    """Every verb of the command line, in its order."""
    files = (Path(errors.__file__).parent / "cli").glob("*.py")
    statements = [node for file in files for node in ast.parse(file.read_text("utf-8")).body]
    classes = {node.name: node for node in statements if isinstance(node, ast.ClassDef)}
    table = next(
        node.value for node in statements
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "VERBS"
    )  # fmt: skip
    assert isinstance(table, ast.Dict)
    return tuple(_verbs(table, "gato", classes))


def _verbs(table: ast.Dict, before: str, classes: dict[str, ast.ClassDef]) -> Iterator[Verb]:
    for key, value in zip(table.keys, table.values, strict=True):
        name = f"{before} {ast.literal_eval(key)}"  # type: ignore[arg-type]
        if isinstance(value, ast.Dict):
            yield from _verbs(value, name, classes)
        elif isinstance(value, ast.Name):
            node = classes[value.id]
            yield Verb(name, _sentence(ast.get_docstring(node) or ""), tuple(_flags(node)))


def _flags(node: ast.ClassDef) -> Iterator[Flag]:
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or "Positional" in ast.unparse(field.annotation):
            continue
        said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        default = ""
        if field.value is not None:
            default = str(field.value.value) if isinstance(field.value, ast.Constant) else ast.unparse(field.value)
            if default.startswith("Path("):
                default = default[len("Path('") : -len("')")]
        name = f"--{ast.unparse(field.target).replace('_', '-')}"
        yield Flag(name, default if len(default) < 30 else "", _sentence(str(said)))


def _sentence(text: str) -> str:
    """The first sentence, on one line."""
    line = " ".join(text.split())
    head, dot, _ = line.partition(". ")
    return head + "." if dot else line


class Said(NamedTuple):
    question: str
    reply: str


# What a stranger says first, in several ways, and what is answered.
FIRST_WORDS = {
    "Hello. Ask me about a task, or show me a picture.": ("hello", "hi", "hey", "good morning", "good evening", "hello there"),
    "I am Gato, one network for many tasks.": (
        "who are you?", "what are you?", "what is your name?", "what is Gato?", "what are you called?", "tell me about yourself",
    ),
    "I play games, move robots, caption pictures, answer questions about them and chat.": (
        "what can you do?", "what do you do?", "what can I do with you?", "how can you help me?", "help", "what are you good at?",
    ),
    "Atari, Procgen, Sokoban, BabyAI, ViZDoom and MiniWorld.": (
        "what can you play?", "which games do you play?", "which games do you know?", "what games can you play?",
    ),
    "No, a network that learned by imitation.": ("are you a person?", "are you human?", "are you a robot?", "are you alive?"),
    "By imitation of experts: all they saw, said and did is one stream of tokens.": (
        "how did you learn?", "how were you trained?", "what were you trained on?", "who taught you?",
    ),
    "gato tasks": ("how do I see all tasks?", "which tasks are there?", "how do I list the tasks?", "show me all tasks"),
    "gato doctor": ("how do I check my installation?", "what is installed?", "how do I see what is installed?", "is all well?"),
    "gato demo": ("how do I begin?", "how do I start?", "where do I begin?", "what should I try first?"),
    "You are welcome.": ("thanks", "thank you", "thank you very much", "thanks a lot"),
    "Goodbye.": ("bye", "goodbye", "see you", "good night"),
}  # fmt: skip


@functools.cache
def first_sayings() -> tuple[Said, ...]:
    """What is said of itself and of its domains, in a fixed order: a few among the thousands of `sayings`, and asked before all
    of them."""
    itself = [Said(question, reply) for reply, questions in FIRST_WORDS.items() for question in questions]
    return (*itself, *_of_domains())


@functools.cache
def sayings() -> tuple[Said, ...]:
    """Everything that is asked and told of the program, in a fixed order."""
    return tuple([*first_sayings(), *_of_verbs(), *_of_tasks(), *_of_errors()])


def _of_verbs() -> Iterator[Said]:
    for verb in verbs():
        yield Said(f"what does {verb.name} do?", verb.text)
        yield Said(f"which command is this: {verb.text}", verb.name)
        names = [flag.name for flag in verb.flags]
        if names:
            yield Said(f"which flags has {verb.name}?", ", ".join(names))
        for flag in verb.flags:
            if flag.text:
                yield Said(f"what does {flag.name} of {verb.name} say?", flag.text)
            if flag.default not in ("", "None", "()"):
                yield Said(f"what is {flag.name} of {verb.name} if not given?", flag.default)
            yield Said(f"has {verb.name} a flag {flag.name}?", "yes")
    every = sorted({flag.name for verb in verbs() for flag in verb.flags})
    for number, verb in enumerate(verbs()):
        own = {flag.name for flag in verb.flags}
        others = [name for name in every if name not in own]
        turned = others[number % len(others) :] + others[: number % len(others)]
        for name in turned[: len(own)]:  # as many that it has not: the answer cannot be guessed
            yield Said(f"has {verb.name} a flag {name}?", "no")


def _of_domains() -> Iterator[Said]:
    domains = [task.domain for task in worlds.select("*")]
    for domain, card in CARDS.items():
        if domain in domains:
            what = _sentence(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", card.what).replace("`", ""))
            yield Said(f"what is {domain}?", what)
            yield Said(f"tell me about {domain}", what)
            yield Said(f"how many tasks has {domain}?", str(domains.count(domain)))


def _of_tasks() -> Iterator[Said]:
    for task in worlds.select("*"):
        yield Said(f"which domain is {task.id} of?", task.domain)
        yield Said(f"how is {task.id} scored?", f"by {task.score}")
        yield Said(f"who is the expert of {task.id}?", task.expert_name or "it has none")
        yield Said(
            f"how do I collect demonstrations of {task.id}?", f"gato collect {task.id} --episodes 100 --out data"
        )
        yield Said(f"how do I evaluate a bundle on {task.id}?", f"gato evaluate BUNDLE --tasks {task.id} --out results")
        yield Said(f"how do I watch my agent play {task.id}?", f"gato play BUNDLE {task.id}")


def _of_errors() -> Iterator[Said]:
    for kind in _kinds(GatoError):
        yield Said(f"what is the exit code of an error {kind.code}?", str(kind.exit_code))
        if kind.__doc__ and kind is not GatoError:
            yield Said(f"what does the error {kind.code} mean?", _sentence(kind.__doc__))


def _kinds(kind: type[GatoError]) -> Iterator[type[GatoError]]:
    """Of this package alone, so that what else is loaded changes nothing."""
    if kind.__module__ == errors.__name__:
        yield kind
    for inner in kind.__subclasses__():
        yield from _kinds(inner)
