"""Measured losses as a table, from run folders or a CSV, for fits and estimates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from olmo_inject.entry_names import task_of_entry
from olmo_inject.errors import UserError, in_one_line
from olmo_inject.utils.yaml_text import plain_value, read_yaml

EXPERIMENT, PLAN, METRICS = "experiment.yaml", "plan.json", "metrics.jsonl"

QUANTITIES = {
    "size": "parameters without the input embedding",
    "width": "d_model",
    "data": "tokens seen",
    "frequency": "instances per batch",
}
CORPUS = "corpus"
"""The name of the loss on all tokens that were not injected."""


def read_measurements(paths: Sequence[Path]) -> pd.DataFrame:
    """One row per measured loss: run, task, size, width, data, frequency and loss, as far as they are known.

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
    """The rows of one task; None: of the only task.

    Raises:
        UserError: there is no such task, or there are several and none was named.
    """
    known = sorted(table["task"].unique())
    if task is None and len(known) > 1:
        raise UserError(f"name the task whose loss is meant with --task, one of {', '.join(known)}")
    if task is not None and task not in known:
        raise UserError(f"no loss of task {task!r} was measured: there are {', '.join(known)}")
    return table if task is None else selected(table, table["task"] == task)


def column(table: pd.DataFrame, name: str, least: float | None = None) -> Float[np.ndarray, " n"]:
    """One column as numbers above zero, or of at least `least`.

    Args:
        table: of `read_measurements`.
        name: of the column.
        least: the least number allowed; any above zero where None.

    Raises:
        UserError: it is not known, or holds anything else.
    """
    if name not in table:
        raise UserError(f"the measurements have no column {name!r}: they have {', '.join(table.columns)}")
    given = table[name].astype(str) if table[name].dtype == bool else table[name]
    values = np.asarray(pd.to_numeric(given, errors="coerce"), dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0 if least is None else values >= least)))
    if len(wrong):
        limit = "above 0" if least is None else f"of {least:g} or more"
        got = f"{table[name].iloc[wrong[0]]} in data row {table.index[wrong[0]] + 1}"
        raise UserError(f"column {name!r} must hold numbers {limit}, got {got}")
    return values


def selected(table: pd.DataFrame, where: Any) -> pd.DataFrame:
    """The rows for which a condition holds."""
    return pd.DataFrame(table.loc[np.asarray(where, dtype=bool)])


def last_of_each_run(table: pd.DataFrame) -> pd.DataFrame:
    """For every run and task the row with the most data; all rows if runs or data are not given."""
    if not {"run", "data"} <= set(table.columns):
        return table
    rising = table.iloc[np.argsort(column(table, "data"), kind="stable")]
    return selected(rising, ~rising.duplicated(["run", "task"], keep="last"))


def _from_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"cannot read {path} as CSV: {in_one_line(error)}") from None
    if "loss" not in table or table.empty:
        raise UserError(f"{path} must have a column loss and one or more rows; it has {', '.join(table.columns)}")
    if "task" not in table:
        table["task"] = CORPUS
    table["task"] = table["task"].astype(str)
    return table


def _from_runs(paths: Sequence[Path]) -> pd.DataFrame:
    tables = [_of_run(folder) for folder in _run_folders(paths)]
    joined = [table for table in tables if len(table)]
    if not joined:
        raise UserError(f"no loss was measured in {', '.join(map(str, paths))}")
    table = pd.concat(joined, ignore_index=True)
    return selected(table, table["data"] > 0)


def _run_folders(paths: Sequence[Path]) -> list[Path]:
    """Each path that is a run's folder, or the runs directly below one that is not, or below its `runs`."""
    folders: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        below = [] if (path / PLAN).is_file() else sorted(path.glob(f"*/{PLAN}")) or sorted(path.glob(f"runs/*/{PLAN}"))
        if not below and not (path / PLAN).is_file():
            raise UserError(f"{path} holds no run: a run's folder has {EXPERIMENT}, {PLAN} and {METRICS}")
        folders += [file.parent for file in below] or [path]
    return list(dict.fromkeys(folders))


def _of_run(folder: Path) -> pd.DataFrame:
    """What a run measured, read from its files alone."""
    try:
        plan = json.loads((folder / PLAN).read_text())
        lines = (folder / METRICS).read_text().splitlines() if (folder / METRICS).exists() else []
        # A run that was interrupted, or is still running, may end with half a line.
        metrics = [json.loads(line) for line in lines if line.endswith("}")]
        width, size = _model_size(read_yaml(folder / EXPERIMENT)["model"])
        per_step = int(plan["batch_size"]) * int(plan["sequence_length"])
        injections = plan["injections"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read the run {folder}: {in_one_line(error)}") from None
    planned: dict[str, list[dict[str, Any]]] = {}
    for name, entry in injections.items():
        planned.setdefault(task_of_entry(name), []).append(entry)
    injected = {task: _frequency_and_gap(entries) for task, entries in planned.items()}
    rows = []
    for line in metrics:
        parts = str(line.get("name")).split("/")
        corpus = parts == ["train", "lm_loss"]
        if line.get("value") is None or not (corpus or (parts[0] == "eval" and parts[2:] == ["train", "loss"])):
            continue
        task = CORPUS if corpus else parts[1]
        frequency, gap = injected.get(task, (0.0, None))
        rows.append(
            {
                "run": folder.name,
                "task": task,
                "size": size,
                "width": width,
                # An evaluation at step s comes after s steps; a training loss at step s belongs to the next step.
                "data": per_step * (int(line["step"]) + corpus),
                "frequency": frequency,
                "gap": gap,
                "loss": float(line["value"]),
            }
        )
    return pd.DataFrame(rows)


def _frequency_and_gap(entries: Sequence[Mapping[str, Any]]) -> tuple[float, float | None]:
    """Of a task's entries: instances per batch of all, and the mean steps between batches of the most frequent."""
    rates = [Fraction(str(entry.get("instances_per_batch", 0))) for entry in entries]
    most = entries[rates.index(max(rates))]
    return float(sum(rates)), (most.get("steps_between_observations") or {}).get("mean")


def _model_size(model: Mapping[str, Any]) -> tuple[int, int]:
    """d_model, and the parameters of an OLMo without biases, all but the input embedding."""

    def value(name: str, default: Any = None) -> Any:
        setting = plain_value(str(model[name])) if model.get(name) is not None else default
        return default if setting is None or setting == "null" else setting

    width, heads = int(value("d_model")), int(value("n_heads"))
    keys = int(value("n_kv_heads", heads)) * (width // heads)
    hidden = int(value("mlp_hidden_size", int(value("mlp_ratio", 4)) * width))
    out = hidden // 2 if value("activation_type", "swiglu") == "swiglu" else hidden
    layer = width * (width + 2 * keys) + width**2 + width * hidden + out * width
    head = 0 if value("weight_tying", False) else width * int(value("embedding_size", value("vocab_size")))
    return width, int(value("n_layers")) * layer + head
