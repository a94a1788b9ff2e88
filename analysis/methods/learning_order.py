"""Whether tasks are learned in the order of their frequency (docs/study.md, Fig. 6a).

A task counts as learned from the first evaluation from which on, there and at every later one, the lower end of the 95%
interval of its accuracy on unmirrored test pairs is above the criterion of its kind (`runs.LEARNED_ABOVE`). A task that
is never learned comes last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.read.conditions import beside
from analysis.read.runs import Run
from analysis.read.store import rows
from analysis.stats import rank_correlation

FEWEST = 3  # an order needs at least this many different frequencies
FEWEST_LEARNED = 2  # one learned task shows which came first, not an order


def learned_from(run: Run, task: str) -> int | None:
    """The step from which on the task is learned. None if it is not learned, not measured or has no criterion."""
    first = None
    for step, learned in reversed(run.verdicts(task).items()):
        if not learned:
            break
        first = step
    return first


def learning_order(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each injected task of each run: its frequency, and the step from which it is learned or NaN.

    Column `text` says what a run trains on beside its tasks; it is left out if all runs have one text.
    """
    texts = beside(runs)
    return pd.DataFrame(
        {
            "run": run.name,
            "folder": str(run.folder),
            "model": run.size,
            **({"text": texts[run]} if texts[run] else {}),
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
    """Rank correlation of frequency with how early a task is learned, and its p-value.

    Tasks that are never learned share the last rank. +1 means that more frequent tasks are learned earlier. None if
    there is nothing to order: fewer than three frequencies, fewer than two learned, or all learned at the same step.
    """
    earliness = -order["learned_from"].fillna(np.inf).to_numpy(float)
    frequency = order["per_batch"].to_numpy(float)
    if order["learned_from"].notna().sum() < FEWEST_LEARNED or len(np.unique(earliness)) < 2:
        return None
    if len(np.unique(frequency)) < FEWEST:
        return None
    return rank_correlation(frequency, earliness)


def order_table(order: pd.DataFrame) -> pd.DataFrame:
    """The correlation of frequency with order of learning, for each model size, text and kind of task.

    Columns: model, text (if texts differ), kind, tasks (number of tasks, each counted in each run), frequencies,
    learned (how many of these tasks were learned), correlation and p. The last two are missing if fewer than three
    frequencies were tried, fewer than two tasks were learned, or all were learned at the same step.
    """
    even = order.iloc[:0] if order.empty else rows(order, evenly=True)
    keys = [column for column in ("model", "text", "kind") if column in even]
    correlations = []
    for _, group in even.groupby(keys, sort=False):
        correlation, p = order_correlation(group) or (np.nan, np.nan)
        correlations.append(
            {
                **{key: group[key].iloc[0] for key in keys},
                "tasks": len(group),
                "frequencies": group["per_batch"].nunique(),
                "learned": int(group["learned_from"].notna().sum()),
                "correlation": correlation,
                "p": p,
            }
        )
    return pd.DataFrame(correlations)
