"""Bits per byte and the trigram: against the textbook's formulas, by hand and by a slow second implementation."""

import math
import time
from collections import Counter

import numpy as np
import pytest

from gato.corpora.text import python_docs
from gato.errors import DataError
from gato.evaluation.language import Trigram, bits_per_byte, caption_scores, trigram_bits_per_byte
from gato.tokens.text import TextTokenizer

END, A, B = 0, 1, 2
START = 3  # the vocabulary's size


def test_the_trigram_by_hand():
    """Two documents, "a b" and "a a"; the corpus is too small to estimate discounts, so they are 0.5, 1 and 1.5.

    Trigrams: ··a twice; ·ab, ab$, ·aa, aa$ once.  Bigrams, by contexts: ab, b$, aa, a$ once; ·a, from the start, twice.
    Unigrams, by contexts: a follows · and a, b follows a, $ follows b and a.
    """
    model = Trigram([np.array([A, B]), np.array([A, A])], vocabulary=3, end=END)
    uniform = 1 / 3
    passed_on_1 = (1.0 + 0.5 + 1.0) / 5
    p_a, p_b, p_end = ((count - d) / 5 + passed_on_1 * uniform for count, d in ((2, 1.0), (1, 0.5), (2, 1.0)))
    assert p_a + p_b + p_end == pytest.approx(1)
    # After "a": b, a and $, once each. After the start: a, twice.
    b_after_a = 0.5 / 3 + 1.5 / 3 * p_b
    a_after_start = (2 - 1.0) / 2 + 1.0 / 2 * p_a
    # After "· a": b and a, once each. After "· ·": a, twice.
    b_after_start_a = 0.5 / 2 + 1.0 / 2 * b_after_a
    first = (2 - 1.0) / 2 + 1.0 / 2 * a_after_start
    end_after_ab = 0.5 + 0.5 * (0.5 + 0.5 * p_end)  # ab$ once; b$ in one context
    assert model.probabilities([START], [A], [B]) == pytest.approx(b_after_start_a)
    assert model.probabilities([START], [START], [A]) == pytest.approx(first)
    assert model.probabilities([B], [A], [B]) == pytest.approx(b_after_a)  # "b a" was never seen: all from the bigram
    assert model.probabilities([B], [B], [B]) == pytest.approx(0.5 * p_b)  # nor "b b": half of b's bigrams is passed on
    by_hand = -sum(map(math.log2, (first, b_after_start_a, end_after_ab)))
    assert model.bits([np.array([A, B])]) == pytest.approx([by_hand])


def documents(seed: int, count: int, vocabulary: int = 12) -> list[np.ndarray]:
    """Documents in which a token depends on the one before it; some are empty."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(vocabulary - 1, 0.3), vocabulary)
    out = []
    for length in rng.integers(0, 40, count):
        ids = [1]
        for _ in range(length):
            ids.append(1 + int(rng.choice(vocabulary - 1, p=table[ids[-1]])))
        out.append(np.array(ids[1:], np.int32))
    return out


def slow_probability(corpus: list[np.ndarray], vocabulary: int, end: int, a: int, b: int, c: int) -> float:
    """Interpolated modified Kneser-Ney with dictionaries, straight from the paper's formulas."""
    trigrams: Counter = Counter()
    for ids in corpus:
        padded = [vocabulary, vocabulary, *ids.tolist(), end]
        trigrams.update(zip(padded, padded[1:], padded[2:], strict=False))
    bigrams: Counter = Counter()
    for (_, y, z), n in trigrams.items():
        bigrams[y, z] += n if y == vocabulary else 1
    unigrams = Counter((z,) for _, z in bigrams)
    probability = 1 / vocabulary
    for counts, gram in ((unigrams, (c,)), (bigrams, (b, c)), (trigrams, (a, b, c))):
        of = Counter(counts.values())
        discount = [0.0, 0.5, 1.0, 1.5]
        if of[1] and of[2] and of[3]:
            y = of[1] / (of[1] + 2 * of[2])
            estimate = [0.0, *(k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3))]
            if all(0 <= d <= k for k, d in enumerate(estimate)):
                discount = estimate
        after = [n for g, n in counts.items() if g[:-1] == gram[:-1]]
        if after:
            n = counts[gram]
            passed_on = sum(discount[min(n, 3)] for n in after) / sum(after)
            probability = (n - discount[min(n, 3)]) / sum(after) + passed_on * probability
    return probability


def test_the_trigram_equals_a_slow_one():
    corpus = documents(0, 60)
    model = Trigram(corpus, 12, END)
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 13, (2, 200))
    c = rng.integers(0, 12, 200)
    expected = [slow_probability(corpus, 12, END, *map(int, gram)) for gram in zip(a, b, c, strict=True)]
    np.testing.assert_allclose(model.probabilities(a, b, c), expected, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 5, 500])
def test_probabilities_sum_to_one_after_every_context(count):
    model = Trigram(documents(2, count), 12, END)
    a, b, c = (grid.ravel() for grid in np.meshgrid(np.arange(13), np.arange(13), np.arange(12), indexing="ij"))
    probabilities = model.probabilities(a, b, c)
    assert (probabilities > 0).all()
    np.testing.assert_allclose(probabilities.reshape(13 * 13, 12).sum(axis=1), 1, rtol=1e-12)


def test_documents_do_not_leak_into_each_other():
    model = Trigram(documents(3, 100), 12, END)
    heldout = [*documents(4, 10), np.array([], np.int32)]
    alone = [model.bits([ids])[0] for ids in heldout]
    np.testing.assert_allclose(model.bits(heldout), alone)
    assert model.bits([np.array([], np.int32)])[0] > 0  # the end mark costs something, even alone


def test_it_learns_what_there_is_to_learn():
    """Tokens were drawn from a table of bigrams, so a trigram must do far better than the uniform distribution."""
    drawn = documents(5, 1200)
    corpus, heldout = drawn[:1000], drawn[1000:]
    tokens = sum(len(ids) + 1 for ids in heldout)
    bits = Trigram(corpus, 12, END).bits(heldout).sum() / tokens
    assert bits < 0.75 * math.log2(12)


def test_bits_per_byte_counts_bytes_not_characters():
    assert bits_per_byte(12, ["aé", "b"]) == 3
    with pytest.raises(DataError, match="no held-out text"):
        bits_per_byte(1, [""])


def test_the_default_corpus_is_quick_and_in_a_plausible_range():
    train, heldout = ([e.observations["text"][0] for e in python_docs(split)] for split in ("train", "heldout"))
    tokenizer = TextTokenizer.train(train, 1024)
    begun = time.process_time()
    known, unknown = (trigram_bits_per_byte(train, texts, tokenizer) for texts in (train[:50], heldout))
    assert time.process_time() - begun < 10
    assert known < unknown and 1.5 < unknown < 2.5


def test_captions_are_right_or_wrong():
    pairs = [("a red ball", "a red ball"), (" a red ball\n", "a red ball"), ("a red box", "a red ball"), ("", "a key")]
    assert caption_scores(iter(pairs)) == {"exact_match": 0.5, "captions": 4}
    with pytest.raises(DataError, match="no captions"):
        caption_scores([])
