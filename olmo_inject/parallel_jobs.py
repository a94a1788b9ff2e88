"""Runs jobs over a corpus in several processes, with one line of progress: share done, rate and time left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from itertools import islice
from multiprocessing.sharedctypes import SynchronizedArray
from typing import Any, TypeVar

from olmo_inject.errors import UserError
from olmo_inject.worker_processes import check_sockets, end_with_parent

Report = Callable[[int, int], None]  # units of work done and tokens handled since the last report
J = TypeVar("J")
R = TypeVar("R")

_POLL_S = 0.2
_WATCHED = 1024  # jobs; they start in order, so one that fails is near the first unfinished one
_FIRST_S = 2.0  # before anything is shown
_LINE_S = 10.0  # between lines where standard error is no terminal
_DONE, _TOKENS, _STOP = range(3)


class Stopped(Exception):
    """Another job failed or the user stopped; this job ends as if killed."""


def each_result(
    function: Callable[[J, Report], R],
    jobs: Sequence[J],
    *,
    processes: int,
    what: str,
    total: int,
    progress: bool,
    threads: int = 1,
) -> Iterator[R]:
    """Call `function(job, report)` for every job in several processes; yield the results in the order of `jobs`.

    Args:
        function: picklable, with the data that all jobs need bound to it, since a process gets it once. It calls
            `report` about once a second, which also ends it if another job failed.
        jobs: picklable.
        processes: jobs at once.
        what: begins the line of progress.
        total: units of work in all jobs.
        progress: show progress on standard error.
        threads: of the `tokenizers` library in each process.

    Raises:
        UserError: the first error of a job, or a process was killed.
        KeyboardInterrupt: after Ctrl-C, once all jobs have ended.
    """
    if processes < 1:
        raise UserError(f"--processes: {processes} must be at least 1")
    check_sockets()
    context = multiprocessing.get_context("forkserver")  # the server has no threads, so its children start clean
    context.set_forkserver_preload([__name__])
    counts = context.Array("q", 3)
    meter = _Meter(what, total, progress)
    pool = ProcessPoolExecutor(
        min(processes, max(1, len(jobs))), mp_context=context, initializer=_begin, initargs=(counts, threads, function)
    )
    try:
        yield from _watch(deque(pool.submit(_call, job) for job in jobs), counts, meter)
    except BrokenProcessPool:
        raise UserError(f"{what}: a process was killed: is there too little memory?") from None
    finally:
        counts[_STOP] = 1
        pool.shutdown(cancel_futures=True)
        meter.close()


def _watch(futures: deque[Future[R]], counts: SynchronizedArray[int], meter: _Meter) -> Iterator[R]:
    """Show progress and yield results in order until all are done; raise the first error of a job."""
    while futures:
        near = list(islice(futures, _WATCHED))
        for future in wait(near, timeout=_POLL_S, return_when=FIRST_EXCEPTION).done:
            future.result()
        while futures and futures[0].done():
            yield futures.popleft().result()
        meter.show(counts[_DONE], counts[_TOKENS])


_counts: SynchronizedArray[int] | None = None
_function: Callable[[Any, Report], Any] | None = None


def _begin(counts: SynchronizedArray[int], threads: int, function: Callable[[Any, Report], Any]) -> None:
    """Initialize a new process, before the tokenizers library counts its threads."""
    global _counts, _function
    _counts, _function = counts, function
    end_with_parent()
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
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
        raise Stopped


class _Meter:
    """One line on standard error that is overwritten; without a terminal, a new line every ten seconds."""

    def __init__(self, what: str, total: int, wanted: bool) -> None:
        self.what = what
        self.total = total
        self.terminal = sys.stderr.isatty()
        self.wanted = wanted
        self.begun = time.monotonic()
        self.next = self.begun + (_FIRST_S if self.terminal else _LINE_S)
        self.shown = False

    def show(self, done: int, tokens: int) -> None:
        now = time.monotonic()
        if not self.wanted or now < self.next:
            return
        self.next = now + (_POLL_S if self.terminal else _LINE_S)
        elapsed = now - self.begun
        left = timedelta(seconds=round(elapsed * (self.total - done) / done)) if done else "?"
        line = (
            f"{self.what}: {done / max(1, self.total):.1%}, {tokens:,} tokens, {tokens / elapsed:,.0f}/s, {left} left"
        )
        print(f"\r{line}\x1b[K" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr)
        sys.stderr.flush()
        self.shown = True

    def close(self) -> None:
        if self.shown and self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
