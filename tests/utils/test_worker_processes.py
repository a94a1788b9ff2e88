"""What worker processes need of a machine, how Ctrl-C spares those that begin, and how a loader's end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import process
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from olmo_inject.errors import FoundByOneRank, UserError
from olmo_inject.training.loader import _begin_worker, worker_deaths_told
from olmo_inject.utils.parallel_jobs import Report, each_result
from olmo_inject.utils.worker_processes import check_sockets


def test_a_folder_with_too_long_a_path_for_sockets_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_sockets()
    long = tmp_path / ("x" * 110)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setitem(process.current_process()._config, "tempdir", None)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=f"^TMPDIR: worker processes cannot make their sockets in {long}"):
        check_sockets()


class Doubled:
    """A function of jobs, to which Ctrl-C comes while a new process receives it."""

    def __call__(self, job: int, _report: Report) -> int:
        return 2 * job

    def __reduce__(self) -> tuple[object, ...]:
        return doubled_after_ctrl_c, ()


def doubled_after_ctrl_c() -> Doubled:
    signal.raise_signal(signal.SIGINT)
    return Doubled()


def double_two() -> None:
    results = each_result(Doubled(), [1, 2], processes=2, what="doubling", total=2, unit="jobs", progress=False)
    assert list(results) == [2, 4]


def test_ctrl_c_spares_processes_that_begin() -> None:
    """They would end with a traceback on the user's screen, beside the one line of the command."""
    done = in_a_process_of_its_own("double_two")
    assert (done.returncode, done.stderr) == (0, "")


class Interrupted(list[int]):
    """Jobs to which Ctrl-C comes while they are handed over."""

    def __iter__(self) -> Iterator[int]:
        signal.raise_signal(signal.SIGINT)
        yield from super().__iter__()


def test_ctrl_c_while_processes_begin_is_not_lost() -> None:
    jobs = Interrupted([1, 2])
    results = each_result(abs, jobs, processes=2, what="", total=2, unit="jobs", progress=False)  # type: ignore[arg-type]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # torchrun leaves its own in this process
    try:
        with pytest.raises(KeyboardInterrupt):
            list(results)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


class Broken(IterableDataset[object]):
    """Its one batch cannot be sent to another process."""

    def __iter__(self) -> Iterator[object]:
        yield lambda: torch.zeros(1)


@pytest.mark.timeout(100)
def test_a_batch_that_cannot_be_handed_over_ends_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    """Left alone, Python drops it and the rank waits for ever."""
    loader = DataLoader(Broken(), batch_size=None, num_workers=1, worker_init_fn=_begin_worker)
    with pytest.raises(FoundByOneRank, match="DataLoader worker died"), worker_deaths_told():
        raise ConnectionResetError("Connection reset by peer")  # while it hands over a batch
    with pytest.raises(FoundByOneRank, match="DataLoader worker"), worker_deaths_told():
        next(iter(loader))
    assert "olmo-inject: a loader worker cannot hand over a batch" in capfd.readouterr().err


class Endless(IterableDataset[int]):
    """Has always another item."""

    def __iter__(self) -> Iterator[int]:
        yield from range(10**9)


def leave_a_worker() -> None:
    """What an error in the middle of training leaves in a traceback: a loader that nobody closed."""
    global left
    left = iter(DataLoader(Endless(), batch_size=None, num_workers=1, worker_init_fn=_begin_worker))
    next(left)


@pytest.mark.slow
def test_a_process_ends_though_workers_are_left() -> None:
    """They ignore the signal by which Python ends its children at exit."""
    assert in_a_process_of_its_own("leave_a_worker").returncode == 0


def in_a_process_of_its_own(function: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"from test_worker_processes import {function}; {function}()"]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(command, env=environment, timeout=100, check=False, capture_output=True, text=True)
