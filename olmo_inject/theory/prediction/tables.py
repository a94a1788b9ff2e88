"""A prediction as tables for the terminal."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from olmo_inject.theory.prediction.predict import Prediction

Titled = tuple[str, Table]


def table(headings: list[str], rows: list[list[str]], first: str = "task") -> Table:
    """A table in which all columns but the first hold numbers.

    Args:
        headings: of the columns but the first.
        rows: of cells, as text.
        first: the heading of the first column.
    """
    drawn = Table(first)
    for heading in headings:
        drawn.add_column(heading, justify="right")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def held_shares(prediction: Prediction) -> Titled:
    """The share of every task that the best encoder of each width holds."""
    mixture = prediction.mixture
    rows = [
        [name, f"{frequency:.3g}", *("-" if share == 0 else f"{share:.0%}" for share in shares)]
        for name, frequency, shares in zip(mixture.names, mixture.frequencies, prediction.signals.T, strict=True)
    ]
    headings = ["frequency", *(f"N={width}" for width in prediction.widths)]
    return "Share of the task held by the best encoder of width N", table(headings, rows)


def critical_widths(prediction: Prediction) -> Titled:
    """Every task's critical widths, of all its features and of the first one by gap."""
    rows = [
        [
            name,
            str(prediction.complete[k]),
            *(
                ("~" if period > prediction.sound[k] else "") + str(width)
                for period, width in zip(prediction.periods, prediction.by_gap[:, k], strict=True)
            ),
        ]
        for k, name in enumerate(prediction.mixture.names)
    ]
    headings = ["all of it", *(f"T={period}" for period in prediction.periods)]
    return "Critical width: of all features, and of the first if the task comes every T steps", table(headings, rows)


def gap_statements(prediction: Prediction) -> Titled:
    """Three statements for every task and width: learned from nothing, kept once learned, oscillates."""
    drawn = Table("task", "gap T")
    for width in prediction.widths:
        drawn.add_column(f"N={width}", justify="right")
    statements = (
        ("learned up to", prediction.learned),
        ("kept up to", prediction.kept),
        ("oscillates from", prediction.oscillates),
    )
    for k, name in enumerate(prediction.mixture.names):
        for i, (statement, gaps) in enumerate(statements):
            nothing = "-" if i == 2 else "any"
            cells = [nothing if np.isinf(gap) else _gap(gap) for gap in gaps[:, k]]
            drawn.add_row(name if i == 0 else "", statement, *cells, end_section=i == 2)
    return f"Gaps of the first feature at width N (plain steps, eta nu_1 = {prediction.step_size:g})", drawn


def _gap(gap: float) -> str:
    if gap == 0:
        return "-"
    return f"{gap:.0f}" if gap < 10_000 else f"{gap / 1000:.0f}k"
