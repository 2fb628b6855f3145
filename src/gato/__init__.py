"""Gato: one transformer, one set of weights, that acts, captions and talks."""
