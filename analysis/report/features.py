"""Task features in the report and on the command line: from the method's tables to figures and sentences."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import features as figures
from analysis.methods.feature_amounts import amounts, distinct_modes, sentences, with_schedules
from analysis.methods.features import FOURIER, ORDER
from analysis.read.runs import Run
from analysis.read.store import Tables, last_step, rows
from analysis.report.page import Drawing, Section

TITLE = "Task features in activations"
_ABOUT = (
    "Activations of the residual stream for each value of a task's tokens, balanced over labels and the other operand. "
    "(The plain mean of a value also tells how often its label is which: of a comparison the plain means lie in the "
    "order of values in any model that has learned every pair by heart.) Order: a linear regression of the value on "
    "principal components, judged on tokens held out; values with one label alone are left out. "
    "Fourier modes: the share of variance in the plane of a cosine and a sine, present if beyond 99 of 100 shuffles of "
    "the values at any mode and layer."
)


def feature_section(tables: Tables, runs: Sequence[Run]) -> Section | None:
    """Figures of every task's feature, and what they come to.

    Args:
        tables: of the method `features`, joined over checkpoints.
        runs: those of them that are runs.
    """
    if not tables:
        return None
    findings: list[str] = []
    drawings: list[Drawing] = []
    tasks = list(dict.fromkeys(task for table in tables.values() for task in table["task"]))
    for task in tasks:
        mine = {name: rows(table, task=task) for name, table in tables.items()}
        last = {name: last_step(table) for name, table in mine.items() if len(table)}
        for feature, make in ((ORDER, _order), (FOURIER, _fourier)):
            found = amounts(mine, feature)
            if found.empty:
                continue
            planned = with_schedules(found, runs)
            findings += sentences(found if planned.empty else planned)
            drawings += make(task, last)
            drawings += [] if planned.empty else _amounts(task, feature, planned)
    return Section(TITLE, [_ABOUT], findings, drawings=drawings)


def _order(task: str, tables: Tables) -> list[Drawing]:
    return _drawn(
        (
            f"order-layers-{task}",
            figures.order_by_layer(tables["order"]),
            f"{task}: how well the value of a token is predicted from its activation, by layer, at the last "
            "checkpoint of each run. TOK1 at TOK2: the value of TOK1, from the activation at TOK2. Bars: 95% bootstrap "
            "intervals over tokens. Dotted: from plain means, which tell the answer too. Below 0: no better than the "
            "mean of the values; the axis ends at -0.6, where an empty triangle stands for what lies below. Sites of "
            "one layer stand side by side.",
        ),
        (
            f"order-line-{task}",
            figures.order_lines(tables["line"], tables["order"]),
            f"{task}: where each value lies along the order direction after the first block, found without its token.",
        ),
    )


def _fourier(task: str, tables: Tables) -> list[Drawing]:
    return _drawn(
        (
            f"modes-{task}",
            figures.modes_by_layer(tables["modes"]),
            f"{task}: share of the variance of activations at TOK2 in each Fourier mode. Dots: present.",
        ),
        (
            f"circles-{task}",
            figures.circles(tables["circles"], tables["modes"]),
            f"{task}: values in the plane of the strongest mode, each placed in a plane found without it, joined in "
            "the order of their turn. A mode that is there is nearly a circle of radius 1.",
        ),
    )


def _amounts(task: str, feature: str, planned: pd.DataFrame) -> list[Drawing]:
    chance = "Dashed: with the values shuffled" + (", the 95th percentile." if feature == ORDER else ".")
    shown = [("order", "amount of the feature", ORDER, planned)]
    if feature == FOURIER:
        total = "number of Fourier modes at TOK2, a mode once for each layer"
        shown = [
            ("modes", f"{total}: models of different depth cannot be compared by it", FOURIER, planned),
            ("distinct", "number of distinct Fourier modes at TOK2", figures.DISTINCT, distinct_modes(planned)),
        ]
    return [
        drawing
        for name, what, amount, of in shown
        for drawing in _drawn(
            (
                f"{name}-frequency-{task}",
                figures.amount_by_frequency(of, amount),
                f"{task}: {what}, at the last checkpoint against frequency. {chance}",
            ),
            (
                f"{name}-steps-{task}",
                figures.amount_by_step(of, amount),
                f"{task}: {what}, over checkpoints. {chance}",
            ),
        )
    ]


def _drawn(*made: tuple[str, Figure | None, str]) -> list[Drawing]:
    return [Drawing(name, figure, caption) for name, figure, caption in made if figure is not None]
