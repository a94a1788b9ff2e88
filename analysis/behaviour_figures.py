"""Figures of behaviour beside those in `figures` (PAPER.md, Figs. 5, 6 and 8).

Each takes runs and a task and returns a figure, or None where the runs hold nothing to draw.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.retention import Retention, retention
from analysis.runs import Run
from analysis.style import GREY, SMALL, axis_labels, colour_and_marker, legend, panels, sizes_of, style

REFERENCE = re.compile(r"eval/(\w+)/reference/loss")
REFERENCE_DASHES = ((0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))
TRAIN_LOSS, TEST_LOSS = "eval/{task}/train/loss", "eval/{task}/test/loss"
LOSS_LABEL = "loss of LABEL (nats)"
LAST_SHARE = 4  # of a run's steps, one in so many are its last, over which a loss is averaged


def loss_heatmap(runs: Sequence[Run], task: str) -> Figure | None:
    """Last loss on the train half over model size and frequency, bursts left out."""
    name = TRAIN_LOSS.format(task=task)
    runs = [run for run in runs if run.evenly_injected(task) and len(run.series(name).dropna())]
    if not runs:
        return None
    sizes, rates = sizes_of(runs), sorted({run.frequency(task).per_batch for run in runs})
    cells: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        place = sizes.index(run.size), rates.index(run.frequency(task).per_batch)
        cells.setdefault(place, []).append(float(run.series(name).dropna().iloc[-1]))
    grid = np.full((len(sizes), len(rates)), np.nan)
    for place, losses in cells.items():
        grid[place] = np.mean(losses)
    most = float(np.nanmax(grid))
    with style():
        figure = Figure(figsize=(2.8 + 1.2 * len(rates), 1.3 + 0.62 * len(sizes)))
        axes = figure.subplots()
        image = axes.imshow(grid, cmap="cividis_r", vmin=0, vmax=most, aspect="auto")
        for (row, column), losses in cells.items():
            text = f"{np.mean(losses):.2f}"
            text += f"\n{min(losses):.2f} to {max(losses):.2f}, {len(losses)} runs" if len(losses) > 1 else ""
            colour = "white" if grid[row, column] > 0.45 * most else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(rates)), [str(rate) for rate in rates])
        axes.set_yticks(range(len(sizes)), sizes)
        axes.set_xlabel("instances per batch")
        axes.set_ylabel("model")
        axes.set_title(f"{task}: train loss")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes)
        bar.set_label(LOSS_LABEL, fontsize=SMALL)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def learning_curves(runs: Sequence[Run], task: str) -> Figure | None:
    """Test loss over steps: a panel for each size, a line for each schedule, reference tasks dashed."""
    name = TEST_LOSS.format(task=task)
    runs = [run for run in runs if len(run.series(name).dropna())]
    if not runs:
        return None
    sizes = sizes_of(runs)[::-1]
    schedules = list(dict.fromkeys(run.schedule_label(task) for run in sorted(runs, key=lambda run: run.rate(task))))
    references = reference_names(runs)
    with style():
        figure, grid = panels(len(sizes), 2.5, 2.4)
        for axes, size in zip(grid, sizes, strict=True):
            mine = [run for run in runs if run.size == size]
            for run in mine:
                losses = run.series(name).dropna()
                colour, _ = colour_and_marker(schedules.index(run.schedule_label(task)))
                axes.plot(losses.index, losses, color=colour, lw=1.3)
            for number, reference in enumerate(references):
                for steps, losses in _references(mine, reference):
                    axes.plot(steps, losses, color=GREY, lw=1.2, ls=REFERENCE_DASHES[number % 3])
            axes.set_title(size)
            axes.grid(alpha=0.25, lw=0.5)
            axes.set_ylim(bottom=0)
        axis_labels(figure, grid, "step", f"test {LOSS_LABEL}")
        lines = [Line2D([], [], color=colour_and_marker(n)[0], label=label) for n, label in enumerate(schedules)]
        lines += [
            Line2D([], [], color=GREY, ls=REFERENCE_DASHES[number % 3], label=f"{reference}, in the corpus")
            for number, reference in enumerate(references)
        ]
        figure.legend(handles=lines, loc="outside right upper", frameon=False, title="injected")
    return figure


def reference_names(runs: Sequence[Run]) -> list[str]:
    """The reference tasks, natural statements of the corpus, that any of the runs evaluated."""
    names = {name for run in runs for name in run.metrics["name"]}
    return sorted(found[1] for found in map(REFERENCE.fullmatch, names) if found)


def _references(runs: Sequence[Run], reference: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The mean over runs of a reference task's loss, at the steps they share; nothing where none has it."""
    series = [run.series(f"eval/{reference}/reference/loss").dropna() for run in runs]
    series = [losses for losses in series if len(losses)]
    if series:
        mean = pd.concat(series, axis=1).dropna().mean(axis=1)
        yield mean.index.to_numpy(), mean.to_numpy()


def gap_losses(runs: Sequence[Run], task: str) -> Figure | None:
    """Test loss against the gap between observations, where runs share size and long-run frequency.

    The mean over the evaluations of the last quarter of a run, so that it does not matter where between two
    bursts the run ended; bars reach from the 10th to the 90th percentile of them.
    """
    groups: dict[tuple[str, Fraction], list[tuple[float, float, float, float]]] = {}
    for run in runs:
        gap, losses = run.gap(task), run.series(TEST_LOSS.format(task=task)).dropna()
        last = losses.loc[losses.index > run.steps_done * (1 - 1 / LAST_SHARE)].to_numpy()
        if gap is not None and len(last):
            low, high = np.percentile(last, [10, 90])
            point = (gap, float(last.mean()), float(low), float(high))
            groups.setdefault((run.size, run.frequency(task).per_batch), []).append(point)
    groups = {key: sorted(points) for key, points in groups.items() if len({gap for gap, *_ in points}) > 1}
    if not groups:
        return None
    with style():
        figure = Figure(figsize=(5.6, 2.9))
        axes = figure.subplots()
        for number, points in enumerate(groups.values()):
            colour, marker = colour_and_marker(number)
            gap, mean, low, high = np.array(points).T
            errors = np.maximum([mean - low, high - mean], 0)
            axes.errorbar(gap, mean, errors, color=colour, marker=marker, ms=4, capsize=3)
        ticks = sorted({gap for points in groups.values() for gap, *_ in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{gap:g}" for gap in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("mean steps between batches that hold the task")
        axes.set_ylabel(f"test {LOSS_LABEL}")
        legend(figure, "model, instances per batch", [f"{size}, {rate}" for size, rate in groups])
    return figure


def retention_curves(runs: Sequence[Run], task: str) -> Figure | None:
    """Left the loss around bursts, right what a burst gains and how it decays, by model size and schedule."""
    found = [(run, kept) for run in runs if (kept := retention(run, task)) is not None]
    if not found:
        return None
    sizes = sizes_of([run for run, _ in found])
    found = sorted(found, key=lambda pair: (sizes.index(pair[0].size), pair[0].rate(task)))
    names = [f"{run.size}, {run.schedule_label(task)}" for run, _ in found]
    with style():
        figure = Figure(figsize=(9.6, 3.1))
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        for number, (run, kept) in enumerate(found):
            colour, _ = colour_and_marker(number)
            losses = run.series(TEST_LOSS.format(task=task)).dropna()
            shown = losses.loc[kept.bursts[0] : kept.bursts[-1] + kept.after[-1]]
            left.plot(shown.index, shown, color=colour, lw=1.2)
            _draw_gain(right, kept, colour)
        for burst in sorted({int(burst) for _, kept in found for burst in kept.bursts}):
            left.axvline(burst, color=GREY, lw=0.5, ls=":", zorder=1)
        left.set_xlabel("step (dotted: a burst)")
        left.set_ylabel(f"test {LOSS_LABEL}")
        right.axhline(0, color=GREY, lw=0.6, zorder=1)
        right.set_xlabel("steps since the burst")
        right.set_ylabel("loss gained (nats)")
        lines = [Line2D([], [], color=colour_and_marker(number)[0], label=name) for number, name in enumerate(names)]
        lines.append(Line2D([], [], color=GREY, ls="--", label="fitted decay"))
        figure.legend(handles=lines, loc="outside right upper", frameon=False, title="model, injected")
    return figure


def _draw_gain(axes: Axes, kept: Retention, colour: str) -> None:
    axes.plot(kept.after, kept.mean, color=colour, lw=1.3)
    axes.fill_between(kept.after, kept.mean - kept.error, kept.mean + kept.error, color=colour, alpha=0.25, lw=0)
    decaying = np.linspace(kept.peak, float(kept.after[-1]), 100)
    if (fitted := kept.fitted(decaying)) is not None:
        axes.plot(decaying, fitted, color=colour, lw=1, ls="--")
