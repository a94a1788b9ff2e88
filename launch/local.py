"""The cells of a sweep on this machine: as many at once as its cores or GPUs hold, through one display."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence

from launch import cells
from launch.pool import GRACE_SECONDS, Job, Outcome, run_jobs, train_command
from launch.sweep import Cell, Sweep
from olmo_inject.data import build_plan
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, write_text
from olmo_inject.runs.folder import in_use
from olmo_inject.terminal import Console


def run_cells(sweep: Sweep, todo: Sequence[Cell], *, at_once: int | None, console: Console) -> bool:
    """Train `todo` here and wait for all of them; to be called while `submitting`.

    Args:
        sweep: the sweep.
        todo: its cells to train.
        at_once: how many together; by default one per core, or as many as the GPUs hold.
        console: where to show progress.

    Returns:
        Whether every one of them ended well.

    Raises:
        UserError: a cell over several nodes or of more GPUs than there are, or a corpus that cannot be read.
        Stopped: as `run_jobs`; a later call goes on.
    """
    for cell in todo:
        if cell.resources.nodes > 1:
            raise UserError(f"cell {cell.name} is for {cell.resources.nodes} nodes: submit it to slurm")
    for cell in {repr(cell.experiment.corpus): cell for cell in todo}.values():
        build_plan(cell.experiment)  # a corpus that is not there is said once, before anything starts
    gpus = _gpus() if any(cell.resources.gpus_per_node for cell in todo) else []
    if at_once is None:
        cores = max((cell.resources.cpus_per_node for cell in todo), default=1)
        at_once = len(gpus) or max(1, len(os.sched_getaffinity(0)) // cores)
    jobs = []
    for cell in todo:
        mine, resources = cells.files(sweep, cell), cell.resources
        cells.begin(sweep, cell, {"backend": "local", "host": socket.gethostname()})
        device = "cuda" if resources.gpus_per_node else "cpu"
        command = train_command(str(mine.config), "--nproc", str(resources.ranks_per_node), "--device", device)
        jobs.append(Job(cell.name, command, mine.log, resources.cpus_per_process, resources.gpus_per_node))
    outcomes = run_jobs(jobs, at_once, gpus=gpus, ended=lambda outcome: _record(sweep, outcome), console=console)
    return all(outcome.succeeded for outcome in outcomes)


def wait_for_orphans(sweep: Sweep, console: Console) -> None:
    """Wait for cells that a killed submitter left here to save and end; to be called while `submitting`."""
    mine = [cell for cell in sweep.cells if _begun_here(sweep, cell)]
    deadline = time.monotonic() + GRACE_SECONDS
    if orphans := [cell.name for cell in mine if in_use(cells.files(sweep, cell).run)]:
        console.print(f"waiting for {', '.join(orphans)}: left by a submitter that was killed, they save and end")
    while time.monotonic() < deadline and any(in_use(cells.files(sweep, cell).run) for cell in mine):
        time.sleep(1)


def waiting(sweep: Sweep) -> dict[str, str]:
    """Cells that a submitter on this machine has not started yet, or is just starting."""
    if not in_use(sweep.folder):
        return {}
    mine = [cell for cell in sweep.cells if _begun_here(sweep, cell)]
    return {
        cell.name: cells.QUEUED
        for cell in mine
        if not cells.files(sweep, cell).exit_status.exists() and not in_use(cells.files(sweep, cell).run)
    }


def _begun_here(sweep: Sweep, cell: Cell) -> bool:
    attempt = cells.files(sweep, cell).attempt
    return attempt.exists() and read_json(attempt).get("host") == socket.gethostname()


def cancel(sweep: Sweep) -> str | None:
    """Ask the process that runs the sweep here to stop; its cells write a checkpoint first.

    Returns:
        What was done, in a few words; None where nothing runs here.

    Raises:
        UserError: it runs on another host.
    """
    if not in_use(sweep.folder):
        return None
    host, process = cells.submitter(sweep)
    if host != socket.gethostname():
        raise UserError(f"{sweep.folder} is in use by process {process} on host {host}: cancel it there")
    running = [cell.name for cell in sweep.cells if in_use(cells.files(sweep, cell).run)]
    os.kill(process, signal.SIGTERM)
    return f"process {process} was asked to stop; {len(running)} cells save and end first"


def _record(sweep: Sweep, outcome: Outcome) -> None:
    """A cell that was stopped, or killed, is not one that failed: it has no exit status and goes on later."""
    if not outcome.stopped and outcome.status is not None and outcome.status >= 0:
        write_text(cells.CellFiles(sweep.folder, outcome.job.name).exit_status, f"{outcome.status}\n")


def _gpus() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # numbers, or names as GPU-8932f937
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
