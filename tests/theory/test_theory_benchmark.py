"""That the benchmark runs from either command line; what it measures is check 14's."""

import json
import runpy
import sys
import time
from pathlib import Path

import pytest

from olmo_inject.theory.checks import speed
from olmo_inject.theory.forms import gaps

MEASURED = speed.closed_form_seconds  # before it is made up
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Seconds that are made up, and the steps and rounds that were asked for."""
    asked = []

    def compare_training(basis: str, steps: int, rounds: int) -> speed.Speed:
        asked.append((steps, rounds))
        return speed.Speed(naive=6.0, batched=1.0, difference=0.0)

    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr(speed, "compare_training", compare_training)
    monkeypatch.setattr(speed, "closed_form_seconds", lambda: 0.5)
    for name in ("benchmarks", "benchmarks.theory"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return asked


@pytest.mark.parametrize("name", ["gap_critical_widths", "longest_gaps"])
def test_what_gaps_do_is_timed_too(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = getattr(gaps, name)

    def slow(*args):
        stop = time.process_time() + 0.2
        while time.process_time() < stop:
            pass
        return real(*args)

    monkeypatch.setattr(gaps, name, slow)
    assert MEASURED(100, 1000) >= 0.2


def test_among_all_benchmarks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "theory"])
    runpy.run_module("benchmarks", run_name="__main__")
    assert "6.00" in capsys.readouterr().out
    assert quick == [(150, 3)] * 2


def test_alone_with_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick) -> None:
    monkeypatch.setattr(sys, "argv", ["theory.py", "--steps", "7", "--rounds", "2", "--json"])
    runpy.run_module("benchmarks.theory", run_name="__main__")
    assert [row["ratio"] for row in json.loads(capsys.readouterr().out)["training"]] == [6.0, 6.0]
    assert quick == [(7, 2)] * 2
