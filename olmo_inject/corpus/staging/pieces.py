"""Pieces of work done side by side, ended together; and one process at a time in a folder."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from olmo_inject.corpus.staging.runs import Advance
from olmo_inject.errors import UserError


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


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Hold a folder, made if need be, for this process.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = (work / "lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write {work}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{work.parent} is in use: another process is staging there") from None
        yield
