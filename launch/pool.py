"""Run commands on this machine, a few at once, with one display, a log for each, and a clean stop.

    commands = [Command("wide", ["olmo-inject", "train", "demo"], Path("wide.log")), ...]
    outcomes = run_commands(commands, at_once=2)

Each command is a process with a log of its own. The display shows the last line of each log.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
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
from olmo_inject.utils.options import check_options
from olmo_inject.utils.progress import SECONDS_BETWEEN_LINES, Meter
from olmo_inject.utils.stop_signals import stop_signals, stop_with_parent
from olmo_inject.utils.terminal import Console
from olmo_inject.visible_text import visible

POLL_SECONDS = 0.25
GRACE_SECONDS = 45.0  # for a stopped command to write its checkpoint; `train` gives its ranks 30 s of them
TAIL_BYTES = 4096
_PROMPT = "$ "  # begins the log line that names the command whose output follows


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: unique in the pool.
        arguments: the program and its arguments.
        log: its standard output and error are appended to this file.
        threads: `OMP_NUM_THREADS` of its processes; None: as in this process.
        gpus: number of GPUs it takes.
    """

    name: str
    arguments: Sequence[str]
    log: Path
    threads: int | None = 1
    gpus: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        command: the command.
        status: its exit status; minus the signal's number if a signal ended it; None if it was never started.
        seconds: how long it ran.
        last_line: the last line of its log.
    """

    command: Command
    status: int | None
    seconds: float
    last_line: str

    @property
    def succeeded(self) -> bool:
        """Whether its exit status is 0."""
        return self.status == 0

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop, or never started. It has not failed and can be continued."""
        return self.status in (None, -signal.SIGTERM, 128 + signal.SIGTERM)

    @property
    def how(self) -> str:
        """`done`, `stopped`, `killed` with the signal or `FAILED` with the status."""
        if self.succeeded:
            return "done"
        if self.stopped or self.status is None:
            return "stopped"
        return f"FAILED with status {self.status}" if self.status > 0 else f"killed by {signal_name(-self.status)}"


def signal_name(number: int) -> str | None:
    """The name of a signal, such as SIGKILL; None if there is none of this number."""
    return signal.Signals(number).name if number in set(signal.Signals) else None


class Stopped(Exception):
    """Ctrl-C or SIGTERM stopped the pool, and every command has ended.

    Attributes:
        outcomes: of every command, in the order given.
    """

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__("stopped")
        self.outcomes = outcomes


def run_commands(
    commands: Sequence[Command],
    at_once: int,
    *,
    gpus: Sequence[str] = (),
    on_start: Callable[[Command], None] = lambda _: None,
    on_end: Callable[[Outcome], None] = lambda _: None,
    console: Console | None = None,
) -> list[Outcome]:
    """Run commands in their order. One that fails does not stop the others.

    Args:
        commands: the commands.
        at_once: maximum that run at once, at least 1.
        gpus: numbers or ids of the GPUs to share out, as in CUDA_VISIBLE_DEVICES; a command sees only its own.
        on_start: called with each command before it starts.
        on_end: called with each outcome as soon as it is known.
        console: shows progress; standard error by default.

    Returns:
        One outcome for each command, in the order given.

    Raises:
        UserError: two commands have the same name, one needs more GPUs than there are, or a log cannot be written.
        Stopped: after Ctrl-C or SIGTERM, when every command has ended. Commands get SIGTERM, on which `train` writes a
            checkpoint, and are killed after 45 s.
    """
    check_commands(commands, at_once, gpus)
    console = console or Console(stderr=True)
    free = list(gpus)
    waiting, running, outcomes = list(commands), list[_Running](), dict[str, Outcome]()
    with stop_signals() as stop, _Display(console, len(commands)) as display:
        try:
            while (waiting or running) and not stop:
                while waiting and len(running) < at_once and waiting[0].gpus <= len(free):
                    command = waiting.pop(0)
                    taken, free = free[: command.gpus], free[command.gpus :]
                    on_start(command)
                    running.append(_Running.start(command, taken))
                    display.say(f"{command.name}: started, log in {command.log}")
                for ended in _collect(running, outcomes, display):
                    free += ended.gpus
                    on_end(outcomes[ended.command.name])
                display.show(running, outcomes)
                time.sleep(POLL_SECONDS)
        finally:
            if running:
                display.say(f"stopping {len(running)} commands; those that train write a checkpoint first")
                for ended in _end(running, outcomes, display):
                    on_end(outcomes[ended.command.name])
    ordered = [outcomes.get(command.name, Outcome(command, None, 0.0, "")) for command in commands]
    if stop:
        raise Stopped(ordered)
    return ordered


def check_commands(commands: Sequence[Command], at_once: int, gpus: Sequence[str]) -> None:
    """Check that commands can run here; the arguments are those of `run_commands`.

    Raises:
        UserError: `at_once` is below 1, two commands have the same name, or one needs more GPUs than there are.
    """
    check_options(at_once=at_once)
    names = [command.name for command in commands]
    if len(set(names)) != len(names):
        raise UserError(f"two commands have the name {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
    for command in commands:
        if command.gpus > len(gpus):
            raise UserError(f"{command.name} needs {command.gpus} GPUs; this machine has {len(gpus)}")


@dataclass
class _Running:
    command: Command
    process: subprocess.Popen[bytes]
    gpus: list[str]
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, command: Command, gpus: list[str]) -> _Running:
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        if command.threads is not None:
            environment["OMP_NUM_THREADS"] = str(command.threads)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        try:
            command.log.parent.mkdir(parents=True, exist_ok=True)
            with command.log.open("ab") as log:
                log.write(f"{_PROMPT}{shlex.join(command.arguments)}\n".encode())
                log.flush()
                process = subprocess.Popen(
                    command.arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    preexec_fn=partial(stop_with_parent, os.getpid()),
                    start_new_session=True,  # so that Ctrl-C reaches it once, from here, and not from the terminal too
                )
        except OSError as error:
            raise UserError(f"cannot start {command.name} with log {command.log}: {error.strerror}") from None
        return cls(command, process, gpus)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def outcome(self) -> Outcome:
        assert self.process.returncode is not None
        return Outcome(self.command, self.process.returncode, self.seconds, last_line(self.command.log))


def last_line(log: Path) -> str:
    """The last line of `log` that is not empty; "" if its command has not written any yet."""
    return next(iter(last_lines(log, 1)), "")


def last_lines(log: Path, count: int) -> list[str]:
    """The last `count` lines, or fewer, that the last command in `log` wrote, without empty ones."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return []
    last: list[str] = []
    for line in reversed(lines):
        if line.startswith(_PROMPT) or len(last) == count:
            break
        if line.strip():
            last.insert(0, visible(line.strip()))
    return last


def _collect(running: list[_Running], outcomes: dict[str, Outcome], display: _Display) -> list[_Running]:
    """Move the commands that have ended from `running` to `outcomes`, and return them."""
    ended = [command for command in running if command.process.poll() is not None]
    for command in ended:
        running.remove(command)
        name = command.command.name
        outcome = outcomes[name] = command.outcome()
        last = outcome.last_line.removeprefix(f"{name}: ")  # `train` begins its lines with the name
        display.say(f"{name}: {outcome.how} after {outcome.seconds:.0f} s: {last}")
    return ended


def _end(running: list[_Running], outcomes: dict[str, Outcome], display: _Display) -> list[_Running]:
    """Send SIGTERM to each command, which passes it on; after `GRACE_SECONDS` SIGKILL to all that it started."""
    ended = []
    for command in running:
        command.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while running and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        ended += _collect(running, outcomes, display)
    for command in running:
        os.killpg(command.process.pid, signal.SIGKILL)
        command.process.wait()
    return ended + _collect(running, outcomes, display)


class _Display:
    """On a terminal a bar over all commands and a line for each that runs; in a log lines as they come."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._meter = Meter("", total, "runs")
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown: dict[str, str] = {}
        self._last_lines = time.monotonic()

    def __enter__(self) -> _Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, message: str) -> None:
        """Print a line that stays."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def show(self, running: Sequence[_Running], outcomes: dict[str, Outcome]) -> None:
        """Show the state of all commands."""
        if self._live is not None:
            self._live.update(self._picture(running, len(outcomes)), refresh=True)
        elif time.monotonic() - self._last_lines >= SECONDS_BETWEEN_LINES:
            self._last_lines = time.monotonic()
            for command in (ran.command for ran in running):
                line = last_line(command.log)
                if line and self._shown.get(command.name) != line:
                    self._shown[command.name] = line
                    self.say(line if line.startswith(command.name) else f"{command.name}: {line}")

    def _picture(self, running: Sequence[_Running], done: int) -> RenderableType:
        self._meter.update(done, f"{len(running)} running")
        head = Table.grid(padding=(0, 1))
        head.add_row(ProgressBar(total=self._meter.total, completed=done, width=30), self._meter.line())
        lines = Table.grid(padding=(0, 1))
        for command in (ran.command for ran in running):
            line = last_line(command.log).removeprefix(f"{command.name}: ")
            lines.add_row(command.name, Text(line or "starting", overflow="ellipsis", no_wrap=True))
        return Group(head, lines)
