"""A recipe becomes a bundle: the one training loop. Fine-tuning is a recipe with a starting bundle."""

from gato.training.loop import load_stores, make_mixture, train
from gato.training.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe", "load_stores", "make_mixture", "train"]
