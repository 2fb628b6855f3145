"""Tokens per second of our training step beside a plain GPT, both in one run, step about.

    python benchmarks/train_speed.py [--sizes tiny gato-79m] [--steps 8] [--threads 0]     writes results/train_speed.json

The plain GPT is written with torch.nn and scaled_dot_product_attention: the same width, depth, heads, vocabulary, batch
and precision, learned positions, GELU and a hidden size of the same number of parameters, causal over whole sequences
of 1,024 tokens, logits and loss at every position, fused AdamW. It reads a control batch as any other row of ids, and
of an image batch each patch as one id. Ours reads the same tokens from a mixture: `rope`, stochastic depth off;
"xl" and "xl, depth" are the paper's own settings, beside it.

    text      windows of 1,024 text tokens, all of them targets
    control   17 values, a separator, 6 actions: 24 tokens a timestep, 6 of them targets
    image     64×80 pixels, a separator, an action: 20 patches, 22 tokens, 1 target; drawn from 500 frames of noise

`ratio` is ours over the GPT's, the median over steps that were taken in turn. Data loading is counted on our side.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gato.episodes import Episode, Spec, TaskSpec
from gato.model import Gato, GatoConfig, size
from gato.sequences import Mixture, TokenStore
from gato.tokens import TimestepCodec
from gato.tokens.text import TextTokenizer
from gato.training.loss import token_losses
from gato.training.optimizer import make_optimizers
from gato.training.recipe import Recipe

LENGTH = 1024
BATCHES = ("text", "control", "image")


class PlainGPT(nn.Module):
    def __init__(self, config: GatoConfig):
        super().__init__()
        d, self.heads = config.layer_width, config.num_attention_heads
        self.tokens, self.positions = nn.Embedding(config.vocabulary.size, d), nn.Embedding(LENGTH, d)
        hidden = config.feedforward_hidden_size * 3 // 4  # GEGLU has f·d and f/2·d weights, an MLP h·d twice
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(d), "qkv": nn.Linear(d, 3 * d), "out": nn.Linear(d, d), "norm2": nn.LayerNorm(d),
                "mlp": nn.Sequential(nn.Linear(d, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, d)),
            })
            for _ in range(config.num_transformer_blocks)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, config.vocabulary.size, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows, length = ids.shape
        x = self.tokens(ids) + self.positions(torch.arange(length, device=ids.device))
        for block in self.blocks:
            q, k, v = block["qkv"](block["norm1"](x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["out"](attended.transpose(1, 2).reshape(rows, length, -1))
            x = x + block["mlp"](block["norm2"](x))
        return self.head(self.norm(x))


def store_of(kind: str, config: GatoConfig) -> TokenStore:
    rng = np.random.default_rng(0)
    tokenizer: TextTokenizer | None = None
    steps, actions = 500, {}
    if kind == "text":
        spec = TaskSpec({"text": Spec("text", (), "object")}, {})
        tokenizer, text = _tokenizer()
        observations: dict = {"text": [text]}
        steps = 1
    elif kind == "control":
        spec = TaskSpec(
            {"observation": Spec("continuous", (17,), "float32", (-np.inf,), (np.inf,))},
            {"action": Spec("continuous", (6,), "float32", (-1.0,), (1.0,))},
        )
        observations = {"observation": rng.normal(size=(steps, 17)).astype(np.float32)}
        actions = {"action": rng.uniform(-1, 1, (steps, 6)).astype(np.float32)}
    else:
        spec = TaskSpec(
            {"image": Spec("image", (64, 80, 3), "uint8", (0.0,), (255.0,))},
            {"action": Spec("discrete", (), "int64", (0.0,), (17.0,))},
        )
        observations = {"image": rng.integers(0, 256, (steps, 64, 80, 3)).astype(np.uint8)}
        actions = {"action": rng.integers(0, 18, steps)}
    codec = TimestepCodec(spec, config.vocabulary, tokenizer, task=f"{kind}/made-up")
    episode = Episode(f"{kind}/made-up", observations, actions, np.zeros(steps, np.float32))
    return TokenStore.build(f"{kind}/made-up", codec, [episode])


def _tokenizer() -> tuple[TextTokenizer, str]:
    from gato.corpora.text import python_docs

    texts = [e.observations["text"][0] for e in python_docs("train")]
    return TextTokenizer.train(texts, 1024), "\n".join(texts)


def gpt_step(config: GatoConfig, slots: int, autocast, device: str) -> Callable[[], int]:
    torch.manual_seed(0)
    model = PlainGPT(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, config.vocabulary.size, (slots, LENGTH + 1), device=device)

    def step() -> int:
        with autocast():
            logits = model(ids[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return slots * LENGTH

    return step


def our_step(config: GatoConfig, mixture: Mixture, autocast, device: str) -> Callable[[], int]:
    torch.manual_seed(0)
    model = Gato(config).to(device).train()
    optimizers = make_optimizers(model, Recipe())
    count = 0

    def step() -> int:
        nonlocal count
        batch = mixture.batch(count).to(device)
        count += 1
        with autocast():
            logits = model(batch)
        loss = token_losses(logits, batch.targets, batch.kinds, config.vocabulary.continuous).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        return batch.num_tokens

    return step


def timed(step: Callable[[], int], device: str) -> float:
    """Tokens per second of one step."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    tokens = step()
    if device == "cuda":
        torch.cuda.synchronize()
    return tokens / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "gato-79m"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    def autocast():
        return torch.autocast(device, torch.bfloat16) if arguments.precision == "bf16" else nullcontext()

    rows = []
    for name in arguments.sizes:
        base = size(name).replace(position="rope", stochastic_depth=0.0, vocabulary_size=size(name).vocabulary_size)
        slots = 8 if name == "tiny" else 1
        variants = {
            "rope": base,
            "xl": base.replace(position="xl"),
            "xl, depth": base.replace(position="xl", stochastic_depth=0.1),
        }
        gpt = gpt_step(base, slots, autocast, device)
        for kind in BATCHES:
            mixture = Mixture([store_of(kind, base)], {"*": 1.0}, slots, LENGTH, LENGTH)
            ours = {v: our_step(config, mixture, autocast, device) for v, config in variants.items()}
            speeds: dict[str, list[float]] = {v: [] for v in ("gpt", *ours)}
            for n in range(arguments.steps + 2):
                for v, step in {"gpt": gpt, **ours}.items():
                    speed = timed(step, device)
                    if n >= 2:
                        speeds[v].append(speed)
            ratios = {
                v: round(statistics.median(a / b for a, b in zip(speeds[v], speeds["gpt"], strict=True)), 3)
                for v in ours
            }
            row = {"size": name, "batch": kind, "slots": slots, "ratio": ratios["rope"], "ratios": ratios,
                   "tokens_per_second": {v: round(statistics.median(s)) for v, s in speeds.items()}}  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    record = {
        "protocol": " ".join((__doc__ or "").split("writes results/train_speed.json")[1].split()), "precision": arguments.precision,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__, "steps": arguments.steps, "rows": rows,
    }  # fmt: skip
    Path("results").mkdir(exist_ok=True)
    Path("results/train_speed.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
