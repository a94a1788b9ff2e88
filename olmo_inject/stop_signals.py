"""Signals to stop, from a user or a scheduler."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(received: list[int] | None = None) -> Iterator[list[int]]:
    """Yield the list given, or a new one: empty until Ctrl-C or SIGTERM arrives; the signals interrupt nothing.

    A list and not a `threading.Event`: a second signal in the handler of the first would wait for the event's lock
    for ever.
    """
    received = [] if received is None else received
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, lambda number, _: received.append(number)) for number in signals]
    try:
        yield received
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def stop_with_parent(parent: int) -> None:
    """Send this process SIGTERM when its parent process `parent` dies, or now if it is dead.

    The signal after a later death is a feature of Linux.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
