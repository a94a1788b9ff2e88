"""What bursts leave behind (docs/study.md, Fig. 8 and 9): a task's staircase over steps, and what works against it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.measures import (
    AUC,
    TEST_ACCURACY,
    Measure,
    draw_baselines,
    label_baselines,
)
from analysis.figures.style import legend, sizes_of, style
from analysis.methods.retention import retention
from analysis.read.conditions import schedule_label, text_labels
from analysis.read.runs import Run
from olmo_inject.utils.figure_style import GREY, MARKERS, colour_and_marker

LAST_BURSTS = 5  # whose mean tells what a run has accumulated
CHANCE = 0.5  # of AUC
INTERFERENCE = "RMS of cos($g_{nt}$, $g_r$)"


def bursting(runs: Sequence[Run], task: str) -> list[Run]:
    """The runs that inject a task in bursts and evaluate it."""
    measure = measure_of(runs, task)
    return [run for run in runs if run.in_bursts(task) and len(measure.series(run, task))]


def measure_of(runs: Sequence[Run], task: str) -> Measure:
    """AUC where it was measured, since it does not depend on which token is more probable; otherwise accuracy."""
    return AUC if any(len(AUC.series(run, task)) for run in runs) else TEST_ACCURACY


def _texts(runs: Sequence[Run], task: str) -> dict[Run, str]:
    """The text of each run, with its bursts where those differ."""
    texts, schedules = text_labels(runs), {run: schedule_label(run, task) for run in runs}
    several = len(set(schedules.values())) > 1
    return {run: f"{text}, {schedules[run]}" if several else text for run, text in texts.items()}


def accumulation_table(runs: Sequence[Run], task: str) -> pd.DataFrame:
    """One row for each run that injects a task in bursts.

    Columns: run, folder, model, text (with the bursts where those differ), text_loss (nats a token, last steps),
    accumulated (AUC or accuracy, mean of the evaluations before the last five bursts), kept (share of a burst's gain in
    held-out loss that is left at the last evaluation up to the next; of clear gains), interference and null (root mean
    square over measured steps of the cosine of the other tokens' gradient with the task's, and with that of permuted
    labels); NaN for what was not measured.
    """
    measure, texts = measure_of(runs, task), _texts(bursting(runs, task), task)
    return pd.DataFrame(
        {
            "run": run.name,
            "folder": str(run.folder),
            "model": run.size,
            "text": texts[run],
            "text_loss": np.nan if run.lm_loss is None else run.lm_loss,
            "accumulated": before_bursts(run, task, measure).iloc[-LAST_BURSTS:].mean(),
            "kept": np.nan if (kept := retention(run, task)) is None else kept.kept,
            "interference": _rms(run.series(f"gradient/{task}/cos_rest")),
            "null": _rms(run.series(f"gradient/{task}/null_rest")),
        }
        for run in texts
    )


def before_bursts(run: Run, task: str, measure: Measure) -> pd.Series:
    """A measure by step, at the evaluations with a burst in the step that follows; at the end if one would follow.

    Args:
        run: whose metrics are read.
        task: name of the task.
        measure: what is read of it.
    """
    values = measure.series(run, task)
    end = run.experiment.steps
    steps = [*run.injecting_steps(task), *([end] if run.injected_in(task, end) else [])]
    return values.loc[values.index.isin(steps[1:])]


def accumulation(runs: Sequence[Run], task: str, table: pd.DataFrame) -> Figure | None:
    """The staircases, a panel for each text and a line for each run, and the interference; None without bursts.

    Args:
        runs: whose metrics are drawn.
        task: name of the task.
        table: `accumulation_table` of the two.
    """
    runs = bursting(runs, task)
    if not runs:
        return None
    measure, sizes = measure_of(runs, task), sizes_of(runs)
    text_of = dict(zip(runs, table["text"], strict=True))
    texts = list(dict.fromkeys(text_of.values()))
    measured = table["interference"].notna().any()
    with style():
        figure = Figure(figsize=(1.6 + 2.7 * (len(texts) + measured), 2.9))
        axes = figure.subplots(1, len(texts) + measured, squeeze=False)[0].tolist()
        for axis, text in zip(axes, texts, strict=False):
            _staircases(axis, [run for run in runs if text_of[run] == text], task, measure, sizes)
            axis.set_title(f"beside {text}")
        axes[0].set_ylabel(measure.label.replace("\n", " "))
        limits = [axis.get_ylim() for axis in axes[: len(texts)]]
        for axis in axes[: len(texts)]:
            axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        label_baselines(axes[len(texts) - 1], runs, task, measure)
        if measured:
            _interference(axes[-1], table, texts, sizes)
        legend(figure, "model", sizes)
    return figure


def _staircases(axis: Axes, runs: Sequence[Run], task: str, measure: Measure, sizes: list[str]) -> None:
    for run in runs:
        colour, marker = colour_and_marker(sizes.index(run.size))
        values = before_bursts(run, task, measure)
        axis.plot(values.index, values, marker, ls="-", ms=2.5, lw=1.1, color=colour)
    if measure is AUC:
        axis.axhline(CHANCE, color=GREY, lw=0.8, ls=(0, (4, 2)))
    else:
        axis.set_ylim(-0.02, 1.02)
        draw_baselines(axis, runs, task, measure)
    axis.set_xlabel("step")
    axis.grid(alpha=0.25, lw=0.5)


def _interference(axis: Axes, table: pd.DataFrame, texts: list[str], sizes: list[str]) -> None:
    """Filled: of the task; hollow: of permuted labels. A marker for each text."""
    order = sizes[::-1]
    for number, text in enumerate(texts):
        marker = MARKERS[number % len(MARKERS)]
        of_text = table[(table["text"] == text) & table["interference"].notna()]
        places = np.array([order.index(size) for size in of_text["model"]], float) + 0.2 * (
            number - (len(texts) - 1) / 2
        )
        colours = [colour_and_marker(sizes.index(size))[0] for size in of_text["model"]]
        for place, colour, value, null in zip(places, colours, of_text["interference"], of_text["null"], strict=True):
            axis.plot(place, value, marker, ms=5, color=colour)
            axis.plot(place, null, marker, ms=8, color=colour, mfc="none")
        axis.plot([], [], marker, ls="", ms=5, color=GREY, label=text)
    axis.plot([], [], "o", ls="", ms=8, color=GREY, mfc="none", label="labels permuted")
    axis.set_xticks(range(len(order)), order, rotation=30, ha="right")
    axis.set_ylim(0, 1.5 * axis.get_ylim()[1])  # with room for the legend
    axis.set_title(INTERFERENCE)
    axis.legend(frameon=False, fontsize=7, loc="upper right")
    axis.grid(axis="y", alpha=0.25, lw=0.5)


def _rms(values: pd.Series) -> float:
    return float(np.sqrt((values**2).mean())) if len(values) else np.nan
