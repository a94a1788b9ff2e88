"""A self-contained HTML page: sections of text, tables, drawings and samples, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.read.samples import Sample
from olmo_inject.errors import UserError
from olmo_inject.files import write_text

CSS_PIXELS_PER_INCH = 96
FINDINGS_SHOWN = 5  # of a section; the most general come first
FEWEST_FOLDED = 2  # so few are shown as well


@dataclass(frozen=True)
class Drawing:
    """One figure of a section.

    Attributes:
        name: of its file, where the figures are also written out.
        figure: the drawing.
        caption: what it shows, in sentences; also what a screen reader says.
    """

    name: str
    figure: Figure
    caption: str

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name:  # it may hold names out of files of others
            raise UserError(f"{self.name!r} cannot be the name of a figure's file")

    @cached_property
    def address(self) -> str:
        """The image itself, inline."""
        return style.data_uri(self.figure)

    @property
    def width(self) -> int:
        """In CSS pixels, at which the text in the figure has the size it was given."""
        return round(self.figure.get_size_inches()[0] * CSS_PIXELS_PER_INCH)


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        rows: heading to cell, the same headings in every row.
        words: the headings of columns that hold words; all others hold numbers and are set to the right.
    """

    rows: Sequence[Mapping[str, str]]
    words: Collection[str]


@dataclass(frozen=True)
class Section:
    """A part of the page; what it holds is shown in the order of the fields."""

    title: str
    text: Sequence[str] = ()
    findings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    samples: Sequence[Sample] = ()
    notes: Sequence[str] = ()

    @property
    def anchor(self) -> str:
        """What the page's contents link to."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @property
    def shown(self) -> int:
        """How many findings are open on the page; a reader opens the others."""
        return FINDINGS_SHOWN if len(self.findings) > FINDINGS_SHOWN + FEWEST_FOLDED else len(self.findings)


def write_page(to: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page, whole or not at all; it loads nothing from anywhere.

    Raises:
        UserError: the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    write_text(to, environment.get_template("report.html").render(title=title, sections=sections))
