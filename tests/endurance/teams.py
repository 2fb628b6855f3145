"""Runs of several ranks: the same numbers as one, resumed at any other number, and ended by name where a rank is lost."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ranks
from figures import Failure, Figure, emptied, make_data, make_tokenizer, small_recipe
from safetensors.torch import load_file

TIMEOUT = 5  # seconds, GATO_TIMEOUT of the runs that lose a rank


@dataclass
class Place:
    folder: Path
    data: Path
    text: Path


def prepare(folder: Path) -> Place:
    return Place(folder, make_data(folder), make_tokenizer(folder))


def go(place: Place, out: Path, recipe: Any, world: int, environment: Any = None, **options: Any) -> ranks.Ranks:
    return ranks.Ranks(
        ranks.train_once, recipe.to_json(), str(place.data), str(place.text), str(out), options,
        world=world, log=place.folder / "log", environment=environment,
    )  # fmt: skip


def done(job: ranks.Ranks) -> None:
    codes = job.end(300)
    if any(codes):
        raise Failure(f"{codes}: {job.said()[-400:]}")


def apart(a: dict[int, float], b: dict[int, float], steps: Any) -> float:
    return max(abs(a[s] - b[s]) / abs(b[s]) for s in steps)


# -- the same numbers -------------------------------------------------------------------------------------------------

EQUAL = list(itertools.product((2, 4), ("adamw", "muon")))


def equal(place: Place, i: int, rng: random.Random) -> str:
    """Fifty steps with dropout at one process and at two or four ranks: every loss within 1e-5, the same windows."""
    world, kind = EQUAL[i]
    recipe = small_recipe(
        steps=50, slots=4, accumulate=4, optimizer=kind, muon_learning_rate=0.005, save_every_seconds=1e9
    )
    one, many = place.folder / f"one-{kind}", emptied(place.folder / "many") / "run"
    if not (one / "run" / "bundle").exists():
        (emptied(one) / "ids").mkdir()
        done(go(place, one / "run", recipe, 1, ids=str(one / "ids")))
    (many.parent / "ids").mkdir()
    done(go(place, many, recipe, world, ids=str(many.parent / "ids")))
    if ranks.ids_of(one / "ids") != ranks.ids_of(many.parent / "ids"):
        raise Failure("other windows")
    far = apart(ranks.losses_of(many), ranks.losses_of(one / "run"), range(1, 51))
    a, b = (load_file(run / "bundle" / "model.safetensors") for run in (one / "run", many))
    moved = max(float((a[k] - b[k]).abs().max()) for k in a)
    if not far < 1e-5:
        raise Failure(f"{world} ranks, {kind}: a loss differs by {far:.1e}, a weight by {moved:.1e}")
    return f"{world} ranks, {kind}: losses within {far:.0e}, weights within {moved:.0e}"


# -- resumed elsewhere ------------------------------------------------------------------------------------------------

PAIRS = list(itertools.product((1, 2, 4), (1, 2, 3, 4)))


def elastic(place: Place, i: int, rng: random.Random) -> str:
    """Saved at step 5 by one number of ranks, resumed by another for twenty steps: the windows are those of the whole run,
    the first loss within 1e-6 of it and twenty within 1e-5."""
    first, second = PAIRS[i]
    recipe = small_recipe(
        steps=25, slots=12, accumulate=12, slot_tokens=64, window_tokens=64, prompt_share=0.0,
        window_timesteps={"*": 1}, keep_every=5, save_every_seconds=1e9,
    )  # fmt: skip
    whole, saved = place.folder / "whole", place.folder / f"by{first}"
    for out, world in ((whole, 1), (saved, first)):
        if not (out / "run" / "bundle").exists():
            (emptied(out) / "ids").mkdir()
            done(go(place, out / "run", recipe, world, ids=str(out / "ids")))
    run = emptied(place.folder / "resumed") / "run"
    shutil.copytree(saved / "run", run, ignore=shutil.ignore_patterns("bundle", "step-0000001*", "step-0000002*"))
    (run / "checkpoints" / "last").write_text("step-00000005")
    (run.parent / "ids").mkdir()
    done(go(place, run, recipe, second, ids=str(run.parent / "ids"), resume=True))
    wanted = {k: v for k, v in ranks.ids_of(whole / "ids").items() if k[0] >= 5}
    if ranks.ids_of(run.parent / "ids") != wanted:
        raise Failure(f"{first} → {second}: other windows")
    a, b = ranks.losses_of(run), ranks.losses_of(saved / "run")
    near, far = apart(a, b, [6]), apart(a, b, range(6, 26))
    if not (near < 1e-6 and far < 1e-5):
        raise Failure(f"{first} → {second}: the first loss differs by {near:.1e}, one of twenty by {far:.1e}")
    return f"{first} → {second}"


# -- a rank is lost ---------------------------------------------------------------------------------------------------


class Fault:
    """What rank 1 does at a step, in a process that torchrun's environment made: picklable."""

    def __init__(self, kind: str, step: int):
        self.kind, self.step = kind, step

    def __call__(self, rank: int, team: Any) -> None:
        if rank != 1:
            return
        if self.kind == "skips":
            add = team.sum
            team.sum = lambda p, numbers, step: [1.0, 1.0, 1.0, 0.0] if step == self.step else add(p, numbers, step)
            return
        from gato.sequences import Mixture

        whole, fault = Mixture.batch, self

        def batch(self: Any, step: int, part: int = 0, parts: int = 1) -> Any:
            if step == fault.step:
                fault.strike()
            return whole(self, step, part, parts)

        Mixture.batch = batch  # type: ignore[method-assign]

    def strike(self) -> None:
        if self.kind == "hangs":
            time.sleep(600)
        elif self.kind == "exits":
            os._exit(3)
        elif self.kind == "raises":
            raise RuntimeError("this rank's own error")
        else:
            os.kill(os.getpid(), signal.SIGSTOP if self.kind == "freezes" else signal.SIGKILL)


KINDS = ("dies", "hangs", "freezes", "skips", "exits", "raises")


def lose(place: Place, i: int, rng: random.Random) -> str:
    """Of two or three ranks, rank 1 is lost: the others end within a few timeouts, and name it. (The timeout is 5 s here,
    90 s by default.)"""
    kind, world, step = KINDS[i % len(KINDS)], 2 + i // len(KINDS) % 2, rng.randint(1, 3)
    recipe = small_recipe(steps=6, slots=6, accumulate=6, slot_tokens=64, window_tokens=64, save_every_seconds=1e9)
    began = time.monotonic()
    job = go(
        place, emptied(place.folder / "run"), recipe, world, {"GATO_TIMEOUT": str(TIMEOUT)}, fault=Fault(kind, step)
    )
    others = [p for r, p in enumerate(job.processes) if r != 1]
    for process in others:
        process.join(120)
    seconds = time.monotonic() - began
    codes = [p.exitcode for p in others]
    frozen = job.processes[1].exitcode is None
    if frozen and kind != "freezes":
        job.processes[1].join(3 * TIMEOUT)
    last = job.end(0.1)[1]
    if codes != [6] * len(codes) or seconds > 120 or (last is None and kind != "freezes"):
        raise Failure(f"{kind}, {world} ranks: {codes}, {last} after {seconds:.0f} s: {job.said()[-300:]}")
    if not re.search(r"rank 1 (was at step|has not been heard|died|is at step)", job.said()):
        raise Failure(f"{kind}, {world} ranks: not named: {job.said()[-400:]}")
    return f"{kind}, {world} ranks"


FIGURES = [
    Figure("lost-ranks", 24, prepare, lose, "a rank dies, hangs, freezes or skips a collective: all end, and name it"),
    Figure("ranks-equal", 4, prepare, equal, "2 and 4 sharded ranks against one process, 50 steps: losses within 1e-5"),
    Figure("ranks-elastic", 12, prepare, elastic, "saved at 1, 2, 4 ranks, resumed at 1, 2, 3, 4: same windows, same losses"),
]  # fmt: skip
