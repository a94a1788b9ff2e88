"""What an analysis left out. It is reported at once, and by the exit status at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from olmo_inject.errors import UserError


class Skipped:
    """Collects messages about what was left out.

    Attributes:
        messages: one line each, in order of time.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Keep a message and print it on standard error now, since the analysis may run for long."""
        self.messages.append(message)
        print(f"olmo-inject: left out: {message}", file=sys.stderr, flush=True)

    @contextmanager
    def skipping(self, what: str) -> Iterator[None]:
        """Turn a `UserError` raised in the body into a message about `what`, and continue."""
        try:
            yield
        except UserError as error:
            self.add(f"{what}: {error}")
