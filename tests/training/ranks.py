"""Real training processes for tests: forked from a server that has everything imported, with torchrun's environment.

A job is a function of a module, called as `job(rank, world, *arguments)` in each of `world` processes. What it prints goes
to a file, and how it ended is its exit code: a GatoError's own, or minus the signal that killed it.
"""

import contextlib
import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    [
        "gato.training.start",
        "torch.distributed.fsdp",
        "gato.sequences",
        "gato.training.sharded",
        "torch._dynamo",
        "torch.utils.tensorboard",
    ]
)


class Ranks:
    """`world` processes doing one job."""

    def __init__(self, job, *arguments, world=1, log, environment=None):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.log = Path(log)
        self.processes = [
            _server.Process(target=_enter, args=(rank, world, port, job, arguments, str(log), environment or {}))
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def end(self, seconds=120.0):
        """The exit codes; None for one that had to be stopped because it did not end in time."""
        ends = time.monotonic() + seconds
        codes = []
        for process in self.processes:
            process.join(max(0.0, ends - time.monotonic()))
            codes.append(process.exitcode)
            if process.exitcode is None:
                process.kill()
                process.join()
        return codes

    def said(self, rank=0):
        with contextlib.suppress(FileNotFoundError):
            return self.log.with_suffix(f".{rank}").read_text()
        return ""


def _enter(rank, world, port, job, arguments, log, environment):
    import torch

    from gato.errors import GatoError

    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        OMP_NUM_THREADS="1", **environment,
    )  # fmt: skip
    descriptor = os.open(Path(log).with_suffix(f".{rank}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 0
    try:
        job(rank, world, *arguments)
    except GatoError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except SystemExit as stop:
        code = int(stop.code or 0)
    sys.stderr.flush()
    os._exit(code)


# -- the job that all tests share: a small run ------------------------------------------------------------------------


def train_once(rank, world, recipe, data, tokenizer, out, options):
    """Train `recipe` (words as for Recipe) in `out`. `options`: resume, ids (a folder: which windows each part of each step
    was made of), fault (see `_Fault`)."""
    import gato.training.log as training_log
    from gato.sequences import Mixture
    from gato.tokens.text import TextTokenizer
    from gato.training import Recipe, load_stores, train
    from gato.training.team import Torchrun

    training_log.LOG_EVERY_SECONDS = 0.0
    recipe = Recipe.from_json(recipe)
    text = TextTokenizer.load(Path(tokenizer))
    stores = load_stores([Path(data)], recipe.config(), text, recipe)
    if options.get("ids"):
        ids = open(Path(options["ids"]) / f"{rank}-of-{world}-{os.getpid()}", "a", buffering=1)  # noqa: SIM115
        whole = Mixture.batch

        def batch(self, step, part=0, parts=1):
            for i in range(part, self.slots, parts):
                spans = [[s.store, s.spans, s.seed] for s in self.slot(step, i)]
                ids.write(json.dumps([step, i, spans]) + "\n")
            return whole(self, step, part, parts)

        Mixture.batch = batch
    team = Torchrun("cpu") if world > 1 else None
    if options.get("fault"):
        options["fault"](rank, team)
    train(recipe, stores, text, Path(out), resume=options.get("resume", False), team=team)


def ids_of(folder):
    """{(step, slot): windows}, of all ranks and attempts; two that say different things are an error."""
    found = {}
    for path in Path(folder).iterdir():
        for line in path.read_text().splitlines():
            try:
                step, i, spans = json.loads(line)
            except ValueError:
                continue  # half a line of a process that was killed
            assert found.setdefault((step, i), spans) == spans, (step, i)
    return found


def losses_of(run):
    return {r["step"]: r["loss"] for r in map(json.loads, (Path(run) / "log.jsonl").read_text().splitlines())}
