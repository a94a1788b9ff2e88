"""Figures of runs and of what was injected into them.

Each function takes runs and returns a matplotlib figure, or None if the runs hold nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.figures.heatmaps import accuracy_cells, draw_accuracies
from analysis.figures.measures import TEST_ACCURACY, Measure, draw_baselines, label_baselines
from analysis.figures.style import MARKERS_APART, axis_labels, legend, panels, sizes_of, style
from analysis.read.conditions import conditions, plan_label
from analysis.read.runs import Run
from olmo_inject.errors import UserError
from olmo_inject.injection import Injections, Plan
from olmo_inject.utils.figure_style import colour_and_marker

SMOOTHED_STEPS = 25  # length of the running mean of losses drawn against steps
PLAN_STEPS = 48


def curves(runs: Sequence[Run], task: str, measure: Measure) -> Figure | None:
    """One measure over steps: a panel for each condition, a line for each run, coloured by model size.

    Args:
        runs: whose metrics are drawn.
        task: name of the task.
        measure: what to draw.
    """
    runs = [run for run in runs if len(measure.series(run, task))]
    if not runs:
        return None
    condition = conditions(runs, task if "{task}" in measure.metric else None)
    ordered = list(dict.fromkeys(condition[run] for run in sorted(runs, key=lambda run: run.rate(task))))
    with style():
        figure, grid = panels(len(ordered), 2.5, 2.3)
        for axes, title in zip(grid, ordered, strict=True):
            _draw_curves(axes, [run for run in runs if condition[run] == title], sizes_of(runs), task, measure)
            axes.set_title(title.replace(" beside ", "\nbeside "))
        label_baselines(grid[-1], runs, task, measure)
        axis_labels(figure, grid, "step", measure.label)
        legend(figure, "model", sizes_of(runs))
    return figure


def different_plans(runs: Sequence[Run]) -> dict[str, tuple[Run, Plan]]:
    """One run and its plan for each different plan, by `plan_label`. Runs whose corpus is gone are left out."""
    injecting = sorted((run for run in runs if run.experiment.injections), key=Run.rates)
    return {plan_label(run): (run, plan) for run in injecting if (plan := _plan(run)) is not None}


def plan_rows(plans: Mapping[str, tuple[Run, Plan]]) -> pd.DataFrame:
    """The rows that the first batches of each plan inject: columns plan, step, row and task."""
    rows = [
        {"plan": label.replace("\n", "; "), "step": step, "row": row, "task": task.name}
        for label, (run, plan) in plans.items()
        for number, task in enumerate(plan.tasks)
        for step in run.own_steps[:PLAN_STEPS]
        for row in _rows_of(plan.at(step), number)
    ]
    return pd.DataFrame(rows, columns=pd.Index(["plan", "step", "row", "task"]))


def plan_raster(plans: Mapping[str, tuple[Run, Plan]]) -> Figure | None:
    """Which rows of the first batches each plan injects, coloured by task."""
    if not plans:
        return None
    names = list(dict.fromkeys(task.name for _, plan in plans.values() for task in plan.tasks))
    with style():
        figure, grid = panels(len(plans), 2.5, 2.1)
        for axes, (label, (run, plan)) in zip(grid, plans.items(), strict=True):
            _draw_plan(axes, plan, run.own_steps[:PLAN_STEPS], names)
            axes.set_title(label)
        axis_labels(figure, grid, "step", "row of the batch")
        if len(names) > 1:
            legend(figure, "task", names)
    return figure


def overview(runs: Sequence[Run], task: str) -> Figure | None:
    """The accuracy heatmap beside test accuracy over steps at the highest frequency: a set of runs in one picture."""
    cells = accuracy_cells(runs, task)
    if not cells:
        return None
    sizes, most = cells[0].sizes, cells[0].rates[-1]
    with style():
        figure = Figure(figsize=(9.6, 3.3 * len(cells)))
        grid = figure.subplots(len(cells), 2, width_ratios=(1, 1.25), squeeze=False)
        for (left, right), of_text in zip(grid, cells, strict=True):
            inside = [run for of_cell in of_text.runs.values() for run in of_cell]
            draw_accuracies(left, of_text)
            shown = [run for run in inside if run.frequency(task).per_batch == most]
            _draw_curves(right, shown, sizes, task, TEST_ACCURACY)
            label_baselines(right, inside, task, TEST_ACCURACY)
            right.set_title(f"{most} instances per batch" + (f"\n{of_text.beside}" if of_text.beside else ""))
            right.set_xlabel("step")
            right.set_ylabel(TEST_ACCURACY.label)
        legend(figure, "model", sizes)
    return figure


def _draw_curves(axes: Axes, runs: Sequence[Run], sizes: list[str], task: str, measure: Measure) -> None:
    for run in sorted(runs, key=lambda run: sizes.index(run.size)):
        colour, marker = colour_and_marker(sizes.index(run.size))
        values = measure.series(run, task)
        steps = values.index.to_numpy()
        if measure.smoothed:  # mean of the last 25 measurements; of fewer at the start
            values = values.rolling(SMOOTHED_STEPS, min_periods=1).mean()
        marker = None if measure.smoothed else marker
        axes.plot(steps, values, color=colour, lw=1.2, ms=3, marker=marker, markevery=MARKERS_APART)
        if measure is TEST_ACCURACY:
            ends = np.array([(accuracy.low, accuracy.high) for accuracy in run.accuracies(task).values()])
            axes.fill_between(steps, *ends.T, color=colour, alpha=0.12, lw=0)
    if measure.baseline == "accuracy":
        axes.set_ylim(-0.02, 1.02)
    elif measure.baseline == "loss":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    draw_baselines(axes, runs, task, measure)
    axes.grid(alpha=0.25, lw=0.5)


def _plan(run: Run) -> Plan | None:
    """The run's plan. None if the corpus, which its vocabulary comes from, is gone."""
    try:
        return run.saved.build_plan().plan
    except UserError:
        return None


def _draw_plan(axes: Axes, plan: Plan, steps: range, names: Sequence[str]) -> None:
    for number, task in enumerate(plan.tasks):
        rows = [(step, row) for step in steps for row in _rows_of(plan.at(step), number)]
        colour, _ = colour_and_marker(names.index(task.name))
        axes.plot(*np.array(rows, float).reshape(-1, 2).T, ls="", marker="s", ms=1.6, color=colour, mew=0)
    axes.set_xlim(steps.start - 0.5, steps.stop - 0.5)
    axes.set_ylim(plan.batch_size - 0.5, -0.5)


def _rows_of(injections: Injections, task: int) -> list[int]:
    return injections.rows[injections.task == task].tolist()
