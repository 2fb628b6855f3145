"""Token rows become windows, prompts, weighted mixtures and batches."""

from gato.sequences.batch import Batch, Segment, collate
from gato.sequences.mixture import Mixture
from gato.sequences.store import TokenStore

__all__ = ["Batch", "Mixture", "Segment", "TokenStore", "collate"]
