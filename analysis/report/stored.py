"""What `analyze` found of runs and kept beside them, as sections of the report, each with the options it was of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd

from analysis.methods import das, gradients, patching
from analysis.methods.features import VERSION as FEATURES
from analysis.read.runs import Run
from analysis.read.store import Tables, kept_results
from analysis.report.features import feature_section
from analysis.report.gradients import section as gradient_section
from analysis.report.interventions import das_section, patching_section
from analysis.report.page import Section


def features(runs: Sequence[Run]) -> Section | None:
    """Task features in activations."""
    return _section(runs, "features", FEATURES, lambda tables: feature_section(tables, runs))


def interference(runs: Sequence[Run]) -> Section | None:
    """Gradient interference."""
    return _section(runs, gradients.METHOD, gradients.VERSION, _of("cosines", gradient_section))


def patched(runs: Sequence[Run]) -> Section | None:
    """Activation patching."""
    return _section(runs, patching.METHOD, patching.VERSION, _of("layers", patching_section))


def aligned(runs: Sequence[Run]) -> Section | None:
    """Distributed alignment search."""
    return _section(runs, das.METHOD, das.VERSION, _of("sites", das_section))


def _of(table: str, make: Callable[[pd.DataFrame], Section | None]) -> Callable[[Tables], Section | None]:
    """The maker of a section from the tables of a method that has one."""
    return lambda tables: make(tables[table]) if table in tables else None


def _section(
    runs: Sequence[Run], method: str, version: int, make: Callable[[Tables], Section | None]
) -> Section | None:
    """From what is kept, with its options; None where no run has any."""
    found = kept_results(runs, method, version)
    made = make(found.tables)
    return None if made is None else replace(made, text=[*made.text, found.note])
