"""Whether tasks are learned in the order of their frequency (docs/study.md, Fig. 6a).

A task is learned at the first evaluation from which on, at every later one too, the lower end of the 95% interval of
its accuracy on unmirrored test pairs lies above the criterion of its kind (`runs.LEARNED_ABOVE`). What was never
learned comes last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.read.runs import Run
from analysis.read.store import rows
from analysis.stats import rank_correlation

FEWEST = 3  # different frequencies that an order needs
FEWEST_LEARNED = 2  # one alone says which task came first, not in what order


def learned_from(run: Run, task: str) -> int | None:
    """The step from which on the task is learned; None if it is not, or is not measured or has no criterion."""
    first = None
    for step, learned in reversed(run.verdicts(task).items()):
        if not learned:
            break
        first = step
    return first


def learning_order(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each injected task of each run: its frequency, and the step from which it is learned or NaN."""
    return pd.DataFrame(
        {
            "run": run.name,
            "folder": str(run.folder),
            "model": run.size,
            "task": task.name,
            "kind": task.config.kind,
            "evenly": run.evenly_injected(task.name),
            "per_batch": float(run.frequency(task.name).per_batch),
            "learned_from": np.nan if (step := learned_from(run, task.name)) is None else float(step),
            "steps": run.steps_done,
        }
        for run in runs
        for task in run.tasks
        if run.learned(task.name) is not None and run.injection(task.name) is not None
    )


def order_correlation(order: pd.DataFrame) -> tuple[float, float] | None:
    """Rank correlation of frequency with how early a task is learned, and its p; None where nothing is to be ordered.

    Those never learned share the last rank; at least two must be learned. +1: the more frequent, the earlier.
    """
    earliness = -order["learned_from"].fillna(np.inf).to_numpy(float)
    frequency = order["per_batch"].to_numpy(float)
    if order["learned_from"].notna().sum() < FEWEST_LEARNED or len(np.unique(earliness)) < 2:
        return None
    if len(np.unique(frequency)) < FEWEST:
        return None
    return rank_correlation(frequency, earliness)


def order_table(order: pd.DataFrame) -> pd.DataFrame:
    """The correlation of frequency with order of learning, for each model size and kind of task.

    Columns: model, kind, runs, frequencies, learned (how many runs), correlation and p; both absent where fewer than
    three frequencies were tried, fewer than two runs learned the task, or all learned it at the same step.
    """
    even = order.iloc[:0] if order.empty else rows(order, evenly=True)
    found = []
    for _, group in even.groupby(["model", "kind"], sort=False):
        correlation, p = order_correlation(group) or (np.nan, np.nan)
        found.append(
            {
                "model": group["model"].iloc[0],
                "kind": group["kind"].iloc[0],
                "runs": len(group),
                "frequencies": group["per_batch"].nunique(),
                "learned": int(group["learned_from"].notna().sum()),
                "correlation": correlation,
                "p": p,
            }
        )
    return pd.DataFrame(found)
