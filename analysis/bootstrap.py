"""Intervals by resampling."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from olmo_inject.randomness import integers, key

RESAMPLES = 2000


def mean_interval(
    values: Float[np.ndarray, " n"], purpose: str, confidence: float = 0.95, block: int = 1
) -> tuple[float, float, float]:
    """The mean of observations, and the ends of its percentile interval (Efron 1979).

    The same values give the same interval. Fewer observations than two blocks have none: its ends are NaN.

    Args:
        values: at least one; in the order of time where a block is longer than one.
        purpose: what the resampling is keyed by.
        confidence: of the two-sided interval.
        block: so many that follow each other, the first after the last, are drawn together (Politis and Romano 1992):
            observations that far apart are taken for independent.
    """
    n = len(values)
    mean = float(values.mean())
    if n < 2 * block:
        return mean, float("nan"), float("nan")
    blocks = -(-n // block)
    begins = integers(key("bootstrap", purpose), RESAMPLES * blocks, n).reshape(RESAMPLES, blocks, 1)
    chosen = ((begins + np.arange(block)) % n).reshape(RESAMPLES, -1)[:, :n]
    low, high = np.quantile(values[chosen].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return mean, float(low), float(high)
