"""Pieces of work on the CPU side by side, each in a thread with one core.

Small matrices leave most of a second core idle when two work on one of them; two that work on a piece each are both
busy. And what one core computes does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

import torch

Item = TypeVar("Item")
Worker = TypeVar("Worker")
Result = TypeVar("Result")


class Stopped(Exception):
    """Raised within a piece of work when another failed or the user wants no more."""


@contextmanager
def one_core() -> Iterator[None]:
    """Within the context, each thread of this process computes on one core, so the bits are those of any machine."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def side_by_side(
    work: Callable[[Worker, Item, Callable[[], None]], Result], items: Sequence[Item], workers: Sequence[Worker]
) -> list[Result]:
    """The result of each item, in their order.

    Args:
        work: of a worker (what two threads cannot share) and an item; to call what it gets third now and then, which
            ends it when there is no use in going on.
        items: begun in their order, so the longest should stand first.
        workers: one for each thread. Other threads of this process have one core too for as long as this takes.
    """
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)
    over = Event()

    def check() -> None:
        if over.is_set():
            raise Stopped

    def one(item: Item) -> Result:
        check()
        worker = free.get()
        try:
            return work(worker, item, check)
        except BaseException:
            over.set()
            raise
        finally:
            free.put(worker)

    with one_core(), ThreadPoolExecutor(len(workers)) as pool:
        try:
            futures = [pool.submit(one, item) for item in items]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            over.set()  # before the pool waits for what still runs
    for error in (future.exception() for future in futures):
        if error is not None and not isinstance(error, Stopped):  # the cause of the others
            raise error
    return [future.result() for future in futures]
