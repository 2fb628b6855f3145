"""The return filter (paper section 3): demonstrations recorded while an agent still learns are kept where it did well."""

from __future__ import annotations

import numpy as np


def expert_return(returns: np.ndarray) -> float:
    """The largest mean return over a window of W = min(1000, N / 10) episodes in the order they were collected.

    max_j (1/W) Σ_{i=j}^{j+W-1} R_i, at least one episode in a window. `returns` is (N,). Raises ValueError where N is 0.
    """
    returns = np.asarray(returns, np.float64)
    if not len(returns):
        raise ValueError("no episodes, no expert")
    window = max(1, min(1000, len(returns) // 10))
    means = np.lib.stride_tricks.sliding_window_view(returns, window).mean(axis=1)
    return float(min(means.max(), returns.max()))  # rounding must not lift a mean above its best


def good_episodes(returns: np.ndarray, share: float = 0.8) -> np.ndarray:
    """Numbers of the episodes with at least `share` of the expert return, int64.

    Where the expert's return is negative, "80 % of it" would ask for more than the expert has; there the same distance
    below it is allowed: R ≥ E - (1 - share) |E|.
    """
    expert = expert_return(returns)
    return np.flatnonzero(np.asarray(returns, np.float64) >= expert - (1 - share) * abs(expert))
