"""Accuracy and loss against the gap between observations, at equal long-run frequency (docs/study.md, Fig. 6b)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.figures.measures import TEST_ACCURACY, TEST_LOSS, Measure, draw_baselines, label_baselines
from analysis.figures.style import axis_labels, legend, panels, style
from analysis.read.conditions import beside
from analysis.read.runs import Run
from olmo_inject.utils.figure_style import colour_and_marker

LAST_SHARE = 4  # losses are averaged over the last quarter of a run: 1 / LAST_SHARE of its steps
Bar = tuple[float, float, float]  # a value, and the lower and upper end of its error bar


def gaps(runs: Sequence[Run], task: str) -> Figure | None:
    """Last test accuracy with its 95% interval against the gap, for runs of equal size, long-run frequency and text."""

    def accuracy(run: Run) -> Bar | None:
        last = run.accuracy(task)
        return None if last is None else (last.value, last.low, last.high)

    return _figure(runs, task, TEST_ACCURACY, accuracy)


def gap_losses(runs: Sequence[Run], task: str) -> Figure | None:
    """Test loss against the gap, for runs of equal size, long-run frequency and text.

    The loss is the mean over the evaluations of the last quarter of a run, so it does not matter how long after a burst
    the run ended. Bars reach from the 10th to the 90th percentile of these evaluations.
    """

    def loss(run: Run) -> Bar | None:
        losses = run.series(TEST_LOSS.metric.format(task=task)).dropna()
        last = losses.loc[losses.index > run.steps_done * (1 - 1 / LAST_SHARE)].to_numpy()
        if not len(last):
            return None
        low, high = np.percentile(last, [10, 90])
        return float(last.mean()), float(low), float(high)

    return _figure(runs, task, TEST_LOSS, loss)


def _figure(runs: Sequence[Run], task: str, measure: Measure, value: Callable[[Run], Bar | None]) -> Figure | None:
    groups = _groups(runs, task, value)
    if not groups:
        return None
    names, texts = (list(dict.fromkeys(part)) for part in zip(*groups, strict=True))
    ticks = sorted({gap for points in groups.values() for gap, *_ in points})
    with style():
        figure, grid = panels(len(texts), 3.2 if len(texts) > 1 else 2.0, 2.3)
        for axes, text in zip(grid, texts, strict=True):
            for (name, of), points in groups.items():
                if of == text:
                    colour, marker = colour_and_marker(names.index(name))
                    gap, y, low, high = np.array(points).T
                    errors = np.maximum([y - low, high - y], 0)
                    axes.errorbar(gap, y, errors, color=colour, marker=marker, ms=4, capsize=3)
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_title("\n".join(filter(None, (task, text))))
            draw_baselines(axes, runs, task, measure)
            axes.set_ylim(bottom=0)
            if measure is TEST_ACCURACY:
                axes.set_ylim(-0.02, 1.02)
        label_baselines(grid[-1], runs, task, measure)
        axis_labels(figure, grid, "mean steps between batches that hold the task", measure.label)
        legend(figure, "model, instances per batch", names)
    return figure


def _groups(
    runs: Sequence[Run], task: str, value: Callable[[Run], Bar | None]
) -> dict[tuple[str, str], list[tuple[float, float, float, float]]]:
    """Gaps, values and bars, ascending, by name (size and long-run frequency) and text. Only groups of several gaps.

    Runs that inject the task in a part of their steps are left out.
    """
    throughout = [run for run in runs if run.injected_throughout(task)]
    text_of = beside(throughout)
    groups: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    for run in throughout:
        gap, bar = run.gap(task), value(run)
        if gap is not None and bar is not None:
            groups.setdefault((f"{run.size}, {run.frequency(task).per_batch}", text_of[run]), []).append((gap, *bar))
    return {key: sorted(points) for key, points in groups.items() if len({gap for gap, *_ in points}) > 1}
