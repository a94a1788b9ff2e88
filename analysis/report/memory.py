"""Memorization in the report and on the command line: what is remembered of texts, and of contaminated questions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.figures import memory as figures
from analysis.methods.memory import METHOD
from analysis.read.runs import Run, label_tasks, task_names
from analysis.read.store import Tables, last_step
from analysis.report.page import Drawing, Section, Table, tables, with_interval

TITLE = "Memorization"
_ABOUT = (
    "Each probe of the injected texts, asked of checkpoints. Times seen: how often the run had injected the instance "
    "before the checkpoint's step. Bands and brackets: 95% intervals over instances, of ten or more: bootstrapped, of "
    "shares Wilson's."
)


def memory_section(stored: Tables, runs: Sequence[Run]) -> Section | None:
    """Against repetitions, forgetting and exposure, of the method's tables; None where there are none."""
    if "probes" not in stored:
        return None
    table = stored["probes"]
    names = [name for name in task_names(runs) if name in set(table["task"])]
    drawings, cells = [], []
    for task in names:
        means = figures.by_sightings(table, task)
        cells += _cells(task, means)
        if (figure := figures.repetitions(means)) is not None:
            caption = f"{task}: each measure at the last checkpoint, against how often an instance was seen."
            drawings.append(Drawing(f"repetitions-{task}", figure, caption, means))
        drawings += _forgetting(table, task)
        if (figure := figures.exposure(table, task)) is not None:
            data = last_step(table.loc[((table["task"] == task) & (table["measure"] == "exposure")).to_numpy(bool)])
            caption = (
                f"{task}: exposure of each canary at the last checkpoint, log2 of the number of candidates less log2 "
                "of its rank. Lines: means. Canaries that were never injected say what chance gives."
            )
            drawings.append(Drawing(f"exposure-{task}", figure, caption, data))
    shown = tables(Table("At the last checkpoint, by times seen", cells, ("run", "task", "measure")))
    command = f"olmo-inject analyze {METHOD} RUNS"
    return Section(TITLE, [_ABOUT], tables=shown, drawings=drawings, command=command)


def contamination_section(runs: Sequence[Run]) -> Section | None:
    """Injected against clean questions, from runs' own measurements; None where none measured both."""
    drawings, cells = [], []
    answered = label_tasks(runs)  # whose accuracy is of a LABEL, not of a choice
    for task in (name for name in task_names(runs) if name not in answered):
        measured = figures.contamination_rows(runs, task)
        if (figure := figures.contamination(measured, _chance(runs, task))) is None:
            continue
        caption = (
            f"{task}: accuracy on questions whose answers were injected, and on those that were not, with 95% Wilson "
            "intervals. Dotted: guessing."
        )
        drawings.append(Drawing(f"contamination-{task}", figure, caption, measured))
        last = measured.loc[measured["step"] == measured.groupby("run")["step"].transform("max")]
        for (run, measure), of in last.groupby(["run", "measure"], sort=False):
            halves = {
                row["half"]: with_interval(row["value"], row["low"], row["high"]) for row in of.to_dict("records")
            }
            cells.append({"run": str(run), "task": task, "measure": str(measure)} | halves)
    shown = tables(Table("Accuracy at the last evaluation (95% CI)", cells, ("run", "task", "measure")))
    return Section("Contamination", tables=shown, drawings=drawings) if drawings else None


def _chance(runs: Sequence[Run], task: str) -> float:
    """Accuracy of guessing, mean over a task's questions."""
    built = next(first for run in runs if (first := run.task(task)) is not None)
    return float(np.mean([1 / len(probe.options) for probe in built.probes if probe.kind == "choice"] or [0]))


def _forgetting(table: pd.DataFrame, task: str) -> list[Drawing]:
    measures = dict.fromkeys(table.loc[(table["task"] == task).to_numpy(bool), "measure"].tolist())
    # The passage itself, where probes ask for more than that.
    chosen = [name for name in measures if name in ("loss", "memorized_loss")]
    drawings = []
    for measure in chosen:
        means = figures.forgotten(table, task, measure)
        if (figure := figures.forgetting(means, measure)) is not None:
            caption = (
                f"{task}: {measure.replace('_', ' ')} at all checkpoints against steps since the instance was last "
                "seen, by how often it had been seen; bins double in width."
            )
            drawings.append(Drawing(f"forgetting-{task}", figure, caption, means))
    return drawings


def _cells(task: str, means: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "run": row["run"],
            "task": task,
            "measure": row["measure"],
            "times seen": str(row["seen"]),
            "mean (95% CI)": with_interval(row["value"], row["low"], row["high"]),
            "probes": str(row["n"]),
        }
        for row in means.to_dict("records")
    ]
