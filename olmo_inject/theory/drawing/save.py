"""Writing a figure: PNG for the screen, SVG and PDF for print, the same bytes for the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from olmo_inject.errors import UserError
from olmo_inject.files import replacing

FORMATS = ("png", "svg", "pdf")
METADATA = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
DPI = 220


def save_as(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all, in the format of the file's ending.

    Raises:
        UserError: the ending is none of png, svg and pdf, or the folder cannot be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UserError(f"{path} must end in .png, .svg or .pdf")
    settings: Any = {"svg.hashsalt": "theory", "svg.fonttype": "none", "pdf.fonttype": 42}
    with matplotlib.rc_context(settings), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=DPI, metadata=METADATA[kind])
    return path


def save_all(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure in every format.

    Args:
        figure: to write.
        folder: made where it is not there.
        name: of the files, without their endings.

    Raises:
        UserError: the folder cannot be written.
    """
    return [save_as(figure, folder / f"{name}.{kind}") for kind in FORMATS]
