"""Gradient interference in the report and on the command line: figures and findings of a table of cosines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.gradients import BLOCK, cosine_label, matrix, means, over_steps, summarize
from analysis.read.labels import file_part
from analysis.read.store import rows
from analysis.report.page import Drawing, Section
from olmo_inject.words import counted

TITLE = "Gradient interference"
SYMBOLS = {"batch": "g", "injected": "g_t", "rest": "g_nt"}  # in sentences
_ABOUT = (
    "What a batch's gradient does to a task, at one MLP. g is the gradient of a step's whole batch as the trainer "
    "takes it, g_t its part from injected tokens, g_nt the rest, and g_r that of the task's LABEL loss over all its "
    "instances. Cosines are taken with g_r, on the neurons on which it is largest, in float32: where one is above "
    "zero, a step down that gradient lowers the task's loss too; where below, it raises it.",
    "g_t is of the injected tokens of all tasks, so that a batch without the one task may have one of the others. "
    f"Intervals of means are bootstrapped over steps, {BLOCK} that follow each other at a time, from {2 * BLOCK} steps "
    "on; one batch's cosine is an exact number.",
)


def section(table: pd.DataFrame) -> Section | None:
    """The section of a table `cosines` joined over checkpoints, or None where it is empty."""
    if table.empty:
        return None
    summary = summarize(table)
    drawings = []
    for task in dict.fromkeys(table["task"]):
        of_task = rows(table, task=task, of="")
        if of_task.groupby("run")["step"].nunique().max() > 1:
            caption = (
                f"{task}: cosine of the batch's gradient, and of its two parts, with the task's own, on the task's "
                "neurons. Ticks at the bottom: steps whose batch holds the task. A point is one batch, exactly; no "
                "line where steps between were not measured."
            )
            drawings.append(Drawing(f"steps-{task}", over_steps(of_task), caption))
        caption = (
            f"{task}: means over steps, as many as stand under a run's name, with 95% block bootstrap intervals "
            f"over steps from {2 * BLOCK} steps on."
        )
        drawings.append(Drawing(f"means-{task}", means(rows(summary, task=task), cosine_label(table)), caption))
    for run, of_run in table.groupby("run", sort=False):
        if of_run["task"].nunique() > 1:
            caption = (
                f"{run}: mean cosine over steps of each task's gradient, and of the tokens that were not injected "
                "(columns), with a task's own, on that task's neurons (rows); below it the 95% interval."
            )
            drawings.append(Drawing(f"tasks-{file_part(str(run))}", matrix(of_run, str(run)), caption))
    return Section(TITLE, _ABOUT, findings=[*_sentences(summary), *_proof(table)], drawings=drawings)


def _sentences(summary: pd.DataFrame) -> Iterator[str]:
    for place, group in summary.groupby(["run", "task"], sort=False):
        assert isinstance(place, tuple)
        run, task = place
        parts = []
        for injected, when in ((True, "whose batch holds the task"), (False, "whose batch does not")):
            of = rows(group, injected=injected)
            if len(of):
                most = int(of["steps"].max())
                cosines = ", ".join(_mean(row, most) for row in of.to_dict("records"))
                parts.append(f"over {counted(most, 'step')} {when}: {cosines}")
        yield f"{run}, {task}: mean cosine with g_r {'; '.join(parts)}."


def _mean(row: dict[Any, Any], most: int) -> str:
    """One kind's mean, with its interval, and of how many steps where others are of more."""
    interval = "" if np.isnan(row["low"]) else f" ({row['low']:+.3f} to {row['high']:+.3f})"
    over = "" if row["steps"] == most else f" over the {counted(row['steps'], 'step')} with any"
    return f"{SYMBOLS[row['kind']]} {row['mean']:+.3f}{interval}{over}"


def _proof(table: pd.DataFrame) -> Iterator[str]:
    """Whether the batches were compared with what the runs' models were given."""
    batches = table.drop_duplicates(["run", "step"])
    unproven = batches.loc[~batches["proven"].to_numpy(bool)]
    compared = len(batches) - len(unproven)
    if compared:
        yield f"{_batches(compared)} compared with the run's evidence: token for token what the model was given."
    if len(unproven):
        which = "; ".join(
            f"{run} step {', '.join(str(step) for step in sorted(steps))}"
            for run, steps in unproven.groupby("run", sort=False)["step"]
        )
        yield f"{_batches(len(unproven))} not compared: of a step not trained on there is no evidence: {which}."


def _batches(n: int) -> str:
    return "1 rebuilt batch was" if n == 1 else f"{n} rebuilt batches were"
