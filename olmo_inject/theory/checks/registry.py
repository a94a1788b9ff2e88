"""The acceptance checks of the theory, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from olmo_inject.theory.checks import geometry, injection, optimum, overlap, problem, speed
from olmo_inject.theory.checks.measure import AcceptanceMeasure, Effort

Check = Callable[[Effort], Iterator[AcceptanceMeasure]]

CHECKS: dict[int, tuple[str, Check]] = {
    1: ("scaling laws", problem.scaling_laws),
    2: ("the loss of a teacher", problem.teacher_loss),
    3: ("closed forms", problem.golden_values),
    4: ("gradients", geometry.gradient_formulas),
    5: ("interference bound", geometry.interference_bound),
    6: ("stability of the common solution", geometry.stability),
    7: ("signal of random encoders", problem.random_encoders),
    8: ("gradient flow", injection.flow_order),
    9: ("growth over a gap", injection.gap_growth),
    10: ("Adam over a gap", injection.adam_displacement),
    11: ("trained encoders, N = powers of two", optimum.trained_optimum),
    12: ("matched-frequency injection", injection.matched_frequency),
    13: ("frequency against complexity", optimum.complexity_sweep),
    14: ("speed", speed.speed),
    15: ("stability of the learned state", injection.kept_state),
    16: ("overlapping tasks: optimum", overlap.overlapping_optimum),
    17: ("overlapping tasks: gradients", overlap.overlapping_gradients),
    18: ("overlapping tasks: gaps", overlap.overlapping_gaps),
}
