"""The theory's figures: the paper's synthetic ones, drawn from closed forms and fresh training runs."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from olmo_inject.theory.checks.measure import Effort
from olmo_inject.theory.drawing import injection, laws, widths

FIGURES: dict[str, Callable[[Effort], Figure]] = {
    "losses": widths.losses,
    "signals": widths.signals,
    "injection": injection.matched_frequency,
    "two-directions": injection.two_directions,
    "complexity": laws.complexity,
    "regimes": laws.regimes,
}
