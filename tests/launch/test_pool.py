"""The pool against real processes: order, logs, failures, kills, and a clean stop."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from itertools import combinations
from pathlib import Path

import pytest
from rich.console import Console

from launch import pool
from launch.pool import Command, Stopped, last_line, run_commands
from olmo_inject.errors import UserError

WAITS = "import time; print('waiting', flush=True); time.sleep(600)"


def command(folder: Path, name: str, code: str) -> Command:
    return Command(name, [sys.executable, "-c", code], folder / "logs" / f"{name}.log")


def run(commands: list[Command], at_once: int = 2) -> tuple[list[pool.Outcome], str]:
    text = StringIO()
    return run_commands(commands, at_once, console=Console(file=text, width=200)), text.getvalue()


def when(condition: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Do `act` in a thread, once `condition` holds."""

    def wait() -> None:
        while not condition():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.slow
def test_no_two_jobs_share_a_gpu(tmp_path: Path) -> None:
    """Each says when it began and ended and which GPUs it saw; the first waits for a second."""
    begun = tmp_path / "begun"
    begun.mkdir()
    code = (
        "import os, pathlib, time; begun = time.monotonic();"
        f"folder = pathlib.Path({str(begun)!r}); (folder / str(os.getpid())).touch()\n"
        "while len(list(folder.iterdir())) < 2 and time.monotonic() < begun + 60: time.sleep(0.02)\n"
        "time.sleep(0.1); print(begun, time.monotonic(), os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    counts = [1, 2, 1, 3, 1, 1]
    commands = [replace(command(tmp_path, f"job{i}", code), gpus=n) for i, n in enumerate(counts)]
    outcomes = run_commands(commands, 6, gpus=["0", "2", "GPU-8932f937"], console=Console(file=StringIO()))
    seen = []
    for outcome, count in zip(outcomes, counts, strict=True):
        begun, ended, gpus = outcome.last_line.split()
        assert len(set(gpus.split(","))) == count
        assert set(gpus.split(",")) <= {"0", "2", "GPU-8932f937"}
        seen.append((float(begun), float(ended), set(gpus.split(","))))
    for one, other in combinations(seen, 2):
        together = one[0] < other[1] and other[0] < one[1]
        assert not (together and one[2] & other[2])
    assert any(one[0] < other[1] and other[0] < one[1] for one, other in combinations(seen, 2))


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    commands = [
        command(tmp_path, "good", "print('fine')"),
        command(tmp_path, "bad", "import sys; print('before'); sys.exit('no corpus')"),
        command(tmp_path, "user", "raise SystemExit(2)"),
        command(tmp_path, "last", "print('fine too')"),
    ]
    outcomes, shown = run(commands)
    assert [outcome.command.name for outcome in outcomes] == ["good", "bad", "user", "last"]
    assert [outcome.status for outcome in outcomes] == [0, 1, 2, 0]
    assert [outcome.succeeded for outcome in outcomes] == [True, False, False, True]
    assert outcomes[1].last_line == "no corpus"
    assert (tmp_path / "logs" / "bad.log").read_text().splitlines()[-2:] == ["before", "no corpus"]
    assert "bad: FAILED with status 1" in shown
    assert "no corpus" in shown


def test_a_killed_one_is_reported_with_its_signal(tmp_path: Path) -> None:
    code = "import os, signal; print('begun', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    outcomes, shown = run([command(tmp_path, "killed", code), command(tmp_path, "other", "pass")])
    assert [outcome.status for outcome in outcomes] == [-signal.SIGKILL, 0]
    assert "killed: killed by SIGKILL after" in shown  # it resumes, so `sweep status` does not call it failed


@pytest.mark.slow
def test_never_more_than_asked_at_once_and_begun_in_order(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    code = (
        "import os, sys, time, pathlib; marks = pathlib.Path(sys.argv[1]); mine = marks / sys.argv[2]; "
        "mine.touch(); print(len(list(marks.iterdir()))); time.sleep(0.3); mine.unlink()"
    )
    names = ["a", "b", "c", "d", "e"]
    commands = [Command(n, [sys.executable, "-c", code, str(marks), n], tmp_path / f"{n}.log") for n in names]
    outcomes, shown = run(commands, at_once=2)
    assert all(int(outcome.last_line) <= 2 for outcome in outcomes)
    begun = [line.split(":")[0] for line in shown.splitlines() if ": started" in line]
    assert begun == names


def test_threads_and_a_log_that_is_kept(tmp_path: Path) -> None:
    one = command(tmp_path, "one", "import os; print(os.environ['OMP_NUM_THREADS'])")
    for _ in range(2):
        run([one])
    lines = one.log.read_text().splitlines()
    assert len(lines) == 4  # the command and its output, twice
    assert lines[0].startswith("$ ")
    assert lines[1] == lines[3] == "1"


def test_a_request_to_stop_ends_all_with_sigterm_and_starts_no_more(tmp_path: Path) -> None:
    tidy = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('checkpoint written', flush=True), sys.exit(143)))\n"
        "print('waiting', flush=True)\n"
        "time.sleep(600)"
    )
    commands = [
        command(tmp_path, "tidy", tidy),
        command(tmp_path, "plain", WAITS),
        command(tmp_path, "never", "print('ran')"),
    ]
    both_wait = lambda: all(last_line(j.log) == "waiting" for j in commands[:2])  # noqa: E731
    thread = when(both_wait, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped) as stopped:
        run(commands)
    thread.join()
    assert [outcome.status for outcome in stopped.value.outcomes] == [143, -signal.SIGTERM, None]
    assert last_line(commands[0].log) == "checkpoint written"
    assert not commands[2].log.exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_one_that_will_not_stop_is_killed_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.5)
    deaf = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    one = command(tmp_path, "deaf", deaf)
    thread = when(lambda: last_line(one.log).isdigit(), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped) as stopped:
        run([one])
    thread.join()
    assert [outcome.status for outcome in stopped.value.outcomes] == [-signal.SIGKILL]
    child = int(last_line(one.log))
    deadline = time.monotonic() + 10  # it was sent the signal; the system may take a moment over it
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_that_cannot_start_is_the_users_error_and_leaves_nothing_running(tmp_path: Path) -> None:
    waits = command(tmp_path, "waits", "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    nothing = Command("nothing", [str(tmp_path / "absent")], tmp_path / "nothing.log")
    with pytest.raises(UserError, match="cannot start nothing") as error:
        run([waits, nothing])
    assert "\n" not in str(error.value)
    pid = last_line(waits.log)
    assert not pid or not _runs(int(pid))


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two commands have the name a"):
        run([command(tmp_path, name, "pass") for name in ("a", "b", "a")])
    assert not (tmp_path / "logs").exists()


def test_the_display_on_a_terminal(tmp_path: Path) -> None:
    text = StringIO()
    console = Console(file=text, width=120, force_terminal=True)
    code = "import time; print('step 3/10, loss 2.5', flush=True); time.sleep(1)"
    run_commands([command(tmp_path, "wide", code)], 1, console=console)
    assert re.search("0/1 runs,.*, 1 running", text.getvalue())
    assert "step 3/10, loss 2.5" in text.getvalue()
    assert "wide: done after" in text.getvalue()
