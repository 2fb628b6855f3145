"""Shared by all tests: one thread per process (they run side by side), and a small real tokenizer."""

import itertools
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def tokenizer():
    """1,024 pieces from sixty modules' documentation."""
    from gato.corpora.text import python_docs
    from gato.tokens.text import TextTokenizer

    return TextTokenizer.train((e.observations["text"][0] for e in itertools.islice(python_docs("train"), 60)), 1024)
