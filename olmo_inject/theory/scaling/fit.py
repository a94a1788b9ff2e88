"""Fitting scaling laws to measured losses by least squares, with the uncertainty of every number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import OptimizeResult, least_squares

from olmo_inject.errors import UserError
from olmo_inject.theory.scaling.laws import Frontier, ScalingLaw

EXPONENT_STARTS = (0.15, 0.4, 0.8)
FLOOR_STARTS = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class ScalingFit:
    """A fitted law and the standard error of each of its numbers.

    Errors come from the curvature at the optimum and the scatter about it, so they hold for independent
    scatter of constant relative size. `residual` is the root mean square of the relative misfit.
    """

    law: ScalingLaw
    errors: ScalingLaw
    residual: float


@dataclass(frozen=True)
class FrontierFit:
    """A fitted compute-optimal frontier and the standard error of each of its numbers."""

    frontier: Frontier
    errors: Frontier
    residual: float


def fit_scaling_law(
    sizes: Float[np.ndarray, " n"], data: Float[np.ndarray, " n"], losses: Float[np.ndarray, " n"]
) -> ScalingFit:
    """L = E + A N^-alpha + B D^-beta, by least squares on the logarithm of the loss from several starts.

    Raises:
        UserError: fewer than six points, or a number that is not positive.
    """
    sizes, data, losses = _checked(5, sizes=sizes, data=data, losses=losses)
    mid_size, mid_data = np.exp(np.log(sizes).mean()), np.exp(np.log(data).mean())

    # Both terms are scaled to the middle of the points: raw A and alpha are nearly one direction.
    def loss(p: Float[np.ndarray, " 5"]) -> Float[np.ndarray, " n"]:
        return np.exp(p[0]) + np.exp(p[1]) * (sizes / mid_size) ** -p[3] + np.exp(p[2]) * (data / mid_data) ** -p[4]

    low, spread = losses.min(), np.ptp(losses) + 1e-3 * losses.min()
    starts = [
        np.array([np.log(floor * low), np.log(spread / 2), np.log(spread / 2), exponent, exponent])
        for floor in FLOOR_STARTS
        for exponent in EXPONENT_STARTS
    ]
    best, errors, residual = _fit(loss, losses, starts)

    def terms(p: Float[np.ndarray, " 5"]) -> Float[np.ndarray, " 5"]:
        return np.array([np.exp(p[0]), np.exp(p[1]) * mid_size ** p[3], np.exp(p[2]) * mid_data ** p[4], p[3], p[4]])

    values, deviations = terms(best), _propagated(terms, best, errors)
    return ScalingFit(ScalingLaw(*values.tolist()), ScalingLaw(*deviations.tolist()), residual)


def fit_frontier(sizes: Float[np.ndarray, " n"], losses: Float[np.ndarray, " n"]) -> FrontierFit:
    """L_C = E + A_C N^-gamma from compute-optimal points.

    Raises:
        UserError: fewer than four points, or a number that is not positive.
    """
    sizes, losses = _checked(3, sizes=sizes, losses=losses)
    middle = np.exp(np.log(sizes).mean())

    def loss(p: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " n"]:
        return np.exp(p[0]) + np.exp(p[1]) * (sizes / middle) ** -p[2]

    low, spread = losses.min(), np.ptp(losses) + 1e-3 * losses.min()
    starts = [
        np.array([np.log(floor * low), np.log(spread), exponent])
        for floor in FLOOR_STARTS
        for exponent in EXPONENT_STARTS
    ]
    best, errors, residual = _fit(loss, losses, starts)

    def terms(p: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
        return np.array([np.exp(p[0]), np.exp(p[1]) * middle ** p[2], p[2]])

    values, deviations = terms(best), _propagated(terms, best, errors)
    return FrontierFit(Frontier(*values.tolist()), Frontier(*deviations.tolist()), residual)


Vector = Float[np.ndarray, " p"]


def _fit(
    loss: Callable[[Vector], Float[np.ndarray, " n"]], losses: Float[np.ndarray, " n"], starts: list[Vector]
) -> tuple[Vector, Float[np.ndarray, "p p"], float]:
    """Best parameters over all starts, their covariance, and the root mean square misfit."""
    low = np.log(np.finfo(np.float64).tiny)
    log_terms = len(starts[0]) - len(starts[0]) // 2
    bounds = (
        [low] * log_terms + [1e-3] * (len(starts[0]) - log_terms),
        [np.log(losses.max())] + [np.inf] * (log_terms - 1) + [5.0] * (len(starts[0]) - log_terms),
    )

    def misfit(p: Vector) -> Float[np.ndarray, " n"]:
        return np.log(loss(p)) - np.log(losses)

    fits: list[OptimizeResult] = [
        least_squares(misfit, start, bounds=bounds, xtol=1e-15, ftol=1e-15, gtol=1e-15) for start in starts
    ]
    best = min(fits, key=lambda fit: fit.cost)
    scatter = 2 * best.cost / (len(losses) - len(best.x))
    covariance = scatter * np.linalg.pinv(best.jac.T @ best.jac)
    return best.x, covariance, float(np.sqrt(2 * best.cost / len(losses)))


def _propagated(terms: Callable[[Vector], Vector], best: Vector, covariance: Float[np.ndarray, "p p"]) -> Vector:
    """Standard errors of derived numbers, to first order."""
    steps = 1e-6 * np.eye(len(best))
    jacobian = np.stack([(terms(best + step) - terms(best - step)) / 2e-6 for step in steps], axis=1)
    return np.sqrt(np.diag(jacobian @ covariance @ jacobian.T))


def _checked(parameters: int, **columns: Float[np.ndarray, " n"]) -> list[Float[np.ndarray, " n"]]:
    arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    for name, array in arrays.items():
        if not (np.isfinite(array) & (array > 0)).all():
            raise UserError(f"{name} must be positive numbers")
        if array.ndim != 1 or len(array) <= parameters:
            raise UserError(f"a fit of {parameters} numbers needs more points, got {array.size} {name}")
    if len({len(array) for array in arrays.values()}) > 1:
        raise UserError(
            "every point needs one number each: got "
            + ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
        )
    return list(arrays.values())
