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
from analysis.stats import student_reach
from olmo_inject.resampling import percentile_interval, resamples

FEWEST_EVALUATIONS = 5  # an interval with fewer evaluations does not count
FEWEST_STEPS = 4  # points that a fit of three parameters needs
BOOTSTRAPS = 200
LONGEST = 10.0  # a decay time of this many gaps or more cannot be told from no decay


@dataclass(frozen=True)
class Retention:
    """What one run keeps of one task between bursts. What is fitted or resampled is computed when it is asked for.

    Attributes:
        bursts: steps of the bursts that begin the intervals.
        after: steps since the burst that were evaluated in every interval.
        gains: gain of each interval at each of these steps, in nats.
    """

    bursts: Int64[np.ndarray, " k"]
    after: Int64[np.ndarray, " u"]
    gains: Float64[np.ndarray, "k u"]

    @property
    def mean(self) -> Float64[np.ndarray, " u"]:
        """The mean gain over intervals."""
        return self.gains.mean(axis=0)

    @property
    def error(self) -> Float64[np.ndarray, " u"]:
        """The standard error of the mean gain; zero with one interval."""
        k = len(self.gains)
        return self.gains.std(axis=0, ddof=1) / np.sqrt(k) if k > 1 else np.zeros(len(self.after))

    @property
    def peak(self) -> int:
        """Number of steps after the burst at which the mean gain is largest."""
        return int(self.after[self._best])

    @property
    def half_life(self) -> float | None:
        """Steps from the largest gain until half of it is gone; None if that does not happen."""
        return _half_life(self.after, self.mean, self._best)

    @property
    def half_life_interval(self) -> tuple[float, float] | None:
        """Its 95% interval; None with fewer than three intervals, or if some bootstrap sample has no half-life."""
        halves = [_half_life(self.after, sample, self._best) for sample in self._samples]
        halved = [half for half in halves if half is not None]
        return percentile_interval(np.array(halved)) if self._enough and len(halved) == BOOTSTRAPS else None

    @property
    def kept(self) -> float:
        """Share of the largest gain that is left at the last common evaluation, `after[-1]`.

        NaN if the gain is not `clear`. The largest gain is the maximum of a noisy curve, so the share is too low for a
        small gain: with ten intervals of 40 evaluations, a share of 1 is found as 0.57 if the gain is as large as its
        standard deviation over intervals, as 0.78 if it is 2.5 times as large, and as 0.97 if it is 25 times.
        """
        return float(self.mean[-1] / self.mean[self._best]) if self.clear else np.nan

    @property
    def clear(self) -> bool:
        """Whether there are three intervals or more, and the 95% interval (Student's t) of the gain is above zero.

        Of each interval the gain counts where the others have their largest, so the maximum of noise is seldom a gain.
        """
        if not self._enough:
            return False
        elsewhere = (self.gains.sum(axis=0) - self.gains).argmax(axis=1)
        own = self.gains[np.arange(len(self.gains)), elsewhere]
        return bool(own.mean() > student_reach(own))

    @property
    def kept_interval(self) -> tuple[float, float] | None:
        """Its 95% interval; None if the gain is not `clear`."""
        kept = self._samples[:, -1] / np.maximum(self._samples[:, self._best], 1e-12)
        return percentile_interval(kept) if self.clear else None

    @functools.cached_property
    def decay(self) -> tuple[float, float, float] | None:
        """A (nats), tau (steps) and C (nats) of the fit; None if it could not be fitted."""
        return _fit(self.after, self.mean, self._best)

    @property
    def r2(self) -> float:
        """R2 of the fit to the mean gain from its peak on; 0 without a fit."""
        fitted = self.fitted(self.after[self._best :].astype(float))
        return 0.0 if fitted is None else _r2(self.mean[self._best :], fitted)

    @functools.cached_property
    def tau_interval(self) -> tuple[float, float] | None:
        """95% interval of tau; None with fewer than three intervals or too few fits."""
        taus = [fit[1] for sample in self._samples if (fit := _fit(self.after, sample, self._best)) is not None]
        return percentile_interval(np.array(taus)) if self._enough and len(taus) > BOOTSTRAPS // 2 else None

    def fitted(self, after: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"] | None:
        """The fitted gain at steps since the burst, from the peak on; None without a fit."""
        return None if self.decay is None else _decay(after - self.peak, *self.decay)

    @property
    def _best(self) -> int:
        return int(self.mean.argmax())

    @property
    def _enough(self) -> bool:
        return len(self.gains) >= 3

    @functools.cached_property
    def _samples(self) -> Float64[np.ndarray, "s u"]:
        """Mean gains of bootstrap samples of the intervals."""
        return self.gains[resamples(len(self.gains), BOOTSTRAPS, "retention", "bootstrap")].mean(axis=1)


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
    return Retention(np.array(list(intervals), np.int64), np.array(after, np.int64), gains)


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
            fitted, _ = curve_fit(_decay, u, y, p0=(top, gap / 4, 0.1 * top), bounds=bounds)
    except (RuntimeError, ValueError):
        return None
    return float(fitted[0]), float(fitted[1]), float(fitted[2])


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
