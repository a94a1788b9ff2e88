"""Sweeps: many runs described once."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from olmo_inject.commands.shared import INTERRUPTED, JsonOption, print_json, table_console
from olmo_inject.errors import UserError
from olmo_inject.paths import PATH
from olmo_inject.terminal import Console

if TYPE_CHECKING:
    from launch.slurm import SiteFile
    from launch.sweep import Cell, Sweep

AcceleratorOption = Annotated[
    str, typer.Option(help="With --cost: of configs/accelerators.yaml; cells without GPUs are counted on cpu-core.")
]
UtilizationOption = Annotated[
    float | None,
    typer.Option(help="With --cost: share of the peak; `cost --calibrate` measures it.", show_default=False),
]
PriceOption = Annotated[float | None, typer.Option(help="With --cost: US$ a GPU hour.", show_default=False)]


class Backend(str, Enum):
    """Where cells run."""

    local = "local"
    slurm = "slurm"


def sweep(
    file: Annotated[str, PATH, typer.Argument(help="A sweep file, or the name of one in configs/sweeps.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show every cell and change nothing.")] = False,
    show: Annotated[str | None, typer.Option(help="Print one cell's resolved experiment.", metavar="CELL")] = None,
    cost: Annotated[bool, typer.Option("--cost", help="Say what every cell costs, before anything runs.")] = False,
    submit: Annotated[Backend | None, typer.Option(help="Train what is not done: here, or on SLURM.")] = None,
    status: Annotated[bool, typer.Option("--status", help="Show where every cell stands.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="With --submit: also what failed.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Let what runs save and stop; unqueue the rest.")] = False,
    jobs: Annotated[int | None, typer.Option(help="With --submit local: cells at once.", show_default=False)] = None,
    site: Annotated[
        Path | None, typer.Option(help="With --submit slurm or --dry-run: the cluster's settings.", show_default=False)
    ] = None,
    accelerator: AcceleratorOption = "h100",
    utilization: UtilizationOption = None,
    price: PriceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a grid of experiments, every cell once, however often nodes, jobs and this command die.

    `--dry-run` shows the grid, `--submit local|slurm` trains what is not done, `--status` shows how far it is.
    The same command again goes on: finished cells are not run twice, others resume from their checkpoints.
    """
    from launch import local, slurm
    from launch.sweep import load_sweep

    asked = [dry_run, cost, show is not None, submit is not None, status, cancel]
    if sum(asked) != 1:
        raise UserError("sweep: give one of --dry-run, --show, --cost, --submit, --status and --cancel")
    if jobs is not None and submit is not Backend.local:
        raise UserError("--jobs: goes with --submit local")
    if site is not None and submit is not Backend.slurm and not dry_run:
        raise UserError("--site: goes with --submit slurm, or with --dry-run, which then shows the batch scripts")
    if retry_failed and submit is None:
        raise UserError("--retry-failed: goes with --submit")
    described = load_sweep(file)
    console = table_console()
    if show is not None:
        from olmo_inject.config import experiment_yaml

        chosen = [cell for cell in described.cells if cell.name == show]
        if not chosen:
            raise UserError(f"--show: {show!r} is not a cell; --dry-run lists them")
        print(experiment_yaml(chosen[0].experiment), end="")
    elif dry_run:
        from launch.grid import grid_records, grid_table

        print_json(grid_records(described)) if as_json else console.print(grid_table(described))
        for script in slurm.scripts(described, slurm.load_site(site)) if site is not None else ():
            print(script)
    elif cost:
        from launch.cost.accelerators import find_accelerator
        from launch.cost.report import cost_table, room_table
        from launch.grid import cell_costs

        costs = cell_costs(described, find_accelerator(accelerator).with_changes(price, utilization))
        if as_json:
            print_json([one.record() for one in costs])
        else:
            console.print(cost_table(costs), room_table(costs))
    elif status:
        _show_status(described, console, as_json)
    elif cancel:
        done = [said for backend in (local, slurm) if (said := backend.cancel(described)) is not None]
        print("\n".join(done or ["nothing of it runs or is queued"]))
    else:
        _submit(described, submit, slurm.load_site(site), jobs, retry_failed)


def _show_status(described: Sweep, console: Console, as_json: bool) -> None:
    from launch import cells, local, slurm

    active, silent = local.waiting(described), ""
    try:
        active |= slurm.active(described)
    except UserError as error:
        silent = f"SLURM does not say what it has: {error}"
    found = cells.statuses(described, active)
    if as_json:
        print_json([one.record() for one in found])
    else:
        console.print(cells.status_table(found))
        print(f"{len(found)} cells: {cells.summary(found)}")
        print(cells.failures(found), end="")
    if silent:
        raise UserError(silent)


def _submit(described: Sweep, backend: Backend | None, site: SiteFile, jobs: int | None, retry_failed: bool) -> None:
    from launch import cells, local, slurm

    with cells.submitting(described):
        cells.check_unchanged(described)
        local.wait_for_orphans(described, Console(stderr=True))
        found = cells.statuses(described, slurm.active(described))
        todo = cells.unfinished(described, found, retry_failed=retry_failed)
        failed = [one.cell for one in found if one.state == cells.FAILED and not retry_failed]
        print(f"{len(todo)} of {len(found)} cells to train: {cells.summary(found)}", flush=True)
        if backend is Backend.slurm:
            for said in slurm.submit(described, todo, site):
                print(said)
        elif todo:
            _run_here(described, todo, jobs)
        if failed:
            print(f"olmo-inject: {len(failed)} failed before and were left: --retry-failed", file=sys.stderr)
            raise typer.Exit(1)


def _run_here(described: Sweep, todo: list[Cell], jobs: int | None) -> None:
    from launch import local
    from launch.pool import Stopped

    try:
        succeeded = local.run_cells(described, todo, at_once=jobs, console=Console(stderr=True))
    except Stopped:
        print("olmo-inject: stopped; the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if not succeeded:
        raise typer.Exit(1)
    folder = described.folder
    print(f"{len(todo)} trained; next: olmo-inject audit {folder}; olmo-inject report {folder} --to report.html")
