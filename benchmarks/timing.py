"""Time rivals in turns, so that other work on the machine affects all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table


def in_turns(rivals: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each rival's own measurements, one a round."""
    measured: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, measure in rivals.items():
            measured[name].append(measure())
    return measured


def paired_ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over rounds of theirs / ours: above 1 we are faster."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print one result table."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table, markup=False)  # also where the output is no terminal
