"""Print safely: escape foreign text, and survive output that is closed, full or lacks a character."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import rich.console
from rich.text import Text

from olmo_inject.visible_text import visible


class Console(rich.console.Console):
    """Rich's console for foreign text: no markup, emoji codes or terminal escapes, in tables too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Rich's method, with control characters escaped."""
        return super().render_str(visible(text), **options)


def prepare_output() -> None:
    """Escape characters that standard output or error cannot encode. Replace a closed stream by the null device."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Drop buffered output, so that the interpreter does not fail on it when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
