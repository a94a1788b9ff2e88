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


def mean_intervals(
    values: Float[np.ndarray, "m n"], purpose: str, confidence: float = 0.95
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Means of several rows of observations, and intervals that all hold at once with the given confidence.

    So one of them may be chosen by what was seen, as the largest. Observations are drawn together over the rows; each
    interval reaches so many of its standard errors as the furthest of all means does (Romano and Wolf 2005). A single
    observation has none: its ends are NaN.

    Args:
        values: of each row the same observations, as pairs of instances.
        purpose: what the resampling is keyed by.
        confidence: of all intervals together.
    """
    n, mean = values.shape[1], values.mean(axis=1)
    if n < 2:
        return mean, np.full(len(mean), np.nan), np.full(len(mean), np.nan)
    error = values.std(axis=1, ddof=1) / n**0.5
    drawn = integers(key("bootstrap", purpose), RESAMPLES * n, n).reshape(RESAMPLES, n)
    counts = np.stack([np.bincount(row, minlength=n) for row in drawn])
    away = np.abs(counts @ values.T / n - mean)
    in_errors = np.divide(away, error, out=np.zeros_like(away), where=error > 0)
    reach = float(np.quantile(in_errors.max(axis=1), confidence)) * error
    return mean, mean - reach, mean + reach
