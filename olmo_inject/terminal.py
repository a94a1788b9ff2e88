"""What is printed: text of others made harmless, and output that may be closed, full, or unable to hold a character."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import rich.console
from rich.text import Text

from olmo_inject.visible_text import visible


class Console(rich.console.Console):
    """Rich's console for text that is not ours: no markup, no emoji codes, no terminal escapes, also inside tables."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, of what is visible."""
        return super().render_str(visible(text), **options)


def prepare_output() -> None:
    """Have characters that the output cannot hold escaped, and a closed standard output or error taken for none."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not fail on it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
