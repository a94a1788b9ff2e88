"""Statistics that all analyses share: intervals of proportions and by resampling, and rank correlation."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from scipy.stats import binomtest, permutation_test, rankdata, spearmanr

from olmo_inject.randomness import integers, key

CONFIDENCE = 0.95
RESAMPLES = 2000
ALL_ORDERS = 7  # values of which all orders are tried; of more, Student's t is near enough
NOT_FINITE = (math.nan, math.nan)


@cache
def _wilson(correct: int, n: int, confidence: float) -> tuple[float, float]:
    interval = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def wilson(share: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), which stays inside 0 to 1 also near its ends.

    Args:
        share: of the `n` that were correct.
        n: at least 1.
        confidence: of the two-sided interval.
    """
    return _wilson(round(share * n), n, confidence)


def resamples(n: int, times: int, *purpose: str | int, block: int = 1) -> Int64[np.ndarray, "times n"]:
    """Bootstrap samples of n observations, as indices; the same ones for the same purpose.

    Args:
        n: observations.
        times: samples.
        purpose: keys the draws.
        block: observations that follow each other, the first after the last, that are drawn together (Politis and
            Romano 1992): observations that far apart are taken for independent.
    """
    blocks = -(-n // block)
    begins = integers(key(*purpose), times * blocks, n).reshape(times, blocks, 1)
    return ((begins + np.arange(block)) % n).reshape(times, -1)[:, :n]


def percentile_interval(samples: Float[np.ndarray, " times"], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentile interval of a statistic (Efron 1979), from its values over bootstrap samples."""
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def mean_interval(
    values: Float[np.ndarray, " n"], purpose: str, confidence: float = CONFIDENCE, block: int = 1
) -> tuple[float, float, float]:
    """The mean of observations, and the ends of its bootstrap interval; NaN for fewer than two blocks.

    Args:
        values: at least one; in the order of time where a block is longer than one.
        purpose: keys the draws.
        confidence: of the two-sided interval.
        block: as in `resamples`.
    """
    n, mean = len(values), float(values.mean())
    if n < 2 * block:
        return mean, *NOT_FINITE
    means = values[resamples(n, RESAMPLES, "bootstrap", purpose, block=block)].mean(axis=1)
    return mean, *percentile_interval(means, confidence)


def mean_intervals(
    values: Float[np.ndarray, "m n"], purpose: str, confidence: float = CONFIDENCE
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Means of several rows of observations, with simultaneous intervals: one of them may be chosen by its mean.

    Observations are drawn together over the rows. Each interval reaches so many standard errors as the furthest of
    all means does (Romano and Wolf 2005). A single observation has none: its ends are NaN.

    Args:
        values: of each row the same observations, as pairs of instances.
        purpose: keys the draws.
        confidence: of all intervals together.
    """
    n, mean = values.shape[1], values.mean(axis=1)
    if n < 2:
        return mean, np.full(len(mean), np.nan), np.full(len(mean), np.nan)
    error = values.std(axis=1, ddof=1) / n**0.5
    counts = np.stack([np.bincount(row, minlength=n) for row in resamples(n, RESAMPLES, "bootstrap", purpose)])
    away = np.abs(counts @ values.T / n - mean)
    in_errors = np.divide(away, error, out=np.zeros_like(away), where=error > 0)
    reach = float(np.quantile(in_errors.max(axis=1), confidence)) * error
    return mean, mean - reach, mean + reach


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation; 0 where one of them is constant."""
    ranks = rankdata(x), rankdata(y)
    return float(np.corrcoef(*ranks)[0, 1]) if all(np.ptp(of) > 0 for of in ranks) else 0.0


def rank_correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Spearman's rank correlation and its two-sided p-value, by all orders of up to seven values."""
    correlation = spearman(x, y)
    if len(x) > ALL_ORDERS:
        return correlation, float(spearmanr(x, y).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    ranks, others = (rankdata(of) - (len(x) + 1) / 2 for of in (x, y))

    def association(order: np.ndarray, axis: int) -> Any:  # a number, or one for each order
        return np.abs((order * ranks).sum(axis=axis))

    orders = permutation_test(
        (others,),
        association,
        permutation_type="pairings",
        alternative="greater",
        n_resamples=math.factorial(len(x)),
        vectorized=True,
    )
    return correlation, float(orders.pvalue)
