"""Gradient interference in the report and on the command line: figures and a table of mean cosines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from analysis.figures.gradients import BLOCK, cosine_label, last_stretch, matrix, means, over_steps, summarize
from analysis.read.run_labels import file_part
from analysis.read.store import rows
from analysis.report.page import Drawing, Section, Table, tables, with_interval
from analysis.stats import MOST_BLOCKS

TITLE = "Gradient interference"
IN_RUN_TITLE = "Gradient interference, measured while training"
SYMBOLS = {"batch": "g", "injected": "g_t", "rest": "g_nt"}  # names of gradients in tables
_ABOUT = (
    "This section shows what a batch's gradient does to a task, at one MLP. g is the gradient of a step's whole batch, "
    "as the trainer computes it; g_t is its part from injected tokens and g_nt the rest. g_r is the gradient of the "
    "task's LABEL loss over all its instances. All cosines are with g_r, on the neurons where g_r is largest. If a "
    "cosine is above zero, a step down that gradient also lowers the task's loss; if it is below zero, it raises it.",
    "g_t covers the injected tokens of all tasks, so a batch without one task may still have a g_t from another. "
    f"Intervals of means are Student's t over two to {MOST_BLOCKS} blocks of at least {BLOCK} steps, since "
    "neighbouring steps are correlated; the cosine of one batch is exact.",
)


def section(table: pd.DataFrame) -> Section | None:
    """The section for a table `cosines` joined over checkpoints; None if it is empty."""
    if table.empty:
        return None
    shown = tables(_mean_table(summarize(table)), _proof_table(table))
    return Section(TITLE, _ABOUT, tables=shown, drawings=list(_drawings(table, "")))


def in_run_section(table: pd.DataFrame) -> Section | None:
    """The section for cosines that runs measured while training; None if there are none."""
    if table.empty:
        return None
    shown = tables(_mean_table(summarize(table)))
    return Section(IN_RUN_TITLE, _ABOUT, tables=shown, drawings=list(_drawings(table, "in-run-", last_stretch)))


def _drawings(table: pd.DataFrame, prefix: str, shown: Callable = lambda of_task: of_task) -> Iterator[Drawing]:
    summary = summarize(table)
    for task in dict.fromkeys(table["task"]):
        of_task = rows(table, task=task, of="")
        if of_task.groupby("run")["step"].nunique().max() > 1:
            caption = (
                f"{task}: cosine of the batch's gradient, and of its two parts, with the task's own, on the task's "
                "neurons. Ticks at the bottom: steps whose batch holds the task. A point is one batch, exactly; no "
                "line is drawn across steps that were not measured. Runs that measured while training show the last "
                "steps that they measured in a row."
            )
            yield Drawing(f"{prefix}steps-{task}", over_steps(shown(of_task)), caption, of_task)
        caption = (
            f"{task}: means over steps (their number stands under a run's name), with 95% intervals if there are "
            f"at least {2 * BLOCK}: Student's t over blocks of steps."
        )
        of_summary = rows(summary, task=task)
        yield Drawing(f"{prefix}means-{task}", means(of_summary, cosine_label(table)), caption, of_summary)
    for run, of_run in table.groupby("run", sort=False):
        if of_run["task"].nunique() > 1:
            caption = (
                f"{run}: mean cosine over steps of each task's gradient, and of the gradient of all other tokens "
                "(columns), with a task's own gradient on that task's neurons (rows); below it the 95% interval."
            )
            yield Drawing(f"{prefix}tasks-{file_part(str(run))}", matrix(of_run, str(run)), caption, of_run)


def _mean_table(summary: pd.DataFrame) -> Table:
    cells = []
    for place, group in summary.groupby(["run", "task", "injected"], sort=False):
        assert isinstance(place, tuple)
        run, task, injected = place
        by_kind = {row["kind"]: row for row in group.to_dict("records")}
        row = {"run": run, "task": task, "batch holds the task": "yes" if injected else "no"}
        row["steps"] = str(max(of["steps"] for of in by_kind.values()))
        for kind, symbol in SYMBOLS.items():
            of = by_kind.get(kind)
            row[f"cos({symbol}, g_r)"] = "" if of is None else with_interval(of["mean"], of["low"], of["high"], "+.3f")
        cells.append(row)
    title = f"Mean cosines over steps (95% CI from {2 * BLOCK} steps on)"
    return Table(title, cells, ("run", "task", "batch holds the task"))


def _proof_table(table: pd.DataFrame) -> Table:
    """How many rebuilt batches agreed with the evidence of what the runs' models were given."""
    batches = table.drop_duplicates(["run", "step"])
    cells = []
    for run, of_run in batches.groupby("run", sort=False):
        proven = of_run["proven"].to_numpy(bool)
        missing = ", ".join(f"step {step}" for step in np.sort(of_run["step"].to_numpy(int)[~proven]))
        cells.append({"run": run, "identical": str(int(proven.sum())), "no evidence of": missing})
    return Table("Rebuilt batches against the run's evidence", cells, ("run", "no evidence of"))
