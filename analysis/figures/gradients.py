"""Figures of gradient interference (docs/study.md, Fig. 9)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import SMALL, axis_labels, style
from analysis.read.store import rows
from analysis.stats import series_interval
from olmo_inject.utils.figure_style import BLACK, BLUE, GREY, MARKERS, ORANGE
from olmo_inject.utils.words import counted

PER_ROW = 3
FEWEST_ROWS = 3  # height of the panels of means, in rows; fewer runs leave room above and below
BLOCK = 4  # steps of a block, at least, since cosines of consecutive steps are correlated
# kind of gradient: its symbol, what it contains, its colour and its marker
LINES = {
    "batch": ("$g$", "the whole batch", BLACK, MARKERS[0]),
    "injected": ("$g_t$", "all injected tokens", ORANGE, MARKERS[2]),
    "rest": ("$g_{nt}$", "all other tokens", BLUE, MARKERS[1]),
}
WHEN = {True: "steps whose batch holds the task", False: "steps whose batch does not"}


def cosine_label(table: pd.DataFrame) -> str:
    """The label of the cosine axis, with the MLP and the number of neurons."""
    measured = set(zip(table["mlp"], table["neurons"], strict=True))
    if len(measured) > 1:  # runs may have measured different ones while they trained
        return "cosine with the task's $g_r$ on neurons of one MLP"
    [(layer, neurons)] = measured
    return f"cosine with the task's $g_r$ on {neurons} neurons of MLP {layer}"


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Mean cosines of g, g_t and g_nt, over steps with an injection of the task and over steps without.

    Columns: run, model, task, kind, injected, steps, mean, low, high (a 95% interval).
    """
    means = []
    whole = table[(table["of"] == "") & table["cosine"].notna()]
    keys = ["run", "model", "task", "kind"]
    for place, group in whole.assign(injected=whole["instances"] > 0).groupby([*keys, "injected"], sort=False):
        assert isinstance(place, tuple)
        values = group.sort_values("step")["cosine"].to_numpy(float)
        ends = series_interval(values, BLOCK)
        about = dict(zip([*keys, "injected"], place, strict=True))
        means.append(about | {"steps": len(values)} | dict(zip(("mean", "low", "high"), ends, strict=True)))
    return pd.DataFrame(means, columns=pd.Index([*keys, "injected", "steps", "mean", "low", "high"]))


def last_stretch(table: pd.DataFrame) -> pd.DataFrame:
    """Of each run the rows of the last steps that were measured one after the other."""
    last = []
    for _, of_run in table.groupby("run", sort=False):
        steps = np.unique(of_run["step"].to_numpy(int))
        *_, (stretch, _) = unbroken(steps, steps.astype(float))
        last.append(of_run[of_run["step"] >= stretch[0]])
    return pd.concat(last)


def over_steps(table: pd.DataFrame) -> Figure:
    """One task's cosines over steps, a panel for each run."""
    runs = list(dict.fromkeys(table["run"]))
    columns = min(PER_ROW, len(runs))
    lines = -(-len(runs) // columns)
    with style():
        figure = Figure(figsize=(1.4 + 3.3 * columns, 1.2 + 2.1 * lines))
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for axis, run in zip(axes.flat, runs, strict=False):
            of_run = rows(table, run=run)
            for kind, (symbol, what, colour, marker) in LINES.items():
                line = rows(of_run, kind=kind).sort_values("step")
                label = f"{symbol}, {what}"
                axis.plot([], [], marker, ls="-", ms=2.5, lw=0.8, color=colour, label=label)
                for steps, cosines in unbroken(line["step"].to_numpy(int), line["cosine"].to_numpy(float)):
                    axis.plot(steps, cosines, marker, ls="-", ms=2.5, lw=0.8, color=colour)
            steps = of_run.loc[of_run["instances"] > 0, "step"].unique()
            low = axis.get_xaxis_transform()
            axis.plot(
                steps, np.full(len(steps), 0.02), "|", color=GREY, ms=7, transform=low, label="batch holds the task"
            )
            axis.axhline(0, color=GREY, lw=0.6)
            axis.set_title(run)
        for axis in axes.flat[len(runs) :]:
            axis.set_axis_off()
        axis_labels(figure, axes.flat[: len(runs)].tolist(), "step", cosine_label(table).replace(" on ", "\non "))
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4 if columns > 1 else 2, frameon=False)
    return figure


def unbroken(
    steps: Int64[np.ndarray, " n"], values: Float64[np.ndarray, " n"]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Split a series where measurements are missing, so that no line is drawn across the hole.

    A hole is a distance between steps that is larger than the run's smallest one.
    """
    apart = np.diff(steps)
    breaks = np.flatnonzero(apart > apart.min()) + 1 if len(apart) else []
    yield from zip(np.split(steps, breaks), np.split(values, breaks), strict=True)


def means(summary: pd.DataFrame, measured: str) -> Figure:
    """One task's mean cosines: a line for each run, a panel for steps with the task and one for steps without.

    Args:
        summary: rows of `summarize` for one task.
        measured: label of the cosine axis.
    """
    panels = [injected for injected in WHEN if (summary["injected"] == injected).any()]
    runs = {injected: list(dict.fromkeys(rows(summary, injected=injected)["run"])) for injected in panels}
    with style():
        longest = 0.065 * max(len(run) for of_panel in runs.values() for run in of_panel)
        most = max(map(len, runs.values()))
        figure = Figure(figsize=(0.9 + (2.7 + longest) * len(panels), 1.5 + 0.5 * max(most, FEWEST_ROWS)))
        axes = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
        for axis, injected in zip(axes, panels, strict=True):
            _draw_means(axis, rows(summary, injected=injected), runs[injected])
            axis.set_title(f"{summary['task'].iloc[0]}: {WHEN[injected]}")
        figure.supxlabel(f"mean {measured}", fontsize=9)
        handles, labels = max((axis.get_legend_handles_labels() for axis in axes), key=lambda legend: len(legend[0]))
        columns = 3 if len(panels) > 1 else 1
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
    return figure


def _draw_means(axis: Axes, summary: pd.DataFrame, runs: list[str]) -> None:
    for offset, (kind, (symbol, what, colour, marker)) in enumerate(LINES.items()):
        for row in rows(summary, kind=kind).to_dict("records"):
            place = runs.index(row["run"]) + (offset - 1) * 0.22
            mean = row["mean"]
            reach = None if np.isnan(row["low"]) else row["high"] - mean
            axis.errorbar(mean, place, xerr=reach, fmt=marker, ms=4, lw=1.2, capsize=2.5, color=colour)
        if (summary["kind"] == kind).any():
            axis.plot([], [], marker, ms=4, color=colour, label=f"{symbol}, {what}")
    whole = rows(summary, kind="batch")
    steps = dict(zip(whole["run"], whole["steps"], strict=True))
    axis.set_yticks(range(len(runs)), [f"{run}\n{counted(int(steps[run]), 'step')}" for run in runs])
    axis.axvline(0, color=GREY, lw=0.6, zorder=1)
    # With fewer runs, rows keep their height and stand in the middle.
    around = max(0, FEWEST_ROWS - len(runs)) / 2
    axis.set_ylim(len(runs) - 0.5 + around, -0.5 - around)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.25, lw=0.5)


def matrix(table: pd.DataFrame, title: str) -> Figure:
    """One run's mean cosines of each task with each other task and with the rest of the batch."""
    tasks = list(dict.fromkeys(table["task"]))
    columns = [*(("reference", task) for task in tasks), ("rest", "")]
    with style():
        figure = Figure(figsize=(2.6 + 1.15 * len(columns), 1.2 + 0.75 * len(tasks)))
        axis = figure.subplots()
        grid = np.zeros((len(tasks), len(columns)))
        for row, task in enumerate(tasks):
            for column, (kind, of) in enumerate(columns):
                values = rows(table, task=task, kind=kind, of=of).sort_values("step")["cosine"].dropna().to_numpy(float)
                grid[row, column], text = _cell(values) if of != task else (1, "itself")
                colour = "white" if abs(grid[row, column]) > 0.6 else "black"
                axis.text(column, row, text, ha="center", va="center", fontsize=SMALL + 0.5, color=colour)
        image = axis.imshow(grid, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        axis.set_xticks(range(len(columns)), [*tasks, "all other\ntokens, $g_{nt}$"])
        axis.set_yticks(range(len(tasks)), tasks)
        axis.set_xlabel("gradient of")
        axis.set_title(title)
        axis.set_ylabel("with $g_r$ of, on its neurons")
        axis.spines[:].set_visible(False)
        figure.colorbar(image, label="mean cosine")
    return figure


def _cell(values: np.ndarray) -> tuple[float, str]:
    """The mean and its label; NaN and a dash if no step has the cosine."""
    if not len(values):
        return np.nan, "-"
    mean, low, high = series_interval(values, BLOCK)
    return mean, f"{mean:+.2f}" + ("" if np.isnan(low) else f"\n({low:+.3f} to {high:+.3f})")
