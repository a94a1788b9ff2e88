"""What figures of analyses share beyond `utils.figure_style`: fonts, panels, legends, and figures in HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from analysis.read.runs import Run
from olmo_inject.utils import figure_style
from olmo_inject.utils.figure_style import RED, colour_and_marker, drawn

FRAME = RED  # frame around cells that learned the task
SMALL = 6.5  # size of text inside panels, in points
PER_ROW = 4  # panels per row
MARKERS_APART = 0.025  # of a panel's diagonal, at least: dense evaluations would make one blob of markers
LETTERS_THAT_FIT = 16  # letters of a legend's longest name that fit without widening the figure
INCHES_PER_LETTER = 0.075
_OWN_FORMULA = re.compile(r"\$(R\^2|g(_[a-z]|_\{nt\})?|\\mathdefault\{[^$]*\})\$")

_RC: Any = {
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


def style() -> Any:
    """A context manager with the style in which figures are made and written."""
    return mpl.rc_context(_RC)


def sizes_of(runs: Sequence[Run]) -> list[str]:
    """The model sizes of `runs`, largest first."""
    return list(dict.fromkeys(run.size for run in sorted(runs, key=lambda run: -run.parameters)))


def panels(n: int, width: float, height: float, *, share: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels, four per row; one alone is twice as wide.

    Args:
        n: number of panels, at least 1.
        width: of a panel, in inches.
        height: of a panel, in inches.
        share: whether all panels share their axes.
    """
    columns = min(PER_ROW, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(1.6 + width * max(columns, 2), 0.6 + height * rows))
    grid = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False).flatten().tolist()
    for unused in grid[n:]:
        unused.remove()
    return figure, grid[:n]


def axis_labels(figure: Figure, grid: Sequence[Axes], x: str, y: str) -> None:
    """Label the axes that all panels share: on the figure, or on its only panel.

    Args:
        figure: the figure.
        grid: its panels.
        x: label of the horizontal axis.
        y: label of the vertical axis.
    """
    if len(grid) == 1:
        grid[0].set_xlabel(x, fontsize=9)
        grid[0].set_ylabel(y, fontsize=9)
    else:
        figure.supxlabel(x, fontsize=9)
        figure.supylabel(y, fontsize=9)


def legend(figure: Figure, title: str, names: Sequence[str], more: Sequence[Artist] = ()) -> None:
    """A legend to the right of all panels, in the order of `colour_and_marker`. Long names make the figure wider.

    Args:
        figure: where to draw it.
        title: of the legend.
        names: names of the series that have colours and markers.
        more: further lines, appended at the end.
    """
    handles: list[Artist] = []
    for number, name in enumerate(names):
        colour, marker = colour_and_marker(number)
        handles.append(Line2D([], [], color=colour, marker=marker, ms=4, label=name))
    handles += more
    longest = max(len(line) for handle in handles for line in str(handle.get_label()).split("\n"))
    figure.set_figwidth(figure.get_figwidth() + INCHES_PER_LETTER * max(0, longest - LETTERS_THAT_FIT))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, title=title)


def svg(figure: Figure) -> bytes:
    """The figure as SVG."""
    with style():
        _take_names_as_written(figure)
        return drawn(figure, "svg")


def _take_names_as_written(figure: Figure) -> None:
    """Draw `$` in names as a character. Only the project's own formulas are parsed as formulas."""
    for text in figure.findobj(Text):
        if "$" in _OWN_FORMULA.sub("", text.get_text()):  # pyright: ignore[reportAttributeAccessIssue]
            text.set_parse_math(False)  # pyright: ignore[reportAttributeAccessIssue]


def save(figure: Figure, path: Path) -> None:
    """Write the figure as `.svg` or `.png`, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with style():
        _take_names_as_written(figure)
        figure_style.save(figure, path)
