"""Curves of learning and of retention (docs/study.md, Figs. 6a and 8).

Each function takes runs and a task and returns a figure, or None if the runs hold nothing to draw.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.measures import LOSS_AMONG_LABELS, TEST_LOSS, draw_baselines, label_baselines
from analysis.figures.style import MARKERS_APART, axis_labels, legend, panels, sizes_of, style
from analysis.methods.retention import Retention, held_out_losses, retention
from analysis.read.conditions import conditions, text_labels
from analysis.read.runs import Run
from olmo_inject.utils.figure_style import GREY, colour_and_marker

REFERENCE = re.compile(r"eval/(\w+)/reference/loss")
REFERENCE_DASHES = ((0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))


def learning_curves(runs: Sequence[Run], task: str) -> Figure | None:
    """Test loss over steps: a panel for each model size, a line for each schedule and text; reference tasks dashed."""
    name = TEST_LOSS.metric.format(task=task)
    runs = [run for run in runs if len(run.series(name).dropna())]
    if not runs:
        return None
    sizes = sizes_of(runs)[::-1]
    label = conditions(runs, task)
    injected = list(dict.fromkeys(label[run] for run in sorted(runs, key=lambda run: run.rate(task))))
    references, texts = reference_names(runs), text_labels(runs)
    with style():
        figure, grid = panels(len(sizes), 2.1, 2.2)
        for axes, size in zip(grid, sizes, strict=True):
            mine = [run for run in runs if run.size == size]
            for run in mine:
                losses = run.series(name).dropna()
                colour, marker = colour_and_marker(injected.index(label[run]))
                axes.plot(losses.index, losses, color=colour, marker=marker, ms=3, lw=1.3, markevery=MARKERS_APART)
            for number, reference in enumerate(references):
                for text in dict.fromkeys(texts.values()):
                    beside = [run for run in mine if texts[run] == text]
                    if (losses := _reference(beside, reference)) is not None:
                        axes.plot(losses.index, losses, color=GREY, lw=1.2, ls=REFERENCE_DASHES[number % 3])
            draw_baselines(axes, runs, task, TEST_LOSS)
            axes.set_title(size)
            axes.grid(alpha=0.25, lw=0.5)
            axes.set_ylim(bottom=0)
        label_baselines(grid[-1], runs, task, TEST_LOSS)
        axis_labels(figure, grid, "step", TEST_LOSS.label)
        dashed = [
            Line2D([], [], color=GREY, ls=REFERENCE_DASHES[number % 3], label=f"{reference}, in the corpus")
            for number, reference in enumerate(references)
        ]
        legend(figure, f"{task}, injected", injected, dashed)
    return figure


def reference_names(runs: Sequence[Run]) -> list[str]:
    """Names of the reference tasks (natural statements of the corpus) that any of the runs evaluated."""
    names = {name for run in runs for name in run.metrics["name"]}
    return sorted(match[1] for match in map(REFERENCE.fullmatch, names) if match)


def _reference(runs: Sequence[Run], reference: str) -> pd.Series | None:
    """The mean loss of a reference task over runs, at the steps they share; None if no run has it."""
    series = [run.series(f"eval/{reference}/reference/loss").dropna() for run in runs]
    series = [losses for losses in series if len(losses)]
    return pd.concat(series, axis=1).dropna().mean(axis=1) if series else None


def retention_curves(runs: Sequence[Run], task: str) -> Figure | None:
    """The loss around bursts (left), and the gain of a burst and its decay (right), by model size and schedule."""
    retentions = [(run, kept) for run in runs if (kept := retention(run, task)) is not None]
    if not retentions:
        return None
    sizes = sizes_of([run for run, _ in retentions])
    retentions = sorted(retentions, key=lambda pair: (sizes.index(pair[0].size), pair[0].rate(task)))
    label = conditions([run for run, _ in retentions], task)
    of_run = {run: f"{run.size}, {label[run]}" for run, _ in retentions}
    names = list(dict.fromkeys(of_run.values()))  # runs that differ in seeds alone share a name
    with style():
        figure = Figure(figsize=(9.6, 3.1))
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        for run, kept in retentions:
            colour, marker = colour_and_marker(names.index(of_run[run]))
            losses = held_out_losses(run, task)
            shown = losses.loc[kept.bursts[0] : kept.bursts[-1] + kept.after[-1]]
            marked = {"color": colour, "marker": marker, "ms": 3, "markevery": MARKERS_APART}
            left.plot(shown.index, shown, lw=1.2, **marked)
            right.plot(kept.after, kept.mean, lw=1.3, **marked)
            _draw_spread(right, kept, colour)
        for burst in sorted({int(burst) for _, kept in retentions for burst in kept.bursts}):
            left.axvline(burst, color=GREY, lw=0.5, ls=":", zorder=1)
        left.set_xlabel("step (dotted: a burst)")
        among = LOSS_AMONG_LABELS
        measured = [among if len(among.series(run, task)) else TEST_LOSS for run, _ in retentions]
        left.set_ylabel("\nor ".join(dict.fromkeys(measure.label for measure in measured)))
        right.axhline(0, color=GREY, lw=0.6, zorder=1)
        right.set_xlabel("steps since the burst")
        right.set_ylabel("loss gained (nats)")
        legend(figure, "model, injected", names, [Line2D([], [], color=GREY, ls="--", label="fitted decay")])
    return figure


def _draw_spread(axes: Axes, kept: Retention, colour: str) -> None:
    """The standard error of the gain, and its fitted decay."""
    axes.fill_between(kept.after, kept.mean - kept.error, kept.mean + kept.error, color=colour, alpha=0.25, lw=0)
    decaying = np.linspace(kept.peak, float(kept.after[-1]), 100)
    if (fitted := kept.fitted(decaying)) is not None:
        axes.plot(decaying, fitted, color=colour, lw=1, ls="--")
