"""Statistics that all analyses share: 95% intervals of proportions and means, and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest, permutation_test, rankdata, spearmanr
from scipy.stats import t as student

from olmo_inject.resampling import CONFIDENCE, percentile_interval, resamples

RESAMPLES = 2000
MOST_BLOCKS = 6  # of a series; more and shorter ones are more correlated
ALL_ORDERS = 7  # up to this many values, the p-value tries all orders; for more, Student's t is close enough
NOT_FINITE = (math.nan, math.nan)


@cache
def _wilson(correct: int, n: int) -> tuple[float, float]:
    interval = binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927). Its ends stay between 0 and 1.

    Args:
        share: fraction of correct answers, 0 to 1.
        n: number of answers, at least 1.

    Returns:
        The lower and the upper end.
    """
    return _wilson(round(share * n), n)


def clustered_interval(
    values: Float[np.ndarray, " n"], clusters: Sequence[Hashable], purpose: str
) -> tuple[float, float, float]:
    """The mean of observations of which those of one cluster are alike, and the two ends of its bootstrap interval.

    Whole clusters are drawn (Davison and Hinkley 1997, 3.8). The ends are NaN for one cluster.

    Args:
        values: at least one observation.
        clusters: what each observation was measured on, such as one instance.
        purpose: key of the bootstrap draws.
    """
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    of = np.array([numbers[cluster] for cluster in clusters])
    mean, n = float(values.mean()), len(numbers)
    if n < 2:
        return mean, *NOT_FINITE
    drawn = resamples(n, RESAMPLES, "bootstrap", purpose)
    sums, sizes = np.bincount(of, values, n), np.bincount(of, minlength=n)
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return mean, *percentile_interval(means)


def student_reach(values: Float[np.ndarray, " n"]) -> float:
    """Half of the interval of a mean of independent values, by Student's t; NaN of fewer than two."""
    n = len(values)
    return float(student.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else math.nan


def series_interval(values: Float[np.ndarray, " n"], shortest: int) -> tuple[float, float, float]:
    """The mean of a series whose neighbours are correlated, and the two ends of its interval.

    The series is divided into blocks, whose means are taken for independent: the interval is Student's t over them
    (Schmeiser 1982). Few long blocks keep its coverage: there are at most `MOST_BLOCKS`. With a correlation of a half
    between neighbours, a 95% interval covers 92% for 16 values and 94% for 120. The ends are NaN for fewer than two
    blocks.

    Args:
        values: at least one observation, in order of time.
        shortest: observations of a block, at least.
    """
    mean, blocks = float(values.mean()), min(len(values) // shortest, MOST_BLOCKS)
    if blocks < 2:
        return mean, *NOT_FINITE
    means = np.array([block.mean() for block in np.array_split(values, blocks)])
    reach = student_reach(means)
    return mean, mean - reach, mean + reach


def mean_intervals(
    values: Float[np.ndarray, "m n"], purpose: str
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Means of several rows of observations, with simultaneous 95% intervals.

    All intervals hold together, so they still hold for a row that was chosen by its mean. Observations are resampled
    jointly over the rows, and every interval is the same number of standard errors wide (Romano and Wolf 2005). With a
    single observation the ends are NaN.

    Args:
        values: one row per mean; column j is the same observation (such as a pair of instances) in every row.
        purpose: key of the bootstrap draws.

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
    reach = float(np.quantile(in_errors.max(axis=1), CONFIDENCE)) * error
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
