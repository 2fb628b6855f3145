"""Evaluation: a bundle and its tasks become scores, a report and pictures."""
