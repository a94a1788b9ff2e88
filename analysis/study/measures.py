"""What each cell comes to: one row a cell, from the collected measurements alone."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pyright: reportIndexIssue=false
from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.methods.retention import Retention, between
from analysis.study.collect import parts, read_cells, read_metrics
from analysis.study.statistics import interval_over_seeds

LAST_STEPS = 200  # over which the residual loss of the text is a mean
LEARNED_AUC = 0.9  # on unmirrored pairs, mean over the last dense evaluations (PLAN.md)
FORGOTTEN_OVER = 100  # steps, before the last injection and at the end, between whose means a task is forgotten
EVALUATED = {
    "label_mass": "label_mass",
    "within": "loss_among_labels_unmirrored",
    "auc": "auc",
    "auc_unmirrored": "auc_unmirrored",
    "accuracy_among": "accuracy_among_labels_unmirrored",
    "accuracy_unmirrored": "accuracy_unmirrored",
}
SHARES = ("label_mass", "auc", "auc_unmirrored", "accuracy_among", "accuracy_unmirrored")  # from 0 to 1
FEATURES = {  # columns of a cell's features, and what they are called here
    "order": {"amount": "order", "shuffled": "order_shuffled", "untrained": "order_untrained"},
    "fourier": {"distinct": "modes", "distinct_shuffled": "modes_shuffled", "amount": "modes_in_layers"},
}
REFERENCES = ("cos", "null", "among")  # g_r, that of permuted labels, that of the loss among the labels


def collected(results: Path) -> dict[str, pd.DataFrame]:
    """`sweep_table` of every sweep with results, by name."""
    return {folder.name: sweep_table(folder) for folder in parts(results)}


def sweep_table(folder: Path) -> pd.DataFrame:
    """One row for each collected cell of a sweep and each of its tasks.

    Columns: sweep, cell, task, kind, the axes' labels, passed (the audit), often (instances a batch), width, residual
    (of the text, nats a token, mean of the last steps); of the last window of evaluations the keys of `EVALUATED`; of
    the loss among the labels between bursts gain (nats), kept (share of it left at the next burst) and half_life
    (steps); cosines over all measured steps with each of `REFERENCES`: rest (g_nt; with its root mean square), injected
    (g_t), and batch (g) at steps that hold the task and between; the features of the last checkpoint: order (held-out
    R2) or modes (distinct Fourier modes), with their controls; alignment (interchange accuracy above the best control,
    mean over the values) and layer (of the MLP with the largest effect when patched). Where injections end before the
    run: at_stop (AUC of unmirrored pairs in the steps before), and forgotten (that less the same at the end, of cells
    that had learned the task).
    """
    rows = []
    for cell, series in cells_with_series(folder):
        for task in cell["tasks"]:
            about = {"sweep": cell["sweep"], "cell": cell["cell"], "task": task["name"], "kind": task["kind"]}
            about |= cell["labels"] | {"passed": cell["audit"]["passed"], "often": _often(cell, task["name"])}
            rows.append(about | _row(series, cell, task["name"]))
    return pd.DataFrame(rows)


def cells_with_series(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, pd.Series]]]:
    """Each collected cell of a sweep with `series_of` its measurements."""
    by_cell = {str(name): group for name, group in read_metrics(folder).groupby("cell", observed=True)}
    return ((cell, series_of(by_cell[cell["cell"]])) for cell in read_cells(folder))


def series_of(metrics: pd.DataFrame) -> dict[str, pd.Series]:
    """The measurements of one cell by name, each indexed by step, ascending."""
    return {
        str(name): pd.Series(group["value"].to_numpy(float), group["step"].to_numpy(int)).sort_index()
        for name, group in metrics.groupby("name", observed=True)
    }


def bursts_of(cell: dict[str, Any], task: str) -> list[int]:
    """The steps whose batches hold the task, if it comes in bursts; otherwise nothing.

    The step after the last counts where it would hold one: weights are evaluated there too, so it closes a gap.
    """
    entry = cell["injections"].get(task)
    if entry is None or entry["schedule"] != "burst":
        return []
    last = cell["steps"] if entry["stop"] is None else min(cell["steps"], entry["stop"] - 1)
    return [step for step in range(entry["start"], last + 1) if step % entry["every"] == entry["phase"]]


def retained(series: dict[str, pd.Series], cell: dict[str, Any], task: str) -> Retention | None:
    """What a cell keeps between the bursts of the last window, of the loss among the labels on unmirrored test pairs.

    Args:
        series: the cell's measurements, of `series_of`.
        cell: its record.
        task: name of the task.

    Returns:
        None without bursts or without that loss.
    """
    losses = series.get(f"eval/{task}/test/loss_among_labels_unmirrored")
    bursts = [step for step in bursts_of(cell, task) if step >= cell["steps"] - cell["window"]]
    return None if losses is None else between(bursts, losses)


def _row(series: dict[str, pd.Series], cell: dict[str, Any], task: str) -> dict[str, Any]:
    test = f"eval/{task}/test/"
    row: dict[str, Any] = {"steps": cell["steps"], "width": cell["width"]}
    text = series.get("train/lm_loss")
    row["residual"] = np.nan if text is None else text[text.index >= cell["steps"] - LAST_STEPS].mean()
    for name, of in EVALUATED.items():
        row[name] = _last_window(series.get(test + of), cell)
    row["train_within"] = _last_window(series.get(f"eval/{task}/train/loss_among_labels"), cell)
    kept = retained(series, cell, task)
    row |= {"gain": np.nan, "kept": np.nan, "half_life": np.nan}
    if kept is not None:
        gain = float(kept.mean.max())
        share = float(kept.mean[-1]) / gain if gain > 0 else np.nan  # of no gain nothing can be kept
        row |= {"gain": gain, "kept": share, "half_life": np.nan if kept.half_life is None else kept.half_life}
    for feature in cell["features"]:
        if feature["task"] == task:
            row |= {name: feature[column] for column, name in FEATURES[feature["feature"]].items()}
    return row | _forgotten(series, cell, task) | _interventions(cell, task) | _cosines(series, cell, task)


def _forgotten(series: dict[str, pd.Series], cell: dict[str, Any], task: str) -> dict[str, float]:
    stop = cell["injections"].get(task, {}).get("stop")
    auc = series.get(f"eval/{task}/test/auc_unmirrored", pd.Series(dtype=float))
    if stop is None or stop >= cell["steps"]:
        return {"at_stop": np.nan, "forgotten": np.nan}
    at_stop, at_end = (
        float(auc[(auc.index > end - FORGOTTEN_OVER) & (auc.index <= end)].mean()) for end in (stop, cell["steps"])
    )
    return {"at_stop": at_stop, "forgotten": at_stop - at_end if at_stop >= LEARNED_AUC else np.nan}


def _interventions(cell: dict[str, Any], task: str) -> dict[str, float]:
    """How far alignment search is above its controls, mean over values, and the MLP on which the task depends most."""
    ahead = [one["accuracy"] - one["control"] for one in cell["alignment"] if one["task"] == task]
    effects = {one["layer"]: one["effect"] for one in cell["patching"] if one["task"] == task}
    layer = max(effects, key=lambda layer: effects[layer]) if effects else np.nan
    return {"alignment": float(np.mean(ahead)) if ahead else np.nan, "layer": layer}


def _last_window(values: pd.Series | None, cell: dict[str, Any]) -> float:
    """The mean over the evaluations of the last dense window, whole gaps between bursts."""
    if values is None or values.empty:
        return np.nan
    return float(values[values.index > cell["steps"] - cell["window"]].mean())


def _cosines(series: dict[str, pd.Series], cell: dict[str, Any], task: str) -> dict[str, float]:
    """Means over all measured steps, and for g_nt the root mean square, which the null has too."""
    row = {}
    for reference in REFERENCES:
        rest = series.get(f"gradient/{task}/{reference}_rest", pd.Series(dtype=float))
        row[f"rest_{reference}"] = float(rest.mean()) if len(rest) else np.nan
        row[f"rest_{reference}_rms"] = float(np.sqrt((rest**2).mean())) if len(rest) else np.nan
        injected = series.get(f"gradient/{task}/{reference}_injected", pd.Series(dtype=float))
        row[f"injected_{reference}"] = float(injected.mean()) if len(injected) else np.nan
        batch = series.get(f"gradient/{task}/{reference}_batch", pd.Series(dtype=float))
        holds = batch.index.isin(injected.index)
        row[f"batch_{reference}"] = float(batch[holds].mean()) if holds.any() else np.nan
        row[f"batch_{reference}_between"] = float(batch[~holds].mean()) if (~holds).any() else np.nan
    return row


def _often(cell: dict[str, Any], task: str) -> float:
    """Instances a batch in the long run."""
    entry = cell["injections"].get(task)
    if entry is None:
        return 0.0
    if entry["schedule"] == "burst":
        return entry["instances"] / entry["every"]
    if entry["schedule"] == "phases":
        steps = cell["steps"]
        lengths = [(steps if phase["stop"] is None else phase["stop"]) - phase["start"] for phase in entry["phases"]]
        rates = [Fraction(str(phase["instances_per_batch"])) for phase in entry["phases"]]
        return float(sum(map(operator.mul, rates, lengths)) / steps)
    return float(Fraction(str(entry["instances_per_batch"])))


def over_seeds(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Mean over seeds with Student's 95% interval, and how many seeds; one row for each combination of `by`.

    Columns: `by`, seeds, and for each column NAME, NAME_low and NAME_high: NaN with one seed, and between 0 and 1 for
    those in `SHARES`.
    """
    rows = []
    for place, group in table.groupby(list(by), sort=True):
        row: dict[str, Any] = dict(zip(by, place, strict=True)) | {"seeds": group["seed"].nunique()}
        for column in columns:
            limits = (0, 1) if column in SHARES else (-np.inf, np.inf)
            mean, low, high = interval_over_seeds(group[column].dropna().to_numpy(float), limits)
            row |= {column: mean, f"{column}_low": low, f"{column}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)
