"""The paper's own recipe (section 2.3, appendix D), its Table 1 as weights; domains that are absent are renormalised.

    gato train paper --data DIR… --out DIR --size gato-79m

512 sequences of 1,024 tokens a step for a million steps: for a machine room, or with `--steps` and `--size` for a look.
"""

from gato.training.recipe import Recipe

TABLE_1 = {  # domain: (tasks, episodes, tokens, sample weight in percent)
    "dm-lab": (254, 16.4e6, 194e9, 9.35),
    "ale-atari": (51, 63.4e3, 1.26e9, 9.5),
    "ale-atari-extended": (28, 28.4e3, 565e6, 10.0),
    "sokoban": (1, 27.2e3, 298e6, 1.33),
    "babyai": (46, 4.61e6, 22.8e9, 9.06),
    "dm-control-suite": (30, 395e3, 22.5e9, 4.62),
    "dm-control-suite-pixels": (28, 485e3, 35.5e9, 7.07),
    "dm-control-suite-random-small": (26, 10.6e6, 313e9, 3.04),
    "dm-control-suite-random-large": (26, 26.1e6, 791e9, 3.04),
    "meta-world": (45, 94.6e3, 3.39e9, 8.96),
    "procgen": (16, 1.6e6, 4.46e9, 5.34),
    "rgb-stacking": (2, 402.7e3, 25.38e9, 2.66),  # simulator and real robot
    "modular-rl": (38, 843e3, 69.6e9, 8.23),
    "dm-manipulation-playground": (4, 286e3, 6.58e9, 1.68),
    "playroom": (1, 829e3, 118e9, 1.33),
}
LANGUAGE = {"text": 6.7, "pages": 4.0, "captions": 2.68, "questions": 1.34}  # MassiveText; M3W; 4 and 2 sets of 0.67

recipe = Recipe(
    name="paper",
    size="gato-1.18b",
    steps=1_000_000,
    weights={domain: weight for domain, (_, _, _, weight) in TABLE_1.items()} | LANGUAGE,
    hold_out=(  # section 5.1
        "dm-control-suite/cartpole-swingup", "meta-world/assembly", "dm-lab/order-of-apples-forage-simple", "ale-atari/boxing",
    ),
    slots=512,
    slot_tokens=1024,
    accumulate=64,
    window_tokens=1024,
    prompt_share=0.25,
    return_filter=0.8,
    lazy=True,
    optimizer="adamw",
    learning_rate=1e-4,
    final_ratio=0.1,
    warmup=0.015,
    weight_decay=0.1,
    precision="bf16",
)  # fmt: skip
