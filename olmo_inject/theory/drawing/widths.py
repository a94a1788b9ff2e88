"""Loss and signal against width: closed forms as lines, trained encoders as marks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from matplotlib.figure import Figure

from olmo_inject.theory.checks.measure import Effort
from olmo_inject.theory.drawing import style
from olmo_inject.theory.forms import closed_forms
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training.metrics import normalised_signal
from olmo_inject.theory.training.train import Recipe, Trained, train

SHOWN = (0, 2, 6, 12, 19)
RARE = 12


def losses(effort: Effort) -> Figure:
    """Each task's loss, and what is left of the mixture and of its frequent tasks."""
    mixture, trained = _problem(effort.quick)
    every = np.arange(1, max(trained) + 1)
    figure, (left, right) = style.panels(2)

    theory = closed_forms.task_losses(mixture, every) / mixture.traces
    for task, color, marker in zip(SHOWN, style.shades(len(SHOWN)), style.MARKERS, strict=False):
        name = f"task {task + 1} (π = {mixture.frequencies[task]:.2g})"
        left.step(every, theory[:, task], where="post", color=color, linewidth=1.4, label=name)
        points = [run.task_losses[0, 0, task] / mixture.traces[task] for run in trained.values()]
        left.plot(list(trained), points, marker, color=color, markersize=5)
    style.width_axis(left, list(trained))
    style.label(left, "Loss of each task: theory (lines), trained (marks)", "width N", "loss / loss of an empty model")
    style.legend(left, 3)

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
        label=f"{len(common)} frequent tasks, encoder of their own",
    )
    for marker, color, weights, scale, name in (
        ("o", style.BLUE, mixture.utilities, total, "all tasks, trained"),
        ("s", style.RED, mixture.utilities * in_common, common_total, "frequent tasks, trained"),
    ):
        points = [(weights * (1 - run.captures[0, 0])).sum() / scale for run in trained.values()]
        right.plot(list(trained), points, marker, color=color, markersize=5, label=name)
    right.axvline(enough, color=style.GREY, linestyle=":", linewidth=1.2)
    right.annotate(f" $N_{{5\\%}}$ = {enough}", (enough, 0.75), fontsize=8, color=style.BLACK)
    right.set_yscale("log")
    style.width_axis(right, list(trained))
    style.label(right, "Residual left unexplained", "width N", "share of variance")
    style.legend(right, 2)
    return figure


def signals(effort: Effort) -> Figure:
    """How much of each task is learned, with predicted thresholds, and a rare task trained alone."""
    mixture, trained = _problem(effort.quick)
    widths = list(trained)
    every = np.arange(1, max(widths) + 1)
    figure, (left, right) = style.panels(2)

    critical = closed_forms.critical_widths(mixture)[mixture.starts[:-1]]
    theory = closed_forms.task_signals(mixture, every)
    for task, color, marker in zip(SHOWN, style.shades(len(SHOWN)), style.MARKERS, strict=False):
        line = [float(normalised_signal(theory[i, task], i + 1, mixture.dimension)) for i in range(len(every))]
        left.step(every, line, where="post", color=color, linewidth=1.4)
        left.plot(
            widths,
            _normalised(mixture, trained, task),
            marker,
            color=color,
            markersize=5,
            label=f"task {task + 1}: $N_{{crit}}$ = {critical[task]}",
        )
        left.axvline(critical[task], color=color, linestyle=":", linewidth=1.1)
    left.axhline(0, color=style.GREY, linewidth=0.8)
    style.width_axis(left, widths)
    style.label(
        left,
        "Learned signal: theory (lines), trained (marks)",
        "width N",
        "normalised signal (0 random, 1 complete)",
    )
    style.legend(left, 3)

    alone = mixture.alone(RARE)
    recipe = Recipe(steps=effort.choose(2_000, 300))
    solo = {width: train(alone, width, recipe, (0,)) for width in widths}
    right.plot(
        widths,
        [run.signals[0, 0, 0] for run in solo.values()],
        "s--",
        color=style.ORANGE,
        markersize=5,
        label="trained on this task alone",
    )
    right.step(every, theory[:, RARE], where="post", color=style.BLUE, linewidth=1.4, label="in the mixture, theory")
    right.plot(
        widths,
        [run.signals[0, 0, RARE] for run in trained.values()],
        "o",
        color=style.BLUE,
        markersize=5,
        label="in the mixture, trained",
    )
    common = closed_forms.frequent_tasks(mixture)
    against_common = int(closed_forms.critical_widths(mixture, common)[mixture.starts[RARE]])
    for at, text, height in (
        (critical[RARE], f" $N_{{crit}}$ = {critical[RARE]}\n against all", 0.2),
        (against_common, f"{against_common} against the  \n{len(common)} frequent  ", 0.42),
    ):
        right.axvline(at, color=style.GREY, linestyle=":", linewidth=1.1)
        side = "left" if at == critical[RARE] else "right"
        right.annotate(text, (at, height), fontsize=8, ha=side, color=style.BLACK)
    style.width_axis(right, widths)
    style.label(right, f"Task {RARE + 1}: the width could hold it, the mixture loses it", "width N", "signal s")
    style.legend(right, 2)
    return figure


@lru_cache(maxsize=2)
def _problem(quick: bool) -> tuple[TaskMixture, dict[int, Trained]]:
    mixture = TaskMixture.power_law()
    widths = (1, 4, 8, 16, 32) if quick else (1, 2, 4, 8, 16, 32, 64, 128)
    recipe = Recipe(steps=400 if quick else 5_000)
    return mixture, {width: train(mixture, width, recipe, (0,)) for width in widths}


def _normalised(mixture: TaskMixture, trained: dict[int, Trained], task: int) -> list[float]:
    return [
        float(normalised_signal(run.signals[0, 0, task], width, mixture.dimension)) for width, run in trained.items()
    ]
