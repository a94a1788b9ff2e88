"""The state of each cell of a sweep, read from the sweep's folder.

runs/CELL/           the run folder, which decides how far the cell is
configs/CELL.yaml    its resolved experiment, written when it starts here or is submitted to SLURM
logs/CELL.log        the output of all its attempts
attempts/CELL.json   backend and identity of the last attempt
attempts/CELL.exit   exit status of the last attempt that ended, until another starts
attempts/CELL.cancel exists while the cell is asked to save and stop
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.table import Table

from launch.pool import last_lines, signal_name
from launch.sweep import Cell, Sweep
from olmo_inject.config import experiment_yaml, load_experiment
from olmo_inject.errors import UserError
from olmo_inject.runs.folder import in_use
from olmo_inject.runs.read import EXPERIMENT, METRICS
from olmo_inject.runs.same_run import differences
from olmo_inject.tasks.halves import deciding_accuracy
from olmo_inject.training.checkpoints.on_disk import latest
from olmo_inject.utils.files import read_json, write_json, write_text
from olmo_inject.utils.locks import LOCK, locked

DONE, RUNNING, QUEUED, FAILED, INTERRUPTED, PENDING = "done", "running", "queued", "failed", "interrupted", "pending"
CHANGED = "changed"
SUBMITTER = ".submitter"  # names the process that holds the sweep's lock, and the cells that it has still to train
WHY_LINES = 5
TAIL_BYTES = 2**16  # the end of metrics.jsonl that is read for the last evaluations and losses


@dataclass(frozen=True)
class CellFiles:
    """The files of one cell."""

    sweep: Path
    name: str

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.sweep / "runs" / self.name

    @property
    def config(self) -> Path:
        """The resolved experiment."""
        return self.sweep / "configs" / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """The output of its attempts."""
        return self.sweep / "logs" / f"{self.name}.log"

    @property
    def attempt(self) -> Path:
        """The record of the last attempt."""
        return self.sweep / "attempts" / f"{self.name}.json"

    @property
    def exit_status(self) -> Path:
        """The exit status of the last attempt that ended, until another starts."""
        return self.sweep / "attempts" / f"{self.name}.exit"

    @property
    def cancel(self) -> Path:
        """Exists while a SLURM job is asked to save and stop."""
        return self.sweep / "attempts" / f"{self.name}.cancel"

    @property
    def begun(self) -> tuple[Path, ...]:
        """What `begin` writes or removes."""
        return self.config, self.attempt, self.cancel


@dataclass(frozen=True)
class Status:
    """The state of a cell.

    Attributes:
        cell: its name.
        state: done, running, queued, failed, interrupted (it resumes when submitted again), pending, or changed (its
            definition differs from that of its run, or of what runs or is queued).
        step: completed steps, as far as measured.
        steps: steps in all.
        rate: steps per second, as last measured.
        seconds_left: at that rate.
        accuracies: last accuracy of each task on test pairs whose mirror was not trained on; on all test pairs if
            every mirror was.
        why: the last lines of its log, if it failed, and the signal that killed it, if one did.
    """

    cell: str
    state: str
    step: int
    steps: int
    rate: float | None
    seconds_left: float | None
    accuracies: dict[str, float]
    why: list[str]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def files(sweep: Sweep, cell: Cell) -> CellFiles:
    """The files of `cell`."""
    return CellFiles(sweep.folder, cell.name)


def statuses(sweep: Sweep, active: Mapping[str, str]) -> list[Status]:
    """The state of every cell.

    Args:
        sweep: the sweep.
        active: cells that a scheduler or a submitter runs or has in its queue: name to `running` or `queued`.
    """
    return [_status(sweep, cell, active.get(cell.name)) for cell in sweep.cells]


def _status(sweep: Sweep, cell: Cell, active: str | None) -> Status:
    cell_files, steps = files(sweep, cell), cell.experiment.steps
    measured = _last_values(cell_files.run / METRICS)
    last, damage = None, None
    try:
        last = latest(cell_files.run)
    except UserError as error:  # a damaged checkpoint, or one that is being removed, fails this cell only
        damage = str(error)
    step = int(max(measured.get("step", 0), last.step if last else 0))
    exit_status = _exit_status(cell_files.exit_status)
    active = active or (RUNNING if in_use(cell_files.run) else None)
    has_begun = (cell_files.run / EXPERIMENT).exists()
    if (has_begun or active) and _changes(cell_files, cell):
        state = CHANGED
    elif last is not None and last.step >= steps:
        state = DONE
    elif active is not None:
        state = active
    elif exit_status or damage is not None:
        state = FAILED
    else:
        state = INTERRUPTED if has_begun else PENDING
    rate = measured.get("speed/steps_per_second")
    accuracies = {
        task.name: accuracy
        for task in cell.experiment.tasks
        if (accuracy := deciding_accuracy(measured, task.name)) is not None
    }
    left = (steps - step) / rate if rate and state == RUNNING else None
    return Status(
        cell.name,
        state,
        step,
        steps,
        rate,
        left,
        accuracies,
        [] if state != FAILED else _why(cell_files.log, exit_status) if damage is None else [damage],
    )


def _why(log: Path, exit_status: int | None) -> list[str]:
    """The last lines of a failed cell's log, and the signal that killed it, which it could not log itself."""
    status = exit_status or 0
    killed_by = signal_name(-status if status < 0 else status - 128)  # Python's convention, or the shell's
    return last_lines(log, WHY_LINES) + ([] if killed_by is None else [f"it was killed by {killed_by}"])


def _exit_status(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _last_values(path: Path) -> dict[str, float]:
    """The last value of each measurement near the end of a metrics file, and the completed steps as `step`."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return {}
    values: dict[str, float] = {}
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # cut off at either end
            continue
        if record.get("value") is not None:
            values[record["name"]] = record["value"]
        if record["name"] == "train/loss":
            values["step"] = record["step"] + 1
    return values


def check_unchanged(sweep: Sweep, current: Sequence[Status]) -> None:
    """Check that every cell that has begun, runs or is queued is still as it was submitted.

    Args:
        sweep: the sweep.
        current: the state of each of its cells.

    Raises:
        UserError: some cells have changed; the message names them and says what to do.
    """
    names = [status.cell for status in current if status.state == CHANGED]
    if names:
        first = sweep.cell(names[0])
        what, *_ = _changes(files(sweep, first), first)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(
            f"{sweep.folder}: {', '.join(names[:3])}{more} changed after being submitted ({what}); give the sweep "
            "another name or folder, or move the old folder away"
        )


def _changes(submitted: CellFiles, cell: Cell) -> list[str]:
    """What distinguishes the cell's run from the one that was submitted; [] if nothing does."""
    if not submitted.attempt.exists() or read_json(submitted.attempt)["identity"] == cell.identity:
        return []
    # A later version may describe the same run otherwise, with a new key at its default: only the values count.
    return differences(load_experiment(submitted.config), cell.experiment)


@contextmanager
def submitting(sweep: Sweep) -> Iterator[None]:
    """Hold the sweep for this process, so that no other submits or runs it.

    Raises:
        UserError: another process holds it, or the file system cannot lock.
    """
    path = sweep.folder / LOCK

    def in_use() -> str:
        host, process, _ = submitter(sweep)
        return f"{sweep.folder} is in use: process {process} on host {host} is running or submitting it"

    with locked(path, in_use, str(path)):
        announce(sweep, [])
        yield


def announce(sweep: Sweep, to_train: Iterable[str]) -> None:
    """Write that this process holds the sweep, and the names of the cells that it has still to train."""
    write_text(sweep.folder / SUBMITTER, "\n".join([f"{socket.gethostname()} {os.getpid()}", *to_train, ""]))


def submitter(sweep: Sweep) -> tuple[str, int, list[str]]:
    """Host and process id of the last submitter, and the names of the cells that it has still to train."""
    try:
        first, *to_train = (sweep.folder / SUBMITTER).read_text(encoding="utf-8").splitlines()
        host, process = first.split()
        return host, int(process), to_train
    except (OSError, ValueError):  # the submitter has not written them yet
        return "unknown", 0, []


def begin(sweep: Sweep, cell: Cell, attempt: Mapping[str, Any]) -> None:
    """Write the files of a new attempt at `cell`. The last exit status stays until the attempt starts.

    Args:
        sweep: the sweep.
        cell: one of its cells.
        attempt: the backend, and the ids by which the attempt is found again.
    """
    cell_files = files(sweep, cell)
    write_text(cell_files.config, experiment_yaml(cell.experiment))
    write_json(cell_files.attempt, {"identity": cell.identity, **attempt})
    cell_files.cancel.unlink(missing_ok=True)
    cell_files.log.parent.mkdir(parents=True, exist_ok=True)


def unfinished(sweep: Sweep, current: Sequence[Status], *, retry_failed: bool) -> list[Cell]:
    """The cells to train now: pending and interrupted ones.

    Args:
        sweep: the sweep.
        current: the state of each of its cells.
        retry_failed: whether failed ones count too.
    """
    wanted = {PENDING, INTERRUPTED} | ({FAILED} if retry_failed else set())
    return [cell for cell, status in zip(sweep.cells, current, strict=True) if status.state in wanted]


def summary(current: Sequence[Status]) -> str:
    """The number of cells in each state: `3 done, 1 running`."""
    return ", ".join(f"{count} {state}" for state, count in Counter(status.state for status in current).items())


def status_table(current: Sequence[Status]) -> Table:
    """A table with a row for each cell."""
    table = Table()
    for column in ("cell", "state", "step", "steps/s", "left", "test accuracy"):
        right = column in ("step", "steps/s", "left")
        table.add_column(column, justify="right" if right else "left", no_wrap=column in ("cell", "step", "state"))
    for status in current:
        left = "" if status.seconds_left is None else str(timedelta(seconds=round(status.seconds_left)))
        table.add_row(
            status.cell,
            status.state,
            f"{status.step:,}/{status.steps:,}",
            "" if status.rate is None else f"{status.rate:.3g}",
            left,
            ", ".join(f"{name} {value:.3f}" for name, value in status.accuracies.items()),
        )
    return table


def failures(current: Sequence[Status]) -> str:
    """The last lines of each failed cell's log."""
    return "".join(
        f"{status.cell} failed:\n" + "".join(f"  {line}\n" for line in status.why) for status in current if status.why
    )
