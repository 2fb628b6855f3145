"""Training runs that are killed, resumed, poisoned and doubled. Every kill is a SIGKILL of a real training process, forked
from this one, which itself never trains."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Failure, Figure, emptied, forked, make_data, make_tokenizer, small_recipe

from gato.errors import NonFiniteError, OutputExistsError

KEYS = ("step", "tokens", "loss", "learning_rate", "grad_norm")


@dataclass
class Place:
    folder: Path
    recipe: Any
    stores: Any
    text: Any
    whole: dict[str, Any] | None = None  # what the undisturbed run left
    seconds: float = 0.0  # that it took


def prepare(folder: Path, **changes: Any) -> Place:
    import torch._dynamo  # what an optimiser imports first of all: once here, not in every process forked from this one
    import torch.utils.tensorboard

    import gato.training.log as training_log
    from gato.tokens.text import TextTokenizer
    from gato.training import load_stores

    torch.set_num_threads(1)
    training_log.LOG_EVERY_SECONDS = 0.0
    recipe = small_recipe(**changes)
    text = TextTokenizer.load(make_tokenizer(folder))
    stores = load_stores([make_data(folder)], recipe.config(), text, recipe)
    assert {s.domain for s in stores} == {"dummy", "captions"}
    return Place(folder, recipe, stores, text)


def prepare_whole(folder: Path) -> Place:
    place = prepare(folder, steps=10, optimizer="muon")
    began = time.monotonic()
    code, said = forked(lambda: run(place, folder / "whole", False))
    place.seconds = time.monotonic() - began
    assert code == 0 and said == "+", said
    place.whole = left_by(folder / "whole")
    assert len(place.whole["ids"]) == 10 * place.recipe.slots and len(place.whole["log"]) == 10
    return place


def run(place: Place, out: Path, resume: bool, before: Any = None) -> str:
    """In a process of its own: train, writing down which windows each batch was made of."""
    from gato.sequences import Mixture
    from gato.training import train

    out.mkdir(parents=True, exist_ok=True)
    ids = os.open(out / "ids.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    whole = Mixture.batch

    def batch(self: Any, step: int, part: int = 0, parts: int = 1) -> Any:
        for i in range(part, self.slots, parts):
            spans = [[s.store, s.spans, s.seed] for s in self.slot(step, i)]
            os.write(ids, (json.dumps([step, i, spans]) + "\n").encode())
        return whole(self, step, part, parts)

    Mixture.batch = batch  # type: ignore[method-assign]
    if before is not None:
        before()
    train(place.recipe, place.stores, place.text, out, resume=resume)
    return ""


def left_by(out: Path) -> dict[str, Any]:
    """Everything that a run leaves but the times: weights, moments and counters, log, windows."""
    from safetensors.torch import load_file

    last = out / "checkpoints" / (out / "checkpoints" / "last").read_text()
    state = json.loads((last / "state.json").read_text())
    ids: dict[str, Any] = {}
    for line in (out / "ids.jsonl").read_text().splitlines():
        step, i, spans = json.loads(line)
        if ids.setdefault(f"{step}/{i}", spans) != spans:
            raise Failure(f"step {step}, slot {i} was made of other windows the second time")
    return {
        "weights": load_file(out / "bundle" / "model.safetensors"), "model": load_file(last / "model.safetensors"),
        "moments": load_file(last / "optimizer.safetensors"), "state": {k: state[k] for k in ("step", "tokens", "optimizer")},
        "log": [{k: v for k, v in r.items() if k in KEYS or k.startswith("loss")} for r in map(json.loads, (out / "log.jsonl").read_text().splitlines())],
        "ids": ids,
    }  # fmt: skip


def compare(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in ("weights", "model", "moments"):
        a, b = found[name], wanted[name]
        differ = sorted(k for k in a.keys() | b.keys() if k not in a or k not in b or not torch.equal(a[k], b[k]))
        if differ:
            raise Failure(f"{name} differ: {differ[:5]}")
    for name in ("state", "log", "ids"):
        if found[name] != wanted[name]:
            raise Failure(f"{name} differs")


def killed(work: Any, seconds: float) -> bool:
    """Fork, let it work for so long, kill -9. Whether it was still alive."""
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(work,))
    process.start()
    process.join(seconds)
    alive = process.exitcode is None
    if alive:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return alive or process.exitcode == -signal.SIGKILL


def kill_within(work: Any, seconds: float, anew: Any) -> None:
    """Kill it after so long. Where it was done before (the speed of a machine varies): `anew()`, and sooner."""
    while not killed(work, seconds):
        anew()
        seconds *= 0.7


def _quietly(work: Any) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    with contextlib.suppress(BaseException):
        work()
    os._exit(0)


def kill_anywhere(place: Place, i: int, rng: random.Random) -> str:
    """One or two kills at random moments, then to the end: the undisturbed run, to the bit."""
    out = emptied(place.folder / "run")
    kills = rng.randint(1, 2)
    for _ in range(kills):
        kill_within(
            lambda: run(place, out, (out / "recipe.json").exists()), rng.uniform(0, place.seconds), lambda: emptied(out)
        )
    code, said = forked(lambda: run(place, out, (out / "recipe.json").exists()))
    if said != "+":
        raise Failure(f"not resumed: {said} ({code})")
    assert place.whole is not None
    compare(left_by(out), place.whole)
    return f"{kills} kill{'s' if kills > 1 else ''}"


# -- inside a save ----------------------------------------------------------------------------------------------------


def prepare_saves(folder: Path) -> Place:
    place = prepare(folder)
    count = folder / "count"
    _, said = forked(lambda: save_once(place, emptied(folder / "counted"), None, count))
    assert said == "+", said
    place.seconds = int(count.read_text())
    return place


def save_once(place: Place, out: Path, at: int | None, count: Path | None = None) -> str:
    """A checkpoint at step 1, another at step 2 in which this process kills itself at its `at`-th change of the disk."""
    import pathlib

    from gato.model import Gato
    from gato.training.checkpoint import State, save_checkpoint
    from gato.training.optimizer import make_optimizers

    torch.manual_seed(0)
    model = Gato(place.recipe.config())
    optimizers = make_optimizers(model, place.recipe)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizers["adamw"].step()
    save_checkpoint(out, model, optimizers, State(1), keep_last=1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    done = 0

    def counted(function: Any, torn: bool = False) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done == at:
                if torn and len(arguments) > 1:  # half of a file
                    function(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    shutil.rmtree = counted(shutil.rmtree)  # type: ignore[assignment]
    pathlib.Path.write_bytes = counted(pathlib.Path.write_bytes, torn=True)  # type: ignore[method-assign]
    pathlib.Path.write_text = counted(pathlib.Path.write_text)  # type: ignore[method-assign]
    save_checkpoint(out, model, optimizers, State(2), keep_last=1)
    if count is not None:
        with open(count, "w") as file:
            file.write(str(done))
    return ""


def kill_in_a_save(place: Place, i: int, rng: random.Random) -> str:
    """At one of the changes that a save makes to the disk: the last committed checkpoint loads, whole."""
    from gato.model import Gato
    from gato.training.checkpoint import State, load_checkpoint, save_checkpoint
    from gato.training.optimizer import make_optimizers

    out = emptied(place.folder / "run")
    at = 1 + i % int(place.seconds)
    code, said = forked(lambda: save_once(place, out, at))
    if code != -signal.SIGKILL:
        raise Failure(f"it was not killed: {code} {said}")
    torch.manual_seed(0)
    wanted = Gato(place.recipe.config())
    model = Gato(place.recipe.config())
    optimizers = make_optimizers(model, place.recipe)
    state = load_checkpoint(out, model, optimizers)
    if state.step not in (1, 2) or not optimizers["adamw"].state:
        raise Failure(f"step {state.step}")
    moved = float((model.norm.bias - wanted.norm.bias).mean())
    if abs(moved - (state.step - 1)) > 0.1:
        raise Failure(f"step {state.step}, but weights moved by {moved}")
    save_checkpoint(out, model, optimizers, State(3), keep_last=1)  # and the next save cleans up
    if sorted(p.name for p in (out / "checkpoints").iterdir()) != ["last", "step-00000003"]:
        raise Failure(f"left behind: {sorted(p.name for p in (out / 'checkpoints').iterdir())}")
    return f"step {state.step} was there"


# -- what is not a number ---------------------------------------------------------------------------------------------


def poison(place: Place, i: int, rng: random.Random) -> str:
    """NaN or an infinity in one element of one gradient, one weight, or one loss, at one step: nothing is updated with it,
    and the note names that step's windows."""
    out = emptied(place.folder / "run")
    value = rng.choice([float("nan"), float("inf"), float("-inf")])
    where = ("gradient", "weight", "loss")[i % 3]
    step = rng.randrange(4)
    _code, said = forked(lambda: poisoned(place, out, where, value, step, rng.randrange(10**6)))
    if said != "+":
        raise Failure(f"{where} {value} at step {step}: {said}")
    note = json.loads((out / "non-finite.json").read_text())
    from gato.training import make_mixture

    mixture = make_mixture(place.stores, place.recipe)
    windows = [[place.stores[w.store].task, np.array(w.spans).tolist()] for k in range(place.recipe.slots) for w in mixture.slot(step, k)]  # fmt: skip
    if note["step"] != step or note["windows"] != windows:
        raise Failure("the note names other windows")
    if (out / "bundle").exists():
        raise Failure("a bundle was made of it")
    return where


def poisoned(place: Place, out: Path, where: str, value: float, step: int, pick: int) -> str:
    import gato.training.loop as loop

    made, losses_of = loop.make_optimizers, loop.token_losses
    now: dict[str, Any] = {"step": 0}

    def make(model: Any, recipe: Any) -> Any:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        now["model"], now["parameter"] = model, named[pick % len(named)][1]
        if where == "gradient":

            def harm(gradient: torch.Tensor) -> torch.Tensor:
                if now["step"] != step:
                    return gradient
                gradient = gradient.clone(memory_format=torch.contiguous_format)
                gradient.view(-1)[pick % gradient.numel()] = value
                return gradient

            now["parameter"].register_hook(harm)
        return made(model, recipe)

    def losses(*arguments: Any, **named: Any) -> torch.Tensor:
        found = losses_of(*arguments, **named)
        if where == "loss" and now["step"] == step:
            found = found * torch.where(torch.arange(len(found)) == pick % len(found), value, 1.0)
        return found

    def keep() -> None:
        now["before"] = {k: v.clone() for k, v in now["model"].state_dict().items()}

    def visit(model: Any, state: Any) -> None:
        now["step"] = state.step
        if where == "weight" and state.step == step:
            spoil()
        keep()

    def spoil() -> None:
        with torch.no_grad():
            now["model"].blocks[0].norm1.weight[pick % 32] = value

    loop.make_optimizers, loop.token_losses = make, losses  # type: ignore[assignment]
    batch = loop.Mixture.batch

    def first(self: Any, at: int, *rest: Any) -> Any:
        if at == 0 and "before" not in now and "model" in now:
            if where == "weight" and step == 0:
                spoil()
            keep()
        return batch(self, at, *rest)

    loop.Mixture.batch = first  # type: ignore[method-assign]
    try:
        loop.train(place.recipe, place.stores, place.text, out, visit=visit)
    except NonFiniteError as error:
        if f"at step {step};" not in str(error):
            raise Failure(f"named another step: {error}") from error
        for k, v in now["model"].state_dict().items():
            if not torch.equal(v.nan_to_num(7.0), now["before"][k].nan_to_num(7.0)):
                raise Failure(f"{k} was updated") from error
        return ""
    raise Failure("nothing was said")


# -- two at once ------------------------------------------------------------------------------------------------------


def double(place: Place, i: int, rng: random.Random) -> str:
    """A run is on its way; another of the same folder is refused, and the first ends as if alone."""
    out = emptied(place.folder / "run")
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(lambda: run(place, out, False),))
    process.start()
    try:
        while not (out / "recipe.json").exists() and process.exitcode is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, place.seconds / 3))
        resume = bool(i % 2)
        was_alive = process.exitcode is None

        def second() -> str:
            from gato.training import train

            try:
                train(place.recipe, place.stores, place.text, out, resume=resume)
            except OutputExistsError as error:
                return f"refused: {error.what}"
            return "ran"

        _code, said = forked(second)
    finally:
        process.join()
    if not was_alive:
        raise Failure("the first had ended before the second began")
    if not said.startswith("+refused: process"):
        raise Failure(f"the second {said}")
    assert place.whole is not None
    compare(left_by(out), place.whole)
    return "resume" if resume else "anew"


def prepare_poison(folder: Path) -> Place:
    return prepare(folder, steps=5, save_every_seconds=1e9)


FIGURES = [
    Figure("non-finite", 100, prepare_poison, poison, "NaN or infinity in a gradient, weight or loss: caught before the update"),
    Figure("two-runs", 20, prepare_whole, double, "two runs in one folder: the second is refused, the first unharmed"),
    Figure("kills-in-save", 100, prepare_saves, kill_in_a_save, "kill -9 inside a save: the last committed checkpoint loads"),
    Figure("kills", 100, prepare_whole, kill_anywhere, "kill -9 of a multimodal run, resumed: the undisturbed run, to the bit"),
]  # fmt: skip
