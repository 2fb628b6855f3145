"""What survives, counted: kills, damage, full disks, malicious files, lost ranks. Each figure is a number of independent
trials; a failure is a trial in which something was lost, changed, executed, or not named.

    python tests/endurance/figures.py --list
    python tests/endurance/figures.py --state DIR                       # all of them, until whole → results/endurance.json
    python tests/endurance/figures.py --state DIR --seconds 300 kills flips-dataset

A figure advances in pieces: the state, outside of the checkout, remembers trials that are done, so that the same line goes
on where the last one stopped, or was killed. Trial i of a figure is the same wherever and whenever it is run. Only whole
figures are written to the results. `faults.py` beside this keeps its own two.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import itertools
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "training"), str(HERE.parent / "corpora")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from faults import RESULTS, keep  # noqa: E402

VERSIONS = ("torch", "safetensors", "pyarrow", "numpy")


class Failure(AssertionError):
    """A trial in which something did not survive."""


@dataclass(frozen=True)
class Figure:
    """`trial(place, i, rng)` returns the kind of trial that it was, or raises Failure; `place` is what `prepare(folder)`
    made: a fresh folder and whatever all trials share."""

    id: str
    n: int
    prepare: Callable[[Path], Any]
    trial: Callable[[Any, int, random.Random], str]
    says: str


def figures() -> dict[str, Figure]:
    import damage
    import runs
    import teams
    import writers

    return {f.id: f for module in (damage, writers, runs, teams) for f in module.FIGURES}


def advance(figure: Figure, record: dict[str, Any], n: int, seconds: float, saved: Callable[[], None]) -> None:
    """Go on with a figure's record, until trial `n` or for so long: {"done", "failures": […], "kinds", "seconds"}."""
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix=f"{figure.id}-") as folder:
        place = None
        while record["done"] < n and time.monotonic() < ends:
            if place is None:
                place = figure.prepare(Path(folder))
            i, began = record["done"], time.monotonic()
            try:
                kind = figure.trial(place, i, random.Random(f"{figure.id} {i}"))
                record["kinds"][kind] = record["kinds"].get(kind, 0) + 1
            except Failure as failure:
                record["failures"].append([i, str(failure)[:500]])
            except Exception as error:
                record["failures"].append([i, "".join(traceback.format_exception(error, limit=-2, chain=False))[-800:]])
            record["done"] += 1
            record["seconds"] += time.monotonic() - began
            saved()


def fresh() -> dict[str, Any]:
    return {"done": 0, "failures": [], "kinds": {}, "seconds": 0.0}


def slice_of(figure: Figure, share: float = 0.05) -> dict[str, Any]:
    """A part of a figure, for the ordinary tests; it writes nothing down."""
    record = fresh()
    advance(figure, record, max(1, round(share * figure.n)), float("inf"), lambda: None)
    return record


def result(figure: Figure, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": figure.id, "n": record["done"], "failures": len(record["failures"]), "seed": figure.id, "says": figure.says,
        "kinds": dict(Counter(record["kinds"]).most_common()), "failed": record["failures"][:10],
        "seconds": round(record["seconds"]), "whole": record["done"] >= figure.n, "python": platform.python_version(),
        "versions": {p: importlib.metadata.version(p) for p in VERSIONS},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("figures", nargs="*", default=["*"], help="globs of ids")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all figures together")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true")
    chosen = parser.parse_args()
    known = figures()
    if chosen.list:
        print("\n".join(f"{f.id:18} {f.n:5}  {f.says}" for f in known.values()))
        return
    state = chosen.state or Path(tempfile.mkdtemp(prefix="gato-endurance-"))
    state.mkdir(parents=True, exist_ok=True)
    print(f"state: {state}")
    ends = time.monotonic() + chosen.seconds
    for figure in (f for f in known.values() if any(fnmatch.fnmatch(f.id, g) for g in chosen.figures)):
        file = state / f"{figure.id}.json"
        record = json.loads(file.read_text()) if file.exists() else fresh()

        def saved(file: Path = file, record: dict[str, Any] = record) -> None:
            beside = file.with_suffix(".new")
            beside.write_text(json.dumps(record))
            beside.replace(file)

        advance(figure, record, figure.n, ends - time.monotonic(), saved)
        said = result(figure, record)
        print(f"{figure.id}: {said['n']} of {figure.n}, {said['failures']} failures, {said['seconds']} s", flush=True)
        for failed in said["failed"]:
            print(f"  trial {failed[0]}: {failed[1]}")
        if said["whole"]:
            keep(said, chosen.out)


# -- what several families use ----------------------------------------------------------------------------------------


def make_tokenizer(folder: Path) -> Path:
    from gato.corpora.text import python_docs
    from gato.tokens.text import TextTokenizer

    path = folder / "tokenizer.model"
    if not path.exists():
        texts = (e.observations["text"][0] for e in itertools.islice(python_docs("train"), 40))
        path.write_bytes(TextTokenizer.train(texts, 1024).to_bytes())
    return path


def make_data(folder: Path, episodes: int = 6) -> Path:
    """Control with an image, numbers and a text, and captioned images."""
    from make_samples import make_coco

    from gato.corpora.layouts import Preparation, import_corpus
    from gato.rollouts.collect import collect
    from gato.worlds import find

    collect([find("dummy/count")], episodes, folder / "data", workers=0, progress=False)
    how = Preparation(size=(32, 48), split="all")
    list(import_corpus("coco", make_coco(folder / "raw"), folder / "data", how))
    return folder / "data"


SMALL = {
    "layer_width": 32, "num_attention_heads": 2, "key_value_size": 16, "feedforward_hidden_size": 64,
    "num_transformer_blocks": 2, "dropout_rate": 0.1, "stochastic_depth": 0.1, "vocabulary_size": 1024,
    "patch_stem_width": 32, "num_group_norm_groups": 8,
}  # fmt: skip


def small_recipe(**changes: Any) -> Any:
    from gato.training import Recipe

    recipe = Recipe(
        name="endurance", steps=12, slots=2, slot_tokens=128, window_tokens=128, window_timesteps={"*": 2},
        learning_rate=2e-3, precision="float32", save_every_seconds=0.0, prompt_share=0.25, model=SMALL,
    )  # fmt: skip
    return recipe.replace(**changes)


def digest_of(folder: Path, but: tuple[str, ...] = ()) -> dict[str, str]:
    """{relative path: SHA-256} of every file below a folder."""
    from gato.episodes.manifest import sha256_of_file

    return {
        p.relative_to(folder).as_posix(): sha256_of_file(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not any(part in but for part in p.parts)
    }


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def forked(work: Callable[[], str], seconds: float = 120.0) -> tuple[int | None, str]:
    """Run `work` in a process forked from this one: (exit code, what it returned or the error it ended in)."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    near, far = context.Pipe(duplex=False)

    def enter() -> None:
        try:
            said = f"+{work()}"
        except BaseException as error:
            said = f"-{type(error).__name__}: {error}"
        far.send(said)
        os._exit(0)

    process = context.Process(target=enter)
    process.start()
    far.close()
    said = ""
    if near.poll(seconds):
        try:
            said = near.recv()
        except EOFError:
            said = ""
    process.join(5)
    if process.exitcode is None:
        process.kill()
        process.join()
    near.close()
    return process.exitcode, said


if __name__ == "__main__":
    main()
