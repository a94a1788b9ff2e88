"""Where each cell of a sweep stands, read from what lies in the sweep's folder.

runs/CELL/           the run folder: the truth about how far a cell is
configs/CELL.yaml    its resolved experiment, written when it is submitted
logs/CELL.log        what all its attempts printed
attempts/CELL.json   of the last attempt: its backend and the identity it was submitted with
attempts/CELL.exit   its exit status, once it has ended
attempts/CELL.cancel while it is asked to save and stop
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.table import Table

from launch.pool import last_lines
from launch.sweep import Cell, Sweep
from olmo_inject.config import experiment_yaml, load_experiment
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, write_json, write_text
from olmo_inject.locks import locked
from olmo_inject.runs.folder import differences, in_use
from olmo_inject.runs.read import EXPERIMENT, METRICS
from olmo_inject.tasks.halves import judged
from olmo_inject.training.checkpoints.save_restore import latest

DONE, RUNNING, QUEUED, FAILED, INTERRUPTED, PENDING = "done", "running", "queued", "failed", "interrupted", "pending"
CHANGED = "changed"
LOCK, SUBMITTER = ".lock", ".submitter"  # the file that is locked, and who locked it
WHY_LINES = 5
TAIL_BYTES = 2**16  # of metrics.jsonl: the last evaluations and losses


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
        """What its attempts printed."""
        return self.sweep / "logs" / f"{self.name}.log"

    @property
    def attempt(self) -> Path:
        """The record of the last attempt."""
        return self.sweep / "attempts" / f"{self.name}.json"

    @property
    def exit_status(self) -> Path:
        """The exit status of the last attempt, once it has ended."""
        return self.sweep / "attempts" / f"{self.name}.exit"

    @property
    def cancel(self) -> Path:
        """There while a job on SLURM is asked to save and stop."""
        return self.sweep / "attempts" / f"{self.name}.cancel"


@dataclass(frozen=True)
class Status:
    """Where a cell stands.

    Attributes:
        cell: its name.
        state: done, running, queued, failed, interrupted (to go on when submitted again), pending, or changed: what
            was submitted is not what the sweep says now.
        step: completed steps, as far as measured.
        steps: of how many.
        rate: steps a second, as last measured.
        seconds_left: at that rate.
        accuracies: last accuracy of each task on test pairs whose mirror was not trained on; on all test pairs where
            there are no such.
        why: the last lines of its log, where it failed.
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
        """As plain values."""
        return asdict(self)


def files(sweep: Sweep, cell: Cell) -> CellFiles:
    """The files of `cell`."""
    return CellFiles(sweep.folder, cell.name)


def statuses(sweep: Sweep, active: Mapping[str, str]) -> list[Status]:
    """The state of every cell.

    Args:
        sweep: the sweep.
        active: cell name to `running` or `queued`, as a scheduler says.
    """
    return [_status(sweep, cell, active.get(cell.name)) for cell in sweep.cells]


def _status(sweep: Sweep, cell: Cell, active: str | None) -> Status:
    mine, steps = files(sweep, cell), cell.experiment.steps
    measured = _last_values(mine.run / METRICS)
    last, damage = None, None
    try:
        last = latest(mine.run)
    except UserError as error:  # this cell's trouble, not the sweep's; also a checkpoint that its job just removes
        damage = str(error)
    step = int(max(measured.get("step", 0), last.step if last else 0))
    exit_status = _exit_status(mine.exit_status)
    if _changes(mine, cell):
        state = CHANGED
    elif last is not None and last.step >= steps:
        state = DONE
    elif active is not None:
        state = active
    elif in_use(mine.run):
        state = RUNNING
    elif exit_status or damage is not None:
        state = FAILED
    else:
        state = INTERRUPTED if (mine.run / EXPERIMENT).exists() else PENDING
    rate = measured.get("speed/steps_per_second")
    accuracies = {
        task.name: accuracy for task in cell.experiment.tasks if (accuracy := judged(measured, task.name)) is not None
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
        [] if state != FAILED else last_lines(mine.log, WHY_LINES) if damage is None else [damage],
    )


def _exit_status(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _last_values(path: Path) -> dict[str, float]:
    """The last value of each measurement near the end of a run's log, and as `step` how many steps it holds."""
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


def check_unchanged(sweep: Sweep) -> None:
    """Refuse a sweep whose cells are not what their folders were begun as.

    Raises:
        UserError: which cells, and what to do.
    """
    changed = {cell.name: found for cell in sweep.cells if (found := _changes(files(sweep, cell), cell))}
    if changed:
        names, (what, *_) = list(changed), next(iter(changed.values()))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(
            f"{sweep.folder}: what is trained has changed since it was submitted ({what}) for {', '.join(names[:3])}"
            f"{more}; give the sweep another name or folder, or move the old one away"
        )


def _changes(mine: CellFiles, cell: Cell) -> list[str]:
    """What makes the cell another run than the one that was submitted; nothing where none was."""
    if not mine.attempt.exists() or read_json(mine.attempt)["identity"] == cell.identity:
        return []
    return differences(load_experiment(mine.config), cell.experiment) or ["how long it may be extended"]


@contextmanager
def submitting(sweep: Sweep) -> Iterator[None]:
    """Hold the sweep for one submitter: a local one for as long as its cells run.

    Raises:
        UserError: another process submits or runs it, or the file system cannot lock.
    """
    path = sweep.folder / LOCK

    def in_use() -> str:
        host, process = submitter(sweep)
        return f"{sweep.folder} is in use: process {process} on host {host} submits or runs it"

    with locked(path, in_use, str(path)):
        write_text(sweep.folder / SUBMITTER, f"{socket.gethostname()} {os.getpid()}\n")
        yield


def submitter(sweep: Sweep) -> tuple[str, int]:
    """Host and process of the last one that submitted the sweep."""
    try:
        host, process = (sweep.folder / SUBMITTER).read_text(encoding="utf-8").split()
        return host, int(process)
    except (OSError, ValueError):  # it has only just begun
        return "unknown", 0


def begin(sweep: Sweep, cell: Cell, attempt: Mapping[str, Any]) -> None:
    """Write what an attempt at `cell` needs, and that it was made."""
    mine = files(sweep, cell)
    write_text(mine.config, experiment_yaml(cell.experiment))
    write_json(mine.attempt, {"identity": cell.identity, **attempt})
    mine.exit_status.unlink(missing_ok=True)
    mine.cancel.unlink(missing_ok=True)
    mine.log.parent.mkdir(parents=True, exist_ok=True)


def unfinished(sweep: Sweep, found: Sequence[Status], *, retry_failed: bool) -> list[Cell]:
    """The cells to train now: none that is done, running or queued, and failed ones only on request."""
    wanted = {PENDING, INTERRUPTED} | ({FAILED} if retry_failed else set())
    return [cell for cell, status in zip(sweep.cells, found, strict=True) if status.state in wanted]


def summary(found: Sequence[Status]) -> str:
    """How many cells are in which state, for people."""
    return ", ".join(f"{count} {state}" for state, count in Counter(status.state for status in found).items())


def status_table(found: Sequence[Status]) -> Table:
    """For people."""
    table = Table()
    for column in ("cell", "state", "step", "steps/s", "left", "unmirrored accuracy"):
        right = column in ("step", "steps/s", "left")
        table.add_column(column, justify="right" if right else "left", no_wrap=column in ("cell", "step", "state"))
    for status in found:
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


def failures(found: Sequence[Status]) -> str:
    """Why cells failed, for people: the last lines of each one's log."""
    return "".join(f"{one.cell} failed:\n" + "".join(f"  {line}\n" for line in one.why) for one in found if one.why)
