"""Effective utilities of the tasks that runs injected, from the losses they measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import listed
from olmo_inject.theory.measurements import CORPUS, column, last_of_each_run, read_measurements, selected
from olmo_inject.theory.prediction.estimate import Cells, UtilityEstimate, estimate_utilities, matched_cells


@dataclass(frozen=True, eq=False)
class MeasuredTask:
    """A task's last loss in every run, and the estimate that they give.

    Args:
        name: of the task.
        widths: d_model of every run.
        frequencies: instances per batch of every run.
        losses: measured.
        estimate: of all runs.
    """

    name: str
    widths: Cells
    frequencies: Cells
    losses: Cells
    estimate: UtilityEstimate

    def cells(self) -> dict[tuple[float, float], float]:
        """The mean loss of all runs of the same width and frequency, by (width, frequency)."""
        places = sorted(set(zip(self.widths.tolist(), self.frequencies.tolist(), strict=True)))
        return {
            (width, rate): float(self.losses[(self.widths == width) & (self.frequencies == rate)].mean())
            for width, rate in places
        }


def estimate_from_runs(paths: Sequence[Path]) -> list[MeasuredTask]:
    """Estimate the effective utilities of every task that some runs injected.

    Each run counts with the last loss it measured of a task. Runs that inject it in bursts are left out.

    Args:
        paths: run folders, or folders of them; or one CSV with the columns width, frequency and loss, and task
            if there are several.

    Raises:
        UserError: a file cannot be read, no task was injected, or a task has too few runs to estimate from.
    """
    points = last_of_each_run(read_measurements([Path(path) for path in listed("paths", paths)]))
    if (points["task"] != CORPUS).any():
        points = selected(points, points["task"] != CORPUS)
    measured = []
    for task in points["task"].unique():
        rows = _usable(selected(points, points["task"] == task))
        if rows.empty:
            continue
        columns = column(rows, "width"), column(rows, "frequency"), column(rows, "loss", least=0)
        try:
            measured.append(MeasuredTask(str(task), *columns, estimate_utilities(*columns)))
        except UserError as error:
            raise UserError(f"task {task}: {error}") from None
    if not measured:
        raise UserError("no injected task has a measured loss, apart from bursts: those are another question")
    return measured


def _usable(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs that inject the task, and not in bursts."""
    if "frequency" in rows:
        rows = selected(rows, rows["frequency"] > 0)
    if "gap" in rows and len(rows):
        rows = selected(rows, matched_cells(rows["frequency"].to_numpy(float), rows["gap"].to_numpy(float)))
    return rows
