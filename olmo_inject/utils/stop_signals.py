"""Signals that ask a process to stop, from a user or a scheduler."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(received: list[int] | None = None) -> Iterator[list[int]]:
    """Yield a list, `received` or a new one, that gets every Ctrl-C and SIGTERM. The signals interrupt nothing.

    It is a list because a `threading.Event` could deadlock: a second signal that arrives in the handler of the first
    would wait for the event's lock.
    """
    heard = [] if received is None else received
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, lambda number, _: heard.append(number)) for number in signals]
    try:
        yield heard
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def stop_with_parent(parent: int) -> None:
    """Send this process SIGTERM when its parent process `parent` dies, or now if it is already dead.

    Only Linux reports a later death of the parent.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
