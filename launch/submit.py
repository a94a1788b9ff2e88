"""Start the remaining cells of a sweep, here or on SLURM. No cell starts twice, or after its definition has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from launch import cells, local, slurm
from launch.job_arrays import Site
from launch.sweep import Cell, Sweep
from olmo_inject.utils.terminal import Console


@dataclass(frozen=True)
class Submitted:
    """What was submitted to SLURM.

    Attributes:
        arrays: a line about each job array.
        left_out: names of cells that failed before.
    """

    arrays: list[str]
    left_out: list[str]


def run_sweep(sweep: Sweep, *, at_once: int | None = None, retry_failed: bool = False, console: Console) -> bool:
    """Train the remaining cells on this machine and wait for them, but not for those that run or wait elsewhere.

    Args:
        sweep: the sweep.
        at_once: cells that train at the same time; None: as many as the cores or GPUs hold.
        retry_failed: whether to train failed cells again.
        console: shows progress.

    Returns:
        Whether every cell is trained. False if one failed or was killed, or if SLURM or another process has it.

    Raises:
        UserError: another process runs the sweep, its definition has changed, or a cell cannot run here.
        Stopped: after Ctrl-C or SIGTERM.
    """
    with _remaining(sweep, retry_failed, console) as (remaining, _):
        succeeded = local.run_cells(sweep, remaining, at_once=at_once, console=console) if remaining else True
    if all(status.state == cells.DONE for status in cells.statuses(sweep, {})):
        return succeeded
    left = _statuses(sweep)
    resumes = any(status.state == cells.INTERRUPTED for status in left)
    next_time = "; the same command resumes what was interrupted" if resumes else ""
    console.print(f"not every cell is trained: {cells.summary(left)}{next_time}", highlight=False, soft_wrap=True)
    return False


def submit_sweep(sweep: Sweep, site: Site, *, retry_failed: bool = False, console: Console) -> Submitted:
    """Submit the remaining cells to SLURM.

    Args:
        sweep: the sweep.
        site: the cluster's settings.
        retry_failed: whether to submit failed cells again.
        console: shows what remains.

    Raises:
        UserError: another process runs the sweep, its definition has changed, or SLURM refuses.
    """
    with _remaining(sweep, retry_failed, console) as (remaining, left_out):
        return Submitted(slurm.submit(sweep, remaining, site), left_out)


@contextmanager
def _remaining(sweep: Sweep, retry_failed: bool, console: Console) -> Iterator[tuple[list[Cell], list[str]]]:
    """The cells to train and the names of those that failed before and are left out; holds the sweep meanwhile."""
    with cells.submitting(sweep):
        local.wait_for_orphans(sweep, console)
        statuses = _statuses(sweep)
        cells.check_unchanged(sweep, statuses)
        remaining = cells.unfinished(sweep, statuses, retry_failed=retry_failed)
        left_out = [status.cell for status in statuses if status.state == cells.FAILED and not retry_failed]
        lines = [f"{len(remaining)} of {len(statuses)} cells to train: {cells.summary(statuses)}"]
        if left_out:
            lines.append(f"{len(left_out)} failed before and are left out; --retry-failed trains them again")
        if remaining and (unseen := slurm.unseen(sweep)):
            lines.append(unseen)
        console.print(*lines, sep="\n", highlight=False, soft_wrap=True)
        yield remaining, left_out


def _statuses(sweep: Sweep) -> list[cells.Status]:
    return cells.statuses(sweep, slurm.active(sweep))
