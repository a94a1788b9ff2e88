"""What overlap changes: no sharp width, conflict at the optimum, transfer at random, gaps that the flow itself sees."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from olmo_inject.theory.checks.overlap import random_overlap
from olmo_inject.theory.drawing import style
from olmo_inject.theory.drawing.scene import Scene
from olmo_inject.theory.forms import overlap
from olmo_inject.theory.mixtures.overlapping import OverlappingMixture

COLORS = (style.BLUE, style.RED, style.GREEN)


def optimum(scene: Scene) -> Figure:
    """The signal of a rare task against width in ever fewer dimensions, and the conflict of gradients."""
    figure, (left, right) = style.panels(2)
    features, dash = scene.mixture.features, ("-", "--", ":")
    apart = OverlappingMixture.of(scene.mixture)
    every = np.arange(1, features + 1)
    left.step(every, apart.task_signals(every)[:, scene.rare], where="post", color=style.BLACK, label="no overlap")
    for color, line, dimension in zip(COLORS, dash, (2 * features, features, features // 2), strict=True):
        widths = np.arange(1, min(features, dimension) + 1)
        signals, conflicts = [], []
        for seed in scene.seeds:
            tangled = OverlappingMixture.superposed(scene.mixture, dimension, seed)
            signals.append(tangled.task_signals(widths)[:, scene.rare])
            conflicts.append([overlap.conflict(tangled, int(width)) for width in widths[::4]])
        style.seeds(left, widths, list(np.array(signals).T), line, color, f"d = {dimension}")
        style.seeds(right, widths[::4], list(np.array(conflicts).T), line, color, f"d = {dimension}")
    right.set_yscale("log")
    right.set_ylim(bottom=1e-4)
    title = f"Task {scene.rare + 1} of {features} features in d dimensions"
    style.label(left, title, "width N", "signal of the best encoder")
    style.label(right, "Conflict at the optimum", "width N", "$\\Omega_N = \\sum \\pi_k |g_k|^2$")
    for axes in (left, right):
        style.legend(axes, 4 if axes is left else 3)
    return figure


def gaps(scene: Scene) -> Figure:
    """Troughs of gradient flow against the gap, down to the floor; and expected cosines at random encoders."""
    figure, (left, right) = style.panels(2)
    periods = (1, 3, 10, 30, 100, 300)
    problem = random_overlap(2)
    rare, step = problem.tasks - 1, 0.05 / float(problem.slots[0])
    for color, marker, width in zip(COLORS, style.MARKERS, (2, 3, 4), strict=False):
        lows = [overlap.flow_cycle(problem, rare, gap, width, step).trough for gap in periods]
        left.plot(periods, lows, marker + "-", color=color, markersize=4, label=f"N = {width}")
        left.axhline(overlap.floor(problem, rare, width), color=color, linestyle=":", linewidth=1)
    left.set_xscale("log")
    left.set_xticks(periods, [str(gap) for gap in periods])
    left.minorticks_off()
    style.label(left, "Gradient flow; dotted: floors", "gap T between bursts (steps)", "signal before a burst")
    style.legend(left, 3)

    overlaps = np.linspace(0, 1, 60)
    for color, line, dimension in zip(COLORS, ("-", "--", ":"), (4, 16, 256), strict=True):
        cosines = []
        for cosine in overlaps:
            pair = np.zeros((dimension, 2))
            pair[0, 0], pair[:2, 1] = 1, (cosine, np.sqrt(1 - cosine**2))
            cosines.append(overlap.cosine_at_random(OverlappingMixture(np.full(2, 0.5), (np.ones(1),) * 2, pair), 0, 1))
        right.plot(overlaps, cosines, line, color=color, label=f"d = {dimension}")
    right.axhline(0, color=style.GREY, linewidth=0.8)
    style.label(right, "Two directions, random encoder", "cosine of the directions", "expected cosine of gradients")
    style.legend(right, 3)
    del scene  # small problems of their own
    return figure
