"""Show the progress of long work on standard error: a bar on a terminal, a line every ten seconds in a log.

with show_progress("staging", total_bytes, "bytes") as meter:
meter.advance(len(chunk))
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, Progress, TextColumn

from olmo_inject.utils.terminal import Console
from olmo_inject.utils.words import counted
from olmo_inject.visible_text import visible

SECONDS_BEFORE_BAR = 2.0  # shorter work shows nothing
SECONDS_BETWEEN_LINES = 10.0  # between lines in a log
_SECONDS_BETWEEN_BARS = 0.1
Note = str | Callable[[], str]


class Meter:
    """Counts finished work, from any thread, and describes it in one line.

    Args:
        what: the work, such as "staging".
        total: amount of work.
        unit: "bytes", or the plural of what is counted, such as "steps".
        done: work that was finished before the meter started.
    """

    def __init__(self, what: str, total: float, unit: str, done: float = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self._done_before = done
        self.note: Note = ""
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count: float = 1) -> None:
        """Count `count` more."""
        with self._lock:
            self.done += count
        self._show()

    def update(self, done: float, note: Note = "") -> None:
        """Set the amount of finished work, and a note that ends the line.

        Args:
            done: finished work in all.
            note: text, or a function that returns it, which is called only when the line is shown.
        """
        self.done, self.note = done, note
        self._show()

    def line(self) -> str:
        """Done, total, rate, time left and note: `120/500 steps, 3.4 steps/s, 0:01:52 left, loss 2.1`."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._done_before) / seconds
        left = str(timedelta(seconds=round((self.total - self.done) / rate))) if rate > 0 else "?"
        if self.unit == "bytes":
            shown = f"{self.done / 1e9:,.2f}/{self.total / 1e9:,.2f} GB, {rate / 1e6:,.1f} MB/s"
        elif self.done == int(self.done):
            shown = f"{self.done:,.0f}/{self.total:,.0f} {self.unit}, {_rate(rate)} {self.unit}/s"
        else:  # the share of one of a few is known
            shown = f"{self.done / self.total:.0%} of {counted(int(self.total), self.unit.removesuffix('s'))}"
        note = self.note() if callable(self.note) else self.note
        return f"{shown}, {left} left" + (f", {note}" if note else "")

    def _show(self) -> None:
        """Show the line if it is due."""


class _Bar(Meter):
    """A bar on a terminal."""

    def __init__(self, console: Console, what: str, total: float, unit: str, done: float) -> None:
        super().__init__(what, total, unit, done)
        columns = (TextColumn("{task.description}", markup=False), BarColumn())
        line = TextColumn("{task.fields[line]}", markup=False)
        self._bar = Progress(*columns, line, console=console, transient=True)
        self._task = self._bar.add_task(visible(what), total=total, completed=int(done), line="")
        self._next = self._started + SECONDS_BEFORE_BAR

    def _show(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        with self._lock:
            if not self._bar.live.is_started:
                self._bar.start()
            self._next = now + _SECONDS_BETWEEN_BARS
        self._bar.update(self._task, completed=self.done, line=visible(self.line()))

    def close(self) -> None:
        if self._bar.live.is_started:
            self._bar.stop()


class _Lines(Meter):
    """Lines in a log: one every ten seconds, and with `to_the_end` one at the end."""

    def __init__(self, console: Console, what: str, total: float, unit: str, done: float, *, to_the_end: bool) -> None:
        super().__init__(what, total, unit, done)
        self._console = console
        self._to_the_end = to_the_end
        self._next = self._started + SECONDS_BETWEEN_LINES

    def _show(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now < self._next and not (self._to_the_end and self.done == self.total):
                return
            self._next = now + SECONDS_BETWEEN_LINES
            self._console.print(f"{self.what}: {self.line()}", highlight=False, soft_wrap=True)


@contextmanager
def show_progress(
    what: str, total: float, unit: str, *, done: float = 0, enabled: bool = True, to_the_end: bool = False
) -> Iterator[Meter]:
    """Show progress on standard error while the block runs. Yields the meter to advance.

    Args:
        what: the work, such as "staging"; begins the line.
        total: amount of work.
        unit: "bytes", or the plural of what is counted, such as "steps".
        done: work that was finished before this block. It counts for the bar, but not for the rate.
        enabled: False shows nothing.
        to_the_end: whether a log also gets a line at the end, however soon.
    """
    console = Console(stderr=True)
    if not enabled:
        yield Meter(what, total, unit, done)
    elif console.is_terminal:
        bar = _Bar(console, what, total, unit, done)
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield _Lines(console, what, total, unit, done, to_the_end=to_the_end)


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}"
