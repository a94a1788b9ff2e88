"""How much of a task's feature a checkpoint has, in one number, and what a set of runs shows of it.

The amount of order is the held-out R2 of the order probe at the first block's output, from balanced activations;
beside it that from plain means, which lie in order also where every pair was learned by heart. The amount of Fourier
modes is the number of modes present, a mode once for each layer (the study's Fig. 7: the total over layers), and beside
it that of distinct modes, which can be compared between models of different depth. Both at TOK2, of its own value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.methods.features import BALANCED, ORDER, PLAIN
from analysis.read.runs import Run
from analysis.read.store import Tables, last_step, rows
from analysis.stats import format_correlation, rank_correlation
from olmo_inject.words import counted

HEADLINE_SITE = "TOK2 at TOK2"
HEADLINE_LAYER = 1
FEWEST = 4  # sizes or frequencies that a rank correlation is said of
RUN = ["folder", "run", "model", "step", "task"]  # what a row of amounts is of


def amounts(tables: Tables, feature: str) -> pd.DataFrame:
    """One row for each checkpoint and task: `amount`, its interval where it has one, and the two controls.

    Args:
        tables: of the method `features`, joined over checkpoints.
        feature: `order` or `fourier`.
    """
    table = tables.get("order" if feature == ORDER else "modes")
    if table is None:
        return pd.DataFrame(columns=[*RUN, "feature", "amount", "low", "high", "random", "shuffled"])
    of = _headline if feature == ORDER else _counted
    trained, random = (of(rows(table, site=HEADLINE_SITE, weights=weights)) for weights in ("trained", "random"))
    control = pd.DataFrame({**{column: random[column] for column in RUN}, "random": random["amount"]})
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
    """Of which run, and the columns of `table` that `names` has, under its keys."""
    chosen = {column: column for column in RUN} | dict(names)
    return pd.DataFrame({new: table[old] for new, old in chosen.items()})


def _counted(modes: pd.DataFrame) -> pd.DataFrame:
    grouped = modes.groupby(RUN, sort=False)
    counts = grouped.agg(
        amount=("present", "sum"), shuffled=("present_shuffled", "sum"), layers=("layer", "nunique")
    ).reset_index()
    present = modes.loc[modes["present"].to_numpy(bool)].groupby(RUN)
    found = present.agg(modes=("mode", lambda of: sorted(set(of)))).reset_index()
    counts = counts.merge(found, on=RUN, how="left")
    for column, there in (("distinct", "present"), ("distinct_shuffled", "present_shuffled")):
        once = modes.groupby([*RUN, "mode"], sort=False).agg(once=(there, "any")).groupby(RUN, sort=False)
        counts = counts.merge(once.agg(**{column: ("once", "sum")}).reset_index(), on=RUN)
    return counts.assign(low=np.nan, high=np.nan)


def distinct_modes(found: pd.DataFrame) -> pd.DataFrame:
    """Amounts of Fourier modes with the distinct ones as the amount, in place of their total over layers."""
    return found.assign(amount=found["distinct"], shuffled=found["distinct_shuffled"])


def with_schedules(found: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Amounts with what each run says of its task: `per_batch`, `evenly`, `schedule` and the model's parameters."""
    by_folder = {str(run.folder): run for run in runs}
    described = []
    for row in found.to_dict("records"):
        if (run := by_folder.get(row["folder"])) is not None:
            row |= {
                "per_batch": float(run.frequency(row["task"]).per_batch),
                "evenly": run.evenly_injected(row["task"]),
                "schedule": run.schedule_label(row["task"]),
                "parameters": run.parameters,
            }
            described.append(row)
    return pd.DataFrame(described)


def sentences(found: pd.DataFrame) -> Iterator[str]:
    """What amounts say: one sentence on the last checkpoint of each run, then the trend over runs."""
    for task, feature in dict.fromkeys(zip(found["task"], found["feature"], strict=True)):
        last = last_step(rows(found, task=task, feature=feature))
        for row in last.to_dict("records"):
            yield f"{row['run']}, {_when(row['step'])}: {_amount(task, feature, row)}."
        if feature == ORDER:
            yield from _trend(task, "amount of order", last)
        else:
            yield from _trend(task, "number of distinct Fourier modes", distinct_modes(last))
            if last["layers"].nunique() == 1:
                yield from _trend(task, "number of Fourier modes summed over layers", last)


def _when(step: int) -> str:
    return "as it is" if step < 0 else f"step {step}"


def _amount(task: str, feature: str, row: dict[Any, Any]) -> str:
    if feature == ORDER:
        none = "" if row["amount"] > 0 else ", no better than the mean of the values"
        fewer = (
            ""
            if pd.isna(row["of_fewer"])
            else f"; of fewer components the best, {row['fewer']:.0f}: {row['of_fewer']:.2f} (shuffled values reach "
            f"{row['shuffled_of_fewer']:.2f})"
        )
        return (
            f"{task}'s order at TOK2 after the first block: held-out R2 {row['amount']:.2f} (95% interval "
            f"{row['low']:.2f} to {row['high']:.2f}){none}; shuffled values reach {row['shuffled']:.2f}, random "
            f"weights {row['random']:.2f}, plain means, which tell the answer too, {row['plain']:.2f}{fewer}"
        )
    which = f": {' and '.join(map(str, row['modes']))}" if isinstance(row["modes"], list) else ""
    return (
        f"{counted(row['distinct'], 'distinct Fourier mode')} of {task} at TOK2{which}; "
        f"{row['amount']} summed over layers ({row['layers']} with the embedding); shuffled values {row['shuffled']}, "
        f"random weights {row['random']}"
    )


def _trend(task: str, what: str, last: pd.DataFrame) -> Iterator[str]:
    """Rank correlations with size at one frequency, and with frequency at one size; what they leave out."""
    if "parameters" not in last or len(last) < 2:
        return
    even, found = rows(last, evenly=True), False
    for name, column, same in (("model size", "parameters", "schedule"), ("frequency", "per_batch", "model")):
        for place, group in even.groupby(same, sort=False):
            of, amount = group[column].to_numpy(float), group["amount"].to_numpy(float)
            if len(np.unique(of)) >= FEWEST and len(np.unique(amount)) > 1:
                rank = format_correlation(*rank_correlation(of, amount), len(group), "runs")
                yield f"{task}, {place}: {what} against {name}: {rank}."
                found = True
    if not found:
        yield (
            f"{task}: no rank correlation of the {what}: it takes {FEWEST} model sizes at one frequency, or {FEWEST} "
            "frequencies of one size, that differ in it."
        )
    elif len(even) < len(last):
        yield f"{task}: not evenly injected, so not among these: {', '.join(rows(last, evenly=False)['run'])}."
