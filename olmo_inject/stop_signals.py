"""Requests to stop, from a person or a scheduler."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM arrives; neither interrupts what runs.

    A list, not a `threading.Event`: a second signal inside the handler of the first would wait for the event's
    lock for ever.
    """
    received: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, lambda number, _: received.append(number)) for number in signals]
    try:
        yield received
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def stop_with_parent(parent: int) -> None:
    """Have this process sent SIGTERM when process `parent`, which started it, dies, or now if it has died already.

    Only Linux can send it later.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
