"""Closed forms for matched-frequency injection: a rare task seen in bursts, once every T steps.

Near the common solution a plain gradient step multiplies a rare feature's part in slot i, whose common eigenvalue is
lambda_i, by 1 + 2 eta (nu(t) - lambda_i). In the gap nu(t) is zero; at the burst it is T nu. So longer gaps lose more,
and the slot of smallest lambda, the last one, loses least.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from olmo_inject.theory.arguments import kind, number, numbers, task_indices, whole
from olmo_inject.theory.forms.closed_forms import Tasks, Widths, checked_widths, widths_to_meet
from olmo_inject.theory.mixtures.task_mixture import TIE, TaskMixture

Values = int | float | Float[np.ndarray, "..."] | Int[np.ndarray, "..."]
Result = Float[np.ndarray, "..."]

LONGEST = 2.0**40
"""Longest gap that is searched for, in steps."""


def gap_retention(gap: Values, eigenvalue: Values, step_size: float) -> Result:
    """The share of a rare feature's amplitude that is left after T - 1 steps without it (squared: of its energy).

    Args:
        gap: T, steps from one burst to the next.
        eigenvalue: lambda_N, of the common feature that the rare one competes with.
        step_size: eta.

    Raises:
        UserError: a number is impossible, or 2 eta lambda is 1 or more.
    """
    steps, rival, step_size = _checked(gap, eigenvalue, step_size)
    return np.asarray((1 - 2 * step_size * rival) ** (steps - 1))


def period_growth(gap: Values, eigenvalue: Values, utility: Values, step_size: float) -> Result:
    """Gamma(T): the logarithm by which a rare feature grows over one gap and one burst of T nu.

    It takes hold from the common solution iff this is positive. Gamma(T) / T falls strictly in T towards
    ln(1 - 2 eta lambda), so every feature with competition is lost at a long enough gap. Not in the paper.

    Args:
        gap: T.
        eigenvalue: lambda_i of the competing common feature; 2 eta lambda < 1.
        utility: nu, of the rare feature at its long-run frequency.
        step_size: eta.

    Raises:
        UserError: a number is impossible, or 2 eta lambda is 1 or more.
    """
    steps, rival, step_size = _checked(gap, eigenvalue, step_size)
    utility = numbers("utility", utility, at_least=0)
    decay = (steps - 1) * np.log1p(-2 * step_size * rival)
    return np.asarray(decay + np.log1p(2 * step_size * (steps * utility - rival)))


def demanded_utility(gap: Values, eigenvalue: Values, step_size: float) -> Result:
    """The utility at which Gamma(T) is zero, which a rare feature needs against a common one.

    Solving Gamma(T) = 0 for nu gives ((1 - 2 eta lambda)^-(T-1) - (1 - 2 eta lambda)) / (2 eta T): it rises
    with lambda and exponentially with the gap, to infinity where it leaves the range of a float.
    At T = 1 it is lambda.

    Args:
        gap: T.
        eigenvalue: lambda of the competing common feature.
        step_size: eta.

    Raises:
        UserError: a number is impossible, or 2 eta lambda is 1 or more.
    """
    return _demanded(*_checked(gap, eigenvalue, step_size))


def _demanded(steps: Result, rival: Result, step_size: float) -> Result:
    with np.errstate(over="ignore"):
        lost = np.expm1(-(steps - 1) * np.log1p(-2 * step_size * rival))
    return np.asarray((lost + 2 * step_size * rival) / (2 * step_size * steps))


def _checked(gap: Values, eigenvalue: Values, step_size: float) -> tuple[Result, Result, float]:
    """Check that the closed forms hold for these gaps, competing utilities and step size."""
    step_size = number("step size", step_size, above=0)
    rival = numbers("eigenvalue", eigenvalue, at_least=0, below=0.5 / step_size)
    return numbers("gap", gap, at_least=1), rival, step_size


def check_step_size(mixture: TaskMixture, step_size: float) -> None:
    """Check that the closed forms hold at this step size.

    Raises:
        UserError: unless 0 < 2 eta nu_1 < 1.
    """
    kind("mixture", mixture, TaskMixture)
    number("step size", step_size, above=0, below=0.5 / float(mixture.utilities.max()))


def gap_critical_widths(
    mixture: TaskMixture, gap: int, step_size: float, against: Tasks | None = None
) -> Int[np.ndarray, " F"]:
    """N_crit(T) of every feature if its task alone comes in bursts, once every T steps.

    Its place in its task, plus one for each feature of another task against which it does not grow. At T = 1
    this is `critical_widths`. A local statement, about growth from the common solution under plain gradient
    steps; sound while 2 eta T nu is below about one.

    Args:
        mixture: the tasks.
        gap: T, 1 or more.
        step_size: eta.
        against: the tasks whose competition counts; all others where None.

    Raises:
        UserError: the gap or the step size is impossible.
    """
    check_step_size(mixture, step_size)
    gap = whole("gap", gap, 1)
    return widths_to_meet(mixture, demanded_utility(gap, mixture.utilities, step_size), against)


def longest_gaps(
    mixture: TaskMixture, widths: Widths, step_size: float, against: Tasks | None = None
) -> Float[np.ndarray, "W K"]:
    """The longest T at which each task's first feature still grows at each width.

    0 if it does not grow even without a gap; infinite if the width leaves a slot without competition.
    This is `gap_critical_widths` solved for the gap: growth from nothing. Whether a learned task stays is another
    question, see `kept.longest_kept_gaps`. The paper's matched-frequency injection (Fig. 4); derived in docs/theory.md.

    Args:
        mixture: the tasks.
        widths: N.
        step_size: eta.
        against: the tasks whose competition counts; all others where None.

    Raises:
        UserError: a width or the step size is impossible.
    """
    check_step_size(mixture, step_size)
    sizes = checked_widths(mixture, widths)
    rivals = rival_utilities(mixture, np.tile(sizes[:, None] - 1, mixture.tasks), against)
    return _longest_gap(rivals, mixture.utilities[mixture.starts[:-1]], step_size)


def rival_utilities(
    mixture: TaskMixture, places: Int[np.ndarray, "W K"], against: Tasks | None
) -> Float[np.ndarray, "W K"]:
    """The utility at a rank (from 0, by falling utility) among the features of competing tasks, for each task.

    Zero if there are fewer features.

    Args:
        mixture: the tasks.
        places: of every width and task.
        against: the tasks whose competition counts; all others where None.

    Raises:
        UserError: a task is not in the mixture.
    """
    kind("mixture", mixture, TaskMixture)
    places = places.copy()
    competes = np.ones(mixture.tasks, dtype=bool)
    if against is not None:
        competes = np.isin(np.arange(mixture.tasks), task_indices(against, mixture.tasks, "against"))
    order = mixture.learning_order[competes[mixture.task_of[mixture.learning_order]]]
    falling = np.append(mixture.utilities[order], 0.0)
    place = np.empty(mixture.features, dtype=np.int64)
    place[order] = np.arange(len(order))
    for task in np.flatnonzero(competes):
        own = place[mixture.starts[task] : mixture.starts[task + 1]]
        # Each of the task's own features with fewer than N others before it moves the N-th back by one.
        places[:, task] += np.searchsorted(own - np.arange(len(own)), places[:, task], side="right")
    return falling[np.minimum(places, len(order))]


def _longest_gap(
    rivals: Float[np.ndarray, "W K"], utilities: Float[np.ndarray, " K"], step_size: float
) -> Float[np.ndarray, "W K"]:
    def survives(gap: Float[np.ndarray, "W K"]) -> Bool[np.ndarray, "W K"]:
        return _demanded(np.maximum(gap, 1), rivals, step_size) < utilities * (1 - TIE)

    # Gamma(T) / T falls in T, so there is one crossing.
    low, high = np.zeros_like(rivals), np.full_like(rivals, LONGEST)
    for _ in range(41):
        middle = np.ceil((low + high) / 2)
        alive = survives(middle)
        low, high = np.where(alive, middle, low), np.where(alive, high, middle - 1)
    return np.where(rivals > 0, low, np.inf)


def adam_displacement(gap: Values, learning_rate: float, beta1: float = 0.9, beta2: float = 0.999) -> Result:
    """How far Adam moves a coordinate in one period if its gradient is zero in all but one of T steps.

    The displacement saturates: it is about sqrt(T) steps, where mixed data would move the coordinate T steps, and never
    more than 31.8 at the default betas. So a burst of matched size cannot undo the gap; its size does not matter.
    The formula assumes beta2 near 1 (within .5% of torch's Adam at .999) and is not in the paper.

    Args:
        gap: T.
        learning_rate: of Adam.
        beta1: Adam's decay of the mean gradient.
        beta2: Adam's decay of the mean square.

    Raises:
        UserError: a number is impossible; above all unless beta1 < sqrt(beta2).
    """
    steps = numbers("gap", gap, at_least=1)
    learning_rate = number("learning rate", learning_rate, above=0)
    beta1, beta2 = checked_betas(beta1, beta2)
    momentum = (1 - beta1) / (1 - beta1 / beta2**0.5)
    return np.asarray(learning_rate * momentum * ((1 - beta2**steps) / (1 - beta2)) ** 0.5)


def checked_betas(beta1: float, beta2: float) -> tuple[float, float]:
    """Check Adam's betas.

    Raises:
        UserError: unless 0 <= beta1 < sqrt(beta2) < 1; otherwise a burst's push would grow without bound.
    """
    beta2 = number("beta2", beta2, above=0, below=1)
    return number("beta1", beta1, at_least=0, below=beta2**0.5), beta2
