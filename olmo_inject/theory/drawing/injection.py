"""What gaps between observations do: matched-frequency injection, and its mechanism in two directions."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from olmo_inject.theory.checks.measure import Effort
from olmo_inject.theory.drawing import style
from olmo_inject.theory.forms.closed_forms import critical_widths
from olmo_inject.theory.forms.gaps import gap_retention
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training.dynamics import two_direction_flow, two_direction_steps
from olmo_inject.theory.training.streams import Bursts
from olmo_inject.theory.training.train import Recipe, train

RARE = 12


def matched_frequency(effort: Effort) -> Figure:
    """The signal that is left just before the last burst, by gap and width; and sampled traces."""
    mixture = TaskMixture.power_law()
    critical = int(critical_widths(mixture)[mixture.starts[RARE]])
    steps = effort.choose(10_000, 600)
    gaps = (1, 10, 100, 300, 1000, 2000) if not effort.quick else (1, 10, 100, 300)
    widths = (16, 32, 64, 96) if not effort.quick else (16, 32)
    figure, (left, right) = style.panels(2)

    recipe = Recipe(steps=steps, learning_rate=1e-3, schedule="constant")
    for width, color, marker in zip(widths, style.CATEGORIES, style.MARKERS, strict=False):
        run = train(mixture, width, recipe, (0,), Bursts(RARE, gaps))
        left.plot(gaps, run.troughs().median[0], marker + "-", color=color, markersize=5, label=f"N = {width}")
    left.set_xscale("log")
    left.set_xticks(gaps, [str(gap) for gap in gaps])
    left.minorticks_off()
    style.label(
        left,
        f"Task {RARE + 1} at equal frequency ($N_{{crit}}$ = {critical}), Adam",
        "gap T between bursts (steps)",
        f"signal before the last burst, {steps:,} steps",
    )
    style.legend(left, 4)

    gap, length = effort.choose(200, 100), effort.choose(4_000, 300)
    sampled = Recipe(steps=length, learning_rate=1e-3, schedule="constant", batch=256)
    shown = (8, 16, 32, 64) if not effort.quick else (16, 32)
    for width, color in zip(shown, (style.GREY, *style.CATEGORIES), strict=False):
        run = train(mixture, width, sampled, (0,), Bursts(RARE, (gap,)))
        right.plot(run.trace[:, 0, 0], color=color, linewidth=1.2, label=f"N = {width}")
    style.label(right, f"A burst every {gap} steps, 256 samples a step", "step", f"signal of task {RARE + 1}")
    style.legend(right, 4)
    return figure


def two_directions(effort: Effort) -> Figure:
    """One latent between a frequent and a rare direction: flow, and plain steps with a gap."""
    del effort  # closed forms: nothing to save
    figure, (left, middle, right) = style.panels(3, width=12.0)
    frequent, start = 0.4, 0.3
    times = np.linspace(0, 12, 200)
    for ratio, color, dash in (
        (0.3, style.BLUE, "-"),
        (0.9, style.SKY, "--"),
        (1.0, style.GREY, ":"),
        (1.5, style.RED, "-."),
    ):
        tangent = two_direction_flow(np.tan(start), frequent, ratio * frequent, times)
        left.plot(times, np.degrees(np.arctan(tangent)), dash, color=color, label=f"ν / λ = {ratio:g}")
    left.set_ylim(0, 90)
    style.label(left, "N = 1, both mixed: the larger utility wins", "time", "angle to the frequent direction (°)")
    style.legend(left, 2)

    step_size, gap, rare, periods = 0.03, 40, 0.3, 12
    bursts = [gap * rare if t % gap == gap - 1 else 0.0 for t in range(gap * periods)]
    for common, color, name in (
        (frequent, style.BLUE, "N = 1: against λ = 0.4"),
        (0.1, style.ORANGE, "a wider model's last slot: λ = 0.1"),
        (0.0, style.GREEN, "a slot to spare: λ = 0"),
    ):
        angle = two_direction_steps(0.02, common, bursts, step_size)
        middle.plot(np.degrees(angle), color=color, linewidth=1.3, label=name)
    middle.set_ylim(-2, 92)
    style.label(
        middle,
        f"A burst of T ν every T = {gap} steps (ν = {rare:g})",
        "step",
        "angle towards the rare direction (°)",
    )
    style.legend(middle, 1)

    gaps = np.arange(1, 401)
    for common, color in ((0.4, style.BLUE), (0.1, style.ORANGE), (0.02, style.PINK), (0.0, style.GREEN)):
        right.plot(gaps, gap_retention(gaps, common, step_size), color=color, label=f"λ = {common:g}")
    style.label(right, "What one gap leaves", "gap T (steps)", "share of the amplitude kept")
    style.legend(right, 2)
    return figure
