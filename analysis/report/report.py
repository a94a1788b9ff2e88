"""The report: one self-contained HTML page about a set of runs, and its figures as files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from analysis.figures import curves
from analysis.read.runs import Run, label_tasks, read_runs
from analysis.report.page import Drawing, write_figures, write_page
from analysis.report.sections import SECTIONS
from olmo_inject.errors import UserError
from olmo_inject.runs.read import expand


def write_report(
    folders: Sequence[Path],
    to: Path,
    *,
    title: str = "Injection report",
    figures_to: Path | None = None,
    corpus: Path | None = None,
) -> list[Path]:
    """Write the page and, with `figures_to`, each figure as SVG and PNG.

    Args:
        folders: run folders, finished or not, or folders of runs.
        to: the HTML file.
        title: heading of the page.
        figures_to: folder for the figures.
        corpus: where the runs' corpus is now, if it has moved.

    Returns:
        Every file that was written, the page first.

    Raises:
        UserError: a folder is not a run, a file cannot be written, or two figures would have one name.
    """
    if to.is_dir():
        raise UserError(f"--out: {to} is a folder; give the name of an HTML file")
    runs = read_runs(expand(folders), corpus)
    sections = [section for make in SECTIONS if (section := make(runs)) is not None]
    write_page(to, title, sections, shlex.join(map(str, folders)))
    written = [to]
    if figures_to is not None:
        drawings = [drawing for section in sections for drawing in section.drawings]
        written += write_figures([*drawings, *_overviews(runs)], figures_to)
    return written


def _overviews(runs: Sequence[Run]) -> Iterator[Drawing]:
    """Figures for a slide or a README. The page has their parts instead."""
    for task in label_tasks(runs):
        if (figure := curves.overview(runs, task)) is not None:
            yield Drawing(f"overview-{task}", figure, "", pd.DataFrame())
