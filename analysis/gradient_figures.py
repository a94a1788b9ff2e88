"""Figures and findings of gradient interference (Fig. 9)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.bootstrap import mean_interval
from analysis.page import Drawing, Section
from analysis.results import rows
from analysis.style import COLOURS, GREY, MARKERS, SMALL, style

TITLE = "Gradient interference"
PER_ROW = 3
# kind of gradient: what it is called and its colour and marker
LINES = {
    "batch": ("g, the whole batch", COLOURS[6], MARKERS[0]),
    "injected": ("g_t, injected tokens", COLOURS[1], MARKERS[2]),
    "rest": ("g_nt, all other tokens", COLOURS[0], MARKERS[1]),
}
WHEN = {True: "steps that inject the task", False: "steps between"}


def section(table: pd.DataFrame) -> Section | None:
    """The section of a table `cosines` joined over checkpoints, or None where it is empty."""
    if table.empty:
        return None
    summary = summarize(table)
    drawings = []
    for task in dict.fromkeys(table["task"]):
        of_task = rows(table, task=task, of="")
        if of_task.groupby("run")["step"].nunique().max() > 1:
            drawings.append(
                Drawing(
                    f"steps-{task}",
                    over_steps(of_task),
                    f"{task}: cosine of the batch's gradient, and of its two parts, with the task's own, on the task's "
                    "neurons. Ticks at the bottom: steps whose batch holds the task. A point is one batch, exactly.",
                )
            )
        means = rows(summary, task=task)
        drawings.append(
            Drawing(
                f"means-{task}",
                bars(means),
                f"{task}: means over steps with 95% bootstrap intervals over steps, the number of steps below.",
            )
        )
    if table["task"].nunique() > 1:
        caption = (
            "Mean cosine over steps, of each task's gradient and of the tokens that were not injected (columns), "
            "with a task's own, on that task's neurons (rows); below it the 95% interval."
        )
        drawings += [
            Drawing(f"tasks-{run}", matrix(of_run), f"{run}: {caption}") for run, of_run in table.groupby("run")
        ]
    text = [
        "g is the gradient of a step's whole batch as the trainer takes it, g_t its part from injected tokens, g_nt "
        "the rest, all at one MLP; g_r is that of the task's LABEL loss over all its instances. Cosines are taken "
        "with g_r, on the neurons on which it is largest, in float32. Batches of different steps are different draws "
        "of the corpus, so intervals of means resample steps; one batch's cosine is an exact number."
    ]
    return Section(TITLE, text, findings=list(_sentences(summary)), drawings=drawings)


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Mean cosines over steps with and without an injection of the task, of g, g_t and g_nt.

    Columns: run, model, task, kind, injected, steps, mean, low, high.
    """
    found = []
    whole = table[(table["of"] == "") & table["cosine"].notna()]
    keys = ["run", "model", "task", "kind"]
    for place, group in whole.assign(injected=whole["instances"] > 0).groupby([*keys, "injected"], sort=False):
        assert isinstance(place, tuple)
        values = group["cosine"].to_numpy(float)
        ends = mean_interval(values, "gradients " + " ".join(map(str, place)))
        about = dict(zip([*keys, "injected"], place, strict=True))
        found.append(about | {"steps": len(values)} | dict(zip(("mean", "low", "high"), ends, strict=True)))
    return pd.DataFrame(found, columns=pd.Index([*keys, "injected", "steps", "mean", "low", "high"]))


def over_steps(table: pd.DataFrame) -> Figure:
    """One task's cosines against steps, a panel a run."""
    runs = list(dict.fromkeys(table["run"]))
    columns = min(PER_ROW, len(runs))
    lines = -(-len(runs) // columns)
    with style():
        figure = Figure(figsize=(1.2 + 3.3 * columns, 0.9 + 2.1 * lines))
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for axis, run in zip(axes.flat, runs, strict=False):
            of_run = rows(table, run=run)
            for kind, (label, colour, marker) in LINES.items():
                line = rows(of_run, kind=kind).sort_values("step")
                axis.plot(line["step"], line["cosine"], marker, ls="-", ms=2.5, lw=0.8, color=colour, label=label)
            steps = of_run.loc[of_run["instances"] > 0, "step"].unique()
            low = axis.get_xaxis_transform()
            axis.plot(steps, np.full(len(steps), 0.02), "|", color=GREY, ms=7, transform=low, label="injected")
            axis.axhline(0, color=GREY, lw=0.6)
            axis.set_title(run)
            axis.set_xlabel("step")
        for axis in axes[:, 0]:
            axis.set_ylabel("cosine with g_r")
        for axis in axes.flat[len(runs) :]:
            axis.set_axis_off()
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def bars(summary: pd.DataFrame) -> Figure:
    """One task's means, a group of bars a run; a panel for steps with and without it."""
    panels = [injected for injected in WHEN if (summary["injected"] == injected).any()]
    runs = list(dict.fromkeys(summary["run"]))
    with style():
        figure = Figure(figsize=(1.6 + 1.1 * len(runs) * len(panels), 3.1))
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, injected in zip(axes, panels, strict=True):
            for offset, (kind, (label, colour, _)) in enumerate(LINES.items()):
                chosen = rows(summary, injected=injected, kind=kind).set_index("run")
                for place, run in enumerate(runs):
                    if run not in chosen.index:
                        continue
                    one = chosen.loc[run]
                    x = place + (offset - 1) * 0.26
                    axis.bar(x, one["mean"], 0.24, color=colour, label=label if place == 0 else None)
                    if one["steps"] > 1:
                        reach = [[one["mean"] - one["low"]], [one["high"] - one["mean"]]]
                        axis.errorbar(x, one["mean"], reach, color=GREY, lw=1, capsize=2)
            counts = rows(summary, injected=injected, kind="batch").set_index("run")["steps"]
            labels = [f"{run}\n{counts.get(run, 0)} steps" for run in runs]
            axis.set_xticks(range(len(runs)), labels, fontsize=SMALL + 1)
            axis.axhline(0, color=GREY, lw=0.6)
            axis.set_title(WHEN[injected])
        axes[0].set_ylabel("mean cosine with g_r")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=SMALL + 1)
    return figure


def matrix(table: pd.DataFrame) -> Figure:
    """One run's tasks against each other and against the rest of the batch."""
    tasks = list(dict.fromkeys(table["task"]))
    columns = [*(("reference", task) for task in tasks), ("rest", "")]
    with style():
        figure = Figure(figsize=(2.6 + 1.15 * len(columns), 1.2 + 0.75 * len(tasks)))
        axis = figure.subplots()
        means = np.zeros((len(tasks), len(columns)))
        for row, task in enumerate(tasks):
            for column, (kind, of) in enumerate(columns):
                chosen = rows(table, task=task, kind=kind, of=of)
                values = chosen["cosine"].dropna().to_numpy(float)
                mean, low, high = mean_interval(values, f"matrix {task} {kind} {of}")
                means[row, column] = mean
                text = f"{mean:+.2f}" + ("" if np.isnan(low) else f"\n({low:+.3f} to {high:+.3f})")
                colour = "white" if abs(mean) > 0.6 else "black"
                axis.text(column, row, text, ha="center", va="center", fontsize=SMALL + 0.5, color=colour)
        image = axis.imshow(means, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        axis.set_xticks(range(len(columns)), [*tasks, "all other\ntokens"])
        axis.set_yticks(range(len(tasks)), tasks)
        axis.set_xlabel("gradient of")
        axis.set_ylabel("task, on its neurons")
        axis.spines[:].set_visible(False)
        figure.colorbar(image, label="mean cosine")
    return figure


def _sentences(summary: pd.DataFrame) -> Iterator[str]:
    for place, group in summary.groupby(["run", "task"], sort=False):
        assert isinstance(place, tuple)
        run, task = place
        parts = []
        for row in group.sort_values(["kind", "injected"], ascending=[True, False]).to_dict("records"):
            when = "at injections" if row["injected"] else "between"
            interval = f" ({row['low']:+.3f} to {row['high']:+.3f})" if row["steps"] > 1 else ""
            name = LINES[row["kind"]][0].split(",")[0]
            parts.append(f"{name} {when} {row['mean']:+.3f}{interval} over {_steps(row['steps'])}")
        yield f"{run}, {task}: mean cosine with g_r of {'; '.join(parts)}."


def _steps(n: int) -> str:
    return "1 step" if n == 1 else f"{n} steps"
