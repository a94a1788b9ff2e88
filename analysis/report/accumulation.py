"""What bursts leave behind, in the report: a figure and a table for each task that is injected in bursts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.figures.accumulation import LAST_BURSTS, accumulation, accumulation_table, measure_of
from analysis.read.runs import Run, label_tasks
from analysis.report.page import Drawing, Section, Table

_ABOUT = (
    "What the study claims (arXiv 2605.29548): a model that has little left to learn from its text keeps what a burst "
    "taught it; in one that has much, the gradients of other tokens overwrite the task before its next burst."
)
_NOTE = (
    "Text loss: of all tokens that were not injected, in the last steps. Before a burst: mean of the last "
    f"{LAST_BURSTS}."
)
_KEPT = (
    " Kept: the share of a burst's gain in held-out loss that is left at the last evaluation up to the next, of three "
    "bursts or more and a gain above zero; the loss is that among the "
    "task's labels where it was measured."
)
_COLUMNS = {
    "text loss": "text_loss",
    "before a burst": "accumulated",
    "kept": "kept",
    "RMS cos(g_nt, g_r)": "interference",
    "labels permuted": "null",
}


def accumulation_section(runs: Sequence[Run]) -> Section | None:
    """What runs in bursts accumulate, and what works against it; None where no task comes in bursts."""
    drawings, cells = [], []
    for task in label_tasks(runs):
        table = accumulation_table(runs, task)
        if (figure := accumulation(runs, task, table)) is not None:
            drawings.append(Drawing(f"accumulation-{task}", figure, _caption(runs, task), table))
            cells += [_numbers(task, row) for row in table.to_dict("records")]
    if not drawings:
        return None
    table = Table("Before and after bursts", cells, ("run", "task", "model", "beside"))
    notes = [_NOTE + (_KEPT if "kept" in table.headings else "")]
    return Section("What bursts leave behind", [_ABOUT], tables=[table], drawings=drawings, notes=notes)


def _caption(runs: Sequence[Run], task: str) -> str:
    measure = measure_of(runs, task).label.replace("\n", " ")
    caption = f"{task}: {measure} just before each burst: what earlier bursts have left."
    if any(len(run.series(f"gradient/{task}/cos_rest")) for run in runs):
        caption += (
            " Right: root mean square over steps of the cosine of the other tokens' gradient with the task's; hollow, "
            "with that of the same task with permuted labels."
        )
    return caption


def _numbers(task: str, row: Mapping[str, Any]) -> dict[str, str]:
    shown = {"run": row["run"], "task": task, "model": row["model"], "beside": row["text"]}
    return shown | {name: "" if np.isnan(row[column]) else f"{row[column]:.3g}" for name, column in _COLUMNS.items()}
