"""What a run will cost, and whether it can run here."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from olmo_inject.commands.shared import (
    ConfigArgument,
    DeviceOption,
    JsonOption,
    NodesOption,
    NprocOption,
    OverridesArgument,
    RendezvousOption,
    print_json,
    table_console,
)
from olmo_inject.rank_environment import is_first_rank, is_rank

if TYPE_CHECKING:
    from olmo_inject.config import Experiment


def cost(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    accelerator: Annotated[str, typer.Option(help="A name in configs/accelerators.yaml.")] = "h100",
    accelerators: Annotated[
        Path | None, typer.Option(help="Another table of accelerators.", show_default=False)
    ] = None,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    gpus: Annotated[int, typer.Option(help="Accelerators of each machine.")] = 1,
    price: Annotated[float | None, typer.Option(help="US dollars an hour for one.", show_default=False)] = None,
    utilization: Annotated[
        float | None, typer.Option(help="Share of the peak FLOP/s that training reaches.", show_default=False)
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First train some steps here and measure the utilization.")
    ] = False,
    calibrate_steps: Annotated[int, typer.Option(help="Steps to time, after one that is not.")] = 5,
    nproc: NprocOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say what a run would take: FLOPs, GPU-hours, money, memory of each GPU, disk.

    Utilization and prices are assumptions that stand in configs/accelerators.yaml; replace them by your own.

    Example: `olmo-inject cost demo model=1B --accelerator h100 --nodes 4 --gpus 8`
    """
    from launch.cost.accelerators import find_accelerator
    from launch.cost.cost import estimate
    from launch.cost.report import run_table
    from olmo_inject.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    used = find_accelerator(accelerator, accelerators).with_changes(price, utilization)
    trial = None
    if calibrate:
        from launch.cost.calibrate import another_card, calibrated, check_device
        from launch.cost.calibrate import calibrate as measure
        from launch.torchrun import default_processes
        from olmo_inject.runs.read import saved_tasks

        check_device(used, device)
        ranks = default_processes() if nproc is None else nproc
        tasks = saved_tasks(config, experiment)
        trial = measure(experiment, ranks, device=device, steps=calibrate_steps, tasks=tasks)
        used = calibrated(experiment, used, trial)
        if (warning := another_card(used, trial)) is not None:
            print(f"olmo-inject: {warning}", file=sys.stderr)
    result = estimate(
        experiment,
        used,
        nodes=nodes,
        gpus_per_node=gpus,
        corpus_tokens=_corpus_tokens(experiment),
        first_step=_first_step(experiment),
    )
    if as_json:
        print_json(result.record() | {"trial": None if trial is None else asdict(trial)})
        return
    table_console().print(run_table(result, measured=trial is not None))
    if trial is not None:
        print(
            f"Measured here: {trial.step_seconds:.3g} s a step on {trial.ranks} x {trial.device}, "
            f"utilization {100 * used.utilization:.3g}% of {used.name}'s peak"
        )


def preflight(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    nproc: NprocOption = None,
    device: DeviceOption = "auto",
    quick: Annotated[
        bool, typer.Option("--quick", help="One timed step, no checkpoint, no hashing: for the start of a job.")
    ] = False,
    nodes: NodesOption = 1,
    rendezvous: RendezvousOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try a run before it starts: devices, ranks, corpus, disk, a real step, a checkpoint, memory.

    Ends with status 1 if anything fails. The run folder is not written to. Started bare, on several nodes or by
    torchrun as `train` is.
    """
    from launch.torchrun import default_processes, run_ranks
    from olmo_inject.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    if not is_rank():
        flags = [*(["--quick"] if quick else []), *(["--json"] if as_json else [])]
        arguments = ["preflight", config, *(overrides or ()), "--device", device, *flags]
        processes = default_processes() if nproc is None else nproc
        raise typer.Exit(run_ranks("olmo_inject", arguments, processes, nodes=nodes, rendezvous=rendezvous))
    import logging

    from launch.preflight import checks_table
    from launch.preflight import preflight as try_all
    from olmo_inject.runs.read import saved_tasks
    from olmo_inject.training.parallel import process_group

    logging.getLogger("olmo").setLevel(logging.ERROR)
    tasks = saved_tasks(config, experiment)
    with process_group(device) as torch_device:
        result = try_all(experiment, torch_device, quick=quick, tasks=tasks)
    if is_first_rank():
        if as_json:
            print_json(result.record())
        else:
            table_console().print(checks_table(result))
            print(f"{experiment.name}: {'ready' if result.passed else 'not ready'}", flush=True)
    if not result.passed:
        raise typer.Exit(1)


def _corpus_tokens(experiment: Experiment) -> int | None:
    """How many tokens the corpus holds, where it is a folder that is here."""
    from olmo_inject.corpus.folder import DESCRIPTION, read_corpus_folder

    folder = experiment.corpus.folder
    if folder is None or not (Path(folder) / DESCRIPTION).is_file():
        return None
    return read_corpus_folder(Path(folder)).tokens


def _first_step(experiment: Experiment) -> int:
    """Where a run that branches off begins."""
    if experiment.start_from is None or experiment.start_state != "full":
        return 0
    from olmo_inject.training.checkpoints.save_restore import read_checkpoint

    return read_checkpoint(Path(experiment.start_from)).step
