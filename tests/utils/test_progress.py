"""Progress of long work: what a terminal shows, what a log holds, and that one function serves all."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import pytest

from olmo_inject.utils import progress
from olmo_inject.utils.progress import Meter, show_progress

ROOT = Path(__file__).parents[2]


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_line_has_done_total_rate_time_left_and_a_note(clock: Clock) -> None:
    meter = Meter("training", 1000, "steps", done=200)
    assert meter.line() == "200/1,000 steps, 0 steps/s, ? left"
    clock.now += 50
    meter.update(400, "loss 2.1")
    assert meter.line() == "400/1,000 steps, 4 steps/s, 0:02:30 left, loss 2.1"
    for total, line in ((1, "60% of 1 checkpoint, 0:00:20 left"), (3, "20% of 3 checkpoints, 0:02:00 left")):
        searching = Meter("das", total, "checkpoints")
        clock.now += 30
        searching.update(0.6)
        assert searching.line() == line
    staging = Meter("staging", 8e9, "bytes")
    clock.now += 10
    staging.advance(10**9)
    staging.advance(10**9)
    assert staging.line() == "2.00/8.00 GB, 200.0 MB/s, 0:00:30 left"


def test_a_log_gets_a_line_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    notes: list[str] = []

    def note() -> str:
        notes.append("asked")
        return "half"

    with show_progress("scan\x1b[2J", 100, "files") as meter:
        for _ in range(100):
            clock.now += 0.3
            meter.update(meter.done + 1, note)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.findall(r"(\d+)/100 files, 3.3 files/s, 0:00:\d\d left, half", err) == ["34", "68"]
    assert err.count("\n") == len(notes) == 2
    assert "\x1b" not in err


def test_work_that_is_soon_done_shows_nothing_but_an_end_that_was_asked_for(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for to_the_end, lines in ((False, 0), (True, 1)):
        with show_progress("short", 3, "steps", to_the_end=to_the_end) as meter:
            for _ in range(3):
                clock.now += 0.1
                meter.advance()
        assert capsys.readouterr().err.count("short: 3/3 steps") == lines
    with show_progress("quiet", 3, "steps", enabled=False, to_the_end=True) as meter:
        clock.now += 100
        meter.advance(3)
    assert (meter.done, capsys.readouterr().err) == (3, "")


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(os.environ, "TERM", "xterm")
    with show_progress("staging", 10, "steps") as meter:
        meter.advance(4)
        assert terminal.getvalue() == ""
        clock.now += 4
        meter.advance(4)
    shown = terminal.getvalue()
    assert "staging" in shown
    assert "8/10 steps, 2 steps/s, 0:00:01 left" in shown
    assert "\x1b[2K" in shown.rsplit("left", 1)[1]  # erased
    assert "\x1b[?25h" in shown  # the cursor is back


def test_nothing_else_draws_a_bar_or_tells_the_time_left() -> None:
    """A meter written by hand shows itself by rich's bars; only the pool's many lines have one of their own."""
    users = {
        str(file.relative_to(ROOT))
        for folder in ("olmo_inject", "analysis", "launch")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"rich\.progress\b|\bstderr\.isatty", file.read_text())
    }
    assert users == {"olmo_inject/utils/progress.py"}
