"""Token rows become windows, prompts, weighted mixtures and batches."""

from gato.sequences.batch import Batch, Segment, collate
from gato.sequences.mixture import Mixture
from gato.sequences.shelf import ShelvedStore
from gato.sequences.store import Store, TokenStore

__all__ = ["Batch", "Mixture", "Segment", "ShelvedStore", "Store", "TokenStore", "collate"]
