"""What figures of analyses and of the theory share: colours, markers, and how a figure is written.

The palette is safe for every colour vision and on white paper. Every distinction by colour is also made by a marker or
a label.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from olmo_inject.errors import UserError
from olmo_inject.utils.files import write_bytes

BLUE, ORANGE, GREEN, PINK, SKY, RED = "#0072B2", "#C47A00", "#00795A", "#B0508A", "#2E86C1", "#C44E00"
BLACK, OLIVE, GREY = "#222222", "#7A7A00", "#606060"
COLOURS = (BLUE, ORANGE, GREEN, PINK, BLACK, SKY, RED, OLIVE)  # neighbours are easy to tell apart
MARKERS = ("o", "s", "^", "D", "v", "P", "*", "X")
FORMATS = ("png", "svg", "pdf")
DOTS_PER_INCH = 200  # resolution of PNG files
_METADATA: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
_WRITING: Any = {
    "svg.hashsalt": "olmo-inject",  # equal figures give equal files
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": False,  # of a figure that is laid out
}


def colour_and_marker(number: int) -> tuple[str, str]:
    """Colour and marker of series `number`; beyond the palette, colours return with other markers."""
    return COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def drawn(figure: Figure, kind: str) -> bytes:
    """The bytes of the figure in one of `FORMATS`, without a date. SVG text becomes paths."""
    buffer = io.BytesIO()
    with mpl.rc_context(_WRITING):
        if engine := figure.get_layout_engine():  # laid out once for all formats; `savefig` would for each
            figure.set_dpi(DOTS_PER_INCH)
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=_METADATA[kind])
    return buffer.getvalue()


def check_format(path: Path) -> str:
    """The format that a file's ending asks for.

    Raises:
        UserError: the ending is none of png, svg and pdf.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UserError(f"{path} must end in .png, .svg or .pdf")
    return kind


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all, in the format of the file's ending.

    Raises:
        UserError: the ending is not png, svg or pdf, or the file cannot be written.
    """
    write_bytes(path, drawn(figure, check_format(path)))
    return path
