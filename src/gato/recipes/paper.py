"""The paper's own recipe (section 2.3, appendix D), its Table 1 as weights; domains that are absent are renormalised.

    gato train paper --data DIR… --out DIR --size gato-79m

512 sequences of 1,024 tokens a step for a million steps: for a machine room, or with `--steps` and `--size` for a look.
"""

from gato.training.recipe import Recipe

recipe = Recipe(
    name="paper",
    size="gato-1.18b",
    steps=1_000_000,
    weights={
        "dm-lab": 9.35, "ale-atari": 9.5, "ale-atari-extended": 10.0, "sokoban": 1.33, "babyai": 9.06,
        "dm-control-suite": 4.62, "dm-control-suite-pixels": 7.07, "dm-control-suite-random-small": 3.04,
        "dm-control-suite-random-large": 3.04, "meta-world": 8.96, "procgen": 5.34, "rgb-stacking": 2.66,
        "modular-rl": 8.23, "dm-manipulation-playground": 1.68, "playroom": 1.33,
        "text": 6.7, "pages": 4.0, "captions": 2.68, "questions": 1.34,
    },
    slots=512,
    slot_tokens=1024,
    accumulate=64,
    window_tokens=1024,
    prompt_share=0.25,
    return_filter=0.8,
    optimizer="adamw",
    learning_rate=1e-4,
    final_ratio=0.1,
    warmup=0.015,
    weight_decay=0.1,
    precision="bf16",
)  # fmt: skip
