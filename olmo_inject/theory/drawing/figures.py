"""The theory's figures by name, with the study's figure that each one reproduces."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from olmo_inject.theory.drawing import injection, laws, overlap, widths
from olmo_inject.theory.drawing.scene import Scene

FIGURES: dict[str, Callable[[Scene], Figure]] = {
    "regimes": laws.regimes,  # Fig. 1
    "losses": widths.losses,  # Fig. 2
    "signals": widths.signals,  # Fig. 3
    "injection": injection.matched_frequency,  # Fig. 4
    "two-directions": injection.two_directions,  # Fig. 11
    "complexity": laws.complexity,  # Fig. 12
    "longer": widths.longer,  # Fig. 21
    "cosines": injection.gradient_cosines,  # Sec. 4.4's measure, on the synthetic tasks
    "kept": injection.kept_and_learned,
    "overlap-optimum": overlap.optimum,
    "overlap-gaps": overlap.gaps,
}
