"""Intervals by resampling."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from olmo_inject.randomness import integers, key

RESAMPLES = 2000


def mean_interval(
    values: Float[np.ndarray, " n"], purpose: str, confidence: float = 0.95
) -> tuple[float, float, float]:
    """The mean of independent observations, and the ends of its percentile interval (Efron 1979).

    The same values give the same interval. One observation has no interval: its ends are NaN.

    Args:
        values: at least one.
        purpose: what the resampling is keyed by.
        confidence: of the two-sided interval.
    """
    n = len(values)
    mean = float(values.mean())
    if n == 1:
        return mean, float("nan"), float("nan")
    chosen = integers(key("bootstrap", purpose), RESAMPLES * n, n).reshape(RESAMPLES, n)
    low, high = np.quantile(values[chosen].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return mean, float(low), float(high)
