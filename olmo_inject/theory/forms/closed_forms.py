"""What an optimal encoder of width N holds, and the width from which it holds a given feature.

By Ky Fan's theorem the best width-N encoder spans the N features of largest utility pi_k lambda_kj. So everything here
is sorting and counting.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import kind, number, task_indices, wholes
from olmo_inject.theory.mixtures.mixture import Mixture
from olmo_inject.theory.mixtures.overlapping import OverlappingMixture
from olmo_inject.theory.mixtures.task_mixture import TIE, TaskMixture

Widths = Iterable[int] | Int[np.ndarray, " W"]
Tasks = Iterable[int] | Int[np.ndarray, " _"]


def checked_widths(mixture: Mixture, widths: Widths) -> Int[np.ndarray, " W"]:
    """The widths as an array.

    Raises:
        UserError: a width is not a whole number from 1 to the input dimension.
    """
    kind("mixture", mixture, Mixture)
    return wholes("width", widths, 1, mixture.dimension)


def retained_features(mixture: TaskMixture, widths: Widths) -> Int[np.ndarray, "W K"]:
    """n_k(N): the number of each task's features among the N of largest utility. They are always its first ones.

    If `tied_boundary` holds, these are the counts of one of several minimisers.
    """
    kind("mixture", mixture, TaskMixture)
    ordered_tasks = mixture.task_of[mixture.learning_order]
    counts = [np.bincount(ordered_tasks[:width], minlength=mixture.tasks) for width in checked_widths(mixture, widths)]
    return np.array(counts, dtype=np.int64).reshape(-1, mixture.tasks)


def task_losses(mixture: Mixture, widths: Widths) -> Float[np.ndarray, "W K"]:
    """L_k(N): what the best encoder of width N leaves of each task (Theorem 3).

    Raises:
        UserError: a width is not from 1 to d.
    """
    if isinstance(mixture, OverlappingMixture):
        return mixture.task_losses(widths)
    mixture = kind("mixture", mixture, TaskMixture)
    counts = retained_features(mixture, widths)
    left = [np.where(mixture.rank_of > row[mixture.task_of], mixture.eigenvalues, 0.0) for row in counts]
    losses = [np.add.reduceat(row, mixture.starts[:-1]) for row in left]
    return np.array(losses, dtype=np.float64).reshape(-1, mixture.tasks)


def task_signals(mixture: Mixture, widths: Widths) -> Float[np.ndarray, "W K"]:
    """s_k(N) = 1 - L_k(N) / tr C_k: the share of a task that the best encoder holds, 0 to 1.

    Raises:
        UserError: a width is not from 1 to d.
    """
    if isinstance(mixture, OverlappingMixture):
        return mixture.task_signals(widths)
    return 1 - task_losses(mixture, widths) / mixture.traces


def mixture_losses(mixture: Mixture, widths: Widths) -> Float[np.ndarray, " W"]:
    """L*(N): the eigenvalues of M beyond the N largest, summed. No encoder of width N does better (Theorem 3).

    Raises:
        UserError: a width is not from 1 to d.
    """
    if isinstance(mixture, OverlappingMixture):
        return mixture.mixture_losses(widths)
    mixture = kind("mixture", mixture, TaskMixture)
    return _beyond(mixture.utilities[mixture.learning_order], checked_widths(mixture, widths))


def tied_boundary(mixture: TaskMixture, widths: Widths) -> Bool[np.ndarray, " W"]:
    """Whether the N-th and the next utility are equal, so that it is not determined which feature is held."""
    kind("mixture", mixture, TaskMixture)
    ordered = np.append(mixture.utilities[mixture.learning_order], 0.0)
    at = np.minimum(checked_widths(mixture, widths), mixture.features)
    return ordered[at] >= ordered[at - 1] * (1 - TIE)


def minimal_widths(mixture: TaskMixture, depths: Widths) -> Int[np.ndarray, " m"]:
    """N_min(m): the width from which every task's first m features are held, in every minimiser (Theorem 3).

    A task with fewer than m features only needs the features that it has.

    Raises:
        UserError: a depth is below one or above every task's number of features.
    """
    kind("mixture", mixture, TaskMixture)
    depths = wholes("depth", depths, 1, int(mixture.rank_of.max()))
    rising = np.sort(mixture.utilities)
    lowest = np.array([mixture.utilities[mixture.rank_of <= depth].min() for depth in depths])
    return mixture.features - np.searchsorted(rising, lowest * (1 - TIE), side="left")


def frequent_tasks(mixture: Mixture, mass: float = 0.9) -> Int[np.ndarray, " _"]:
    """F: the smallest set of most frequent tasks that together have at least this share of the data.

    Raises:
        UserError: `mass` is not between 0 and 1.
    """
    kind("mixture", mixture, Mixture)
    mass = number("the frequent tasks' share", mass, above=0, at_most=1)
    order = np.argsort(-mixture.frequencies, kind="stable")
    reached = np.cumsum(mixture.frequencies[order]) >= mass * (1 - TIE)
    return np.sort(order[: int(reached.argmax()) + 1 if reached.any() else len(order)])


def residuals(mixture: TaskMixture, widths: Widths, tasks: Tasks) -> Float[np.ndarray, " W"]:
    """R*_N: the part of these tasks' M that the best encoder for them alone does not explain (Corollary 5).

    Args:
        mixture: the tasks.
        widths: N.
        tasks: those that count, from 0; the frequent ones in the paper.

    Raises:
        UserError: a width is not from 1 to d, or a task is not in the mixture.
    """
    return _beyond(_falling_utilities(mixture, tasks), checked_widths(mixture, widths))


def residual_width(mixture: TaskMixture, share: float, tasks: Tasks) -> int:
    """N_epsilon: the least width that can leave at most this share of these tasks' part of M unexplained (Corollary 5).

    Args:
        mixture: the tasks.
        share: epsilon as a share of those tasks' variance, 0 to 1.
        tasks: those that count, from 0; the frequent ones in the paper.

    Raises:
        UserError: `share` is not from 0 to below 1, or a task is not in the mixture.
    """
    share = number("the residual share", share, at_least=0, below=1)
    falling = _falling_utilities(mixture, tasks)
    left = _beyond(falling, np.arange(len(falling) + 1))
    return int((left <= share * left[0] * (1 + TIE)).argmax())


def critical_widths(
    mixture: TaskMixture, against: Tasks | None = None, some_minimiser: bool = False
) -> Int[np.ndarray, " F"]:
    """N_crit of every feature: its place in its task plus the other tasks' features of at least its utility.

    From this width on the feature is stable against the others' gradient (Proposition 6).

    Args:
        mixture: the tasks.
        against: the tasks whose competition counts, such as the frequent ones; None: all other tasks.
        some_minimiser: count only features of strictly larger utility. This gives the width from which the feature is
            in some minimiser rather than in every one, and differs only at exact ties.

    Raises:
        UserError: a task is not in the mixture.
    """
    kind("mixture", mixture, TaskMixture)
    return widths_to_meet(mixture, mixture.utilities, against, some_minimiser)


def widths_to_meet(
    mixture: TaskMixture,
    demanded: Float[np.ndarray, " F"],
    against: Tasks | None = None,
    some_minimiser: bool = False,
) -> Int[np.ndarray, " F"]:
    """A feature's place in its task plus the other tasks' features that demand its utility or more.

    Args:
        mixture: the tasks.
        demanded: the utility a feature must exceed to hold a slot against each feature; within a task it
            must not increase.
        against: the tasks whose competition counts; all others where None.
        some_minimiser: count only what demands strictly more.

    Raises:
        UserError: a task is not in the mixture, or a demand is missing.
    """
    kind("mixture", mixture, TaskMixture)
    if demanded.shape != mixture.utilities.shape or np.isnan(demanded).any():
        raise UserError(f"demanded must be one number for each of {mixture.features} features")
    competes = np.ones(mixture.features, dtype=bool)
    if against is not None:
        competes = np.isin(mixture.task_of, task_indices(against, mixture.tasks, "against"))
    level = mixture.utilities * (1 + TIE if some_minimiser else 1 - TIE)
    order = mixture.learning_order
    everyone = np.empty(mixture.features, dtype=np.int64)
    # Queries in order keep the search in the cache.
    everyone[order] = competes.sum() - np.searchsorted(np.sort(demanded[competes]), level[order], side="left")
    return mixture.rank_of + everyone - np.where(competes, _own_at_least(mixture, demanded, level), 0)


def _own_at_least(
    mixture: TaskMixture, values: Float[np.ndarray, " F"], level: Float[np.ndarray, " F"]
) -> Int[np.ndarray, " F"]:
    """For every feature, how many of its own task's values reach `level`: by steps that halve, all features at once."""
    starts, ends = mixture.starts[mixture.task_of], mixture.starts[mixture.task_of + 1]
    counted = starts.copy()
    step = 1 << int(np.diff(mixture.starts).max()).bit_length() - 1
    while step:
        further = counted + step
        reached = (further <= ends) & (values[np.minimum(further, mixture.features) - 1] >= level)
        counted += step * reached
        step //= 2
    return counted - starts


def _falling_utilities(mixture: TaskMixture, tasks: Tasks) -> Float[np.ndarray, " _"]:
    kind("mixture", mixture, TaskMixture)
    ordered = mixture.learning_order
    return mixture.utilities[ordered[np.isin(mixture.task_of[ordered], task_indices(tasks, mixture.tasks))]]


def _beyond(falling: Float[np.ndarray, " n"], widths: Int[np.ndarray, " W"]) -> Float[np.ndarray, " W"]:
    # Summed from the small end, so that a rest of 1e-12 is not the difference of two numbers near 1.
    tails = np.append(np.cumsum(falling[::-1])[::-1], 0.0)
    return tails[np.minimum(widths, len(falling))]
