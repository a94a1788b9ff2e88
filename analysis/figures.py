"""Figures of runs and of what was injected into them.

Each function takes runs and returns a matplotlib figure, or None where the runs hold nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.runs import LEARNED_ABOVE, Accuracy, Run, baselines
from analysis.style import FRAME, GREY, SMALL, axis_labels, colour_and_marker, legend, panels, sizes_of, style
from olmo_inject.data import build_plan
from olmo_inject.errors import UserError
from olmo_inject.injection import Injections, Plan
from olmo_inject.tasks import Task

SMOOTHED_STEPS = 25  # of losses drawn against steps
PLAN_STEPS = 48
NO_FLOOR_ABOVE = 0.9  # a majority label as common as this would leave the colours no range


@dataclass(frozen=True)
class Measure:
    """A metric that can be drawn against steps.

    Attributes:
        metric: its name in `metrics.jsonl`, `{task}` standing for the task.
        label: of the axis, with the unit.
        baseline: which field of a `Baseline` it compares with, if any.
        smoothed: whether it is noise from step to step and drawn as a running mean.
    """

    metric: str
    label: str
    baseline: str | None = None
    smoothed: bool = False


TEST_ACCURACY = Measure("eval/{task}/test/accuracy", "test accuracy", "accuracy")
TEST_LOSS = Measure("eval/{task}/test/loss", "test loss of LABEL (nats)", "loss")
TRAIN_LOSS = Measure("train/{task}/loss", "loss of injected LABELs (nats)", "loss", smoothed=True)
LM_LOSS = Measure("train/lm_loss", "loss of all other tokens (nats)", smoothed=True)


def heatmap(runs: Sequence[Run], task: str) -> Figure | None:
    """Last test accuracy over model size and frequency, bursts left out; learned cells are framed."""
    cells = _Cells.of(runs, task)
    if cells is None:
        return None
    with style():
        figure = Figure(figsize=(2.8 + 1.2 * len(cells.rates), 1.3 + 0.62 * len(cells.sizes)))
        _draw_heatmap(figure.subplots(), cells)
    return figure


def curves(runs: Sequence[Run], task: str, measure: Measure) -> Figure | None:
    """One measure against steps: a panel for each schedule, a line for each run, coloured by model size."""
    runs = [run for run in runs if len(run.series(measure.metric.format(task=task)))]

    def label(run: Run) -> str:
        return run.schedule_label(task) if "{task}" in measure.metric else run.plan_label()

    schedules = list(dict.fromkeys(label(run) for run in sorted(runs, key=lambda run: run.rate(task))))
    if not schedules:
        return None
    with style():
        figure, grid = panels(len(schedules), 2.5, 2.3)
        for axes, schedule in zip(grid, schedules, strict=True):
            _draw_curves(
                axes,
                [run for run in runs if label(run) == schedule],
                sizes_of(runs),
                task,
                measure,
            )
            axes.set_title(schedule)
        _label_baselines(grid[-1], runs, task, measure)
        axis_labels(figure, grid, "step", measure.label)
        legend(figure, "model", sizes_of(runs))
    return figure


def gaps(runs: Sequence[Run], task: str) -> Figure | None:
    """Test accuracy against the gap between observations, where runs share size and long-run frequency."""
    groups: dict[tuple[str, Fraction], list[tuple[float, Accuracy]]] = {}
    for run in runs:
        gap, accuracy = run.gap(task), run.accuracy(task)
        if gap is not None and accuracy is not None:
            groups.setdefault((run.size, run.frequency(task).per_batch), []).append((gap, accuracy))
    groups = {key: points for key, points in groups.items() if len({gap for gap, _ in points}) > 1}
    if not groups:
        return None
    with style():
        figure = Figure(figsize=(5.6, 2.9))
        axes = figure.subplots()
        for number, points in enumerate(groups.values()):
            colour, marker = colour_and_marker(number)
            x, accuracies = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            y = np.array([[a.value, a.value - a.low, a.high - a.value] for a in accuracies]).T
            axes.errorbar(x, y[0], y[1:], color=colour, marker=marker, capsize=3)
        ticks = sorted({gap for points in groups.values() for gap, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{gap:g}" for gap in ticks])
        axes.minorticks_off()
        axes.set_xlabel("mean steps between batches that hold the task")
        axes.set_ylabel(TEST_ACCURACY.label)
        axes.set_ylim(-0.02, 1.02)
        _draw_baselines(axes, runs, task, TEST_ACCURACY)
        _label_baselines(axes, runs, task, TEST_ACCURACY)
        legend(figure, "model, instances per batch", [f"{size}, {rate}" for size, rate in groups])
    return figure


def plan_raster(runs: Sequence[Run]) -> Figure | None:
    """Which rows of the first batches each different plan injects, coloured by task."""
    injecting = sorted((run for run in runs if run.experiment.injections), key=Run.rates)
    plans = {run.plan_label(): (run, plan) for run in injecting if (plan := _plan(run)) is not None}
    if not plans:
        return None
    names = list(dict.fromkeys(task.name for _, plan in plans.values() for task in plan.tasks))
    with style():
        figure, grid = panels(len(plans), 2.5, 2.1)
        for axes, (label, (run, plan)) in zip(grid, plans.items(), strict=True):
            _draw_plan(axes, plan, min(PLAN_STEPS, run.experiment.steps), names)
            axes.set_title(label)
        axis_labels(figure, grid, "step", "row of the batch")
        if len(names) > 1:
            legend(figure, "task", names)
    return figure


def overview(runs: Sequence[Run], task: str) -> Figure | None:
    """The heatmap beside test accuracy over steps at the highest frequency: a set of runs in one picture."""
    cells = _Cells.of(runs, task)
    if cells is None:
        return None
    shown = [
        run for inside in cells.runs.values() for run in inside if run.frequency(task).per_batch == cells.rates[-1]
    ]
    with style():
        figure = Figure(figsize=(9.6, 3.3))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        _draw_heatmap(left, cells)
        _draw_curves(right, shown, cells.sizes, task, TEST_ACCURACY)
        _label_baselines(right, shown, task, TEST_ACCURACY)
        right.set_title(f"{cells.rates[-1]} instances per batch")
        right.set_xlabel("step")
        right.set_ylabel(TEST_ACCURACY.label)
        legend(figure, "model", cells.sizes)
    return figure


@dataclass(frozen=True)
class _Cells:
    """Runs by size and frequency."""

    task: Task
    sizes: list[str]
    rates: list[Fraction]
    runs: dict[tuple[int, int], list[Run]]

    @classmethod
    def of(cls, runs: Sequence[Run], task: str) -> _Cells | None:
        runs = [run for run in runs if run.evenly_injected(task) and run.accuracy(task) is not None]
        if not runs:
            return None
        sizes, rates = sizes_of(runs), sorted({run.frequency(task).per_batch for run in runs})
        cells: dict[tuple[int, int], list[Run]] = {}
        for run in runs:
            place = sizes.index(run.size), rates.index(run.frequency(task).per_batch)
            cells.setdefault(place, []).append(run)
        built = runs[0].task(task)
        assert built is not None
        return cls(built, sizes, rates, cells)


def _draw_heatmap(axes: Axes, cells: _Cells) -> None:
    name, majority = cells.task.name, cells.task.majority_accuracy
    floor = majority if majority < NO_FLOOR_ABOVE else 0.0
    grid = np.full((len(cells.sizes), len(cells.rates)), np.nan)
    for place, inside in cells.runs.items():
        grid[place] = np.mean([a.value for run in inside if (a := run.accuracy(name)) is not None])
    image = axes.imshow(grid, cmap="cividis", vmin=floor, vmax=1, aspect="auto")
    for (row, column), inside in cells.runs.items():
        _draw_cell(axes, row, column, inside, name, dark=bool((grid[row, column] - floor) / (1 - floor) < 0.55))
    axes.set_xticks(range(len(cells.rates)), [str(rate) for rate in cells.rates])
    axes.set_yticks(range(len(cells.sizes)), cells.sizes)
    axes.set_xlabel("instances per batch")
    axes.set_ylabel("model")
    axes.set_title(f"{name}: test accuracy")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = axes.get_figure().colorbar(image, ax=axes, extend="min" if np.nanmin(grid) < floor else "neither")  # pyright: ignore[reportOptionalMemberAccess]
    bar.set_label("accuracy, from the majority label's up" if floor else "accuracy", fontsize=SMALL)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def _draw_cell(axes: Axes, row: int, column: int, inside: Sequence[Run], task: str, *, dark: bool) -> None:
    """The accuracy with its interval, and a frame and a word where every run of the cell learned the task."""
    accuracies = [a for run in inside if (a := run.accuracy(task)) is not None]
    values = [a.value for a in accuracies]
    learned = [run.learned(task) for run in inside]
    if len(inside) == 1:
        notes = [f"{accuracies[0].low:.2f} to {accuracies[0].high:.2f}"]
    else:
        notes = [f"{min(values):.2f} to {max(values):.2f}, {len(inside)} runs"]
    if all(learned):
        notes.append("learned")
        corner = (column - 0.46, row - 0.45)
        axes.add_patch(Rectangle(corner, 0.92, 0.9, fill=False, edgecolor=FRAME, linewidth=2.2))
    elif any(learned):
        notes.append(f"learned in {learned.count(True)}")
    if not all(run.finished for run in inside):
        notes.append("unfinished")
    colour = "white" if dark else "black"
    place = {"ha": "center", "color": colour}
    axes.text(column, row - 0.06, f"{np.mean(values):.2f}", va="bottom", weight="bold", **place)  # pyright: ignore[reportArgumentType]
    axes.text(column, row, "\n".join(notes), va="top", fontsize=SMALL, **place)  # pyright: ignore[reportArgumentType]


def _draw_curves(axes: Axes, runs: Sequence[Run], sizes: list[str], task: str, measure: Measure) -> None:
    for run in sorted(runs, key=lambda run: sizes.index(run.size)):
        colour, marker = colour_and_marker(sizes.index(run.size))
        values = run.series(measure.metric.format(task=task))
        steps = values.index.to_numpy()
        if measure.smoothed:  # over 25 measurements, drawn at their last; fewer at the start
            values = values.rolling(SMOOTHED_STEPS, min_periods=1).mean()
        axes.plot(steps, values, color=colour, lw=1.2, ms=3, marker=None if measure.smoothed else marker)
    if measure.baseline == "accuracy":
        axes.set_ylim(-0.02, 1.02)
    elif measure.baseline == "loss":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    _draw_baselines(axes, runs, task, measure)
    axes.grid(alpha=0.25, lw=0.5)


def _draw_baselines(axes: Axes, runs: Sequence[Run], task: str, measure: Measure) -> None:
    for _, value, colour, dashes in _lines(runs, task, measure):
        axes.axhline(value, color=colour, lw=0.9, ls=dashes, zorder=1)


def _lines(runs: Sequence[Run], task: str, measure: Measure) -> list[tuple[str, float, str, Any]]:
    """What can be scored without learning the task and, for accuracy, above what it counts as learned."""
    built = next((built for run in runs if (built := run.task(task)) is not None), None)
    if built is None or measure.baseline is None:
        return []
    known = [(b.name, getattr(b, measure.baseline), GREY, (0, (4, 2))) for b in baselines(built)]
    threshold = LEARNED_ABOVE.get(built.config.kind) if measure is TEST_ACCURACY else None
    return known if threshold is None else [*known, ("learned above", threshold, "#B03A00", (0, (1, 1.5)))]


def _label_baselines(axes: Axes, runs: Sequence[Run], task: str, measure: Measure) -> None:
    """Name the lines at the panel's right, those that lie on each other once."""
    named: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for name, value, colour, _ in _lines(runs, task, measure):
        named.setdefault((f"{value:.2f}", colour), []).append((name, value))
    for (shown, colour), lines in named.items():
        where, text = (1.02, lines[0][1]), ",\n".join(name for name, _ in lines) + f" {shown}"
        axes.annotate(text, where, xycoords=axes.get_yaxis_transform(), va="center", fontsize=SMALL, color=colour)


def _plan(run: Run) -> Plan | None:
    """The plan, or None where a run folder outlived the corpus that its vocabulary comes from."""
    try:
        return build_plan(run.experiment).plan
    except UserError:
        return None


def _draw_plan(axes: Axes, plan: Plan, steps: int, names: Sequence[str]) -> None:
    for number, task in enumerate(plan.tasks):
        rows = [(step, row) for step in range(steps) for row in _rows_of(plan.at(step), number)]
        colour, _ = colour_and_marker(names.index(task.name))
        axes.plot(*np.array(rows, float).reshape(-1, 2).T, ls="", marker="s", ms=1.6, color=colour, mew=0)
    axes.set_xlim(-0.5, steps - 0.5)
    axes.set_ylim(plan.batch_size - 0.5, -0.5)


def _rows_of(injections: Injections, task: int) -> list[int]:
    return injections.rows[injections.task == task].tolist()
