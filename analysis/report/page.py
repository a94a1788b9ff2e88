"""A self-contained HTML page: its sections of text, tables, drawings and samples, and how they are written."""

from __future__ import annotations

import base64
import re
from collections import Counter
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
from olmo_inject.utils.files import write_bytes, write_text

CSS_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class Drawing:
    """One figure of a section.

    Attributes:
        name: of its file, if figures are also written as files.
        figure: the drawing.
        caption: what it shows; also its text for screen readers.
        data: the numbers in it, which the page offers as CSV.
    """

    name: str
    figure: Figure
    caption: str
    data: pd.DataFrame

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name:  # it may contain names from other people's files
            raise UserError(f"{self.name!r} cannot be the name of a figure file")

    @cached_property
    def svg(self) -> bytes:
        """The image. It is cached, since drawing takes a quarter of a second."""
        return style.svg(self.figure)

    @property
    def address(self) -> str:
        """The image as a `data:` URI."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()

    @cached_property
    def csv(self) -> str:
        """The data as a `data:` URI of a CSV file."""
        data = self.data.drop(columns="folder", errors="ignore")
        text = data.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        return "data:text/csv;base64," + base64.b64encode(text.encode()).decode()

    @property
    def width(self) -> int:
        """Width in CSS pixels at which text in the figure has its nominal size."""
        return round(self.figure.get_size_inches()[0] * CSS_PIXELS_PER_INCH)


@dataclass(frozen=True)
class Table:
    """A table of text with at least one row.

    Attributes:
        title: what it shows.
        rows: cells by heading, with the same headings in every row.
        words: headings of the columns of words, which are left-aligned; all others hold numbers.
    """

    title: str
    rows: Sequence[Mapping[str, str]]
    words: Collection[str]

    @property
    def headings(self) -> list[str]:
        """The headings of the columns that are shown: those that say something in some row."""
        return [heading for heading in self.rows[0] if any(row[heading] for row in self.rows)]


@dataclass(frozen=True)
class Section:
    """A part of the page. Its contents appear in the order of the fields.

    Attributes:
        title: heading.
        text: paragraphs.
        findings: sentences, shown as a list.
        tables: tables of text.
        drawings: figures.
        samples: rows of batches.
        notes: paragraphs in small print.
        command: the command that computes the section's figures and tables, with RUNS for the run folders.
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
        """The anchor that the table of contents links to."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def tables(*made: Table) -> list[Table]:
    """The given tables that have rows."""
    return [table for table in made if table.rows]


def with_interval(value: float | None, low: float | None, high: float | None, form: str = ".3f") -> str:
    """A number with its interval, such as `0.941 (0.917 to 0.958)`. Missing values and NaN are left out.

    Args:
        value: the number, or None.
        low: lower end of the interval, or None.
        high: upper end of the interval, or None.
        form: format specification of all three.
    """
    if value is None or pd.isna(value):
        return ""
    ends = "" if low is None or high is None or pd.isna(low) else f" ({low:{form}} to {high:{form}})"
    return f"{value:{form}}{ends}"


def write_page(to: Path, title: str, sections: Sequence[Section], runs: str = "") -> None:
    """Write the page, whole or not at all. It loads nothing from other places.

    Args:
        to: the HTML file.
        title: heading of the page.
        sections: in the order of the page.
        runs: replaces RUNS in the sections' commands.

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


def write_figures(drawings: Sequence[Drawing], folder: Path, prefix: str = "") -> list[Path]:
    """Write each drawing as SVG and PNG, and return the files.

    Args:
        drawings: each with a name of its own.
        folder: where the files are written.
        prefix: of the files' names.

    Raises:
        UserError: two drawings have one name, or a file cannot be written.
    """
    for name, count in Counter(drawing.name for drawing in drawings).items():
        if count > 1:  # a task or a run may be named so that one would replace the other
            raise UserError(f"{folder}: {count} figures would be {prefix}{name}.svg; name tasks or runs differently")
    written = []
    for drawing in drawings:
        written += [folder / f"{prefix}{drawing.name}.{ending}" for ending in ("svg", "png")]
        write_bytes(written[-2], drawing.svg)
        style.save(drawing.figure, written[-1])
    return written
