"""Text of others on a terminal, and output that is closed, full, or poor in characters."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made import small_experiment
from rich.table import Table

from olmo_inject.errors import UserError, report
from olmo_inject.utils.terminal import Console
from olmo_inject.visible_text import visible

pytestmark = pytest.mark.slow


def test_what_a_terminal_would_obey_is_shown_as_an_escape() -> None:
    assert visible("a\x1b]0;title\x07b\x9b2J\u202e\ud800\r") == r"a\x1b]0;title\x07b\x9b2J\u202e\ud800\r"
    assert visible("a\tb\n\u6570 \u00e9") == "a\tb\n\u6570 \u00e9"


def test_markup_and_escapes_in_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    table = Table("[/x]", title="[bold]t")
    table.add_row(":smile:\x1b[2J")
    console = Console(file=out, width=200)
    console.print(table)
    console.print("[/x] \x1b[2J")
    assert all(text in out.getvalue() for text in ("[/x]", "[bold]t", ":smile:\\x1b[2J", "[/x] \\x1b[2J"))
    assert "\x1b" not in out.getvalue()
    report(UserError("no \x1b]0;title\x07"))
    assert capsys.readouterr().err == "olmo-inject: no \\x1b]0;title\\x07\n"


@pytest.fixture
def plan(tmp_path: Path) -> list[str]:
    path = small_experiment(tmp_path, name="[/x] \u6570")
    return [sys.executable, "-m", "olmo_inject", "plan", str(path)]


def test_a_full_disk_is_one_line(plan: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(plan, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "olmo-inject: cannot write: No space left on device\n")


def test_a_closed_pipe_ends_in_silence(plan: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(plan, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_no_standard_output_at_all(plan: list[str]) -> None:
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *plan], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_output_of_ascii_alone(plan: list[str]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(plan, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[/x] \\u6570" in done.stdout


def test_ctrl_c_is_one_line(plan: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("raise KeyboardInterrupt\n")  # a signal may be ignored where tests run in the background
    done = subprocess.run([*plan, f"tasks.0.kind={own}:Own"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "olmo-inject: interrupted\n")
