"""Write a figure in every format: PNG for the screen, SVG and PDF for print."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from olmo_inject.utils.figure_style import FORMATS, save


def save_all(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure in every format.

    Args:
        figure: the figure.
        folder: created if it does not exist.
        name: file name without the ending.

    Raises:
        UserError: the folder cannot be written.
    """
    return [save(figure, folder / f"{name}.{kind}") for kind in FORMATS]
