"""Scaling laws: the loss of N parameters on D data, at unlimited data and at the compute optimum.

There are two readings of the compute-optimal loss. The consistent one follows from the law itself and always has the
exponent alpha. The independent one has its own fitted exponent gamma, as the study quotes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from olmo_inject.theory.arguments import kind, number, numbers, whole

Numbers = float | Float[np.ndarray, " _"]


def _positive(name: str, value: Numbers) -> Numbers:
    checked = numbers(name, value, above=0)
    return checked if checked.ndim else float(checked)


def _spent(compute: float, cost: float) -> float:
    return number("compute", compute, above=0) / number("cost", cost, above=0)


def _check(law: PowerLaw | ScalingLaw) -> None:
    for name, value in vars(law).items():
        # A frontier may be flat, and nothing may be irreducible.
        limits = {"at_least": 0.0} if name in ("irreducible", "gamma") else {"above": 0.0}
        object.__setattr__(law, name, number(name, value, **limits))


@dataclass(frozen=True)
class PowerLaw:
    """L = E + A x^-gamma: against size, data or frequency; at compute-optimal sizes, the frontier L_C(N).

    Raises:
        UserError: a number is not finite, the coefficient is not above 0, or another is below it.
    """

    irreducible: float
    coefficient: float
    gamma: float

    def __post_init__(self) -> None:
        _check(self)

    def loss(self, size: Numbers) -> Numbers:
        """L at x; of a frontier, L_C(N)."""
        return self.irreducible + self.coefficient * _positive("size", size) ** -self.gamma


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A N^-alpha + B D^-beta.

    Args:
        irreducible: E, at least 0.
        size_coefficient: A, above 0.
        data_coefficient: B, above 0.
        alpha: above 0.
        beta: above 0.

    Raises:
        UserError: a number is outside its range or not finite.
    """

    irreducible: float
    size_coefficient: float
    data_coefficient: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        _check(self)

    def loss(self, size: Numbers, data: Numbers) -> Numbers:
        """L(N, D)."""
        return self.asymptotic_loss(size) + self.data_coefficient * _positive("data", data) ** -self.beta

    def asymptotic_loss(self, size: Numbers) -> Numbers:
        """L_inf(N): at unlimited data."""
        return self.irreducible + self.size_coefficient * _positive("size", size) ** -self.alpha

    def optimal_size(self, compute: float, cost: float = 6.0) -> float:
        """N that minimises the loss at compute C = cost * N * D."""
        return self._balance * _spent(compute, cost) ** (self.beta / (self.alpha + self.beta))

    def optimal_data(self, compute: float, cost: float = 6.0) -> float:
        """D that minimises the loss at compute C = cost * N * D."""
        return _spent(compute, cost) ** (self.alpha / (self.alpha + self.beta)) / self._balance

    def frontier(self) -> PowerLaw:
        """The compute-optimal loss that the law itself implies: its exponent is alpha, not free."""
        return PowerLaw(self.irreducible, self.size_coefficient * (1 + self.alpha / self.beta), gamma=self.alpha)

    @property
    def _balance(self) -> float:
        ratio = self.alpha * self.size_coefficient / (self.beta * self.data_coefficient)
        return ratio ** (1 / (self.alpha + self.beta))


@dataclass(frozen=True)
class Regimes:
    """Whether more data or only more parameters bring a small model to a large one's compute-optimal loss.

    Args:
        law: gives the loss at unlimited data.
        frontier: gives the compute-optimal loss: `law.frontier()`, or one fitted on its own.
    """

    law: ScalingLaw
    frontier: PowerLaw

    def __post_init__(self) -> None:
        kind("law", self.law, ScalingLaw)
        kind("frontier", self.frontier, PowerLaw)

    def data_suffices(self, small: float, large: float) -> bool:
        """Definition 1 (Sec. 2): the small model is worse at its compute optimum, but better with enough data.

        Raises:
            UserError: a size is not above 0.
        """
        small, large = number("small", small, above=0), number("large", large, above=0)
        target = self.frontier.loss(large)
        return bool(small < large and self.frontier.loss(small) > target and self.law.asymptotic_loss(small) < target)

    def needs_size(self, small: float, large: float, margin: float = 0.0) -> bool:
        """Definition 2 (Sec. 2): even unlimited data leave the small model more than `margin` above the target.

        Args:
            small: N_s, the small model's parameters.
            large: N_l, whose compute-optimal loss is the target.
            margin: epsilon, of the loss.

        Raises:
            UserError: a number is impossible.
        """
        margin = number("margin", margin, at_least=0)
        return bool(self.law.asymptotic_loss(small) - self.frontier.loss(large) > margin)

    def small_limit(self, large: float, margin: float = 0.0) -> float:
        """N_s*(eps), the supremum of the sizes that need more parameters, which does not itself need more."""
        large, margin = number("large", large, above=0), number("margin", margin, at_least=0)
        excess = float(self.frontier.loss(large)) - self.law.irreducible + margin
        if excess <= 0:
            return float(large)
        return min(float(large), float((self.law.size_coefficient / excess) ** (1 / self.law.alpha)))

    def largest_small(self, large: int, margin: float = 0.0) -> int:
        """N_s*(eps) in whole parameters, at most `large`; 0 if no size needs more."""
        large = whole("large", large, 1)
        closed = math.ceil(self.small_limit(large, margin)) - 1
        # Rounding may move a whole-number supremum across itself; the definition decides that one size.
        if closed < large and self.needs_size(closed + 1, large, margin):
            return closed + 1
        if closed >= 1 and not self.needs_size(closed, large, margin):
            return closed - 1
        return closed

    def sound_from(self) -> float:
        """The size from which L_C >= L_inf, as it must be: two independent fits may cross below it."""
        ratio = self.law.size_coefficient / self.frontier.coefficient
        difference = self.law.alpha - self.frontier.gamma
        if difference == 0:
            return 0.0 if ratio <= 1 else math.inf
        return ratio ** (1 / difference) if difference > 0 else 0.0
