"""How much of a task's feature a checkpoint has, as one number, and how that number varies over runs.

The amount of order is the held-out R2 of the order probe at the first block's output, from balanced activations. The R2
from plain means stands beside it; plain means lie in order even if every pair was learned by heart. The amount of
Fourier modes is the number of modes present, each counted once per layer (docs/study.md, Fig. 7: the total over
layers). The number of distinct modes stands beside it, which can be compared between models of different depth. Both
are measured at TOK2, for TOK2's own value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.methods.features import BALANCED, ORDER, PLAIN
from analysis.read.conditions import beside, schedule_label
from analysis.read.runs import Run
from analysis.read.store import Tables, last_step, rows
from analysis.stats import rank_correlation

HEADLINE_SITE = "TOK2 at TOK2"
HEADLINE_LAYER = 1
FEWEST = 4  # different sizes or frequencies that a rank correlation needs
RUN = ["folder", "run", "model", "step", "task"]  # columns that identify a row of amounts


def amounts(tables: Tables, feature: str) -> pd.DataFrame:
    """One row for each checkpoint and task: `amount`, its interval if it has one, and its two controls.

    Args:
        tables: tables of the method `features`, joined over checkpoints.
        feature: `order` or `fourier`.
    """
    table = tables.get("order" if feature == ORDER else "modes")
    if table is None:
        return pd.DataFrame(columns=[*RUN, "feature", "amount", "low", "high", "untrained", "shuffled"])
    of = _headline if feature == ORDER else _counted
    trained, untrained = (of(rows(table, site=HEADLINE_SITE, weights=weights)) for weights in ("trained", "untrained"))
    control = pd.DataFrame({**{column: untrained[column] for column in RUN}, "untrained": untrained["amount"]})
    return trained.merge(control, on=RUN).assign(feature=feature)


def _headline(order: pd.DataFrame) -> pd.DataFrame:
    chosen = rows(order, headline=True, layer=HEADLINE_LAYER)
    columns = {"amount": "held_out", "low": "low", "high": "high", "shuffled": "shuffled_held_out"}
    headline = _columns(chosen, columns)
    plain = rows(order, means=PLAIN, layer=HEADLINE_LAYER)
    headline = headline.merge(_columns(plain, {"plain": "held_out"}), on=RUN)
    fewer = rows(order, means=BALANCED, headline=False, layer=HEADLINE_LAYER)
    best = fewer.loc[fewer.groupby(RUN)["held_out"].idxmax()]
    names = {"fewer": "components", "of_fewer": "held_out", "shuffled_of_fewer": "shuffled_held_out"}
    return headline.merge(_columns(best, names), on=RUN, how="left")


def _columns(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The identifying columns, and those columns of `table` that `names` lists, renamed to its keys."""
    chosen = {column: column for column in RUN} | dict(names)
    return pd.DataFrame({new: table[old] for new, old in chosen.items()})


def _counted(modes: pd.DataFrame) -> pd.DataFrame:
    grouped = modes.groupby(RUN, sort=False)
    counts = grouped.agg(
        amount=("present", "sum"), shuffled=("present_shuffled", "sum"), layers=("layer", "nunique")
    ).reset_index()
    present = modes.loc[modes["present"].to_numpy(bool)].groupby(RUN)
    modes_of = present.agg(modes=("mode", lambda of: sorted(set(of)))).reset_index()
    counts = counts.merge(modes_of, on=RUN, how="left")
    for column, there in (("distinct", "present"), ("distinct_shuffled", "present_shuffled")):
        once = modes.groupby([*RUN, "mode"], sort=False).agg(once=(there, "any")).groupby(RUN, sort=False)
        counts = counts.merge(once.agg(**{column: ("once", "sum")}).reset_index(), on=RUN)
    return counts.assign(low=np.nan, high=np.nan)


def distinct_modes(table: pd.DataFrame) -> pd.DataFrame:
    """Amounts of Fourier modes with the number of distinct modes as `amount`, instead of the total over layers."""
    return table.assign(amount=table["distinct"], shuffled=table["distinct_shuffled"])


def with_schedules(table: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Add what the run says of each task: `per_batch`, `evenly`, `schedule`, `parameters` of the model, and `text`.

    The text is empty if all runs have one.
    """
    by_folder = {str(run.folder): run for run in runs}
    texts = beside(runs)
    described = []
    for row in table.to_dict("records"):
        if (run := by_folder.get(row["folder"])) is not None:
            row |= {
                "per_batch": float(run.frequency(row["task"]).per_batch),
                "evenly": run.evenly_injected(row["task"]),
                "schedule": schedule_label(run, row["task"]),
                "text": texts[run],
                "parameters": run.parameters,
            }
            described.append(row)
    return pd.DataFrame(described)


def trends(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations of the amount with model size at each frequency, and with frequency at each size; by text.

    Only the last checkpoints of evenly injected runs count. A correlation needs at least four sizes or frequencies, and
    amounts that differ.

    Args:
        table: amounts with schedules, for one task and feature.

    Returns:
        Columns: amount (name of the amount), against, at, runs, correlation and p.
    """
    last = last_step(table)
    even = rows(last, evenly=True)
    measures = {"order (R2)": even}
    if "distinct" in even:
        measures = {"distinct Fourier modes": distinct_modes(even)}
        if last["layers"].nunique() == 1:
            measures["Fourier modes, summed over layers"] = even
    correlations = []
    for what, of in measures.items():
        for against, column, same in (("model size", "parameters", "schedule"), ("frequency", "per_batch", "model")):
            for _, group in of.groupby([same, "text"], sort=False):
                at = " ".join(filter(None, group.iloc[0][[same, "text"]]))
                x, amount = group[column].to_numpy(float), group["amount"].to_numpy(float)
                if len(np.unique(x)) >= FEWEST and len(np.unique(amount)) > 1:
                    correlation, p = rank_correlation(x, amount)
                    about = {"amount": what, "against": against, "at": at, "runs": len(group)}
                    correlations.append({**about, "correlation": correlation, "p": p})
    return pd.DataFrame(correlations)
