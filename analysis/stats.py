"""Intervals by resampling and of proportions, and rank correlations: the statistics that all analyses share."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata, spearmanr

from olmo_inject.randomness import integers, key

CONFIDENCE = 0.95
RESAMPLES = 2000
ALL_ORDERS = 7  # values of which all orders are tried; of more, Student's t is near enough


def wilson(correct: int | float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), which stays inside 0 to 1 also near its ends.

    Args:
        correct: how many were.
        n: of how many, at least 1.
        confidence: of the two-sided interval.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


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


def rank_correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Spearman's correlation, equal values sharing their mean rank, and its two-sided p-value.

    Args:
        x: at least two different values.
        y: likewise.
    """
    ranks, others = rankdata(x), rankdata(y)
    found = float(np.corrcoef(ranks, others)[0, 1])
    if len(ranks) > ALL_ORDERS:
        return found, float(spearmanr(ranks, others).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    by_chance = [np.corrcoef(ranks, order)[0, 1] for order in itertools.permutations(others)]
    return found, float(np.mean(np.abs(by_chance) >= abs(found) - 1e-9))


def format_correlation(correlation: float, p: float, n: int, what: str) -> str:
    """For people: rank correlation +0.80 over 4 runs (p = 0.33)."""
    return f"rank correlation {correlation:+.2f} over {n} {what} (p = {p:.2g})"
