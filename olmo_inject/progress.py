"""How far long work is, with rate and time left: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from olmo_inject.terminal import Console

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def bytes_done(what: str, total: int, enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """Show progress over `total` bytes on standard error; yields what to call with bytes done, from any thread."""
    console = Console(stderr=True)
    if not enabled:
        yield lambda _: None
    elif console.is_terminal:
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(TextColumn(what), *columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda n: bar.advance(task, n)
    else:
        yield _Lines(what, total, console).advance


class _Lines:
    def __init__(self, what: str, total: int, console: Console) -> None:
        self._what, self._total, self._console = what, total, console
        self._begun = self._last = time.monotonic()
        self._done = 0
        self._lock = threading.Lock()

    def advance(self, n: int) -> None:
        with self._lock:
            self._done += n
            now = time.monotonic()
            if now - self._last < SECONDS_BETWEEN_LINES:
                return
            self._last = now
            rate = self._done / (now - self._begun)
            left = timedelta(seconds=round((self._total - self._done) / rate)) if rate else "?"
            self._console.print(
                f"{self._what}: {self._done / 1e9:,.2f} of {self._total / 1e9:,.2f} GB, {rate / 1e6:,.0f} MB/s, "
                f"{left} left",
                highlight=False,
                soft_wrap=True,
            )
