"""One timestep becomes token rows, and back again: values, patches, text, timestep. Tokenising is outside the model."""

from gato.tokens.timestep import KINDS, TimestepCodec, Tokens
from gato.tokens.values import Vocabulary

__all__ = ["KINDS", "TimestepCodec", "Tokens", "Vocabulary"]
