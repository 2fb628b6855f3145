"""The demo: one small network for grid worlds, a robot arm, control tasks, Sokoban, Atari, captions and text.

    gato demo                # collects, trains nine minutes on two cores, evaluates, reports

What departs from the paper is named in docs/deviations.md: rotary positions, Muon, windows of one timestep without
prompts, smoothed targets of continuous actions, bin rows that share.
"""

from gato.training.recipe import Recipe

recipe = Recipe(
    name="demo",
    size="tiny",
    model={
        "num_transformer_blocks": 2,  # of the same minutes, more tokens teach more than more blocks
        "vocabulary_size": 4096,  # and longer pieces more text in the same tokens
    },
    steps=None,
    seconds=570,
    weights={
        "babyai/go-to-red-ball-grey": 0.04,
        "babyai/go-to-local": 0.14,
        "babyai/pickup-loc": 0.12,
        "meta-world": 0.08,
        "dm-control-suite": 0.06,
        "dm-control-suite/reacher-easy": 0.09,
        "sokoban": 0.24,
        "ale-atari/freeway": 0.03,
        "ale-atari/boxing": 0.10,
        "captions": 0.05,
        "text": 0.08,
    },
    slots=6,
    slot_tokens=1024,
    window_tokens=512,
    document_tokens=256,
    window_timesteps={"*": 1, "text": None, "captions": None},
    prompt_share=0.0,
    text_targets=False,
    optimizer="muon",
    learning_rate=3e-3,
    table_learning_rate=0.015,
    muon_learning_rate=0.01,
    final_ratio=0.02,
    warmup=0.02,
    weight_decay=0.01,
    loss_by="tokens",
    smooth_targets=6.0,
    precision="auto",
    discrete="sample",
    continuous="sample",
)
