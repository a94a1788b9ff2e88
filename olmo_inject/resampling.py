"""Bootstrap samples and the percentile intervals of what was computed on them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64

from olmo_inject.randomness import integers, key

CONFIDENCE = 0.95


def resamples(n: int, times: int, *purpose: str | int) -> Int64[np.ndarray, "times n"]:
    """Draw bootstrap samples of n observations, as indices. The same purpose gives the same draws.

    Args:
        n: number of observations.
        times: number of bootstrap samples.
        purpose: key of the draws.
    """
    return integers(key(*purpose), times * n, n).reshape(times, n)


def percentile_ends(
    samples: Float[np.ndarray, "times ..."],
) -> tuple[Float[np.ndarray, " ..."], Float[np.ndarray, " ..."]]:
    """The ends of the percentile intervals of several statistics (Efron 1979), from their values on each sample."""
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


def percentile_interval(samples: Float[np.ndarray, " times"]) -> tuple[float, float]:
    """The ends of the percentile interval of one statistic, from its value on each sample."""
    low, high = percentile_ends(samples)
    return float(low), float(high)
