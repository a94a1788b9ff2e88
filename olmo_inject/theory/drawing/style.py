"""What figures of the theory share besides `olmo_inject.utils.figure_style`: panels for print, labels, seeds, axes."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from olmo_inject.utils.figure_style import BLACK, BLUE, COLOURS, GREEN, GREY, MARKERS, ORANGE, PINK, RED, SKY

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
    """Draw a legend below the panel, so that it hides nothing."""
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
    # Beyond 0.6 the map turns to greens and yellows that are too pale on white paper (contrast below 3 : 1).
    return [palette(0.6 * i / max(count - 1, 1)) for i in range(count)]


def seeds(
    axes: Axes,
    at: Sequence[float] | Int[np.ndarray, " n"],
    values: Sequence[Float[np.ndarray, " S"]],
    mark: str,
    color: str | tuple[float, ...],
    name: str | None = None,
) -> None:
    """Draw the median over seeds, and a band or bar for their range.

    Args:
        axes: to draw on.
        at: positions.
        values: for every position, the values of all seeds.
        mark: matplotlib's format string. With a line the range is a band; with a marker alone it is a bar.
        color: of both.
        name: in the legend; None: no entry.
    """
    middle, low, high = (np.array([reduce(cell) for cell in values]) for reduce in (np.median, np.min, np.max))
    axes.plot(at, middle, mark, color=color, markersize=4, linewidth=1.2, label=name)
    if set(mark) & set("-:"):
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
