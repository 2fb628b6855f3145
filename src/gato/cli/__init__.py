"""The command line: words become calls. `gato VERB …`, one dataclass per verb, every room imported only when it is needed.

Exit codes: 2 usage, 3 data, 4 checkpoint, 5 environment, 6 resources. An error says what, where and what to do next;
tracebacks appear with `--debug` alone.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any

import tyro

from gato.cli.data import DataExport, DataGenerate, DataImport, DataLs, DataRepair, DataShow, DataVerify
from gato.cli.playing import Evaluate, Play, ReportAgain, Serve
from gato.cli.talking import Answer, Caption, Chat
from gato.cli.training import Finetune, Improve, TokenizerTrain, Train
from gato.cli.worlds import Collect, Demo, Doctor, Tasks
from gato.errors import GatoError, UsageError, nearest

VERBS: dict[str, Any] = {
    "demo": Demo, "doctor": Doctor, "tasks": Tasks, "collect": Collect,
    "data": {
        "ls": DataLs, "show": DataShow, "verify": DataVerify, "repair": DataRepair, "import": DataImport, "export": DataExport,
        "generate": DataGenerate,
    },
    "tokenizer": {"train": TokenizerTrain},
    "train": Train, "finetune": Finetune, "improve": Improve, "evaluate": Evaluate, "play": Play, "chat": Chat, "caption": Caption, "answer": Answer,
    "serve": Serve, "report": ReportAgain,
}  # fmt: skip


def main(words: list[str] | None = None) -> None:
    """Entry point of `gato`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="replace")  # what an ASCII terminal cannot show is a ? there, and no error
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # waiting threads must not starve whatever else the machine does
    try:
        sys.exit(_dispatch(words))
    except GatoError as error:
        if debug:
            raise
        print(
            f"error[{error.code}] {error.what}" + (f"\n  where: {error.where}" if error.where else ""), file=sys.stderr
        )
        if error.fix:
            print(f"  next:  {error.fix}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        print(
            f"error[unexpected] {type(error).__name__}: {error}\n  next:  run the same line with --debug",
            file=sys.stderr,
        )
        sys.exit(1)


def _dispatch(words: list[str]) -> int:
    verbs: dict[str, Any] = VERBS
    said: list[str] = []
    while True:
        if not words or words[0] in ("-h", "--help"):
            print(_usage(said, verbs))
            return 0 if words else 2
        if words[0] == "--version":
            from gato import __version__

            print(f"gato {__version__}")
            return 0
        word, *words = words
        if word not in verbs:
            raise UsageError(
                f"no verb {' '.join([*said, word])!r}",
                fix=nearest(word, verbs) or f"gato {' '.join([*said, '--help'])}",
            )
        said.append(word)
        chosen: Callable[..., Any] | dict[str, Any] = verbs[word]
        if not isinstance(chosen, dict):
            tyro.cli(
                chosen, args=_together(words, ("--set", "--data", "--acting", "--shown")), prog=f"gato {' '.join(said)}"
            ).run()
            return 0
        verbs = chosen


def _together(words: list[str], flags: tuple[str, ...]) -> list[str]:
    """`--set a --set b` means `--set a b`; the parser alone would forget the first."""
    kept: list[str] = []
    values: dict[str, list[str]] = {}
    into = kept
    for word in words:
        if word in flags:
            into = values.setdefault(word, [])
        elif word.startswith("--"):
            into = kept
            kept.append(word)
        else:
            into.append(word)
    return [*kept, *(w for flag, found in values.items() for w in (flag, *found))]


def _usage(said: list[str], verbs: dict[str, Any]) -> str:
    lines = [f"usage: gato {' '.join([*said, 'VERB …'])}", ""]
    for name, verb in verbs.items():
        text = " · ".join(verb) if isinstance(verb, dict) else (verb.__doc__ or "").split("\n")[0]
        lines.append(f"  {name:10} {text}")
    return "\n".join([*lines, "", "gato VERB --help explains one; --debug anywhere shows tracebacks."])
