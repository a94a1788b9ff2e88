"""The cells of a sweep on this machine: as many at once as its cores or GPUs hold, through one display."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence

from rich.console import Console

from launch import cells
from launch.pool import Job, Outcome, run_jobs, train_command
from launch.sweep import Cell, Sweep
from olmo_inject.errors import UserError
from olmo_inject.files import write_text
from olmo_inject.run_folder import in_use


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
        UserError: a cell over several nodes, or of more GPUs than there are.
        Stopped: as `run_jobs`; a later call goes on.
    """
    for cell in todo:
        if cell.resources.nodes > 1:
            raise UserError(f"cell {cell.name} is for {cell.resources.nodes} nodes: submit it to slurm")
    gpus = _gpus() if any(cell.resources.gpus_per_node for cell in todo) else []
    if at_once is None:
        cores = max((cell.resources.cpus_per_node for cell in todo), default=1)
        at_once = len(gpus) or max(1, len(os.sched_getaffinity(0)) // cores)
    jobs = []
    for cell in todo:
        mine, resources = cells.files(sweep, cell), cell.resources
        cells.begin(sweep, cell, {"backend": "local"})
        device = "cuda" if resources.gpus_per_node else "cpu"
        command = train_command(str(mine.config), "--nproc", str(resources.ranks_per_node), "--device", device)
        jobs.append(Job(cell.name, command, mine.log, resources.cpus_per_process, resources.gpus_per_node))
    outcomes = run_jobs(jobs, at_once, gpus=gpus, ended=lambda outcome: _record(sweep, outcome), console=console)
    return all(outcome.succeeded for outcome in outcomes)


def cancel(sweep: Sweep) -> str:
    """Ask the process that runs the sweep here to stop; its cells write a checkpoint first.

    Returns:
        What was done, in a few words.

    Raises:
        UserError: it runs on another host.
    """
    if not in_use(sweep.folder):
        return "nothing runs on this machine"
    host, process = cells.submitter(sweep)
    if host != socket.gethostname():
        raise UserError(f"{sweep.folder} is in use by process {process} of {host}: cancel it there")
    os.kill(process, signal.SIGTERM)
    return f"process {process} was asked to stop"


def _record(sweep: Sweep, outcome: Outcome) -> None:
    """A cell that was stopped is not one that failed: it has no exit status and goes on later."""
    if outcome.status is not None and outcome.status >= 0 and outcome.status != 128 + signal.SIGTERM:
        write_text(cells.CellFiles(sweep.folder, outcome.job.name).exit_status, f"{outcome.status}\n")


def _gpus() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # numbers, or names as GPU-8932f937
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
