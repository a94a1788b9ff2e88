"""Train the cells of a sweep on this machine, as many at once as its cores or GPUs hold."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from launch import cells
from launch.pool import GRACE_SECONDS, Command, Outcome, check_commands, run_commands
from launch.sweep import Cell, Sweep
from olmo_inject.data import build_plan
from olmo_inject.errors import UserError
from olmo_inject.runs.folder import in_use
from olmo_inject.utils.cores import available_cores
from olmo_inject.utils.files import read_json, write_text
from olmo_inject.utils.terminal import Console
from olmo_inject.utils.words import counted


def run_cells(sweep: Sweep, remaining: Sequence[Cell], *, at_once: int | None, console: Console) -> bool:
    """Train cells and wait for all of them. The caller holds the sweep (`cells.submitting`).

    Args:
        sweep: the sweep.
        remaining: its cells to train.
        at_once: cells that train at the same time; None: one per core, or as many as the GPUs hold.
        console: shows progress.

    Returns:
        Whether every cell succeeded.

    Raises:
        UserError: a cell needs several nodes or more GPUs than there are, or a corpus cannot be read.
        Stopped: after Ctrl-C or SIGTERM, as in `run_commands`; a later call continues.
    """
    for cell in remaining:
        if cell.resources.nodes > 1:
            raise UserError(f"cell {cell.name} needs {cell.resources.nodes} nodes: use `olmo-inject sweep submit`")
    for cell in {repr(cell.experiment.corpus): cell for cell in remaining}.values():
        build_plan(cell.experiment)  # reports an unreadable corpus once, before any cell starts
    gpus = visible_gpus() if any(cell.resources.gpus_per_node for cell in remaining) else []
    if at_once is None:
        cores = max((cell.resources.cpus_per_node for cell in remaining), default=1)
        at_once = len(gpus) or max(1, available_cores() // cores)
    commands = []
    for cell in remaining:
        files, resources = cells.files(sweep, cell), cell.resources
        device = "cuda" if resources.gpus_per_node else "cpu"
        ranks = ("--processes", str(resources.ranks_per_node), "--device", device)
        arguments = [sys.executable, "-m", "olmo_inject", "train", str(files.config), *ranks]
        commands.append(Command(cell.name, arguments, files.log, resources.cpus_per_process, resources.gpus_per_node))
    check_commands(commands, at_once, gpus)  # a refused call leaves every cell in its state
    to_train = {cell.name: cell for cell in remaining}

    def begin(command: Command) -> None:
        cell = to_train[command.name]
        cells.begin(sweep, cell, {"backend": "local", "host": socket.gethostname()})
        cells.files(sweep, cell).exit_status.unlink(missing_ok=True)

    def end(outcome: Outcome) -> None:
        _record(sweep, outcome)
        del to_train[outcome.command.name]
        cells.announce(sweep, to_train)

    cells.announce(sweep, to_train)
    outcomes = run_commands(commands, at_once, gpus=gpus, on_start=begin, on_end=end, console=console)
    return all(outcome.succeeded for outcome in outcomes)


def wait_for_orphans(sweep: Sweep, console: Console) -> None:
    """Wait until cells of a submitter that was killed on this host have saved and ended. The caller holds the sweep."""
    begun = [cells.files(sweep, cell).run for cell in sweep.cells if _begun_here(sweep, cell)]
    deadline = time.monotonic() + GRACE_SECONDS
    if orphans := [run.name for run in begun if in_use(run)]:
        console.print(f"waiting for {', '.join(orphans)} to save and end: their submitter was killed", soft_wrap=True)
    while time.monotonic() < deadline and any(in_use(run) for run in begun):
        time.sleep(1)


def waiting(sweep: Sweep) -> dict[str, str]:
    """Cells that a submitter has not started yet, or is just starting: name to `queued`."""
    if not in_use(sweep.folder):
        return {}
    *_, to_train = cells.submitter(sweep)
    return {name: cells.QUEUED for name in to_train if not in_use(cells.CellFiles(sweep.folder, name).run)}


def cancel(sweep: Sweep) -> str | None:
    """Ask the process that runs the sweep on this host to stop; its cells write a checkpoint first.

    Returns:
        A line about what was done; None if nothing runs here.

    Raises:
        UserError: it runs on another host.
    """
    if not in_use(sweep.folder):
        return None
    host, process, _ = cells.submitter(sweep)
    if host != socket.gethostname():
        raise UserError(f"{sweep.folder} is in use by process {process} on host {host}: cancel it there")
    running = sum(in_use(cells.files(sweep, cell).run) for cell in sweep.cells)
    os.kill(process, signal.SIGTERM)
    return f"asked process {process} to stop; {counted(running, 'running cell')} will save first"


def _begun_here(sweep: Sweep, cell: Cell) -> bool:
    attempt = cells.files(sweep, cell).attempt
    return attempt.exists() and read_json(attempt).get("host") == socket.gethostname()


def _record(sweep: Sweep, outcome: Outcome) -> None:
    """Write the exit status. A cell that was stopped or killed gets none: it has not failed and resumes later."""
    if not outcome.stopped and outcome.status is not None and outcome.status >= 0:
        write_text(cells.CellFiles(sweep.folder, outcome.command.name).exit_status, f"{outcome.status}\n")


def visible_gpus() -> list[str]:
    """Numbers of this machine's GPUs, or their names in CUDA_VISIBLE_DEVICES, of which CUDA ends at an invalid one."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if named is None else named.replace(" ", "").split(",")[:count]
