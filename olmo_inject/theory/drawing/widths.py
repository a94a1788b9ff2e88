"""Loss and signal against width: closed forms as lines, trained encoders as marks."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from olmo_inject.theory.drawing import style
from olmo_inject.theory.drawing.scene import Scene
from olmo_inject.theory.forms import closed_forms
from olmo_inject.theory.training.metrics import normalised_signal
from olmo_inject.theory.training.train import Recipe, train


def losses(scene: Scene) -> Figure:
    """Each task's loss, and what is left of the mixture and of its frequent tasks."""
    mixture, trained = scene.mixture, scene.trained
    every = np.arange(1, max(trained) + 1)
    figure, (left, right) = style.panels(2, height=3.8)

    theory = closed_forms.task_losses(mixture, every) / mixture.traces
    for task, color, marker in zip(scene.shown, style.shades(len(scene.shown)), style.MARKERS, strict=False):
        name = f"task {task + 1} (π = {mixture.frequencies[task]:.2g})"
        left.step(every, theory[:, task], where="post", color=color, linewidth=1.4)
        points = [run.task_losses[:, 0, task] / mixture.traces[task] for run in trained.values()]
        style.seeds(left, list(trained), points, marker, color, name)
    style.width_axis(left, list(trained))
    style.label(left, "Tasks: theory (lines), trained (marks)", "width N", "loss / loss of an empty model")
    style.legend(left, 2)

    common = closed_forms.frequent_tasks(mixture)
    enough = closed_forms.residual_width(mixture, 0.05, common)
    total = mixture.utilities.sum()
    in_common = np.isin(mixture.task_of, common)
    common_total = mixture.utilities[in_common].sum()
    best = closed_forms.mixture_losses(mixture, every) / total
    ideal = closed_forms.residuals(mixture, every, common) / common_total
    right.plot(every, best, color=style.BLUE, label="all tasks, best encoder $L^*$")
    right.plot(
        every,
        ideal,
        color=style.ORANGE,
        linestyle="--",
        label=f"{len(common)} frequent tasks, own encoder",
    )
    for marker, color, weights, scale, name in (
        ("o", style.BLUE, mixture.utilities, total, "all tasks, trained"),
        ("s", style.RED, mixture.utilities * in_common, common_total, "frequent tasks, trained"),
    ):
        points = [(weights * (1 - run.captures[:, 0])).sum(-1) / scale for run in trained.values()]
        style.seeds(right, list(trained), points, marker, color, name)
    right.axvline(enough, color=style.GREY, linestyle=":", linewidth=1.2)
    right.annotate(f" $N_{{5\\%}}$ = {enough}", (enough, 0.55), fontsize=8, color=style.BLACK)
    right.set_yscale("log")
    style.width_axis(right, list(trained))
    style.label(right, "Residual left unexplained", "width N", "share of variance")
    style.legend(right, 1)
    return figure


def longer(scene: Scene) -> Figure:
    """Ten times the training changes nothing: what a width does not hold, no data make it hold."""
    mixture, steps = scene.mixture, max(1, scene.steps // 5)
    widths = scene.widths[: -2 if len(scene.widths) > 4 else None]
    figure, (left, right) = style.panels(2, height=3.8)
    every = np.arange(1, max(widths) + 1)
    left.plot(every, closed_forms.mixture_losses(mixture, every), color=style.BLACK, label="best encoder, theory")
    signal = closed_forms.task_signals(mixture, every)[:, scene.rare]
    right.step(every, signal, where="post", color=style.BLACK, label="best encoder, theory")
    for factor, color, marker in ((1, style.BLUE, "o"), (10, style.RED, "x")):
        runs = [train(mixture, width, Recipe(steps=factor * steps), scene.seeds) for width in widths]
        name = f"{factor * steps:,} steps"
        points = [run.task_losses[:, 0] @ mixture.frequencies for run in runs]
        style.seeds(left, widths, points, marker, color, name)
        style.seeds(right, widths, [run.signals[:, 0, scene.rare] for run in runs], marker, color, name)
    left.set_yscale("log")
    style.plain_logs(left.yaxis)
    for axes in (left, right):
        style.width_axis(axes, widths)
    style.label(left, "Loss of the mixture", "width N", "loss")
    right.set_ylim(-0.03, 1.03)
    style.label(right, f"Task {scene.rare + 1}", "width N", "signal s")
    for axes in (left, right):
        style.legend(axes, 2)
    return figure


def signals(scene: Scene) -> Figure:
    """How much of each task is learned, with predicted thresholds, and a rare task trained alone."""
    mixture, trained = scene.mixture, scene.trained
    widths = list(trained)
    every = np.arange(1, max(widths) + 1)
    figure, (left, right) = style.panels(2, height=3.8)

    critical = closed_forms.critical_widths(mixture)[mixture.starts[:-1]]
    theory = closed_forms.task_signals(mixture, every)
    for task, color, marker in zip(scene.shown, style.shades(len(scene.shown)), style.MARKERS, strict=False):
        line = [float(normalised_signal(theory[i, task], i + 1, mixture.dimension)) for i in range(len(every))]
        left.step(every, line, where="post", color=color, linewidth=1.4)
        points = [
            normalised_signal(run.signals[:, 0, task], width, mixture.dimension) for width, run in trained.items()
        ]
        style.seeds(left, widths, points, marker, color, f"task {task + 1}: $N_{{crit}}$ = {critical[task]}")
        left.axvline(critical[task], color=color, linestyle=":", linewidth=1.1)
    left.axhline(0, color=style.GREY, linewidth=0.8)
    style.width_axis(left, widths)
    style.label(
        left,
        "Signal: theory (lines), trained (marks)",
        "width N",
        "normalised signal",
    )
    style.legend(left, 2)

    alone = mixture.alone(scene.rare)
    recipe = Recipe(steps=max(1, scene.steps // 3))
    solo = [train(alone, width, recipe, scene.seeds).signals[:, 0, 0] for width in widths]
    style.seeds(right, widths, solo, "s--", style.RED, "trained on this task alone")
    right.step(
        every, theory[:, scene.rare], where="post", color=style.BLUE, linewidth=1.4, label="in the mixture, theory"
    )
    inside = [run.signals[:, 0, scene.rare] for run in trained.values()]
    style.seeds(right, widths, inside, "o", style.BLUE, "in the mixture, trained")
    common = closed_forms.frequent_tasks(mixture)
    against_common = int(closed_forms.critical_widths(mixture, common)[mixture.starts[scene.rare]])
    for at, text, height in (
        (critical[scene.rare], f" $N_{{crit}}$ = {critical[scene.rare]}\n against all", 0.2),
        (against_common, f"{against_common} against the  \n{len(common)} frequent  ", 0.42),
    ):
        right.axvline(at, color=style.GREY, linestyle=":", linewidth=1.1)
        side = "left" if at == critical[scene.rare] else "right"
        right.annotate(text, (at, height), fontsize=8, ha=side, color=style.BLACK)
    style.width_axis(right, widths)
    style.label(right, f"Task {scene.rare + 1}: held alone, lost in the mixture", "width N", "signal s")
    style.legend(right, 1)
    return figure
