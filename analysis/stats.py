"""Statistics that all analyses share: confidence intervals of proportions and means, and rank correlation."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest, permutation_test, rankdata, spearmanr

from olmo_inject.resampling import CONFIDENCE, percentile_interval, resamples

RESAMPLES = 2000
ALL_ORDERS = 7  # up to this many values, the p-value tries all orders; for more, Student's t is close enough
NOT_FINITE = (math.nan, math.nan)


@cache
def _wilson(correct: int, n: int, confidence: float) -> tuple[float, float]:
    interval = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def wilson(share: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927). Its ends stay between 0 and 1.

    Args:
        share: fraction of correct answers, 0 to 1.
        n: number of answers, at least 1.
        confidence: coverage of the two-sided interval, such as 0.95.

    Returns:
        The lower and the upper end.
    """
    return _wilson(round(share * n), n, confidence)


def mean_interval(
    values: Float[np.ndarray, " n"], purpose: str, confidence: float = CONFIDENCE, block: int = 1
) -> tuple[float, float, float]:
    """The mean of observations and the two ends of its bootstrap interval. The ends are NaN for fewer than two blocks.

    Args:
        values: at least one observation; in order of time if `block` is more than 1.
        purpose: key of the bootstrap draws.
        confidence: coverage of the two-sided interval.
        block: number of consecutive observations that are drawn together, as in `resamples`.
    """
    n, mean = len(values), float(values.mean())
    if n < 2 * block:
        return mean, *NOT_FINITE
    means = values[resamples(n, RESAMPLES, "bootstrap", purpose, block=block)].mean(axis=1)
    return mean, *percentile_interval(means, confidence)


def mean_intervals(
    values: Float[np.ndarray, "m n"], purpose: str, confidence: float = CONFIDENCE
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Means of several rows of observations, with simultaneous confidence intervals.

    All intervals hold together, so they still hold for a row that was chosen by its mean. Observations are resampled
    jointly over the rows, and every interval is the same number of standard errors wide (Romano and Wolf 2005). With a
    single observation the ends are NaN.

    Args:
        values: one row per mean; column j is the same observation (such as a pair of instances) in every row.
        purpose: key of the bootstrap draws.
        confidence: joint coverage of all intervals.

    Returns:
        Means, lower ends and upper ends, one of each per row.
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
    """Spearman's rank correlation; 0 if either side is constant."""
    ranks = rankdata(x), rankdata(y)
    return float(np.corrcoef(*ranks)[0, 1]) if all(np.ptp(of) > 0 for of in ranks) else 0.0


def rank_correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Spearman's rank correlation and its two-sided p-value: exact for up to seven values, by Student's t for more."""
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
