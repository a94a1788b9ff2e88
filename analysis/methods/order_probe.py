"""Whether tokens lie along one direction in the order of their values (docs/study.md, Fig. 7, TCMP).

The probe is a linear regression of the value on the top principal components of the tokens' activations. With half as
many components as tokens, a regression fits anything in sample. So the measure is the prediction of held-out tokens:
components and coefficients come from the other folds alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer

from analysis.stats import spearman
from olmo_inject.randomness import key, permutation
from olmo_inject.resampling import percentile_interval, resamples

FOLDS = 10
BOOTSTRAPS = 1000
_NO_VARIANCE = 1e-6  # relative to the length of the activations: smaller components are rounding


@dataclass(frozen=True)
class OrderFit:
    """How well values are predicted from a number of components.

    Attributes:
        components: number of components, at most; a fold with fewer dimensions uses fewer.
        in_sample: R2 of the fit to all tokens.
        held_out: R2 of the predictions for held-out tokens; negative if the mean predicts better.
        low: lower end of its 95% interval, by a bootstrap over tokens.
        high: upper end of the interval.
        rank_correlation: Spearman's correlation of held-out predictions with values.
        shuffled_in_sample: mean R2 of fits to shuffled values.
        shuffled_held_out: 95th percentile of the held-out R2 for shuffled values.
        predicted: held-out prediction of each value.
    """

    components: int
    in_sample: float
    held_out: float
    low: float
    high: float
    rank_correlation: float
    shuffled_in_sample: float
    shuffled_held_out: float
    predicted: Float64[np.ndarray, " n"]


def order_fits(
    points: Float64[np.ndarray, "n d"],
    components: Sequence[int],
    permutations: int,
    seed: int = 0,
    values: Integer[np.ndarray, " n"] | None = None,
) -> list[OrderFit]:
    """Fit values by the top principal components of `points`, once for each number of components.

    Args:
        points: activation of each value.
        components: the numbers of components to try.
        permutations: number of shuffles of the values, for the control.
        seed: of folds, shuffles and bootstrap.
        values: the value of each point; 0 to n - 1 by default.
    """
    n = len(points)
    values = np.arange(n, dtype=np.float64) if values is None else values.astype(np.float64)
    shuffled = [permutation(key("order probe", "shuffle", seed), n, counter) for counter in range(permutations)]
    targets = np.stack([values, *[values[order] for order in shuffled]], axis=1)
    fold_of = permutation(key("order probe", "folds", seed), n) % min(FOLDS, n)
    everything = np.ones(n, bool)
    in_sample = _r2(targets, _predict(points, targets, everything, everything, components))
    held_out = np.full((len(components), n, targets.shape[1]), values.mean())  # the mean, if nothing varies
    varies = np.linalg.norm(points - points.mean(axis=0)) > _NO_VARIANCE * np.linalg.norm(points)
    for fold in range(fold_of.max() + 1 if varies else 0):
        held = fold_of == fold
        held_out[:, held] = _predict(points, targets, ~held, held, components)
    r2 = _r2(targets, held_out)
    resampled = resamples(n, BOOTSTRAPS, "order probe", "bootstrap", seed)
    fits = []
    for number, most in enumerate(components):
        predicted = held_out[number, :, 0]
        low, high = percentile_interval(_bootstrap(values, predicted, resampled))
        fits.append(
            OrderFit(
                components=most,
                in_sample=float(in_sample[number, 0]),
                held_out=float(r2[number, 0]),
                low=low,
                high=high,
                rank_correlation=spearman(values, predicted),
                shuffled_in_sample=float(in_sample[number, 1:].mean()),
                shuffled_held_out=float(np.percentile(r2[number, 1:], 95)),
                predicted=predicted,
            )
        )
    return fits


def _predict(
    points: Float64[np.ndarray, "n d"],
    targets: Float64[np.ndarray, "n t"],
    train: np.ndarray,
    test: np.ndarray,
    components: Sequence[int],
) -> Float64[np.ndarray, "k m t"]:
    """Predict the tokens in `test` by regression on the principal components of those in `train`.

    Components are orthogonal, so a coefficient does not depend on how many components there are. A running sum over
    components gives the predictions for every number of them.
    """
    centre, mean = points[train].mean(axis=0), targets[train].mean(axis=0)
    left, sizes, right = np.linalg.svd(points[train] - centre, full_matrices=False)
    used = sizes > _NO_VARIANCE * np.linalg.norm(points)
    coefficients = (left[:, used].T @ (targets[train] - mean)) / sizes[used, None]
    scores = (points[test] - centre) @ right[used].T
    sums = np.zeros((len(components), len(scores), targets.shape[1]))
    for number, most in enumerate(components):
        sums[number] = mean + scores[:, :most] @ coefficients[:most]
    return sums


def _r2(targets: Float64[np.ndarray, "n t"], predicted: Float64[np.ndarray, "k n t"]) -> Float64[np.ndarray, "k t"]:
    residual = ((targets - predicted) ** 2).sum(axis=1)
    return 1 - residual / ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)


def _bootstrap(
    values: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"], chosen: Int64[np.ndarray, "b n"]
) -> Float64[np.ndarray, " b"]:
    drawn = values[chosen]
    spread = ((drawn - drawn.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return 1 - ((drawn - predicted[chosen]) ** 2).sum(axis=1) / np.maximum(spread, 1e-12)
