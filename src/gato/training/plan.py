"""What a run is about to do, said before it does it: sizes, how a step is shared out, memory, precision.

    network    78,761,152 parameters, gato-79m
    step       524,288 tokens = 8 ranks × 8 parts × 8 slots × 1,024
    memory     7.5 GiB a rank: weights 38 MiB, gradients 38 MiB, optimiser 75 MiB, gathered 76 MiB, activations 7.3 GiB (estimated)
    precision  bf16, reduced in float32

That is `gato train paper --size gato-79m` on eight GPUs. The estimate counts what has a name. What a library allocates on top
(kernels, fragments, on a CPU the interpreter and the data) is not in it; the measured figure, printed after the first steps,
is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gato.model import Gato
from gato.training.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    size: str
    parameters: int
    ranks: int
    parts: int  # of a step, that each rank takes one after the other
    slots: int  # in a part
    slot_tokens: int
    tokens: int  # of a step; less than the product where the parts do not divide the recipe's slots
    weights: int  # bytes of a rank, this and the next four
    gradients: int
    optimizer: int
    gathered: int  # weights put together for a pass, where a rank keeps a slice alone
    activations: int
    precision: str

    @property
    def bytes(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations

    @classmethod
    def of(cls, recipe: Recipe, device: str, world: int, sharded: bool) -> Plan:
        from gato.training.loop import _in_bf16
        from gato.training.team import Team

        config = recipe.config()
        with torch.device("meta"):
            model = Gato(config)
        total = model.num_parameters
        in_blocks = sum(p.numel() for p in model.blocks.parameters())
        matrices = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2) if recipe.optimizer == "muon" else 0
        share = world if sharded else 1
        bf16 = _in_bf16(recipe, device)
        parts = Team.parts_of(recipe.accumulate, world)
        slots = math.ceil(recipe.slots / parts)
        # FSDP holds the tables whole, and the blocks two at a time (the next is fetched while one computes).
        held = total - in_blocks + 2 * in_blocks // config.num_transformer_blocks
        return cls(
            size=recipe.size, parameters=total, ranks=world, parts=parts // world, slots=slots,
            slot_tokens=recipe.slot_tokens, tokens=recipe.slots * recipe.slot_tokens,
            weights=4 * total // share, gradients=4 * total // share,
            optimizer=(8 * (total - matrices) + 4 * matrices) // share,
            gathered=held * (2 if bf16 else 4) if sharded else 0,
            activations=activation_bytes(recipe, slots, 2 if bf16 else 4),
            precision=("bf16, reduced in float32" if sharded else "bf16 products, float32 weights") if bf16 else "float32",
        )  # fmt: skip

    def __str__(self) -> str:
        memory = {"weights": self.weights, "gradients": self.gradients, "optimiser": self.optimizer}
        memory |= {"gathered": self.gathered} if self.gathered else {}
        said = ", ".join(
            f"{name} {in_words(size)}" for name, size in {**memory, "activations": self.activations}.items()
        )
        equals = "=" if self.tokens == self.ranks * self.parts * self.slots * self.slot_tokens else "≤"
        return (
            f"network    {self.parameters:,} parameters, {self.size}\n"
            f"step       {self.tokens:,} tokens {equals} {self.ranks} ranks × {self.parts} parts × {self.slots} slots × {self.slot_tokens:,}\n"
            f"memory     {in_words(self.bytes)} a rank: {said} (estimated)\n"
            f"precision  {self.precision}"
        )


def in_words(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def activation_bytes(recipe: Recipe, slots: int, size: int) -> int:
    """What a backward pass over `slots` slots needs of the forward one: per token and block about nine widths, two and a
    half hidden widths, and three rows of scores (one and a half windows where attention is fused: its bias alone); the
    logits, in float32, of half of the tokens. With `activation_checkpointing` the blocks' inputs and one block's inside."""
    config = recipe.config()
    tokens = slots * recipe.slot_tokens
    window = min(recipe.window_tokens, recipe.slot_tokens) / 2  # a query sees half of it on average
    block = size * tokens * (
        9 * config.layer_width + 2.5 * config.feedforward_hidden_size + 3 * config.num_attention_heads * window
    )  # fmt: skip
    n = config.num_transformer_blocks
    blocks = block + size * n * tokens * config.layer_width if recipe.activation_checkpointing else n * block
    logits = 2 * 4 * (tokens // 2) * config.vocabulary.size
    return int(blocks + logits)
