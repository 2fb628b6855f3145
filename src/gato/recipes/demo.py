"""The demo: one small network for grid worlds, a robot arm, control tasks, Sokoban, Atari, captions and text.

    gato demo                # collects, trains nine minutes on two cores, evaluates, reports

What departs from the paper is named in docs/deviations.md: rotary positions, Muon, windows of one timestep without
prompts, smoothed targets of continuous actions, bin rows that share, actions sampled (discrete) or averaged (continuous).
"""

from gato.training.recipe import Recipe

recipe = Recipe(
    name="demo",
    size="tiny",
    steps=None,
    seconds=540,
    weights={
        "babyai/go-to-red-ball-grey": 0.06,
        "babyai/go-to-local": 0.12,
        "babyai/pickup-loc": 0.15,
        "meta-world": 0.09,
        "dm-control-suite": 0.10,
        "dm-control-suite/reacher-easy": 0.10,
        "sokoban": 0.14,
        "ale-atari": 0.08,
        "captions": 0.06,
        "text": 0.15,
    },
    slots=8,
    slot_tokens=1024,
    window_tokens=512,
    document_tokens=256,
    # pickup-loc names places as seen from the first step ("on your left"), so it has to be remembered
    window_timesteps={"*": 1, "babyai/pickup-loc": 6, "ale-atari/boxing": 2, "text": None, "captions": None},
    prompt_share=0.0,
    text_targets=False,
    optimizer="muon",
    learning_rate=3e-3,
    muon_learning_rate=0.02,
    final_ratio=0.02,
    warmup=0.02,
    weight_decay=0.01,
    loss_by="tokens",
    smooth_targets=6.0,
    precision="auto",
    discrete="sample",
    continuous="mean",
)
