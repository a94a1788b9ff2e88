"""Several commands on this machine, a few at a time, with one display, a log each, and a clean stop.

    jobs = [Job("wide", train_command("demo", "model=tiny-64"), Path("wide.log")), ...]
    outcomes = run_jobs(jobs, at_once=2)

Each job is a process of its own with its own log; what the display shows of a job is the last line it wrote.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from olmo_inject.errors import UserError
from olmo_inject.progress import SECONDS_BETWEEN_LINES, Meter
from olmo_inject.stop_signals import stop_signals, stop_with_parent
from olmo_inject.terminal import Console
from olmo_inject.visible_text import visible

POLL_SECONDS = 0.25
GRACE_SECONDS = 45.0  # for a stopped job to write its checkpoint; `train` gives its ranks 30 s of them
TAIL_BYTES = 4096
_COMMAND = "$ "  # before the command, the first line of what it logs


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: unique among the jobs of a pool.
        command: the program and its arguments.
        log: where its standard output and error go, appended to what is there.
        threads: of computation in each of its processes, `OMP_NUM_THREADS`.
        gpus: how many it takes of the pool's.
    """

    name: str
    command: Sequence[str]
    log: Path
    threads: int = 1
    gpus: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        job: the job.
        status: its exit status, minus the signal's number if one ended it; None if it was never started.
        seconds: how long it ran.
        last_line: the last it wrote.
    """

    job: Job
    status: int | None
    seconds: float
    last_line: str

    @property
    def succeeded(self) -> bool:
        """Whether it ran to its end without an error."""
        return self.status == 0

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop, or never started: not a failure, and it can go on."""
        return self.status in (None, -signal.SIGTERM, 128 + signal.SIGTERM)

    @property
    def how(self) -> str:
        """In a word or two."""
        if self.succeeded:
            return "done"
        return "stopped" if self.stopped else f"FAILED with status {self.status}"


class Stopped(Exception):
    """The pool was asked to stop, by Ctrl-C or SIGTERM, and every job has ended.

    Attributes:
        outcomes: of every job, in the order given.
    """

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__("stopped")
        self.outcomes = outcomes


def train_command(config: str, *overrides: str) -> list[str]:
    """The command line of `olmo-inject train`, which starts the ranks of a run through torchrun's agent."""
    return [sys.executable, "-m", "olmo_inject", "train", config, *overrides]


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    *,
    gpus: Sequence[str] = (),
    ended: Callable[[Outcome], None] = lambda _: None,
    console: Console | None = None,
) -> list[Outcome]:
    """Run `jobs` in their order, at most `at_once` at a time; one that fails does not stop the others.

    Args:
        jobs: what to run.
        at_once: how many run together.
        gpus: numbers or ids of the GPUs that jobs may take, as in CUDA_VISIBLE_DEVICES; each job sees its own alone.
        ended: told each outcome as soon as it is known.
        console: where to show progress; standard error by default.

    Returns:
        One outcome for each job, in the order given.

    Raises:
        UserError: two jobs of one name, no place to run, or a log that cannot be written.
        Stopped: after Ctrl-C or SIGTERM, once every job has ended; jobs get SIGTERM, which `train` answers
            with a checkpoint, and are killed after 45 s.
    """
    if at_once < 1:
        raise UserError(f"--jobs: {at_once} must be at least 1")
    names = [job.name for job in jobs]
    if len(set(names)) != len(names):
        raise UserError(f"two runs have one name: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
    if greedy := [job.name for job in jobs if job.gpus > len(gpus)]:
        raise UserError(f"{greedy[0]} needs more GPUs than the {len(gpus)} that are here")
    console = console or Console(stderr=True)
    free = list(gpus)
    waiting, running, outcomes = list(jobs), list[_Running](), dict[str, Outcome]()
    with stop_signals() as stop, _Display(console, len(jobs)) as display:
        try:
            while (waiting or running) and not stop:
                while waiting and len(running) < at_once and waiting[0].gpus <= len(free):
                    job = waiting.pop(0)
                    mine, free = free[: job.gpus], free[job.gpus :]
                    running.append(_Running.start(job, mine))
                    display.say(f"{job.name}: started, log in {job.log}")
                for one in _collect(running, outcomes, display):
                    free += one.gpus
                    ended(outcomes[one.job.name])
                display.show(running, outcomes)
                time.sleep(POLL_SECONDS)
        finally:
            if running:
                display.say(f"stopping {len(running)} runs; they write a checkpoint first")
                for one in _end(running, outcomes, display):
                    ended(outcomes[one.job.name])
    ordered = [outcomes.get(job.name, Outcome(job, None, 0.0, "")) for job in jobs]
    if stop:
        raise Stopped(ordered)
    return ordered


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    gpus: list[str]
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, job: Job, gpus: list[str]) -> _Running:
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(job.threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        try:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("ab") as log:
                log.write(f"{_COMMAND}{shlex.join(job.command)}\n".encode())
                log.flush()
                process = subprocess.Popen(
                    job.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    preexec_fn=partial(stop_with_parent, os.getpid()),
                    start_new_session=True,  # Ctrl-C reaches a job once, from here, not also from the terminal
                )
        except OSError as error:
            raise UserError(f"cannot start {job.name} with log {job.log}: {error.strerror}") from None
        return cls(job, process, gpus)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def outcome(self) -> Outcome:
        assert self.process.returncode is not None
        return Outcome(self.job, self.process.returncode, self.seconds, last_line(self.job.log))


def last_line(log: Path) -> str:
    """The last line of `log` that is not empty; nothing where its command has not written any yet."""
    return next(iter(last_lines(log, 1)), "")


def last_lines(log: Path, count: int) -> list[str]:
    """At most `count` lines at the end of `log`, of the last command in it, without empty ones."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return []
    found: list[str] = []
    for line in reversed(lines):
        if line.startswith(_COMMAND) or len(found) == count:
            break
        if line.strip():
            found.insert(0, visible(line.strip()))
    return found


def _collect(running: list[_Running], outcomes: dict[str, Outcome], display: _Display) -> list[_Running]:
    """Move what has ended from `running` to `outcomes`; returns it."""
    found = []
    for one in list(running):
        if one.process.poll() is None:
            continue
        running.remove(one)
        found.append(one)
        outcome = outcomes[one.job.name] = one.outcome()
        said = outcome.last_line.removeprefix(f"{one.job.name}: ")  # `train` begins with its name
        display.say(f"{one.job.name}: {outcome.how} after {outcome.seconds:.0f} s: {said}")
    return found


def _end(running: list[_Running], outcomes: dict[str, Outcome], display: _Display) -> list[_Running]:
    """Stop what runs: SIGTERM to each, which passes it on, and after a while SIGKILL to all it started."""
    found = []
    for one in running:
        one.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while running and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        found += _collect(running, outcomes, display)
    for one in running:
        os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()
    return found + _collect(running, outcomes, display)


class _Display:
    """On a terminal a bar over all jobs and a line for each that runs, else lines as they come."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._meter = Meter("", total, "runs")
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._said: dict[str, str] = {}
        self._last_lines = time.monotonic()

    def __enter__(self) -> _Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, message: str) -> None:
        """A line that stays."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def show(self, running: Sequence[_Running], outcomes: dict[str, Outcome]) -> None:
        """The state of all jobs."""
        if self._live is not None:
            self._live.update(self._picture(running, len(outcomes)), refresh=True)
        elif time.monotonic() - self._last_lines >= SECONDS_BETWEEN_LINES:
            self._last_lines = time.monotonic()
            for one in running:
                line = last_line(one.job.log)
                if line and self._said.get(one.job.name) != line:
                    self._said[one.job.name] = line
                    self.say(line if line.startswith(one.job.name) else f"{one.job.name}: {line}")

    def _picture(self, running: Sequence[_Running], done: int) -> RenderableType:
        self._meter.update(done, f"{len(running)} running")
        head = Table.grid(padding=(0, 1))
        head.add_row(ProgressBar(total=self._meter.total, completed=done, width=30), self._meter.line())
        lines = Table.grid(padding=(0, 1))
        for one in running:
            line = last_line(one.job.log).removeprefix(f"{one.job.name}: ")
            lines.add_row(one.job.name, Text(line or "starting", overflow="ellipsis", no_wrap=True))
        return Group(head, lines)
