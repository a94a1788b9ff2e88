"""Task features in the report and on the command line: figures and tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import features as figures
from analysis.methods.feature_amounts import amounts, distinct_modes, trends, with_schedules
from analysis.methods.features import FOURIER, ORDER
from analysis.read.runs import Run
from analysis.read.store import Tables, last_step, rows
from analysis.report.page import Drawing, Section, Table, tables, with_interval

TITLE = "Task features in activations"
_ABOUT = (
    "The figures show activations of the residual stream for each value of a task's tokens, balanced over labels and "
    "the other operand. (A value's plain mean also carries how often each label goes with it. In a comparison, plain "
    "means lie in the order of values even in a model that learned every pair by heart.) Order is measured by a linear "
    "regression of the value on principal components, tested on held-out tokens; values with only one label are left "
    "out. The power of a Fourier mode is the share of variance in the plane of a cosine and a sine. A mode is present "
    "if its power exceeds that of every mode and layer in 99 of 100 shuffles of the values."
)


def feature_section(stored: Tables, runs: Sequence[Run]) -> Section | None:
    """Figures and amounts of every task's feature.

    Args:
        stored: tables of the method `features`, joined over checkpoints.
        runs: the runs that the checkpoints belong to.
    """
    if not stored:
        return None
    shown: list[Table] = []
    drawings: list[Drawing] = []
    for task in dict.fromkeys(task for table in stored.values() for task in table["task"]):
        mine = {name: rows(table, task=task) for name, table in stored.items()}
        last = {name: last_step(table) for name, table in mine.items() if len(table)}
        for feature, table, draw in ((ORDER, _order_table, _order), (FOURIER, _mode_table, _fourier)):
            of_task = amounts(mine, feature)
            if of_task.empty:
                continue
            planned = with_schedules(of_task, runs)
            shown += tables(table(task, last_step(of_task)), *([] if planned.empty else [_trend_table(task, planned)]))
            drawings += draw(task, last)
            drawings += [] if planned.empty else _amounts(task, feature, planned)
    return Section(TITLE, [_ABOUT], tables=shown, drawings=drawings)


def _order_table(task: str, last: pd.DataFrame) -> Table:
    cells = [
        {
            "run": row["run"],
            "step": _step(row["step"]),
            "held-out R2 (95% CI)": with_interval(row["amount"], row["low"], row["high"], ".2f"),
            "values shuffled": f"{row['shuffled']:.2f}",
            "untrained model": f"{row['untrained']:.2f}",
            "plain means": f"{row['plain']:.2f}",
            "best of fewer components": "" if pd.isna(row["of_fewer"]) else f"{row['of_fewer']:.2f}",
            "components": "" if pd.isna(row["fewer"]) else f"{row['fewer']:.0f}",
        }
        for row in last.to_dict("records")
    ]
    return Table(f"{task}: order of TOK2 after the first block", cells, ("run",))


def _mode_table(task: str, last: pd.DataFrame) -> Table:
    cells = [
        {
            "run": row["run"],
            "step": _step(row["step"]),
            "distinct modes": str(row["distinct"]),
            "which": ", ".join(map(str, row["modes"])) if isinstance(row["modes"], list) else "",
            "summed over layers": str(row["amount"]),
            "layers": str(row["layers"]),
            "values shuffled": str(row["shuffled"]),
            "untrained model": str(row["untrained"]),
        }
        for row in last.to_dict("records")
    ]
    return Table(f"{task}: Fourier modes at TOK2", cells, ("run", "which"))


def _step(step: int) -> str:
    return "" if step < 0 else str(step)


def _trend_table(task: str, planned: pd.DataFrame) -> Table:
    cells = [
        {
            "amount": row["amount"],
            "against": row["against"],
            "at": row["at"],
            "runs": str(row["runs"]),
            "rank correlation": f"{row['correlation']:+.2f}",
            "p": f"{row['p']:.2g}",
        }
        for row in trends(planned).to_dict("records")
    ]
    return Table(f"{task}: trends over evenly injected runs", cells, ("amount", "against", "at"))


def _order(task: str, last: Tables) -> list[Drawing]:
    return _drawn(
        (
            f"order-layers-{task}",
            figures.order_by_layer(last["order"]),
            f"{task}: how well the value of a token is predicted from its activation, by layer, at the last "
            "checkpoint of each run. TOK1 at TOK2: the value of TOK1, from the activation at TOK2. Bars: 95% bootstrap "
            "intervals over tokens. Dotted: from plain means, which also carry the answer. Below 0: no better than the "
            "mean of the values; the axis ends at -0.6, and an empty triangle there marks a lower value. Sites of "
            "one layer stand side by side.",
            last["order"],
        ),
        (
            f"order-line-{task}",
            figures.order_lines(last["line"], last["order"]),
            f"{task}: place of each value on the order direction after the first block, predicted without its token.",
            last["line"],
        ),
    )


def _fourier(task: str, last: Tables) -> list[Drawing]:
    return _drawn(
        (
            f"modes-{task}",
            figures.modes_by_layer(last["modes"]),
            f"{task}: share of the variance of activations at TOK2 in each Fourier mode. Dots: present.",
            last["modes"],
        ),
        (
            f"circles-{task}",
            figures.circles(last["circles"], last["modes"]),
            f"{task}: values in the plane of the strongest mode, each in a plane estimated without it, joined in "
            "the order of their angles. A mode that is present is nearly a circle of radius 1.",
            last["circles"],
        ),
    )


def _amounts(task: str, feature: str, planned: pd.DataFrame) -> list[Drawing]:
    chance = "Dashed: values shuffled" + (", 95th percentile." if feature == ORDER else ".")
    shown = [("order", "amount of the feature", ORDER, planned)]
    if feature == FOURIER:
        total = "number of Fourier modes at TOK2, counted once for each layer"
        shown = [
            ("modes", f"{total} (not comparable between models of different depth)", FOURIER, planned),
            ("distinct", "number of distinct Fourier modes at TOK2", figures.DISTINCT, distinct_modes(planned)),
        ]
    drawings: list[Drawing] = []
    for name, what, amount, of in shown:
        at, over = figures.amount_by_frequency(of, amount), figures.amount_by_step(of, amount)
        drawings += _drawn(
            (
                f"{name}-frequency-{task}",
                at,
                f"{task}: {what}, at the last checkpoint against frequency. {chance}",
                last_step(of),
            ),
            (f"{name}-steps-{task}", over, f"{task}: {what}, over checkpoints. {chance}", of),
        )
    return drawings


def _drawn(*made: tuple[str, Figure | None, str, pd.DataFrame]) -> list[Drawing]:
    return [Drawing(name, figure, caption, data) for name, figure, caption, data in made if figure is not None]
