"""Few-shot fine-tuning as the paper did it (section 5, appendix E): Adam at a constant 1e-5, dropout, 64 × 1,024 tokens.

gato finetune BUNDLE --tasks TASK --data DIR --out DIR
gato finetune BUNDLE --tasks TASK --data DIR --out DIR --demonstrations 1 3 5 10 100 1000 --series 3
"""

from gato.training.recipe import Recipe

recipe = Recipe(
    name="finetune",
    steps=10_000,
    slots=64,
    slot_tokens=1024,
    window_tokens=1024,
    prompt_share=0.25,
    model={"dropout_rate": 0.1, "stochastic_depth": 0.0},
    optimizer="adamw",
    learning_rate=1e-5,
    final_ratio=1.0,
    warmup=0.0,
    weight_decay=0.0,
)
"""`size` plays no part: the network is the bundle's, but for fields in `model` that no weight's shape follows from."""
