"""Run jobs over a corpus, in several processes or in this one, and show their progress.

Calls of a function run here. Whole commands run in `launch.pool`, requests to a server in `corpus.staging.pieces`, and
pieces of linear algebra in `analysis.methods.threads`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.sharedctypes import SynchronizedArray
from typing import Any, TypeVar

from olmo_inject.errors import UserError
from olmo_inject.utils.options import check_options
from olmo_inject.utils.progress import Meter, show_progress
from olmo_inject.utils.stop_signals import stop_signals
from olmo_inject.utils.worker_processes import check_sockets, end_with_parent

Report = Callable[[int, int], None]  # called with units of work and tokens done since the last call
J = TypeVar("J")
R = TypeVar("R")

_POLL_S = 0.2
_PARALLELISM = "TOKENIZERS_PARALLELISM"
_WATCHED = 1024  # jobs watched at once; jobs start in order, so a failed one is near the first unfinished one
_DONE, _TOKENS, _STOP = range(3)


class Cancelled(Exception):
    """Raised in a job after another job failed or the user stopped."""


def each_result(
    function: Callable[[J, Report], R],
    jobs: Sequence[J],
    *,
    processes: int,
    what: str,
    total: int,
    unit: str,
    progress: bool,
    threads: int = 1,
) -> Iterator[R]:
    """Call `function(job, report)` for every job, and yield the results in the order of `jobs`.

    Args:
        function: picklable, with the data that all jobs share bound to it, since each process receives it once. It
            calls `report` about once a second; that call also ends it if another job failed.
        jobs: picklable.
        processes: number of processes; with 1, the jobs run in this process.
        what: first words of the progress line.
        total: amount of work in all jobs.
        unit: of `total`, as in `show_progress`.
        progress: whether to show progress on standard error.
        threads: threads of the `tokenizers` library in each process.

    Raises:
        UserError: the first error of a job, or a process was killed.
        KeyboardInterrupt: after Ctrl-C, once all jobs have ended.
    """
    check_options(processes=processes)
    if processes == 1:
        with show_progress(what, total, unit, enabled=progress) as meter:
            yield from _one_after_another(function, jobs, meter)
        return
    check_sockets()
    context = multiprocessing.get_context("forkserver")  # the server has no threads, so its children start clean
    context.set_forkserver_preload([__name__])
    counts = context.Array("q", 3)
    pool = ProcessPoolExecutor(
        min(processes, max(1, len(jobs))), mp_context=context, initializer=_begin, initargs=(counts, threads, function)
    )
    try:
        with show_progress(what, total, unit, enabled=progress) as meter:
            with _signals_held_back():
                futures = deque(pool.submit(_call, job) for job in jobs)  # this starts the processes
            yield from _watch(futures, counts, meter)
    except BrokenProcessPool:
        raise UserError(f"{what}: a process was killed: is there too little memory?") from None
    finally:
        counts[_STOP] = 1
        pool.shutdown(cancel_futures=True)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end. Processes that are started meanwhile never get Ctrl-C."""
    with stop_signals() as heard:  # another thread may get a signal that this one blocks
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for number in heard:
        signal.raise_signal(number)


def _one_after_another(function: Callable[[J, Report], R], jobs: Sequence[J], meter: Meter) -> Iterator[R]:
    """The results of jobs in this process, which saves the start of another."""
    counts = [0, 0]

    def report(done: int, tokens: int) -> None:
        counts[_DONE] += done
        counts[_TOKENS] += tokens
        _show(meter, counts)

    for job in jobs:
        with _one_tokenizer_thread():
            result = function(job, report)
        yield result


@contextmanager
def _one_tokenizer_thread() -> Iterator[None]:
    """Keep the tokenizers library to one thread, as it reads each time that it is called."""
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PARALLELISM]
        else:
            os.environ[_PARALLELISM] = before


def _show(meter: Meter, counts: Sequence[int] | SynchronizedArray[int]) -> None:
    meter.update(counts[_DONE], f"{counts[_TOKENS]:,} tokens" if meter.unit != "tokens" else "")


def _watch(futures: deque[Future[R]], counts: SynchronizedArray[int], meter: Meter) -> Iterator[R]:
    """Show progress and yield results in order until all are done; raise the first error of a job."""
    while futures:
        near = list(islice(futures, _WATCHED))
        for future in wait(near, timeout=_POLL_S, return_when=FIRST_EXCEPTION).done:
            future.result()
        while futures and futures[0].done():
            yield futures.popleft().result()
        _show(meter, counts)


_counts: SynchronizedArray[int] | None = None
_function: Callable[[Any, Report], Any] | None = None


def _begin(counts: SynchronizedArray[int], threads: int, function: Callable[[Any, Report], Any]) -> None:
    """Initialize a new process, before the tokenizers library counts its threads."""
    global _counts, _function
    _counts, _function = counts, function
    end_with_parent()
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ[_PARALLELISM] = "true" if threads > 1 else "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process handles Ctrl-C


def _call(job: Any) -> Any:
    assert _function is not None
    return _function(job, _report)


def _report(done: int, tokens: int) -> None:
    assert _counts is not None
    with _counts.get_lock():
        _counts[_DONE] += done
        _counts[_TOKENS] += tokens
    if _counts[_STOP]:
        raise Cancelled
