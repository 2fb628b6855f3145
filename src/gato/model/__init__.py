"""Batches become logits: embedding, transformer, cache, bundle."""

from gato.model.cache import RingCache
from gato.model.config import SIZES, GatoConfig, size
from gato.model.transformer import Gato

__all__ = ["SIZES", "Gato", "GatoConfig", "RingCache", "size"]
