"""What is kept between injections (docs/study.md, Fig. 8): the loss falls at a burst, and the gain decays after it.

The gain at u steps after a burst is the held-out loss just before the burst minus that u steps later; it is the loss
among the task's labels where a run measured it. Only intervals between bursts that were evaluated densely count. From
the largest gain on, A exp(-(u - u0) / tau) + C is fitted to the mean over intervals; C, at least 0, is what a burst
adds permanently. Decays need not be exponential, so the fit's R2 and the measured half-life stand beside it.
Confidence intervals come from 200 bootstrap samples of the intervals.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from scipy.optimize import OptimizeWarning, curve_fit

from analysis.read.runs import Run
from olmo_inject.bootstrap import percentile_interval, resamples

FEWEST_EVALUATIONS = 5  # an interval with fewer evaluations does not count
FEWEST_STEPS = 4  # points that a fit of three parameters needs
BOOTSTRAPS = 200
LONGEST = 10.0  # a decay time of this many gaps or more cannot be told from no decay


@dataclass(frozen=True)
class Retention:
    """What one run keeps of one task between bursts.

    Attributes:
        bursts: steps of the bursts that begin the intervals.
        after: steps since the burst that were evaluated in every interval.
        gains: gain of each interval at each of these steps, in nats.
        peak: number of steps after the burst at which the mean gain is largest.
        decay: A (nats), tau (steps) and C (nats) of the fit; None if it could not be fitted.
        r2: of the fit to the mean gain from its peak on; 0 without a fit.
        tau_interval: 95% interval of tau; None with fewer than three intervals or too few fits.
        half_life: steps from the largest gain until half of it is gone; None if that does not happen.
        half_life_interval: its 95% interval; None with fewer than three intervals, or if some bootstrap sample has no
            half-life.
        kept: share of the largest gain that is left just before the next burst.
        kept_interval: its 95% interval; None with fewer than three intervals.
    """

    bursts: Int64[np.ndarray, " k"]
    after: Int64[np.ndarray, " u"]
    gains: Float64[np.ndarray, "k u"]
    peak: int
    decay: tuple[float, float, float] | None
    r2: float
    tau_interval: tuple[float, float] | None
    half_life: float | None
    half_life_interval: tuple[float, float] | None
    kept: float
    kept_interval: tuple[float, float] | None

    @property
    def mean(self) -> Float64[np.ndarray, " u"]:
        """The mean gain over intervals."""
        return self.gains.mean(axis=0)

    @property
    def error(self) -> Float64[np.ndarray, " u"]:
        """The standard error of the mean gain; zero with one interval."""
        k = len(self.gains)
        return self.gains.std(axis=0, ddof=1) / np.sqrt(k) if k > 1 else np.zeros(len(self.after))

    def fitted(self, after: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"] | None:
        """The fitted gain at steps since the burst, from the peak on; None without a fit."""
        return None if self.decay is None else _decay(after - self.peak, *self.decay)


@functools.cache
def retention(run: Run, task: str) -> Retention | None:
    """What a run keeps of a task between bursts; None without bursts that were densely evaluated."""
    losses = held_out_losses(run, task)
    if run.injection(task) is None or losses.empty:
        return None
    return between(run.injecting_steps(task), losses)


def held_out_losses(run: Run, task: str) -> pd.Series:
    """The loss on the test half by step: among the task's labels where that was measured.

    The loss over the whole vocabulary also falls when a burst teaches which tokens are labels, and no more.
    """
    among = run.series(f"eval/{task}/test/loss_among_labels").dropna()
    return among if len(among) else run.series(f"eval/{task}/test/loss").dropna()


def between(bursts: Sequence[int], losses: pd.Series) -> Retention | None:
    """What is kept between bursts. None if no interval between bursts was densely evaluated.

    Args:
        bursts: steps whose batches hold the task, ascending.
        losses: test loss in nats by step, of the weights before that step.
    """
    intervals = {}
    for burst, following in itertools.pairwise(bursts):
        inside = losses.loc[(losses.index > burst) & (losses.index <= following)]
        if burst in losses.index and len(inside) >= FEWEST_EVALUATIONS:
            intervals[burst] = dict(zip((inside.index - burst).tolist(), losses.loc[burst] - inside, strict=True))
    if not intervals:
        return None
    after = sorted(set.intersection(*[set(gains) for gains in intervals.values()]))
    if len(after) < FEWEST_EVALUATIONS:
        return None
    gains = np.array([[of[u] for u in after] for of in intervals.values()], np.float64)
    return _measured(np.array(list(intervals), np.int64), np.array(after, np.int64), gains)


def _measured(
    bursts: Int64[np.ndarray, " k"], after: Int64[np.ndarray, " u"], gains: Float64[np.ndarray, "k u"]
) -> Retention:
    mean = gains.mean(axis=0)
    best = int(mean.argmax())
    samples = gains[resamples(len(gains), BOOTSTRAPS, "retention", "bootstrap")].mean(axis=1)
    taus = [fit[1] for sample in samples if (fit := _fit(after, sample, best)) is not None]
    enough = len(gains) >= 3
    halves = [half for sample in samples if (half := _half_life(after, sample, best)) is not None]
    kept = samples[:, -1] / np.maximum(samples[:, best], 1e-12)
    decay = _fit(after, mean, best)
    return Retention(
        bursts,
        after,
        gains,
        peak=int(after[best]),
        decay=decay,
        r2=0.0 if decay is None else _r2(mean[best:], _decay((after - after[best])[best:].astype(float), *decay)),
        tau_interval=percentile_interval(np.array(taus)) if enough and len(taus) > BOOTSTRAPS // 2 else None,
        half_life=_half_life(after, mean, best),
        half_life_interval=percentile_interval(np.array(halves)) if enough and len(halves) == BOOTSTRAPS else None,
        kept=float(mean[-1] / mean[best]) if mean[best] > 0 else 0.0,
        kept_interval=percentile_interval(kept) if enough and mean[best] > 0 else None,
    )


def _fit(
    after: Int64[np.ndarray, " u"], gain: Float64[np.ndarray, " u"], best: int
) -> tuple[float, float, float] | None:
    """Fit A, tau and C by least squares from the largest gain on; None if too few steps of decay were measured."""
    u, y = (after[best:] - after[best]).astype(float), gain[best:]
    if len(u) < FEWEST_STEPS or y[0] <= 0:
        return None
    gap, top = float(after[-1]), float(y[0])
    bounds = ([0.0, 0.1, 0.0], [2 * top, LONGEST * gap, top])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # it concerns the covariance, which is not used
            found, _ = curve_fit(_decay, u, y, p0=(top, gap / 4, 0.1 * top), bounds=bounds)
    except (RuntimeError, ValueError):
        return None
    return float(found[0]), float(found[1]), float(found[2])


def _half_life(after: Int64[np.ndarray, " u"], gain: Float64[np.ndarray, " u"], best: int) -> float | None:
    """Steps from the largest gain until half of it is gone, interpolated linearly between evaluations."""
    below = np.flatnonzero(gain[best:] <= gain[best] / 2)
    if gain[best] <= 0 or not len(below):
        return None
    end = best + int(below[0])
    crossing = np.interp(-gain[best] / 2, -gain[end - 1 : end + 1], after[end - 1 : end + 1])
    return float(crossing - after[best])


def _r2(y: Float64[np.ndarray, " n"], fitted: Float64[np.ndarray, " n"]) -> float:
    return float(1 - ((y - fitted) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-12))


def _decay(u: Float64[np.ndarray, " n"], size: float, tau: float, rest: float) -> Float64[np.ndarray, " n"]:
    return size * np.exp(-u / tau) + rest
