"""What figures of the theory share beside `olmo_inject.figure_style`: panels at printed size, labels, seeds, axes."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from olmo_inject.figure_style import BLACK, BLUE, COLOURS, GREEN, GREY, MARKERS, ORANGE, PINK, RED, SKY

__all__ = ["BLACK", "BLUE", "CATEGORIES", "GREEN", "GREY", "MARKERS", "ORANGE", "PINK", "RED", "SKY"]
CATEGORIES = COLOURS[:6]
WIDTH = 7.0
"""Inches of a printed page's text: figures are drawn at this size, so that 8 points stay 8 points."""


def panels(count: int, width: float = WIDTH, height: float = 3.1) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, at its printed size.

    Args:
        count: of panels.
        width: of the figure, in inches.
        height: of the figure, in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and axis labels.

    Args:
        axes: to label.
        title: of the panel.
        x: of the horizontal axis, with its unit.
        y: of the vertical axis, with its unit.
    """
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(x, fontsize=8.5)
    axes.set_ylabel(y, fontsize=8.5)


def legend(axes: Axes, columns: int) -> None:
    """A legend below the panel, where it hides nothing."""
    axes.legend(
        fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=columns,
        frameon=False,
        columnspacing=1.2,
        handlelength=1.8,
    )


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """Ordered colours, from dark to light, none too light to see."""
    palette = matplotlib.colormaps["viridis"]
    # Beyond .6 the map turns to greens and yellows that white paper swallows (contrast below 3 : 1).
    return [palette(0.6 * i / max(count - 1, 1)) for i in range(count)]


def seeds(
    axes: Axes,
    at: Sequence[float] | Int[np.ndarray, " n"],
    values: Sequence[Float[np.ndarray, " S"]],
    mark: str,
    color: str | tuple[float, ...],
    name: str | None = None,
) -> None:
    """The median over seeds, and a band or bar from the least to the most.

    Args:
        axes: to draw on.
        at: positions.
        values: those of all seeds at every position.
        mark: matplotlib's format; with a line, seeds make a band, with a marker alone a bar at every mark.
        color: of both.
        name: in the legend; not there where None.
    """
    middle, low, high = (np.array([reduce(cell) for cell in values]) for reduce in (np.median, np.min, np.max))
    axes.plot(at, middle, mark, color=color, markersize=4, linewidth=1.2, label=name)
    if mark not in MARKERS:
        axes.fill_between(at, low, high, color=color, alpha=0.25, linewidth=0)
    else:
        axes.vlines(at, low, high, color=color, linewidth=1.5)


def width_axis(axes: Axes, widths: Sequence[int]) -> None:
    """Widths in powers of two, as whole numbers."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()


def plain_logs(*scales: Axis) -> None:
    """Log axes with few, plain numbers."""
    for axis in scales:
        low, high = axis.get_view_interval()
        if high / low < 30:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
