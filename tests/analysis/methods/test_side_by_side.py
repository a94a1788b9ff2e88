"""Work in threads: results, failures, and the number of cores that is put back."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from analysis.methods.threads import OtherFailed, side_by_side

Check = Callable[[], None]


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # torchrun, in the same process, leaves its own
    yield
    signal.signal(signal.SIGINT, handler)
    torch.set_num_threads(before)


def until_stopped(check: Check) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        check()
        time.sleep(0.001)
    raise AssertionError("nobody stopped it")


def test_results_are_in_order_and_a_worker_does_one_thing_at_a_time() -> None:
    busy = {"a": threading.Lock(), "b": threading.Lock()}
    both = threading.Barrier(2, timeout=30)  # so the first two items are worked on at once
    cores: list[int] = []

    def work(worker: str, item: int, check: Check) -> int:
        assert busy[worker].acquire(blocking=False)
        cores.append(torch.get_num_threads())
        check()
        if item < 2:
            both.wait()
        busy[worker].release()
        return item * item

    assert side_by_side(work, range(20), ["a", "b"]) == [item * item for item in range(20)]
    assert cores == [1] * 20
    assert torch.get_num_threads() == 2


def test_a_failure_ends_the_others_and_is_the_one_that_is_told() -> None:
    begun: list[int] = []
    both = threading.Barrier(2, timeout=30)

    def work(worker: int, item: int, check: Check) -> None:
        begun.append(item)
        both.wait()
        if item == 1:
            raise ValueError("of item 1")
        until_stopped(check)

    with pytest.raises(ValueError, match="of item 1"):
        side_by_side(work, range(20), [0, 1])
    assert sorted(begun) == [0, 1]
    assert torch.get_num_threads() == 2


def test_an_interrupt_ends_what_runs() -> None:
    ended: list[int] = []
    both = threading.Barrier(2, timeout=30)

    def work(worker: int, item: int, check: Check) -> None:
        both.wait()
        if item == 1:
            ident = threading.main_thread().ident
            assert ident is not None
            signal.pthread_kill(ident, signal.SIGINT)
        try:
            until_stopped(check)
        except OtherFailed:
            ended.append(item)
            raise

    with pytest.raises(KeyboardInterrupt):
        side_by_side(work, range(20), [0, 1])
    # An interrupt of the very start of a thread leaves it to end by itself.
    end = time.monotonic() + 20
    while len(ended) < 2 and time.monotonic() < end:
        time.sleep(0.001)
    assert sorted(ended) == [0, 1]
    assert torch.get_num_threads() == 2
