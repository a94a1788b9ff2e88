"""A self-contained HTML page: sections of text, tables, drawings and samples, and how they are written."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.read.samples import Sample
from olmo_inject.errors import UserError
from olmo_inject.files import write_text

CSS_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class Drawing:
    """One figure of a section.

    Attributes:
        name: of its file, where the figures are also written out.
        figure: the drawing.
        caption: what it shows; also what a screen reader says.
        data: the numbers in it; the page holds them as CSV.
    """

    name: str
    figure: Figure
    caption: str
    data: pd.DataFrame

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name:  # it may hold names out of files of others
            raise UserError(f"{self.name!r} cannot be the name of a figure's file")

    @cached_property
    def svg(self) -> bytes:
        """The image; drawing takes a quarter of a second."""
        return style.svg(self.figure)

    @property
    def address(self) -> str:
        """The image, as a `data:` address."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()

    @cached_property
    def csv(self) -> str:
        """The data, as a `data:` address of a CSV file."""
        data = self.data.drop(columns="folder", errors="ignore")
        text = data.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        return "data:text/csv;base64," + base64.b64encode(text.encode()).decode()

    @property
    def width(self) -> int:
        """CSS pixels at which the text in the figure has the size it was given."""
        return round(self.figure.get_size_inches()[0] * CSS_PIXELS_PER_INCH)


@dataclass(frozen=True)
class Table:
    """A table of text, at least one row.

    Attributes:
        title: what it shows.
        rows: heading to cell, the same headings in every row.
        words: the headings of columns of words; the other columns hold numbers and are set to the right.
    """

    title: str
    rows: Sequence[Mapping[str, str]]
    words: Collection[str]


@dataclass(frozen=True)
class Section:
    """A part of the page; what it holds is shown in the order of the fields.

    Attributes:
        title: heading.
        text: paragraphs.
        findings: sentences, in a list.
        tables: of text.
        drawings: figures.
        samples: rows of batches.
        notes: paragraphs in small print.
        command: what computes the section's figures and tables; RUNS stands for the folders of the runs.
    """

    title: str
    text: Sequence[str] = ()
    findings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    samples: Sequence[Sample] = ()
    notes: Sequence[str] = ()
    command: str = "olmo-inject report RUNS --out report.html"

    @property
    def anchor(self) -> str:
        """What the page's contents link to."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def tables(*made: Table) -> list[Table]:
    """Those that have rows."""
    return [table for table in made if table.rows]


def with_interval(value: float | None, low: float | None, high: float | None, form: str = ".3f") -> str:
    """A number with its interval, as 0.941 (0.917 to 0.958); what is absent or NaN is left out."""
    if value is None or pd.isna(value):
        return ""
    ends = "" if low is None or high is None or pd.isna(low) else f" ({low:{form}} to {high:{form}})"
    return f"{value:{form}}{ends}"


def write_page(to: Path, title: str, sections: Sequence[Section], runs: str = "") -> None:
    """Write the page, whole or not at all; it loads nothing from anywhere.

    Args:
        to: the HTML file.
        title: heading of the page.
        sections: in order.
        runs: what RUNS stands for in the sections' commands.

    Raises:
        UserError: the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html").render(title=title, sections=sections, runs=runs)
    write_text(to, page)
