"""Run pieces of work that wait for a server or a disk in threads, which end together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from olmo_inject.corpus.sources.source import Halted
from olmo_inject.corpus.staging.spill_runs import Advance

GRACE_S = 2.0  # seconds for pieces to end; one that waits for a server may need minutes and is left behind
_POLL_S = 0.05


class Halt:
    """Counts bytes, and ends all pieces of work when they should stop or when one of them fails."""

    def __init__(self, advance: Advance, should_stop: Callable[[], bool]) -> None:
        self._advance = advance
        self._should_stop = should_stop
        self.failed = False

    @property
    def is_on(self) -> bool:
        """Whether all pieces of work are to end."""
        return self.failed or self._should_stop()

    def advance(self, n: int) -> None:
        """Count `n` bytes.

        Raises:
            Halted: all pieces of work are to end.
        """
        if self.is_on:
            raise Halted
        self._advance(n)


def in_parallel(pieces: Sequence[Callable[[], None]], at_once: int, halt: Halt) -> bool:
    """Do all pieces of work. Returns False if they were stopped. The first error ends the others and is raised.

    The threads are daemons. A piece that does not end within `GRACE_S` of the halt is left behind; it changes nothing
    more, since it asks the halt before its next step.

    Args:
        pieces: functions to call.
        at_once: number of threads.
        halt: ends all of them.
    """
    waiting, errors = deque(pieces), list[BaseException]()

    def work() -> None:
        while not halt.is_on:
            try:
                piece = waiting.popleft()
            except IndexError:
                return
            try:
                piece()
            except BaseException as error:
                errors.append(error)
                halt.failed = True

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(pieces)))]
    for thread in threads:
        thread.start()
    ends: float | None = None
    for thread in threads:
        while thread.is_alive() and (ends is None or time.monotonic() < ends):
            thread.join(_POLL_S)
            if ends is None and halt.is_on:
                ends = time.monotonic() + GRACE_S
    for error in errors:
        if not isinstance(error, Halted):
            raise error
    return not errors and not waiting and not any(thread.is_alive() for thread in threads)
