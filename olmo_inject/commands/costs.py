"""`olmo-inject cost|preflight`: estimate what a run costs, and test whether it can run here."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from olmo_inject.commands.shared import (
    HARDWARE,
    AcceleratorOption,
    AcceleratorsOption,
    ConfigArgument,
    DeviceOption,
    JsonOption,
    NodesOption,
    OverridesArgument,
    PriceOption,
    ProcessesOption,
    RendezvousOption,
    UtilizationOption,
    print_json,
    table_console,
)
from olmo_inject.errors import UserError
from olmo_inject.rank_environment import is_first_rank, is_rank

CALIBRATION = "Calibration"


def cost(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    accelerator: AcceleratorOption = "h100",
    accelerators: AcceleratorsOption = None,
    nodes: Annotated[int, typer.Option(help="Nodes of the run.", rich_help_panel=HARDWARE)] = 1,
    gpus: Annotated[int, typer.Option(help="Accelerators per node.", rich_help_panel=HARDWARE)] = 1,
    price: PriceOption = None,
    utilization: UtilizationOption = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Measure the utilization by training some steps here.", rich_help_panel=CALIBRATION
        ),
    ] = False,
    calibrate_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps to time, after one that is not timed; default 5.",
            show_default=False,
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Ranks on this machine; default one per GPU, else 1.", show_default=False, rich_help_panel=CALIBRATION
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu or cuda; default auto.", show_default=False, rich_help_panel=CALIBRATION),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate what a run needs: FLOPs, GPU-hours, money, memory of each GPU, disk.

    Utilization and price are assumptions in configs/accelerators.yaml; give your own.

    Example: `olmo-inject cost demo model=1B --accelerator h100 --nodes 4 --gpus 8`
    """
    from launch.cost.accelerators import find_accelerator
    from launch.cost.cost import estimate
    from launch.cost.report import run_table
    from olmo_inject.config import load_experiment

    for option, given in (("calibrate-steps", calibrate_steps), ("processes", processes), ("device", device)):
        if given is not None and not calibrate:
            raise UserError(f"--{option}: only with --calibrate")
    experiment = load_experiment(config, overrides or ())
    used = find_accelerator(accelerator, accelerators).with_changes(price, utilization)
    timed = None
    if calibrate:
        from launch.cost.calibrate import STEPS, another_card, calibrated, check_device, time_run
        from launch.torchrun import default_processes
        from olmo_inject.runs.read import saved_tasks

        device = device or "auto"
        check_device(used, device)
        ranks = default_processes() if processes is None else processes
        tasks = saved_tasks(config, experiment)
        timed = time_run(experiment, ranks, device=device, steps=calibrate_steps or STEPS, tasks=tasks)
        used = calibrated(experiment, used, timed)
        if (warning := another_card(used, timed)) is not None:
            print(f"olmo-inject: {warning}", file=sys.stderr)
    result = estimate(experiment, used, nodes=nodes, gpus_per_node=gpus)
    if as_json:
        print_json(result.record() | {"timed_steps": None if timed is None else asdict(timed)})
        return
    table_console().print(run_table(result, measured=timed is not None))
    if timed is not None:
        print(
            f"measured here: {timed.step_seconds:.3g} s per step on {timed.ranks} x {timed.device}, "
            f"utilization {100 * used.utilization:.3g}% of {used.name}'s peak"
        )


def preflight(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    processes: ProcessesOption = None,
    device: DeviceOption = "auto",
    quick: Annotated[
        bool, typer.Option("--quick", help="Time one step; write no checkpoint and hash nothing.")
    ] = False,
    nodes: NodesOption = 1,
    rendezvous: RendezvousOption = None,
    as_json: JsonOption = False,
) -> None:
    """Test whether a run can start: devices, ranks, corpus, disk, a real step, a checkpoint, memory.

    Exit status 1 if anything fails. Does not write to the run folder. Start it as you start `train`: alone, once on
    each of several nodes, or by torchrun.

    Example: `olmo-inject preflight my.yaml --quick`
    """
    from launch.torchrun import be_the_only_rank, check_launch, default_processes, run_ranks
    from olmo_inject.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    if not is_rank():
        check_launch(nodes, rendezvous)
        flags = [*(["--quick"] if quick else []), *(["--json"] if as_json else [])]
        arguments = ["preflight", config, *(overrides or ()), "--device", device, *flags]
        ranks = default_processes() if processes is None else processes
        if nodes * ranks > 1:
            raise typer.Exit(run_ranks("olmo_inject", arguments, ranks, nodes=nodes, rendezvous=rendezvous))
        be_the_only_rank()
    import logging

    from launch.preflight import checks_table, run_checks
    from olmo_inject.runs.read import saved_tasks
    from olmo_inject.training.parallel import process_group

    logging.getLogger("olmo").setLevel(logging.ERROR)
    tasks = saved_tasks(config, experiment)
    with process_group(device) as torch_device:
        result = run_checks(experiment, torch_device, quick=quick, tasks=tasks)
    if is_first_rank():
        if as_json:
            print_json(result.record())
        else:
            table_console().print(checks_table(result))
            print(f"{experiment.name}: {'ready' if result.passed else 'not ready'}", flush=True)
    if not result.passed:
        raise typer.Exit(1)
