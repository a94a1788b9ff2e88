"""Gradient cosines that runs measured while training, as a table like that of the method `gradients`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.read.runs import Run

# gradient/TASK/MEASURE_KIND, or .../MEASURE_KIND/OF of one task's gradient: see `GradientCosines`.
_NAME = r"gradient/(?P<task>[^/]+)/(?P<measure>[a-z]+)_(?P<kind>batch|injected|rest|reference)(?:/(?P<of>[^/]+))?"
_KEYS = ["step", "task", "kind", "of"]


def in_run_cosines(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each run, step, task and other gradient; empty if no run measured any.

    Columns: run, folder, model, step, task, kind and of (the other gradient), cosine, the other measures by name (such
    as `norm`), instances (of `task` in the step's batch), mlp and neurons.
    """
    tables = [table for run in runs if len(table := _of_run(run))]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _of_run(run: Run) -> pd.DataFrame:
    names = run.metrics["name"].astype(str).str.extract(re.compile(f"^{_NAME}$"))
    measured = names["task"].notna()
    config = getattr(run.experiment, "gradients", None)  # only runs of ai2-olmo's trainer have it
    if not measured.any() or config is None:
        return pd.DataFrame()
    long = pd.concat([run.metrics.loc[measured, ["step", "value"]], names.loc[measured].fillna({"of": ""})], axis=1)
    wide = long.pivot_table(index=_KEYS, columns="measure", values="value", sort=True).reset_index()
    wide = wide.rename(columns={"cos": "cosine"}).rename_axis(columns=None)
    about = {"run": run.name, "folder": str(run.folder), "model": run.size}
    counts = {task: _counts(run, task) for task in wide["task"].unique()}
    instances = [counts[task][step] for task, step in zip(wide["task"], wide["step"], strict=True)]
    table = pd.DataFrame(about, index=wide.index).join(wide)
    return table.assign(instances=instances, mlp=config.layer, neurons=config.neurons)


def _counts(run: Run, task: str) -> np.ndarray:
    """How many instances of a task each step's batch holds."""
    return np.array([run.injected_in(task, step) for step in range(run.steps_done + 1)], int)
