"""Numbers and ids: mu-law companding, 1,024 uniform bins, and the vocabulary's blocks. Encode beside decode.

Paper section 2.1 and appendix B. One row of ids:

    [0, text)                  text; discrete values share its first 1,024 ids, as the paper says
    [text, text + 1024)        continuous values
    text + 1024                the separator
    [text + 1025, … + 1024)    discrete values, only with `separate_discrete`
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gato.errors import RecipeError

MU, M = 100.0, 256.0
NUM_BINS = 1024


def mu_law(x: np.ndarray) -> np.ndarray:
    """F(x) = sgn(x) log(|x| μ + 1) / log(M μ + 1), μ = 100, M = 256: [-256, 256] → [-1, 1], beyond it |F| > 1."""
    x = np.clip(np.asarray(x, np.float64), -1e300, 1e300)  # the product below must not overflow
    return np.sign(x) * np.log1p(np.abs(x) * MU) / np.log1p(M * MU)


def mu_law_inverse(y: np.ndarray) -> np.ndarray:
    y = np.asarray(y, np.float64)
    return np.sign(y) * np.expm1(np.abs(y) * np.log1p(M * MU)) / MU


def to_bins(y: np.ndarray) -> np.ndarray:
    """Clip to [-1, 1] and cut into 1,024 uniform bins, int64. +1.0 falls into the last bin, not past it."""
    y = np.clip(np.asarray(y, np.float64), -1.0, 1.0)
    return np.minimum(np.floor((y + 1.0) / 2.0 * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def from_bins(bins: np.ndarray) -> np.ndarray:
    """The centre of each bin, in (-1, 1). Raises ValueError outside [0, 1024)."""
    bins = np.asarray(bins)
    if bins.size and (bins.min() < 0 or bins.max() >= NUM_BINS):
        raise ValueError(f"bin {bins.min()}…{bins.max()} outside 0…{NUM_BINS - 1}")
    return (bins + 0.5) / NUM_BINS * 2.0 - 1.0


def scale_action(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Action bounds → [-1, 1]. Actions are scaled, never companded (appendix B)."""
    span = np.where(high > low, high - low, 1.0)
    return np.where(high > low, (np.asarray(action, np.float64) - low) / span * 2.0 - 1.0, 0.0)


def unscale_action(y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return low + (np.asarray(y, np.float64) + 1.0) / 2.0 * (high - low)


@dataclass(frozen=True)
class Vocabulary:
    """Where each kind of token has its ids. `text` is the size of the text tokenizer."""

    text: int = 32000
    separate_discrete: bool = False

    def __post_init__(self) -> None:
        if self.text < NUM_BINS:
            raise RecipeError(
                f"a text vocabulary of {self.text} is too small",
                fix=f"at least {NUM_BINS}: discrete values share its ids",
            )

    @property
    def continuous(self) -> int:
        return self.text

    @property
    def separator(self) -> int:
        return self.text + NUM_BINS

    @property
    def discrete(self) -> int:
        return self.text + NUM_BINS + 1 if self.separate_discrete else 0

    @property
    def size(self) -> int:
        return self.text + NUM_BINS + 1 + (NUM_BINS if self.separate_discrete else 0)

    def encode_continuous(self, y: np.ndarray) -> np.ndarray:
        """[-1, 1] → ids. NaN must have been refused before."""
        return self.continuous + to_bins(y)

    def decode_continuous(self, ids: np.ndarray) -> np.ndarray:
        return from_bins(np.asarray(ids) - self.continuous)

    def encode_discrete(self, index: np.ndarray) -> np.ndarray:
        return self.discrete + np.asarray(index, np.int64)

    def decode_discrete(self, ids: np.ndarray) -> np.ndarray:
        return np.asarray(ids) - self.discrete
