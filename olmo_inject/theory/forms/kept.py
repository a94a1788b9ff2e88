"""Whether a learned task stays learned if it comes in bursts, once every T steps.

`gaps` asks the opposite question, whether a task grows from nothing. Near the optimum, which holds the rare feature,
consider a small tilt of the rare feature's slot towards the strongest feature that is not held, of utility lambda_c.
A plain step multiplies it by 1 + 2 eta lambda_c in the gap and by 1 + 2 eta (lambda_c - T nu) at the burst. A burst
that is too weak does not undo the gap. A burst with 2 eta T nu above about 2 overshoots, at every width.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from olmo_inject.theory.arguments import number, numbers, whole
from olmo_inject.theory.forms.closed_forms import Tasks, Widths, checked_widths, retained_features
from olmo_inject.theory.forms.gaps import (
    LONGEST,
    Result,
    Values,
    check_step_size,
    period_growth,
    rival_utilities,
)
from olmo_inject.theory.mixtures.task_mixture import TIE, TaskMixture

Regime = Literal["kept", "bistable", "oscillates", "lost"]


def tilt_growth(gap: Values, unheld: Values, utility: Values, step_size: float) -> Result:
    """Gamma_held(T): the logarithm by which a small tilt away from the learned state grows over one period.

    The learned state is stable iff this is negative: (T - 1) ln(1 + 2 eta lambda_c) + ln|1 + 2 eta (lambda_c - T nu)|.

    Args:
        gap: T.
        unheld: lambda_c, the largest utility of another task's feature without a slot; 0 if all have one.
        utility: nu, of the rare feature at its long-run frequency.
        step_size: eta.

    Raises:
        UserError: a number is impossible.
    """
    steps = numbers("gap", gap, at_least=1)
    rival, rare = numbers("unheld", unheld, at_least=0), numbers("utility", utility, at_least=0)
    return _tilt_growth(steps, rival, rare, number("step size", step_size, above=0))


def _tilt_growth(steps: Result, rival: Result, rare: Result, step_size: float) -> Result:
    with np.errstate(divide="ignore"):  # a burst of exactly 2 eta T nu = 1 + 2 eta lambda_c removes the tilt
        burst = np.log(np.abs(1 + 2 * step_size * (rival - steps * rare)))
    return np.asarray((steps - 1) * np.log1p(2 * step_size * rival) + burst)


def unheld_utilities(mixture: TaskMixture, widths: Widths, against: Tasks | None = None) -> Float[np.ndarray, "W K"]:
    """lambda_c of every task: the largest utility of other tasks' features that have no slot.

    Below a task's critical width its first feature is assumed to have a slot, as in a model that learned it before.

    Args:
        mixture: the tasks.
        widths: N.
        against: the tasks whose competition counts; all others where None.

    Raises:
        UserError: a width or task is impossible.
    """
    sizes = checked_widths(mixture, widths)
    own = np.maximum(retained_features(mixture, sizes), 1)
    return rival_utilities(mixture, sizes[:, None] - own, against)


def longest_kept_gaps(
    mixture: TaskMixture, widths: Widths, step_size: float, against: Tasks | None = None
) -> Float[np.ndarray, "W K"]:
    """The longest T up to which every task's first feature is kept once learned, at each width.

    0 if even T = 1 displaces it. Beyond this gap the learned state is unstable: the task oscillates if it still grows
    from nothing, and is lost otherwise. It is never infinite, since a burst with 2 eta T nu of about 2 overshoots.

    Args:
        mixture: the tasks.
        widths: N.
        step_size: eta.
        against: the tasks whose competition counts; all others where None.

    Raises:
        UserError: a width, task or the step size is impossible.
    """
    check_step_size(mixture, step_size)
    rivals = unheld_utilities(mixture, widths, against)
    rare = np.broadcast_to(mixture.utilities[mixture.starts[:-1]], rivals.shape)
    # Gamma_held(0) = 0, and it is concave up to the burst that removes the tilt. If it is negative at T = 1, it stays
    # negative up to that burst. Beyond it, it rises without limit, so there is one crossing.
    removing = np.floor((1 + 2 * step_size * rivals) / (2 * step_size * rare))
    low, high = np.maximum(removing, 1), np.full_like(rivals, LONGEST)
    low = np.where(_tilt_growth(low, rivals, rare, step_size) < 0, low, 1)
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        stable = _tilt_growth(middle, rivals, rare, step_size) < 0
        low, high = np.where(stable, middle, low), np.where(stable, high, middle)
    return np.where(rare > rivals * (1 + TIE), low, 0.0)


def gap_regime(mixture: TaskMixture, task: int, width: int, gap: int, step_size: float) -> Regime:
    """What happens to a task's first feature at one width and gap.

    "kept": it is learned and stays. "bistable": it stays once learned but is not learned from nothing.
    "oscillates": it is learned from nothing but does not stay, a limit cycle or chaos with part of the signal.
    "lost": neither.

    Args:
        mixture: the tasks.
        task: from 0.
        width: N.
        gap: T.
        step_size: eta.

    Raises:
        UserError: a number is impossible.
    """
    task, gap = whole("task", task, 0, mixture.tasks - 1), whole("gap", gap, 1)
    check_step_size(mixture, step_size)
    utility = float(mixture.utilities[mixture.starts[task]])
    sizes = checked_widths(mixture, [width])
    rival = rival_utilities(mixture, np.repeat(sizes[:, None] - 1, mixture.tasks, axis=1), None)[0, task]
    learned = float(period_growth(gap, float(rival), utility, step_size)) > 0
    stable = float(tilt_growth(gap, float(unheld_utilities(mixture, [width])[0, task]), utility, step_size)) < 0
    if stable:
        return "kept" if learned else "bistable"
    return "oscillates" if learned else "lost"
