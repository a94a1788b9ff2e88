"""Sections of the report from stored results of `analyze`, each with its command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.methods import das, gradients, memory, patching
from analysis.methods.features import VERSION as FEATURES
from analysis.read.runs import Run
from analysis.read.store import StoredResults, Tables, kept_results
from analysis.report.features import feature_section
from analysis.report.gradients import section as gradient_section
from analysis.report.interventions import das_section, patching_section
from analysis.report.memory import memory_section
from analysis.report.page import Section
from olmo_inject.utils.words import counted

INTERNAL = {"seed", "batch", "controls"}  # options of methods that the command line lacks or spells differently


def features(runs: Sequence[Run]) -> Section | None:
    """The section on task features in activations."""
    return with_options(kept_results(runs, "features", FEATURES), "features", lambda of: feature_section(of, runs))


def memorized(runs: Sequence[Run]) -> Section | None:
    """Memorization of texts."""
    return with_options(
        kept_results(runs, memory.METHOD, memory.VERSION), memory.METHOD, lambda of: memory_section(of, runs)
    )


def interference(runs: Sequence[Run]) -> Section | None:
    """The section on gradient interference over checkpoints."""
    return with_options(
        kept_results(runs, gradients.METHOD, gradients.VERSION), gradients.METHOD, _of("cosines", gradient_section)
    )


def patched(runs: Sequence[Run]) -> Section | None:
    """The section on activation patching."""
    return with_options(
        kept_results(runs, patching.METHOD, patching.VERSION), patching.METHOD, _of("layers", patching_section)
    )


def aligned(runs: Sequence[Run]) -> Section | None:
    """The section on distributed alignment search."""
    return with_options(kept_results(runs, das.METHOD, das.VERSION), das.METHOD, _of("sites", das_section))


def _of(table: str, make: Callable[[pd.DataFrame], Section | None]) -> Callable[[Tables], Section | None]:
    """Make a section from all tables of a method, by a function of the one table that it needs."""
    return lambda tables: make(tables[table]) if table in tables else None


def with_options(results: StoredResults, method: str, make: Callable[[Tables], Section | None]) -> Section | None:
    """A section of stored results, with the command that computed them; None if there are no results.

    Args:
        results: stored results of the method.
        method: its name on the command line.
        make: makes the section from the tables.
    """
    made = make(results.tables)
    if made is None:
        return None
    return replace(made, command=command(method, results.options), notes=[*made.notes, *_left_out(results)])


def command(method: str, options: Mapping[str, Any]) -> str:
    """The command line of a method with those of its options that the command line has."""
    shown = {name: value for name, value in options.items() if name not in INTERNAL and value is not None}
    words = [f"--{name.replace('_', '-')} {_value(value)}" for name, value in shown.items()]
    switches = ["--no-controls"] if options.get("controls") is False else []
    return " ".join(["olmo-inject analyze", method, "RUNS", *words, *switches])


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _left_out(results: StoredResults) -> list[str]:
    n = results.left_out
    return [f"Not shown: results of other options, for {counted(n, 'other checkpoint')}."] if n else []
