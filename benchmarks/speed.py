"""Tokens per second of a training step, and decisions per second of an agent, on made-up windows of the demo's shapes.

    python benchmarks/speed.py [--threads 1] [--steps 10]      writes results/speed.json

Shapes: 5 values → 1 action; 39 → 4; a grid of 57 → 1; 112×112 pixels of seven different tiles → 1; 64×80 → 1. One
process; `gato train` runs one per core. Numbers of different processors do not compare.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from gato.episodes import Episode, Spec, TaskSpec
from gato.model import Gato, GatoConfig
from gato.sequences import Mixture, TokenStore
from gato.tokens import TimestepCodec
from gato.training.loss import token_losses
from gato.training.optimizer import make_optimizers
from gato.training.recipe import Recipe

STEPS = 500


def made_up(config: GatoConfig) -> list[TokenStore]:
    rng = np.random.default_rng(0)
    floats = Spec("continuous", (4,), "float32", (-1.0,), (1.0,))
    button = Spec("discrete", (), "int64", (0.0,), (6.0,))
    shapes = {
        "values/5": (
            Spec("continuous", (5,), "float32", (-np.inf,), (np.inf,)),
            Spec("continuous", (1,), "float32", (-1.0,), (1.0,)),
        ),
        "values/39": (Spec("continuous", (39,), "float32", (-np.inf,), (np.inf,)), floats),
        "grid/57": (Spec("discrete", (57,), "int64", (0.0,), (263.0,)), button),
        "pixels/112": (Spec("image", (112, 112, 3), "uint8", (0.0,), (255.0,)), button),
        "pixels/64x80": (Spec("image", (64, 80, 3), "uint8", (0.0,), (255.0,)), button),
    }
    stores = []
    for task, (seen, done) in shapes.items():
        spec = TaskSpec({"observation": seen}, {"action": done})
        if seen.kind == "image":
            tiles = rng.integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
            index = rng.integers(0, 7, (STEPS, seen.shape[0] // 16, seen.shape[1] // 16))
            observed = tiles[index].transpose(0, 1, 3, 2, 4, 5).reshape(STEPS, *seen.shape)
        elif seen.kind == "discrete":
            observed = rng.integers(0, 264, (STEPS, *seen.shape))
        else:
            observed = rng.normal(size=(STEPS, *seen.shape)).astype(np.float32)
        acted = (
            rng.integers(0, 7, STEPS)
            if done.kind == "discrete"
            else rng.uniform(-1, 1, (STEPS, *done.shape)).astype(np.float32)
        )
        episode = Episode(task, {"observation": observed}, {"action": acted}, np.zeros(STEPS, np.float32)).check(spec)
        stores.append(TokenStore.build(task, TimestepCodec(spec, config.vocabulary, None, task=task), [episode]))
    return stores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config, recipe = GatoConfig.tiny(), Recipe(optimizer="muon")
    mixture = Mixture(made_up(config), {"*": 1.0}, 8, 1024, 1024, {"*": 1})
    rows = []
    for precision in ("float32", "bf16"):
        model = Gato(config).train()
        optimizers = make_optimizers(model, recipe)
        spent = dict.fromkeys(("data", "forward", "backward", "optimizer"), 0.0)
        tokens = 0
        for step in range(arguments.steps + 2):
            marks = [time.perf_counter()]
            batch = mixture.batch(step)
            marks.append(time.perf_counter())
            with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
                logits = model(batch)
            loss = token_losses(logits, batch.targets, batch.kinds, config.vocabulary.continuous, 6.0).mean()
            marks.append(time.perf_counter())
            loss.backward()
            marks.append(time.perf_counter())
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad()
            marks.append(time.perf_counter())
            if step >= 2:  # the first ones warm up
                tokens += batch.num_tokens
                for name, a, b in zip(spent, marks, marks[1:], strict=False):
                    spent[name] += b - a
        total = sum(spent.values())
        row = {"precision": precision, "tokens_per_second": round(tokens / total), "padding": round(batch.padding, 4)}
        row |= {f"{name}_share": round(seconds / total, 3) for name, seconds in spent.items()}
        rows.append(row)
        print(row)
    record = {"size": "tiny", "parameters": model.num_parameters, "threads": arguments.threads, "processor": platform.processor() or platform.machine(),
              "torch": torch.__version__, "protocol": __doc__.split("\n\n")[-1].strip(), "rows": rows}  # fmt: skip
    Path("results").mkdir(exist_ok=True)
    Path("results/speed.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
