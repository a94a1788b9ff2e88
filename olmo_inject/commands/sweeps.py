"""`olmo-inject sweep show|cost|run|submit|status|cancel`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from olmo_inject.commands.shared import (
    AcceleratorOption,
    AcceleratorsOption,
    AtOnceOption,
    JsonOption,
    PriceOption,
    UtilizationOption,
    print_json,
    stoppable,
    table_console,
)
from olmo_inject.errors import UserError
from olmo_inject.utils.paths import PATH
from olmo_inject.utils.terminal import Console
from olmo_inject.utils.words import counted

app = typer.Typer(
    no_args_is_help=True,
    help="Run a grid of experiments, each cell once, through any interruption of nodes, jobs and commands.",
    epilog="`run` and `submit` continue where they left off: finished cells are kept, others resume from checkpoints.",
)

FileArgument = Annotated[str, PATH, typer.Argument(help="A sweep: a YAML file, or the name of one in configs/sweeps.")]
SiteOption = Annotated[Path | None, typer.Option(help="The cluster's settings, a YAML file.", show_default=False)]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="AXIS=LABEL[,LABEL]", help="Only the cells with one of these labels; repeatable.", show_default=False
    ),
]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Also train cells that failed before.")]


@app.command()
def show(
    file: FileArgument,
    cell: Annotated[
        str | None, typer.Argument(help="Print this cell's resolved experiment.", show_default=False)
    ] = None,
    only: OnlyOption = None,
    site: SiteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the cells of a sweep, or the experiment of one cell. With --site, print the batch scripts too.

    Example: `olmo-inject sweep show tiny-size-frequency model-tiny-64_rate-8`
    """
    from launch.cell_list import cell_record, grid_table
    from launch.job_arrays import load_site
    from launch.slurm import scripts
    from launch.sweep import load_sweep
    from olmo_inject.config import experiment_yaml

    if site is not None and as_json:
        raise UserError("--site: batch scripts are not JSON; leave out --json")
    sweep = load_sweep(file, only=only or [])
    cells = sweep.cells if cell is None else [sweep.cell(cell)]
    batch_scripts = [] if site is None else scripts(sweep, cells, load_site(site))
    if as_json:
        print_json([cell_record(shown) for shown in cells])
    elif cell is None:
        table_console().print(grid_table(sweep))
    else:
        print(experiment_yaml(cells[0].experiment), end="")
    for script in batch_scripts:
        print(script)


@app.command()
def cost(
    file: FileArgument,
    only: OnlyOption = None,
    accelerator: AcceleratorOption = "h100",
    accelerators: AcceleratorsOption = None,
    price: PriceOption = None,
    utilization: UtilizationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate what each cell costs: FLOPs, GPU-hours, money, memory, disk. Cells without GPUs are counted on cores.

    Example: `olmo-inject sweep cost size-frequency-tcmp --accelerator h100 --price 2.10`
    """
    from launch.cell_list import cell_costs
    from launch.cost.accelerators import find_accelerator
    from launch.cost.report import cost_table, room_table
    from launch.sweep import load_sweep

    chosen = find_accelerator(accelerator, accelerators).with_changes(price, utilization)
    costs = cell_costs(load_sweep(file, only=only or []), chosen)
    if as_json:
        print_json([cost.record() for cost in costs])
    else:
        table_console().print(cost_table(costs), room_table(costs))


@app.command()
def run(
    file: FileArgument, only: OnlyOption = None, at_once: AtOnceOption = None, retry_failed: RetryOption = False
) -> None:
    """Train the cells on this machine, and wait for them. Ctrl-C lets them save first.

    Exit status 1 if not every cell is trained: one failed or was killed, or SLURM or another process has it.

    Example: `olmo-inject sweep run study-tcmp --only seed=s1 --at-once 2`
    """
    from launch.submit import run_sweep
    from launch.sweep import load_sweep
    from olmo_inject.utils.extras import require

    require("olmo")
    sweep = load_sweep(file, only=only or [])
    with stoppable():
        succeeded = run_sweep(sweep, at_once=at_once, retry_failed=retry_failed, console=Console(stderr=True))
    if not succeeded:
        raise typer.Exit(1)
    print(f"next: olmo-inject audit {sweep.folder}; olmo-inject report {sweep.folder} --out report.html")


@app.command()
def submit(
    file: FileArgument, only: OnlyOption = None, site: SiteOption = None, retry_failed: RetryOption = False
) -> None:
    """Submit the cells to SLURM, as one job array for all cells of the same resources, or several if it is full.

    Exit status 1 if cells that failed before were left out.

    Example: `olmo-inject sweep submit size-frequency-tcmp --site site.yaml`
    """
    from launch.job_arrays import load_site
    from launch.submit import submit_sweep
    from launch.sweep import load_sweep
    from olmo_inject.utils.extras import require

    require("olmo")
    sweep = load_sweep(file, only=only or [])
    submitted = submit_sweep(sweep, load_site(site), retry_failed=retry_failed, console=Console(stderr=True))
    for line in submitted.arrays:
        print(line)
    print(f"next: olmo-inject sweep status {file}, or olmo-inject sweep cancel {file} to let the cells save and stop")
    if submitted.left_out:
        raise typer.Exit(1)


@app.command()
def status(file: FileArgument, only: OnlyOption = None, as_json: JsonOption = False) -> None:
    """Show the state of each cell: steps done, speed, time left, test accuracies, and why it failed.

    The accuracy of a task of pairs is over test pairs whose mirror is not injected.

    Example: `olmo-inject sweep status size-frequency-tcmp`
    """
    from launch import cells, local, slurm
    from launch.sweep import load_sweep

    sweep = load_sweep(file, only=only or [])
    active, unanswered = local.waiting(sweep), ""
    try:
        active |= slurm.active(sweep)
    except UserError as error:
        unanswered = f"SLURM did not answer, so its jobs are not shown: {error}"
    statuses = cells.statuses(sweep, active)
    if as_json:
        print_json([status.record() for status in statuses])
    else:
        table_console().print(cells.status_table(statuses))
        print(f"{counted(len(statuses), 'cell')}: {cells.summary(statuses)}")
        print(cells.failures(statuses), end="")
        if unseen := slurm.unseen(sweep):
            print(unseen)
    if unanswered:
        raise UserError(unanswered)


@app.command()
def cancel(file: FileArgument) -> None:
    """Let running cells save and stop, and take queued ones out of the queue.

    Example: `olmo-inject sweep cancel size-frequency-tcmp`
    """
    from launch import local, slurm
    from launch.sweep import load_sweep

    sweep = load_sweep(file)
    actions = [action for backend in (local, slurm) if (action := backend.cancel(sweep)) is not None]
    print("\n".join(actions or ["no cell is running or queued"]))
