"""Checks 11 and 13: trained encoders hold the predicted features, whatever order frequency suggests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from olmo_inject.theory.checks.measure import AcceptanceMeasure, Effort
from olmo_inject.theory.forms.closed_forms import task_losses, task_signals
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training.train import Recipe, Trained, train


def trained_optimum(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 11: Adam with QR and the expected gradient against the closed forms."""
    if effort.quick:
        mixture, widths, seeds = TaskMixture.power_law(8, 5, null_directions=40), (1, 4, 16), (0, 1)
    else:
        mixture, widths, seeds = TaskMixture.power_law(), (1, 2, 4, 8, 16, 32, 64, 128), (0, 1, 2)
    for width in widths:
        # Near-ties of utilities, which the widest has most of, take longest to tell apart.
        recipe = Recipe(steps=effort.choose(8_000 if width > 64 else 5_000, 800))
        result = train(mixture, width, recipe, seeds)
        error = np.abs(result.task_losses - task_losses(mixture, [width])[0]).max()
        label = f"N={width}, {len(seeds)} seeds, {recipe.steps} steps"
        yield AcceptanceMeasure(11, f"{label}: feature overlap", float(result.overlap.min()), "==", 1.0)
        allowed_excess, allowed_error = (1e-6, 1e-4) if width <= 64 else (1e-4, 1e-2)
        yield AcceptanceMeasure(11, f"{label}: excess loss", float(result.excess.max()), "<=", allowed_excess)
        yield AcceptanceMeasure(11, f"{label}: task loss, absolute error", error, "<=", allowed_error)
    # The excess above bounds what any longer run could gain. Of all widths up to 64 the widest takes longest to settle.
    if not effort.quick:
        short, longer = (_loss(train(mixture, 64, Recipe(steps=steps), (0,))) for steps in (2_000, 20_000))
        yield AcceptanceMeasure(11, "N=64, one seed: gain from 2,000 to 20,000 steps", 1 - longer / short, "<", 1e-4)


def complexity_sweep(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 13: rare simple tasks overtake frequent complex ones, and training agrees."""
    mixture = complexity_mixture(2.0)
    order = frequency_correlation(mixture)
    yield AcceptanceMeasure(13, "s=2: Spearman of frequency and width to half signal", order, "<=", 0.2)
    yield AcceptanceMeasure(13, "s=0: the same", frequency_correlation(complexity_mixture(0.0)), ">=", 1 - 1e-12)
    recipe = Recipe(steps=effort.choose(3_000, 800))
    for width in (16,) if effort.quick else (8, 16, 32, 64):
        result = train(mixture, width, recipe, (0,))
        yield AcceptanceMeasure(13, f"s=2, N={width}: feature overlap", float(result.overlap.min()), "==", 1.0)
        yield AcceptanceMeasure(13, f"s=2, N={width}: excess loss", float(result.excess.max()), "<=", 1e-6)


def complexity_mixture(spread: float, tasks: int = 20, features: int = 10) -> TaskMixture:
    """Frequent tasks with slow spectra and rare ones with fast, of unit trace: beta from 1.5 -+ spread / 2.

    The frequency exponent is kept off simple ratios, at which utilities tie.

    Args:
        spread: s, the difference between the exponents of the rarest and the most frequent task.
        tasks: K.
        features: of every task.

    Raises:
        UserError: a size is below one, or the spread makes an exponent negative.
    """
    powers = np.linspace(1.5 - spread / 2, 1.5 + spread / 2, tasks)
    return TaskMixture.power_law(tasks, features, 1.03, powers.tolist())


def half_signal_widths(mixture: TaskMixture) -> np.ndarray:
    """The least width at which the best encoder holds half of each task."""
    signals = task_signals(mixture, range(1, mixture.features + 1))
    return (signals >= 0.5).argmax(0) + 1


def frequency_correlation(mixture: TaskMixture) -> float:
    """Spearman correlation of the order of frequency with the width that holds half of a task."""
    return rank_correlation(-mixture.frequencies, half_signal_widths(mixture))


def rank_correlation(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float:
    """Spearman's: the correlation of ranks, where equal values share theirs."""

    # Importing scipy.stats for it would take longer than most checks.
    def ranks(values: np.ndarray) -> np.ndarray:
        ordered = np.sort(values)
        return np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")

    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def _loss(result: Trained) -> float:
    return float(result.task_losses[0, 0] @ result.mixture.frequencies)
