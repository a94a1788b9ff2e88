"""Measured losses as a table, from run folders or a CSV: what fits and estimates start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from olmo_inject.errors import UserError
from olmo_inject.theory.inputs import numbers

QUANTITIES = {
    "size": "parameters without the input embedding",
    "width": "d_model",
    "data": "tokens seen",
    "frequency": "instances per batch",
}
CORPUS = "corpus"
"""The name of the loss on all tokens that were not injected."""


def read_measurements(paths: Sequence[Path]) -> pd.DataFrame:
    """A row per measured loss: run, task, size, width, data, frequency and loss, as far as they are known.

    Args:
        paths: one CSV with these columns, of which `loss` is needed; or run folders, or folders of them.

    Raises:
        UserError: a file cannot be read, or there is no loss in it.
    """
    if not paths:
        raise UserError("name one CSV or one or more run folders")
    if any(path.is_file() for path in paths):
        if len(paths) > 1:
            raise UserError(f"name one CSV, or run folders; got {len(paths)} paths of which {paths[0]} is a file")
        return _from_csv(paths[0])
    return _from_runs(paths)


def of_task(table: pd.DataFrame, task: str | None) -> pd.DataFrame:
    """The rows of one task; of the only one where None.

    Raises:
        UserError: there is no such task, or there are several and none was named.
    """
    known = sorted(table["task"].unique())
    if task is None and len(known) > 1:
        raise UserError(f"name the task whose loss is meant with --task, one of {', '.join(known)}")
    if task is not None and task not in known:
        raise UserError(f"no loss of task {task!r} was measured: there are {', '.join(known)}")
    return table if task is None else table[table["task"] == task]


def column(table: pd.DataFrame, name: str, least: float | None = None) -> Float[np.ndarray, " n"]:
    """One column as numbers above zero, or of `least` or more.

    Raises:
        UserError: it is not known, or holds anything else.
    """
    if name not in table:
        raise UserError(f"the measurements have no column {name!r}: they have {', '.join(table.columns)}")
    return numbers(f"column {name!r}", table[name].to_numpy(), at_least=least, above=0 if least is None else None)


def last_of_each_run(table: pd.DataFrame) -> pd.DataFrame:
    """Of every run and task the row of most data; all rows where runs or data are not told apart."""
    if not {"run", "data"} <= set(table.columns):
        return table
    return table.sort_values("data", kind="stable").groupby(["run", "task"], sort=False).tail(1)


def _from_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"cannot read {path} as CSV: {' '.join(str(error).split())}") from None
    if "loss" not in table or table.empty:
        raise UserError(f"{path} must have a column loss and one or more rows; it has {', '.join(table.columns)}")
    if "task" not in table:
        table["task"] = CORPUS
    table["task"] = table["task"].astype(str)
    return table


def _from_runs(paths: Sequence[Path]) -> pd.DataFrame:
    from analysis.runs import read_runs  # the reader of the analyses, some seconds of imports
    from olmo_inject.run_folder import expand

    rows = []
    for run in read_runs(expand(paths)):
        experiment = run.experiment
        per_step = experiment.batch_size * experiment.sequence_length
        known = {"run": run.name, "size": run.parameters, "width": experiment.model.d_model}
        names = {CORPUS: "train/lm_loss"} | {task.name: f"eval/{task.name}/train/loss" for task in run.tasks}
        for task, metric in names.items():
            frequency = 0.0 if task == CORPUS else float(run.frequency(task).per_batch)
            gap = None if task == CORPUS else run.gap(task)
            for step, loss in run.series(metric).dropna().items():
                # An evaluation of step s comes after s steps, a training loss of step s is the next one's.
                seen = per_step * (int(str(step)) + (task == CORPUS))
                rows.append({**known, "task": task, "data": seen, "frequency": frequency, "gap": gap, "loss": loss})
    if not rows:
        raise UserError(f"no loss was measured in {', '.join(map(str, paths))}")
    table = pd.DataFrame(rows)
    return table[table["data"] > 0]
