"""The generalist: one network for every domain that has an expert here, and for the generated corpora.

    python benchmarks/generalist_data.py --out DATA                                        # an hour of two cores
    gato train generalist --data DATA --tokenizer tokenizer.model --out TRUNK --set final_ratio=1.0    # until it is stopped
    gato train --resume TRUNK --bundle                                                     # what it is now: TRUNK/bundle-step-N
    gato finetune TRUNK/bundle-step-N generalist --tasks '*' --data DATA --out SHIPPED --set steps=1500 warmup=0.02   # its end

The one in the package had five and a half minutes more, with learning_rate=5e-4 table_learning_rate=0.0025 final_ratio=0.02 and a
weight of 14 for dialogues/program, whose first words were new.

The network, windows and optimizer follow the demo's (docs/deviations.md says what each costs); a task token tells alike
tasks apart, since a window has no prompt. Where one picture shows no speed a window is three timesteps, elsewhere one. Weights
are shares of tokens: a domain's number of tasks and how hard they are to imitate both count, and what learns slowly (pictures,
missions) gets more than its number.
"""

from gato.recipes.demo import recipe as demo

WEIGHTS = {
    "babyai": 15, "meta-world": 10, "sokoban": 7, "ale-atari": 4, "procgen": 6, "miniworld": 6, "vizdoom": 5,
    "dm-control-maze": 2, "dm-control-suite": 7, "dm-control-suite-pixels": 6, "dm-control-suite-text": 2,
    "dm-control-suite-random-small": 3, "modular-rl": 4, "classic-control": 2, "box2d": 2, "gym-mujoco": 2,
    "gymnasium-robotics": 5, "dm-manipulation-playground": 4, "rgb-stacking": 4,
    "text": 3, "captions": 5, "questions": 5, "dialogues": 2, "pages": 1, "clips": 1,
}  # fmt: skip

DOCUMENTS = ("text", "captions", "questions", "dialogues", "pages", "clips")

recipe = demo.replace(
    name="generalist",
    model={
        "num_transformer_blocks": 3,
        "layer_width": 256,
        "num_attention_heads": 8,
        "feedforward_hidden_size": 1024,
        "vocabulary_size": 2048,
        "task_token": True,
    },
    steps=500_000,
    weights=WEIGHTS,
    slots=16,
    window_timesteps={"*": 1, "dm-control-suite-pixels": 3, "ale-atari": 3, **dict.fromkeys(DOCUMENTS)},
    learning_rate=2e-3,
    table_learning_rate=0.01,
    final_ratio=0.05,
    warmup=0.01,
    continuous="mean",  # after so few tokens a task some bells are broad: sampled, meta-world/hammer falls from 40 to 10 %
)
