"""The complexity sweep and the scaling-law regimes, both closed forms."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from olmo_inject.theory.checks.optimum import (
    complexity_mixture,
    frequency_correlation,
    half_signal_widths,
    rank_correlation,
)
from olmo_inject.theory.drawing import style
from olmo_inject.theory.drawing.scene import Scene
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.scaling.laws import PowerLaw, Regimes, ScalingLaw


def complexity(scene: Scene) -> Figure:
    """Which tasks are learned first when the frequent ones are the complex ones."""
    size = scene.mixture.tasks, len(scene.mixture.spectra[0])
    figure, (left, right) = style.panels(2)
    for spread, color, marker in zip((0.0, 1.0, 2.0), style.CATEGORIES, style.MARKERS, strict=False):
        mixture = complexity_mixture(spread, *size)
        ranks = np.arange(1, mixture.tasks + 1)
        left.plot(
            ranks,
            half_signal_widths(mixture),
            marker + "-",
            color=color,
            markersize=4,
            linewidth=1,
            label=f"spread s = {spread:g}",
        )
    style.label(
        left,
        "Frequent tasks complex, rare ones simple",
        "task, by falling frequency",
        "width that holds half of it",
    )
    style.legend(left, 3)

    spreads = np.linspace(0, 2, 21)
    mixtures = [complexity_mixture(float(spread), *size) for spread in spreads]
    by_frequency = [frequency_correlation(mixture) for mixture in mixtures]
    by_utility = [_utility_correlation(mixture) for mixture in mixtures]
    right.plot(spreads, by_utility, "-", color=style.GREEN, label="utility of the feature that completes half")
    right.plot(spreads, by_frequency, "o-", color=style.BLUE, markersize=4, label="frequency of a task")
    right.axhline(0, color=style.GREY, linewidth=0.8)
    style.label(
        right,
        "What predicts the order of learning",
        "spread s of the spectral exponents",
        "Spearman correlation",
    )
    style.legend(right, 1)
    return figure


def _utility_correlation(mixture: TaskMixture) -> float:
    """Spearman correlation of the width that holds half of a task with the utility that must be reached."""
    signals = [np.cumsum(spectrum) / spectrum.sum() for spectrum in mixture.spectra]
    completing = [
        start + int((signal >= 0.5).argmax()) for start, signal in zip(mixture.starts[:-1], signals, strict=True)
    ]
    return rank_correlation(-mixture.utilities[completing], half_signal_widths(mixture))


def regimes(scene: Scene) -> Figure:
    """Where data suffice and where only size helps, under both readings of the frontier."""
    del scene  # closed forms of their own numbers
    law = ScalingLaw(0.0, 10.0, 20.0, alpha=0.46, beta=0.51)
    large, anchor = 1e9, 1e7
    implied = law.frontier()
    # Both readings agree at one size, where a fit of the second would have had its points.
    fitted = PowerLaw(0.0, float(implied.loss(anchor)) * anchor**0.34, gamma=0.34)
    figure, (left, middle, right) = style.panels(3, height=3.6)
    _regime_panel(left, Regimes(law, implied), large, "Implied: γ = α = 0.46")
    _regime_panel(middle, Regimes(law, fitted), large, "Fitted: γ = 0.34")
    readings = [
        ("γ = α = 0.46: a fixed share", "-", implied),
        ("γ = 0.34: falls as $N_l^{-0.26}$", "--", fitted),
    ]
    _limit_panel(right, [(name, dash, Regimes(law, frontier)) for name, dash, frontier in readings])
    return figure


def _limit_panel(axes: Axes, readings: list[tuple[str, str, Regimes]]) -> None:
    sizes = np.geomspace(1e7, 1e12, 60)
    for name, dash, reading in readings:
        shares = [reading.small_limit(float(size)) / size for size in sizes]
        axes.loglog(sizes, shares, dash, color=style.PINK, label=name)
    axes.set_ylim(5e-3, 1)
    style.label(axes, "Size is needed below", "large model $N_l$", "$N_s^*(0)$ / $N_l$")
    style.legend(axes, 1)


def _regime_panel(axes: Axes, regimes: Regimes, large: float, title: str) -> None:
    limit = regimes.small_limit(large)
    low = max(1e6, regimes.sound_from())
    sizes = np.geomspace(low, 4 * large, 200)
    target = float(regimes.frontier.loss(large))
    axes.axvspan(low, limit, color=style.RED, alpha=0.12, linewidth=0)
    axes.axvspan(limit, large, color=style.GREEN, alpha=0.12, linewidth=0)
    axes.loglog(sizes, regimes.frontier.loss(sizes), color=style.BLUE, label="compute-optimal loss $L_C$")
    axes.loglog(
        sizes,
        regimes.law.asymptotic_loss(sizes),
        "--",
        color=style.ORANGE,
        label="unlimited data $L_\\infty$",
    )
    axes.plot([low, large], [target] * 2, ":", color=style.BLACK, linewidth=1)
    axes.plot(large, target, "o", color=style.BLACK, markersize=6, label="the large model")
    top = axes.get_ylim()[1]
    axes.text((low * limit) ** 0.5, top * 0.8, "needs\nsize", ha="center", va="top", fontsize=8)
    axes.text((limit * large) ** 0.5, top * 0.8, "data\nsuffice", ha="center", va="top", fontsize=8)
    axes.annotate(
        f"$N_s^*$ = {limit / large:.2g} $N_l$ ",
        (limit, 1.2 * axes.get_ylim()[0]),
        fontsize=8,
        ha="right",
        va="bottom",
    )
    axes.set_xlim(low, 4 * large)
    axes.yaxis.set_minor_formatter(NullFormatter())
    style.label(axes, title, "parameters N", "loss above the irreducible")
    style.legend(axes, 1)
