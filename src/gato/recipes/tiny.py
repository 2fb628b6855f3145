"""The smallest run: `gato train tiny --data DIR --out DIR`, the paper's layout and prompts at the size of a laptop."""

from gato.training.recipe import Recipe

recipe = Recipe(
    name="tiny", size="tiny", steps=1000, learning_rate=1e-3, window_tokens=512, slot_tokens=1024, precision="auto"
)
