"""A recipe becomes a bundle: the one training loop. Fine-tuning is a recipe with a starting bundle."""

from gato.training.data import load_stores, make_mixture
from gato.training.loop import train
from gato.training.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe", "load_stores", "make_mixture", "train"]
