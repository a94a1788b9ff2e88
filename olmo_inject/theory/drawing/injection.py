"""The effect of gaps between observations: matched-frequency injection, and its mechanism in two directions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from olmo_inject.theory.drawing import style
from olmo_inject.theory.drawing.scene import Scene
from olmo_inject.theory.forms.closed_forms import critical_widths
from olmo_inject.theory.forms.gaps import gap_retention, longest_gaps
from olmo_inject.theory.forms.kept import longest_kept_gaps
from olmo_inject.theory.mixtures.features import FeatureBank, random_encoder, retracted
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training.dynamics import two_direction_flow, two_direction_steps
from olmo_inject.theory.training.gradients import population_gradient, sampled_gradient
from olmo_inject.theory.training.streams import Bursts, SampleStream
from olmo_inject.theory.training.train import Recipe, train

PLAIN = 0.2
"""Eta nu_1 of plain steps: the step size in units of the largest utility."""


def matched_frequency(scene: Scene) -> Figure:
    """Signal against gap under plain steps, with predicted thresholds, and under Adam; and traces between bursts."""
    figure, (plain, adam, traces) = style.panels(3, height=3.6)
    step_size = PLAIN / float(scene.mixture.utilities.max())
    steps = Recipe(scene.injection_steps, step_size, "gd", "constant")
    # Plain steps do not depend on the basis, and on the axes they are cheap.
    _troughs(plain, scene, replace(scene.mixture, basis="axis"), steps)
    learned = longest_gaps(scene.mixture, scene.injected, step_size)[:, scene.rare]
    keeps = longest_kept_gaps(scene.mixture, scene.injected, step_size)[:, scene.rare]
    for gap, color in zip(np.minimum(learned, keeps), style.CATEGORIES, strict=False):
        if 1 <= gap <= max(scene.gaps):
            plain.axvline(gap, color=color, linestyle=":", linewidth=1.2)
    plain.plot([], [], ":", color=style.GREY, label="predicted")
    style.label(plain, f"Plain steps, $\\eta\\nu_1$ = {PLAIN:g}", "gap T (steps)", f"signal of task {scene.rare + 1}")
    style.legend(plain, 2)

    _troughs(adam, scene, scene.mixture, Recipe(scene.injection_steps, 1e-3, "adam", "constant"))
    adam.sharey(plain)
    critical = int(critical_widths(scene.mixture)[scene.mixture.starts[scene.rare]])
    style.label(adam, f"Adam ($N_{{crit}}$ = {critical})", "gap T (steps)", "signal")
    style.legend(adam, 2)

    gap, length = scene.trace_gap, 20 * scene.trace_gap
    sampled = Recipe(steps=length, learning_rate=1e-3, schedule="constant", batch=256)
    for width, color in zip(scene.contrast, (style.RED, style.BLUE), strict=True):
        trace = train(scene.mixture, width, sampled, scene.seeds, Bursts(scene.rare, (gap,))).trace[:, :, 0]
        style.seeds(traces, np.arange(length + 1), list(trace), "-", color, f"N = {width}")
    style.label(traces, f"Adam, samples, T = {gap}", "step", "signal")
    style.legend(traces, 1)
    return figure


def _troughs(axes: Axes, scene: Scene, mixture: TaskMixture, recipe: Recipe) -> None:
    """Draw the signal before bursts of equal frequency against the gap, a line for every width."""
    for width, color, marker in zip(scene.injected, style.CATEGORIES, style.MARKERS, strict=False):
        troughs = train(mixture, width, recipe, scene.seeds, Bursts(scene.rare, scene.gaps)).troughs().median
        style.seeds(axes, scene.gaps, list(troughs.T), marker + "-", color, f"N = {width}")
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)


def gradient_cosines(scene: Scene) -> Figure:
    """cos(g, g_r) at bursts and between them, and of the other tasks' part alone, as measured in language models."""
    figure, panels = style.panels(2, height=3.4)
    gap = max(2, scene.trace_gap // 5)
    length = 30 * gap
    lowest, highest = 0.0, 0.0
    for axes, width in zip(panels, scene.contrast, strict=True):
        whole, other = batch_cosines(scene.mixture, scene.rare, width, gap, length, scene.seeds)
        steps = np.arange(length)
        burst = steps % gap == gap - 1
        style.seeds(axes, steps[burst], list(whole[burst]), "o", style.RED, "cos(g, $g_r$) at bursts")
        style.seeds(axes, steps[~burst], list(other[~burst]), "-", style.BLUE, "cos($g_{nt}$, $g_r$) between")
        axes.axhline(0, color=style.GREY, linewidth=0.8)
        between = other[~burst]
        drawn = np.concatenate([whole[burst].ravel(), between.ravel()])
        lowest, highest = min(lowest, float(drawn.min())), max(highest, float(drawn.max()))
        title = f"N = {width}: between bursts {between.mean():.3f} ± {between.std():.3f}".replace("-", "\N{MINUS SIGN}")
        style.label(axes, title, f"step, a burst every {gap}", "cosine with the rare task's gradient")
        style.legend(axes, 2)
    for axes in panels:
        axes.set_ylim(1.1 * lowest, 1.1 * highest)
    return figure


def batch_cosines(
    mixture: TaskMixture, rare: int, width: int, gap: int, steps: int, seeds: tuple[int, ...], batch: int = 256
) -> tuple[Float[np.ndarray, "t S"], Float[np.ndarray, "t S"]]:
    """cos(g, g_r) and cos(g_nt, g_r) at every step of sampled training, g_r the rare task's expected gradient.

    Args:
        mixture: the tasks.
        rare: the task in bursts.
        width: N.
        gap: T.
        steps: of training, plain steps of eta nu_1 = 0.1.
        seeds: of encoders and samples.
        batch: samples per step.

    Returns:
        Both cosines, a row for every step and a column for every seed.

    Raises:
        UserError: a number is impossible.
    """
    bank = FeatureBank(mixture, torch.float64, "cpu")
    stream = SampleStream(bank, Bursts(rare, (gap,)), batch, seeds)
    moment = torch.tensor(mixture.gram([rare]))
    encoder = torch.stack([random_encoder(width, mixture.dimension, seed) for seed in seeds])[:, None]
    step_size = 0.1 / float(mixture.utilities.max())
    cosines = []
    for step in range(steps):
        samples = stream.draw(step)
        is_rare = samples.asked[..., int(mixture.starts[rare])]
        total = sampled_gradient(encoder, bank, samples)
        others = sampled_gradient(encoder, bank, replace(samples, weights=samples.weights * (1 - is_rare)))
        reference = population_gradient(encoder, encoder @ moment)
        cosines.append([_cosine(part, reference) for part in (total, others)])
        encoder = retracted(encoder - step_size * total)
    whole, other = np.array(cosines).transpose(1, 0, 2)
    return whole, other


def _cosine(one: torch.Tensor, two: torch.Tensor) -> Float[np.ndarray, " S"]:
    products = (one * two).sum((-2, -1)) / (one.norm(dim=(-2, -1)) * two.norm(dim=(-2, -1))).clamp_min(1e-30)
    return products[:, 0].numpy()


def kept_and_learned(scene: Scene) -> Figure:
    """A map over width and gap: learned and kept, bistable, oscillating or lost."""
    mixture, rare = scene.mixture, scene.rare
    step_size = PLAIN / float(mixture.utilities.max())
    every = np.arange(1, max(scene.widths) + 1)
    learned = longest_gaps(mixture, every, step_size)[:, rare]
    keeps = longest_kept_gaps(mixture, every, step_size)[:, rare]
    top = 20.0 * max(keeps.max(), 10)
    learned = np.minimum(learned, top)
    figure, (axes,) = style.panels(1, width=5.0, height=3.4)
    both = np.minimum(learned, keeps)
    for low, high, color, hatch, name in (
        (np.ones_like(both), both, style.GREEN, "", "learned and kept"),
        (both, keeps, style.BLUE, "//", "bistable: kept once learned"),
        (both, learned, style.ORANGE, "xx", "oscillates: learned in part"),
    ):
        shown = high > low
        axes.fill_between(
            every, low, high, where=shown, step="post", color=color, alpha=0.35, hatch=hatch, linewidth=0, label=name
        )
    axes.set_yscale("log")
    axes.set_ylim(1, top)
    axes.set_xlim(1, every[-1])
    axes.text(0.03, 0.05, "white: lost", transform=axes.transAxes, fontsize=8)
    style.label(axes, f"Task {rare + 1}, plain steps of $\\eta\\nu_1$ = {PLAIN:g}", "width N", "gap T (steps)")
    style.legend(axes, 1)
    return figure


def two_directions(scene: Scene) -> Figure:
    """One latent between a frequent and a rare direction: flow, and plain steps with a gap."""
    del scene  # closed forms of their own numbers
    figure, (left, middle, right) = style.panels(3, height=3.4)
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
    style.label(left, "N = 1, both mixed", "time", "angle θ from frequent (0°)\nto rare (90°)")
    style.legend(left, 2)

    step_size, gap, rare, periods = 0.03, 40, 0.3, 12
    bursts = [gap * rare if t % gap == gap - 1 else 0.0 for t in range(gap * periods)]
    for common, color, name in (
        (frequent, style.BLUE, "N = 1: against λ = 0.4"),
        (0.1, style.ORANGE, "wider, last slot: λ = 0.1"),
        (0.0, style.GREEN, "a slot to spare: λ = 0"),
    ):
        angle = two_direction_steps(0.02, common, bursts, step_size)
        middle.plot(np.degrees(angle), color=color, linewidth=1.3, label=name)
    middle.set_ylim(-2, 92)
    style.label(
        middle,
        f"A burst every T = {gap} (ν = {rare:g})",
        "step",
        "angle θ (°)",
    )
    style.legend(middle, 1)

    gaps = np.arange(1, 401)
    for common, color in ((0.4, style.BLUE), (0.1, style.ORANGE), (0.02, style.PINK), (0.0, style.GREEN)):
        right.plot(gaps, gap_retention(gaps, common, step_size), color=color, label=f"λ = {common:g}")
    style.label(right, "What one gap leaves", "gap T (steps)", "share of the amplitude kept")
    style.legend(right, 2)
    return figure
