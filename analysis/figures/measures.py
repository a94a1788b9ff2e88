"""The metrics that can be drawn over steps, and the baselines that they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.style import SMALL
from analysis.read.baselines import baselines
from analysis.read.runs import LEARNED_ABOVE, Run
from olmo_inject.tasks.halves import UNMIRRORED
from olmo_inject.utils.figure_style import GREY, RED

ROOM_OF_LABEL = 0.07  # height of a label, as a share of the panel's height


@dataclass(frozen=True)
class Measure:
    """A metric that can be drawn over steps.

    Attributes:
        metric: its name in `metrics.jsonl`, with `{task}` for the name of the task.
        label: axis label with the unit.
        baseline: the field of `Baseline` that it is compared with, if any.
        smoothed: whether to draw a running mean, since single steps are noisy.
    """

    metric: str
    label: str
    baseline: str | None = None
    smoothed: bool = False

    def metrics(self, task: str) -> list[str]:
        """The names in `metrics.jsonl` that hold the measure for a task."""
        name = self.metric.format(task=task)
        return [name, f"eval/{task}/test/{UNMIRRORED}"] if self is TEST_ACCURACY else [name]

    def series(self, run: Run, task: str) -> pd.Series:
        """The values by step. For test accuracy, the accuracy that decides whether the task is learned."""
        if self is TEST_ACCURACY:
            accuracies = run.accuracies(task)
            return pd.Series([accuracy.value for accuracy in accuracies.values()], list(accuracies), float)
        return run.series(self.metric.format(task=task))


TEST_ACCURACY = Measure("eval/{task}/test/accuracy", "accuracy on unmirrored\ntest pairs", "accuracy")
TEST_LOSS = Measure("eval/{task}/test/loss", "test loss of LABEL (nats)", "loss")
TRAIN_LOSS = Measure("train/{task}/loss", "loss of injected LABELs (nats)", "loss", smoothed=True)
LOSS_AMONG_LABELS = Measure("eval/{task}/test/loss_among_labels", "loss among the labels (nats)")
LABEL_MASS = Measure("eval/{task}/test/label_mass", "probability of the labels")
AUC = Measure("eval/{task}/test/auc_unmirrored", "AUC on unmirrored\ntest pairs")
LM_LOSS = Measure("train/lm_loss", "loss of all other tokens (nats)", smoothed=True)


def draw_baselines(axes: Axes, runs: Sequence[Run], task: str, measure: Measure) -> None:
    """Draw a dashed line at each score that can be reached without learning the task.

    Args:
        axes: the panel.
        runs: runs that have the task.
        task: name of the task.
        measure: what the panel shows.
    """
    for _, value, colour, dashes in _lines(runs, task, measure):
        axes.axhline(value, color=colour, lw=0.9, ls=dashes, zorder=1)


def _lines(runs: Sequence[Run], task: str, measure: Measure) -> list[tuple[str, float, str, Any]]:
    """Name, height and style of each baseline, and for accuracy of the criterion for "learned"."""
    built = next((built for run in runs if (built := run.task(task)) is not None), None)
    if built is None or measure.baseline is None:
        return []
    known = [(b.name, getattr(b, measure.baseline), GREY, (0, (4, 2))) for b in baselines(built)]
    threshold = LEARNED_ABOVE.get(built.config.kind) if measure is TEST_ACCURACY else None
    return known if threshold is None else [*known, ("learned above", threshold, RED, (0, (1, 1.5)))]


def label_baselines(axes: Axes, runs: Sequence[Run], task: str, measure: Measure) -> None:
    """Label the baselines at the right of the panel, after its limits are set. Lines close together share a label.

    Args:
        axes: the panel.
        runs: runs that have the task.
        task: name of the task.
        measure: what the panel shows.
    """
    lines = sorted(_lines(runs, task, measure), key=lambda line: -line[1])
    groups: list[list[tuple[str, float, str, Any]]] = []
    for line in lines:
        apart = not groups or _height(axes, groups[-1][-1][1]) - _height(axes, line[1]) > ROOM_OF_LABEL
        if apart or groups[-1][-1][2] != line[2]:
            groups.append([])
        groups[-1].append(line)
    for group in groups:
        text = "\n".join(f"{name} {value:.2f}" for name, value, *_ in group)
        where = (1.02, (_height(axes, group[0][1]) + _height(axes, group[-1][1])) / 2)
        axes.annotate(text, where, xycoords="axes fraction", va="center", fontsize=SMALL, color=group[0][2])


def _height(axes: Axes, value: float) -> float:
    """The relative height of a value in the panel: 0 at the bottom, 1 at the top."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((1, value)))[1])
