"""Pieces of work done side by side, ended together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from olmo_inject.corpus.staging.spill_runs import Advance


class _Stopped(Exception):
    """Raised inside a piece of work that is to end early."""


class Halt:
    """Counts bytes, and ends all pieces of work once they should stop or one of them has failed."""

    def __init__(self, advance: Advance, should_stop: Callable[[], bool]) -> None:
        self._advance = advance
        self._should_stop = should_stop
        self.failed = False

    def advance(self, n: int) -> None:
        """Note that `n` bytes are done; ends the piece of work that calls it, if all are to end."""
        if self.failed or self._should_stop():
            raise _Stopped
        self._advance(n)


def in_parallel(pieces: Sequence[Callable[[], None]], at_once: int, halt: Halt) -> bool:
    """Do all pieces; False if they were stopped. The first error ends the others and is raised."""
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(piece) for piece in pieces]
        _, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        halt.failed = bool(waiting)
        for future in waiting:
            future.cancel()
    errors = [error for future in futures if not future.cancelled() and (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, _Stopped):
            raise error
    return not errors
