"""Memorization: against repetitions and model size, its forgetting, contamination, exposure of canaries.

Each function takes runs or a table of the method `memory` and returns a figure, or None where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import axis_labels, legend, panels, style
from analysis.read.runs import Accuracy, Run
from analysis.read.store import last_step, rows
from analysis.stats import clustered_interval, wilson
from olmo_inject.utils.figure_style import GREY, colour_and_marker

UNITS = {"loss": "nats a token", "exposure": "bits"}
HALVES = {"train": "injected", "test": "never injected"}


APART = 1.5  # ratio of numbers of times that are both named on an axis
FEWEST = 10  # instances of an interval: resamples of fewer say little of others


def by_sightings(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """Means of each measure over the probes of instances that were seen equally often, at the last step of each run.

    Columns run, model, measure, seen, value, low, high and n (probes); intervals are bootstrapped over instances, those
    of shares Wilson's, of as many answers as instances, and those of few instances NaN.
    """
    last = last_step(rows(table, task=task).dropna(subset=["seen"]))
    means = []
    by_seen: Any = last.groupby(["run", "model", "measure", "seen"], sort=False)
    for (run, model, measure, seen), of in by_seen:
        means.append((run, model, measure, int(seen), *_mean(of, measure, "memory"), len(of)))
    columns = ["run", "model", "measure", "seen", "value", "low", "high", "n"]
    return pd.DataFrame(means, columns=columns).sort_values(["run", "measure", "seen"], kind="stable")


def repetitions(means: pd.DataFrame) -> Figure | None:
    """Each measure against how often an instance was seen: a panel for each measure, a line for each run.

    Args:
        means: of `by_sightings`; None where all instances were seen equally often.
    """
    if means["seen"].nunique() < 2:
        return None
    measures, runs = _distinct(means["measure"]), _distinct(means["run"])
    with style():
        figure, grid = panels(len(measures), 2.4, 2.2, share=False)
        for axes, measure in zip(grid, measures, strict=True):
            for number, run in enumerate(runs):
                _line(axes, rows(means, measure=measure, run=run), "seen", number)
            axes.set_xscale("symlog", linthresh=1, base=2)
            _times(axes, means["seen"])
            if _unit(measure) == "share":
                axes.set_ylim(-0.02, 1.02)
            axes.set_title(_title(measure))
            axes.grid(alpha=0.25, lw=0.5)
        axis_labels(figure, grid, "times seen", "")
        models = dict(zip(means["run"], means["model"], strict=True))
        several = len(set(models.values())) > 1
        legend(figure, "run", [f"{run}, {models[run]}" if several else run for run in runs])
    return figure


def _line(axes: Axes, of: pd.DataFrame, x: str, number: int) -> None:
    """`value` over the column `x`, with a band from `low` to `high`."""
    colour, marker = colour_and_marker(number)
    axes.plot(of[x], of["value"], color=colour, marker=marker, ms=4, lw=1.2)
    axes.fill_between(of[x], of["low"], of["high"], color=colour, alpha=0.15, lw=0)


def forgotten(table: pd.DataFrame, task: str, measure: str) -> pd.DataFrame:
    """A measure over steps since the last sighting, by times seen: means over bins that double in width.

    All checkpoints count, instances that were not seen yet do not. Columns run, seen (`4` or `5-7`), since (the mean of
    the bin), value, low, high and n (probes at checkpoints); intervals are bootstrapped over instances.

    Args:
        table: of `analyze memory`.
        task: name of the task.
        measure: column of the table's measures.
    """
    mine = rows(table, task=task, measure=measure).dropna(subset=["seen"])
    mine = mine.loc[(mine["seen"] > 0).to_numpy(bool)]
    seen, since = mine["seen"].to_numpy(int), (mine["step"] - mine["last_seen"]).to_numpy(float)
    mine = mine.assign(since=since, bin=np.floor(np.log2(since)), times=np.floor(np.log2(seen)))
    ends = pd.Series(seen).groupby(mine["times"].to_numpy()).agg(["min", "max"])
    names = {times: str(low) if low == high else f"{low}-{high}" for times, low, high in ends.itertuples()}
    means = []
    for (run, times, _), of in mine.groupby(["run", "times", "bin"]):
        means.append((run, names[times], float(of["since"].mean()), *_mean(of, measure, "forgetting"), len(of)))
    return pd.DataFrame(means, columns=["run", "seen", "since", "value", "low", "high", "n"])


def _mean(of: pd.DataFrame, measure: str, purpose: str) -> tuple[float, float, float]:
    """The mean and its interval: of a share Wilson's, since resamples of zeros alone would claim certainty.

    An instance has several probes and is asked at several checkpoints, so instances count, not probes.
    """
    values, instances = of["value"].to_numpy(float), of["instance"].tolist()
    share, n = float(values.mean()), len(set(instances))
    if n < FEWEST:
        return share, np.nan, np.nan
    if _unit(measure) == "share":
        return share, *wilson(share, n)
    return clustered_interval(values, instances, purpose)


def forgetting(means: pd.DataFrame, measure: str) -> Figure | None:
    """Forgetting curves: a panel for each run, a line for each number of times seen.

    Args:
        means: of `forgotten`.
        measure: its name.
    """
    if means.empty or means.groupby(["run", "seen"]).size().max() < 2:
        return None
    runs, times = _distinct(means["run"]), sorted(_distinct(means["seen"]), key=lambda name: int(name.split("-")[0]))
    with style():
        figure, grid = panels(len(runs), 2.6, 2.4)
        for axes, run in zip(grid, runs, strict=True):
            for number, seen in enumerate(times):
                _line(axes, rows(means, run=run, seen=seen), "since", number)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_title(run)
            axes.grid(alpha=0.25, lw=0.5)
        axis_labels(figure, grid, "steps since the last sighting", _title(measure))
        legend(figure, "times seen", times)
    return figure


def contamination_rows(runs: Sequence[Run], task: str) -> pd.DataFrame:
    """Accuracy on the injected and on the clean half by step, with Wilson intervals, of runs that measured both.

    Columns run, model, measure, half, step, value, low, high and n.
    """
    scores = []
    for run in runs:
        for measure in ("accuracy", "accuracy_normalized"):
            names = {half: f"eval/{task}/{half}/{measure}" for half in HALVES}
            measured = run.metrics.loc[run.metrics["name"].isin(list(names.values()))].dropna(subset=["value"])
            if measured["name"].nunique() < len(names):
                continue
            for half, name in names.items():
                for of in measured.loc[measured["name"] == name].sort_values("step").to_dict("records"):
                    of_half = Accuracy.of(of["value"], int(of["count"]))
                    scores.append((run.name, run.size, measure, HALVES[half], int(of["step"]), *vars(of_half).values()))
    columns = ["run", "model", "measure", "half", "step", "value", "n", "low", "high"]
    return pd.DataFrame(scores, columns=columns)


def contamination(measured: pd.DataFrame, chance: float) -> Figure | None:
    """Accuracy on injected and on clean questions against steps: a panel for each run.

    Args:
        measured: of `contamination_rows`, of which raw accuracy is drawn.
        chance: accuracy of guessing, dotted.
    """
    measured = rows(measured, measure="accuracy")
    if measured.empty:
        return None
    runs = _distinct(measured["run"])
    with style():
        figure, grid = panels(len(runs), 2.6, 2.4)
        for axes, run in zip(grid, runs, strict=True):
            for number, half in enumerate(HALVES.values()):
                _line(axes, rows(measured, run=run, half=half), "step", number)
            axes.axhline(chance, color=GREY, lw=1, ls=":", zorder=1)
            axes.set_ylim(-0.02, 1.02)
            axes.set_title(run)
            axes.grid(alpha=0.25, lw=0.5)
        axis_labels(figure, grid, "step", "accuracy")
        legend(figure, "questions", list(HALVES.values()), [Line2D([], [], color=GREY, ls=":", label="guessing")])
    return figure


def exposure(table: pd.DataFrame, task: str) -> Figure | None:
    """Histograms of the exposure of canaries at the last step, injected and not: a panel for each run."""
    last = last_step(rows(table, task=task, measure="exposure"))
    if last.empty:
        return None
    runs = _distinct(last["run"])
    edges = np.linspace(0, float(np.ceil(last["value"].max() + 1e-9)), 21).tolist()
    with style():
        figure, grid = panels(len(runs), 2.6, 2.4)
        for axes, run in zip(grid, runs, strict=True):
            for number, half in enumerate(HALVES):
                of = rows(last, run=run, half=half)["value"]
                if len(of):
                    colour, _ = colour_and_marker(number)
                    share = np.full(len(of), 1 / len(of))
                    axes.hist(of, edges, weights=share, color=colour, alpha=0.6)
                    axes.axvline(of.mean(), color=colour, lw=1.2)
            axes.set_title(run)
        axis_labels(figure, grid, "exposure (bits)", "share of canaries")
        legend(figure, "canaries", list(HALVES.values()))
    return figure


def _distinct(values: pd.Series) -> list[str]:
    return list(dict.fromkeys(values.tolist()))


def _unit(measure: str) -> str:
    return next((unit for name, unit in UNITS.items() if measure.endswith(name)), "share")


def _title(measure: str) -> str:
    return f"{measure.replace('_', ' ')} ({_unit(measure)})"


def _times(axes: Axes, seen: pd.Series) -> None:
    """Name the numbers of times on the axis, at most eight of them, and none whose names would overlap."""
    apart: list[int] = []
    for n in np.unique(seen.to_numpy(int))[::-1].tolist():
        if not apart or n * APART <= apart[-1]:
            apart.append(n)
    shown = apart if len(apart) <= 8 else np.array(apart)[np.linspace(0, len(apart) - 1, 8).astype(int)].tolist()
    axes.set_xticks(shown, [f"{n:g}" for n in shown])
    axes.set_xticks([], minor=True)
