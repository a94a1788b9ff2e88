"""The report's sections and their text, without the images, which take most of a report's time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analysis.read.runs import read_runs
from analysis.report.page import Section, write_page
from analysis.report.sections import SECTIONS


def sections_of(folders: Sequence[Path]) -> list[Section]:
    """As the report has them."""
    runs = read_runs(folders)
    return [section for make in SECTIONS if (section := make(runs)) is not None]


def write_text(folders: Sequence[Path], to: Path) -> Path:
    """Write the page without figures."""
    write_page(to, "Page", [replace(section, drawings=()) for section in sections_of(folders)])
    return to
