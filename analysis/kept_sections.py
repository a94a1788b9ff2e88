"""What `analyze` found of runs and kept beside them, as sections of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd

from analysis import das, gradient_figures, gradients, intervention_figures, patching
from analysis.page import Section
from analysis.results import kept_results
from analysis.runs import Run


def interference(runs: Sequence[Run]) -> Section | None:
    """Gradient interference."""
    return _section(runs, gradients.METHOD, gradients.VERSION, "cosines", gradient_figures.section)


def patched(runs: Sequence[Run]) -> Section | None:
    """Activation patching."""
    return _section(runs, patching.METHOD, patching.VERSION, "layers", intervention_figures.patching_section)


def aligned(runs: Sequence[Run]) -> Section | None:
    """Distributed alignment search."""
    return _section(runs, das.METHOD, das.VERSION, "sites", intervention_figures.das_section)


def _section(
    runs: Sequence[Run], method: str, version: int, table: str, make: Callable[[pd.DataFrame], Section | None]
) -> Section | None:
    """From what is kept, with its options; None where no run has any."""
    found = kept_results(runs, method, version)
    made = make(found.tables[table]) if table in found.tables else None
    return None if made is None else replace(made, text=[*made.text, found.note])
