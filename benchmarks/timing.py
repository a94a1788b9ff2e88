"""Time rivals in turns, so that other work on the machine affects all of them; and what else benchmarks share."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from olmo_inject.config import Experiment


def in_turns(rivals: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each rival's own measurements, one a round; every other round goes backwards, so that none is always first."""
    measured: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds):
        for name, measure in list(rivals.items())[:: 1 if number % 2 == 0 else -1]:
            measured[name].append(measure())
    return measured


def timed(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of `work`: of this process's cores, or of another clock."""
    begun = clock()
    work()
    return clock() - begun


def own_bytes(name: str) -> int:
    """Bytes of this process as Linux counts them: `VmRSS`, `VmHWM` (the peak), `RssAnon`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def experiment_of(model: str) -> Experiment:
    """An experiment of a shipped model, whose corpus is never opened."""
    from olmo_inject.config import load_experiment  # whose import `scale` times

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "experiment.yaml"
        file.write_text(f"model: {model}\ncorpus: {{folder: never-opened}}\n")
        return load_experiment(file)


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
