"""Language: how well text is predicted, in bits per byte beside a trigram; how good captions are (exact, BLEU, CIDEr), and
replies to questions (the VQA rule, beside what the questions alone give away).

    bits per byte = Σ −log₂ p(token | tokens before it) / UTF-8 bytes of the text

The sum runs over every token of a document and over its end mark; the end mark costs bits and adds no byte. So two
models of the same documents can be compared whatever their tokens.

The trigram is the strong standard one: interpolated modified Kneser-Ney (Chen & Goodman 1998, "An Empirical Study of
Smoothing Techniques for Language Modeling", section 3), over the network's own token ids, ending in a uniform
distribution over the vocabulary. Unlike the network it never sees further back than two tokens.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from gato.errors import DataError, UsageError
from gato.installed import pip_line

UNKNOWN_DISCOUNTS = (0.5, 1.0, 1.5)  # for counts of 1, 2, 3 and more, where a corpus is too small to estimate them


class Tokenizer(Protocol):
    eos_id: int

    @property
    def size(self) -> int: ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]: ...


# -- bits per byte ----------------------------------------------------------------------------------------------------


def bits_per_byte(bits: float, texts: Iterable[str]) -> float:
    """`bits` is what all documents cost together, end marks included. Raises DataError for no text."""
    num_bytes = sum(len(text.encode()) for text in texts)
    if not num_bytes:
        raise DataError("no held-out text to measure", fix="name text that is not empty")
    return float(bits) / num_bytes


def trigram_bits_per_byte(train: Sequence[str], heldout: Sequence[str], tokenizer: Tokenizer) -> float:
    """What the trigram, fitted on the `train` documents, pays for the `heldout` documents."""
    model = Trigram(tokenizer.encode_batch(train), tokenizer.size, tokenizer.eos_id)
    return bits_per_byte(model.bits(tokenizer.encode_batch(heldout)).sum(), heldout)


# -- the trigram ------------------------------------------------------------------------------------------------------


class Trigram:
    """Interpolated modified Kneser-Ney over token ids 0 … vocabulary - 1. Documents are id arrays without end marks.

    The two tokens before a document are a start mark of their own, with id `vocabulary`, which is never predicted.
    """

    def __init__(self, documents: Sequence[np.ndarray], vocabulary: int, end: int):
        self.vocabulary, self.end = vocabulary, end
        self._base = vocabulary + 1  # an n-gram's key is its ids as the digits of a number
        trigrams, counts = np.unique(self._keys(*self._windows(documents)[:3]), return_counts=True)
        # A lower order counts in how many contexts an n-gram occurs, not how often; but after the start of a document,
        # which nothing precedes, it is how often.
        pairs = trigrams % self._base**2
        starts = pairs // self._base == vocabulary
        bigrams, place = np.unique(pairs, return_inverse=True)
        bigram_counts = np.bincount(place, np.where(starts, counts, 1)).astype(np.int64)
        unigrams, unigram_counts = np.unique(bigrams % self._base, return_counts=True)
        self._orders = [
            _Order(unigrams, unigram_counts, self._base),
            _Order(bigrams, bigram_counts, self._base),
            _Order(trigrams, counts, self._base),
        ]

    def probabilities(self, first: np.ndarray, second: np.ndarray, token: np.ndarray) -> np.ndarray:
        """p(token | first, second) elementwise, float64. Id `vocabulary` in a context is the start of a document."""
        first, second, token = (np.asarray(ids, np.int64) for ids in (first, second, token))
        probability = np.full(token.shape, 1 / self.vocabulary)
        keys = (token, self._keys(np.zeros_like(second), second, token), self._keys(first, second, token))
        for order, key in zip(self._orders, keys, strict=True):
            probability = order.interpolate(key, probability)
        return probability

    def bits(self, documents: Sequence[np.ndarray]) -> np.ndarray:
        """Bits that each document costs, its end mark included, float64 (documents,)."""
        first, second, token, document = self._windows(documents)
        costs = -np.log2(self.probabilities(first, second, token))
        return np.bincount(document, costs, minlength=len(documents))

    def _keys(self, first: np.ndarray, second: np.ndarray, token: np.ndarray) -> np.ndarray:
        return (first * self._base + second) * self._base + token

    def _windows(self, documents: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """For every predicted token: the two before it, itself, and its document; int64 (tokens + documents,) each."""
        if not len(documents):
            raise DataError("no documents", fix="name text that is not empty")
        marks = np.array([self.vocabulary] * 2), np.array([self.end])
        stream = np.concatenate([part for ids in documents for part in (marks[0], ids, marks[1])]).astype(np.int64)
        lengths = np.array([len(ids) + 1 for ids in documents])
        document = np.repeat(np.arange(len(documents)), lengths)
        at = np.arange(lengths.sum()) + 2 * (document + 1)  # every document so far has put two start marks before it
        return stream[at - 2], stream[at - 1], stream[at], document


class _Order:
    """The n-grams of one length: what each keeps of its count, and what each context passes on to the next shorter."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, base: int):
        """`keys` sorted; `key // base` is the context."""
        self.keys, self.base = keys, base
        discounts = np.array([0.0, *_discounts(counts)])[np.minimum(counts, 3)]
        self.contexts, begins, place = np.unique(keys // base, return_index=True, return_inverse=True)
        totals = np.add.reduceat(counts, begins).astype(np.float64)
        self.kept = (counts - discounts) / totals[place]
        self.passed_on = np.add.reduceat(discounts, begins) / totals

    def interpolate(self, keys: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """Probabilities at this order, given those at the next shorter one. An unseen context passes on everything."""
        kept = _look_up(self.keys, self.kept, keys, 0.0)
        return kept + _look_up(self.contexts, self.passed_on, keys // self.base, 1.0) * shorter


def _look_up(known: np.ndarray, values: np.ndarray, wanted: np.ndarray, default: float) -> np.ndarray:
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, values[place], default)


def _discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """Taken off counts of 1, 2, and 3 and more, estimated from how many n-grams occur 1, 2, 3 and 4 times."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return UNKNOWN_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    fine = all(0 <= discount <= k for k, discount in enumerate(found, start=1))
    return found if fine else UNKNOWN_DISCOUNTS


# -- captions ---------------------------------------------------------------------------------------------------------


def caption_scores(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """{"exact_match": fraction, "captions": number} of (predicted, true) pairs; outer white space is forgiven."""
    hits = [predicted.strip() == true.strip() for predicted, true in pairs]
    if not hits:
        raise DataError("no captions to score", fix="name captioned images")
    return {"exact_match": sum(hits) / len(hits), "captions": len(hits)}


def consensus_scores(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """{"bleu": …, "cider": …} of captions against one or more human ones each.

    BLEU-4 of the corpus by sacrebleu with its own tokens, 0 … 100. CIDEr by pycocoevalcap's scorer, 0 … 10; its Java tokenizer
    is replaced by `caption_words`, so that figures compare among each other, and with published ones nearly. Its weights of words
    come from the references given here, so it says little of a handful of images. Raises UsageError without the two packages.
    """
    try:
        import sacrebleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise UsageError(
            "BLEU and CIDEr need sacrebleu and pycocoevalcap, not installed", fix=pip_line("language")
        ) from error
    if not predicted or any(not found for found in references):
        raise DataError("no captions to score", fix="name captioned images")
    most = max(map(len, references))
    streams = [[found[i] if i < len(found) else None for found in references] for i in range(most)]
    bleu = sacrebleu.corpus_bleu(list(predicted), streams).score  # type: ignore[arg-type]
    humans = {i: [caption_words(text) for text in found] for i, found in enumerate(references)}
    cider, _ = Cider().compute_score(humans, {i: [caption_words(text)] for i, text in enumerate(predicted)})
    return {"bleu": float(bleu), "cider": float(cider)}


def caption_words(text: str) -> str:
    """Lower case, punctuation dropped, one space between words: what n-grams are counted of."""
    return " ".join(re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower()))


# -- replies ----------------------------------------------------------------------------------------------------------

# The rules are those of the VQA evaluation (visualqa.org/evaluation.html), in this order: punctuation, case, numbers,
# articles, contractions. Apostrophes and colons stay.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
ARTICLES = ("a", "an", "the")
NOT = ("ai", "are", "ca", "could", "did", "does", "do", "had", "has", "have", "is", "might", "must", "need", "ought",
       "sha", "should", "was", "were", "wo", "would")  # fmt: skip
JOINED = {  # pronoun or the like → endings that are written on without an apostrophe by mistake, and mean no other word
    "i": ("m", "ve"), "you": ("d", "ll", "re", "ve"), "he": ("s",), "they": ("d", "ll", "re", "ve"), "we": ("ve",),
    "it": ("d", "ll"), "that": ("s",), "there": ("d", "re", "s"), "what": ("ll", "re", "s", "ve"), "where": ("d", "s", "ve"),
    "who": ("d", "ll", "s", "ve"), "how": ("d", "ll", "s"), "why": ("ll", "re", "s"), "when": ("s",), "could": ("ve",),
    "should": ("ve",), "would": ("ve",), "might": ("ve",), "must": ("ve",), "someone": ("d", "ll", "s"),
    "somebody": ("d", "ll", "s"), "something": ("d", "ll"), "y": ("all",), "o": ("clock",), "ma": ("am",),
}  # fmt: skip
CONTRACTIONS = {f"{head}nt": f"{head}n't" for head in NOT} | {
    head + end: f"{head}'{end}" for head, ends in JOINED.items() for end in ends
}
HUMANS = 10  # who answer each question of VQA


def normal_answer(text: str) -> str:
    """An answer as the VQA evaluation compares it: "Two, I think." → "2 i think"."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    between_digits = re.search(r"\d,\d", text) is not None
    out = text
    for mark in PUNCTUATION:
        apart = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if apart or between_digits else " ")
    out = re.sub(r"\.(?!\d)", "", out)
    words = [DIGITS.get(word, word) for word in out.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(predicted: str, answers: Sequence[str]) -> float:
    """min(humans who said so / 3, 1), averaged over the subsets that leave one human out (Antol et al. 2015, and VQA's code).

    Both sides are normalised. A single answer, of a generated question, stands for ten that agree.
    """
    if not answers:
        raise DataError("a question without answers", fix="answers in info['answers'], or a reply")
    humans = [normal_answer(answer) for answer in answers] * (HUMANS if len(answers) == 1 else 1)
    said = normal_answer(predicted)
    right = [said == answer for answer in humans]
    return sum(min((sum(right) - own) / 3, 1.0) for own in right) / len(humans)


def vqa_scores(
    predicted: Sequence[str], answers: Sequence[Sequence[str]], types: Sequence[str] | None = None
) -> dict[str, Any]:
    """{"accuracy": fraction, "questions": number, "by_type": {type: accuracy}}."""
    if not predicted:
        raise DataError("no questions to score", fix="name questions about images")
    values = [vqa_accuracy(said, humans) for said, humans in zip(predicted, answers, strict=True)]
    by_type: dict[str, list[float]] = defaultdict(list)
    for kind, value in zip(types or (), values, strict=types is not None):
        by_type[kind].append(value)
    found: dict[str, Any] = {"accuracy": float(np.mean(values)), "questions": len(values)}
    if by_type:
        found["by_type"] = {kind: float(np.mean(by_type[kind])) for kind in sorted(by_type)}
    return found


def prior(train: Iterable[tuple[str, str]]) -> Callable[[str], str]:
    """The answer that is most frequent for a key: with question types for keys the answer prior, with the questions' own words
    the best that the question alone can do. What was never met gets the most frequent answer of all."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key, reply in train:
        counts[key][reply] += 1
    together: Counter[str] = sum(counts.values(), Counter())
    if not together:
        raise DataError("no questions to learn a prior from", fix="name training questions")
    most = {key: _most(found) for key, found in counts.items()}
    return lambda key: most.get(key, _most(together))


def prior_of_others(asked: Sequence[tuple[str, str]]) -> list[str]:
    """For each (key, reply) what `prior` would guess that had learned from all the others: for questions without a training split."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key, reply in asked:
        counts[key][reply] += 1
    together: Counter[str] = sum(counts.values(), Counter())
    out = []
    for key, reply in asked:
        for found in (counts[key], together):
            found[reply] -= 1
        known = counts[key] if counts[key].total() else together
        out.append(_most(known) if known.total() else "")
        for found in (counts[key], together):
            found[reply] += 1
    return out


def _most(counts: Mapping[str, int]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))
