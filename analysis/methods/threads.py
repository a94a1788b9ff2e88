"""Run pieces of CPU work in parallel, each in a thread with one core.

Small matrices cannot keep two cores busy, but two pieces of work can. Each result comes from one core, so its bits do
not depend on the number of cores.
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


class OtherFailed(Exception):
    """Raised within a piece of work if another has failed or the user has interrupted."""


@contextmanager
def one_core() -> Iterator[None]:
    """Within the context, each thread of this process uses one core, so that every machine computes the same bits."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def side_by_side(
    work: Callable[[Worker, Item, Callable[[], None]], Result], items: Sequence[Item], workers: Sequence[Worker]
) -> list[Result]:
    """Apply `work` to each item in parallel.

    Args:
        work: takes a worker, an item and a function. It should call the function now and then: the function raises
            `OtherFailed` once another item has failed.
        items: started in this order, so the longest should come first.
        workers: one per thread: what two threads cannot share. Until the end, other threads of this process have one
            core too.

    Returns:
        The results, in the order of the items.

    Raises:
        BaseException: the first error that an item raised.
    """
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)
    over = Event()

    def check() -> None:
        if over.is_set():
            raise OtherFailed

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
            over.set()  # before the pool waits for the items that still run
    for error in (future.exception() for future in futures):
        if error is not None and not isinstance(error, OtherFailed):  # this error caused the others to stop
            raise error
    return [future.result() for future in futures]
