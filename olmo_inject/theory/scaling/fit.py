"""Fit scaling laws to measured losses by least squares, with the uncertainty of every number.

What the points cannot determine is refused or has an infinite error: a coefficient of a quantity that never varies, the
exponent of a term that is zero, two terms that always move together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float
from scipy.optimize import OptimizeResult, least_squares

from olmo_inject import resampling
from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import numbers, whole
from olmo_inject.theory.scaling.laws import PowerLaw, ScalingLaw

Law = TypeVar("Law", PowerLaw, ScalingLaw)
Vector = Float[np.ndarray, " p"]
Points = Float[np.ndarray, " n"]

EXPONENT_STARTS = (0.15, 0.4, 0.8)
FLOOR_STARTS = (0.05, 0.5, 0.95)
EXPONENTS = (1e-3, 5.0)
NULL = 1e-7
"""Directions of the scaled Jacobian weaker than this share of the strongest count as zero."""


@dataclass(frozen=True)
class Fit(Generic[Law]):
    """A fitted law and what is known of each of its numbers, by name.

    Args:
        law: the best fit.
        errors: standard errors from the curvature at the optimum and the scatter about it, which assume independent
            scatter of constant relative size. Infinite if the points do not determine the number.
        residual: the root mean square of the relative misfit.
        intervals: 95% bootstrap intervals, each from low to high; empty without a bootstrap.
        band: the laws fitted to bootstrap samples, for drawing.
    """

    law: Law
    errors: dict[str, float]
    residual: float
    intervals: dict[str, tuple[float, float]]
    band: tuple[Law, ...] = ()

    @property
    def unidentified(self) -> tuple[str, ...]:
        """The numbers that the points do not determine."""
        return tuple(name for name, error in self.errors.items() if not np.isfinite(error))


def fit_scaling_law(sizes: Points, data: Points, losses: Points, resamples: int = 0, seed: int = 0) -> Fit[ScalingLaw]:
    """L = E + A N^-alpha + B D^-beta, by least squares on the logarithm of the loss from several starts.

    Args:
        sizes: N of every point.
        data: D of every point.
        losses: L.
        resamples: number of bootstrap fits, to resampled relative residuals about the best fit.
        seed: of the bootstrap.

    Raises:
        UserError: fewer than six points, a number that is not positive, fewer than three different sizes or amounts
            of data, or sizes and data that always move together.
    """
    sizes, data, losses = _checked(5, sizes=sizes, data=data, losses=losses)
    design = np.stack([np.ones(len(sizes)), np.log(sizes), np.log(data)], axis=1)
    design[:, 1:] -= design[:, 1:].mean(0)
    strengths = np.linalg.svd(design / np.linalg.norm(design, axis=0), compute_uv=False)
    if strengths[-1] < 1e-3:
        raise UserError("sizes and data move together in all points, so their effects cannot be separated")
    return _fitted(ScalingLaw, [sizes, data], losses, resamples, seed)


def fit_power_law(
    quantity: Points, losses: Points, resamples: int = 0, seed: int = 0, name: str = "quantity"
) -> Fit[PowerLaw]:
    """L = E + A x^-gamma: against size, data or frequency, or a frontier of compute-optimal sizes.

    Args:
        quantity: x of every point.
        losses: L.
        resamples: number of bootstrap fits.
        seed: of the bootstrap.
        name: of x, for messages.

    Raises:
        UserError: fewer than four points, a number that is not positive, or fewer than three different x.
    """
    quantity, losses = _checked(3, **{name: quantity, "losses": losses})
    return _fitted(PowerLaw, [quantity], losses, resamples, seed)


def _fitted(kind: Callable[..., Law], quantities: list[Points], losses: Points, resamples: int, seed: int) -> Fit[Law]:
    resamples, seed = whole("resamples", resamples, 0), whole("seed", seed, 0)
    terms = len(quantities)
    middles = [float(np.exp(np.log(quantity).mean())) for quantity in quantities]
    relative = [quantity / middle for quantity, middle in zip(quantities, middles, strict=True)]

    # Parameters: E, then the terms at the middle of the points, then exponents; raw A and alpha are nearly collinear.
    curve = _Curve(tuple(relative))

    def numbers_of(p: Vector) -> Vector:
        scales = [np.exp(p[1 + i]) * middles[i] ** p[1 + terms + i] for i in range(terms)]
        return np.array([np.exp(p[0]), *scales, *p[1 + terms :]])

    best, cost = _best(curve, losses, _starts(losses, terms))
    law = kind(*numbers_of(best).tolist())
    names = [field.name for field in fields(law)]
    errors = dict(zip(names, _errors(curve, best, middles, cost).tolist(), strict=True))
    laws = _bootstrap(curve, numbers_of, losses, best, resamples, seed)
    intervals = {}
    if len(laws):
        low, high = resampling.percentile_ends(laws)
        for i, name in enumerate(names):
            known = np.isfinite(errors[name])
            intervals[name] = (float(low[i]), float(high[i])) if known else (0.0, float("inf"))
    band = tuple(kind(*row.tolist()) for row in laws)
    return Fit(law, errors, float(np.sqrt(2 * cost / len(losses))), intervals, band)


def _starts(losses: Points, terms: int) -> list[Vector]:
    low, spread = losses.min(), np.ptp(losses) + 1e-3 * losses.min()
    return [
        np.array([np.log(floor * low), *[np.log(spread / terms)] * terms, *[exponent] * terms])
        for floor in FLOOR_STARTS
        for exponent in EXPONENT_STARTS
    ]


@dataclass(frozen=True)
class _Curve:
    """The loss as a function of ln E, ln A at the middle of the points, and exponents; with its log-derivatives."""

    relative: tuple[Points, ...]

    def __call__(self, p: Vector) -> Points:
        return np.exp(p[0]) + np.sum(self.parts(p), axis=0)

    def parts(self, p: Vector) -> list[Points]:
        terms = len(self.relative)
        return [np.exp(p[1 + i]) * self.relative[i] ** -p[1 + terms + i] for i in range(terms)]

    def changes(self, p: Vector) -> Float[np.ndarray, "n p"]:
        parts = self.parts(p)
        columns = [np.full_like(parts[0], np.exp(p[0])), *parts]
        columns += [-part * np.log(values) for part, values in zip(parts, self.relative, strict=True)]
        return np.stack(columns, axis=1) / self(p)[:, None]


def _best(curve: _Curve, losses: Points, starts: list[Vector]) -> tuple[Vector, float]:
    """The best parameters over all starts, and half the sum of squares there."""
    terms = len(starts[0]) // 2
    low = np.log(np.finfo(np.float64).tiny)
    bounds = (
        [low] * (terms + 1) + [EXPONENTS[0]] * terms,
        [np.log(losses.max())] + [np.inf] * terms + [EXPONENTS[1]] * terms,
    )

    changes: Any = curve.changes

    def misfit(p: Vector) -> Points:
        return np.log(curve(p)) - np.log(losses)

    fits: list[OptimizeResult] = [
        least_squares(misfit, start, jac=changes, bounds=bounds, xtol=1e-15, ftol=1e-15, gtol=1e-15) for start in starts
    ]
    best = min(fits, key=lambda fit: fit.cost)
    return best.x, float(best.cost)


def _errors(curve: _Curve, best: Vector, middles: list[float], cost: float) -> Vector:
    """Standard errors of E, coefficients and exponents; infinite along undetermined directions."""
    terms = len(middles)
    jacobian = curve.changes(best)
    jacobian[:, 0] /= np.exp(best[0])  # derivative by E itself, which may be zero
    lengths = np.linalg.norm(jacobian, axis=0)
    here = lengths > NULL * lengths.max()
    _, strengths, directions = np.linalg.svd(jacobian[:, here] / lengths[here], full_matrices=False)
    measurable = strengths > NULL * strengths.max()
    scatter = 2 * cost / (len(jacobian) - len(best))
    # Derivatives of the law's numbers by the fitted ones: ln A shifts with the exponent by the logarithm of the middle.
    change = np.diag([1.0] * (1 + 2 * terms))
    for i in range(terms):
        change[1 + i, 1 + terms + i] = np.log(middles[i])
        change[1 + i] *= np.exp(best[1 + i]) * middles[i] ** best[1 + terms + i]
    seen = (change[:, here] / lengths[here]) @ directions.T
    errors = np.sqrt(scatter * (seen[:, measurable] ** 2 / strengths[measurable] ** 2).sum(1))
    scale = np.linalg.norm(seen, axis=1)
    lost = (np.abs(seen[:, ~measurable]) > 1e-6 * scale[:, None]).any(1) | (change[:, ~here] != 0).any(1)
    return np.where(lost, np.inf, errors)


def _bootstrap(
    curve: _Curve,
    numbers_of: Callable[[Vector], Vector],
    losses: Points,
    best: Vector,
    times: int,
    seed: int,
) -> Float[np.ndarray, "r p"]:
    """The law's numbers from fits to resampled relative residuals, at the same points."""
    fitted = curve(best)
    # Least squares uses p degrees of freedom, so its residuals are too small by this factor.
    residuals = np.log(losses / fitted) * np.sqrt(len(losses) / (len(losses) - len(best)))
    drawn = []
    for chosen in resampling.resamples(len(losses), times, "scaling law", seed):
        again = fitted * np.exp(residuals[chosen])
        start = np.clip(best, np.log(1e-6 * losses.min()), None)
        start[0] = min(start[0], np.log(again.max()) - 1e-6)
        drawn.append(numbers_of(_best(curve, again, [start])[0]))
    return np.array(drawn).reshape(-1, len(best))


def _checked(parameters: int, **columns: object) -> list[Points]:
    arrays = {name: numbers(name, column, above=0) for name, column in columns.items()}
    for name, array in arrays.items():
        if array.ndim != 1 or len(array) <= parameters:
            raise UserError(f"a fit of {parameters} numbers needs more points, got {array.size} {name}")
    if len({len(array) for array in arrays.values()}) > 1:
        raise UserError(
            "every point needs one number each: got "
            + ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
        )
    for name, array in list(arrays.items())[:-1]:
        different = len(np.unique(np.round(np.log(array), 9)))
        if different < 3:
            raise UserError(
                f"{name} must take three or more different values, so that their effect can be told apart, "
                f"got {different}"
            )
    return list(arrays.values())
