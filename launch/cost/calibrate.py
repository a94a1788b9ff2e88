"""The utilization that an experiment reaches on this machine, measured by some of its own steps."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from launch.cost.accelerators import CORE, Accelerator, read_accelerators
from launch.cost.cost import flops_per_token
from launch.torchrun import USER_ERROR, run_ranks
from olmo_inject.config import Experiment, configs_folder, experiment_yaml
from olmo_inject.errors import UserError
from olmo_inject.files import read_json
from olmo_inject.runs.read import TASKS
from olmo_inject.tasks import Task
from olmo_inject.training.checks import check_before_launch
from olmo_inject.training.parallel import choose_device
from olmo_inject.training.timed_steps import Trial

STEPS = 5


def calibrate(
    experiment: Experiment,
    processes: int,
    *,
    device: str = "auto",
    steps: int = STEPS,
    tasks: list[Task] | None = None,
) -> Trial:
    """Train `steps` steps of an experiment here and time them; its run folder is not touched.

    Args:
        experiment: trained as it is, with its whole batch, which on one GPU may take its time.
        processes: ranks on this machine.
        device: auto, cpu or cuda.
        steps: to be timed, after one that is not.
        tasks: as `build_data`'s.

    Raises:
        UserError: the experiment cannot be trained here, or the trial failed.
    """
    if steps < 1:
        raise UserError(f"--calibrate-steps: {steps} must be at least 1")
    check_before_launch(experiment, processes, device, overwrite=True, tasks=tasks)
    if choose_device(device).type == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each rank, as they are counted
    with tempfile.TemporaryDirectory() as folder:
        config, result = Path(folder) / "experiment.yaml", Path(folder) / "trial.json"
        config.write_text(experiment_yaml(experiment), encoding="utf-8")
        for task in tasks or ():
            task.save(Path(folder) / TASKS)
        status = run_ranks(
            "olmo_inject.training.timed_steps", [str(config), str(result), str(steps), device], processes
        )
        if status != 0 or not result.is_file():
            said = "said above" if status == USER_ERROR else f"exit status {status}"
            raise UserError(f"{experiment.name}: the steps to calibrate with failed: {said}")
        return Trial(**read_json(result))


def check_device(accelerator: Accelerator, device: str) -> None:
    """Refuse, before anything is measured, to state one kind of device in units of another.

    Args:
        accelerator: that the cost is counted in.
        device: auto, cpu or cuda, that is to be measured.

    Raises:
        UserError: one is a CPU and the other a GPU.
    """
    measured = choose_device(device).type
    if measured == accelerator.device:
        return
    if measured == "cpu":
        raise UserError(
            f"--calibrate: a CPU would be measured, which says nothing about {accelerator.name}: "
            f"give --accelerator {CORE}, or calibrate where there is a GPU"
        )
    raise UserError(
        f"--calibrate: a GPU would be measured, and {accelerator.name} is none: give its name with --accelerator, "
        "or --device cpu"
    )


def another_card(accelerator: Accelerator, trial: Trial) -> str | None:
    """A warning if what was measured is plainly another card than the accelerator, by the cards' names."""
    shipped = {name.partition("-")[0] for name in read_accelerators(configs_folder() / "accelerators.yaml")}
    card = accelerator.name.partition("-")[0]
    if accelerator.device == "cpu" or card not in shipped or card in trial.device.lower():
        return None
    return f"measured on {trial.device}, counted in {accelerator.name}: --accelerator names another card"


def utilization(experiment: Experiment, accelerator: Accelerator, trial: Trial) -> float:
    """The share of the accelerators' peak that the measured steps reached."""
    flops = flops_per_token(experiment.model) * experiment.batch_size * experiment.sequence_length
    return flops / trial.step_seconds / (trial.ranks * accelerator.peak_flops)


def calibrated(experiment: Experiment, accelerator: Accelerator, trial: Trial) -> Accelerator:
    """The accelerator with the utilization that was measured.

    Raises:
        UserError: more than its peak was reached: it is another accelerator than this machine's.
    """
    reached = utilization(experiment, accelerator, trial)
    if reached > 1:
        raise UserError(
            f"--accelerator: {accelerator.name} is not what was measured ({trial.device}): "
            f"{reached:.1f} times its peak was reached"
        )
    return accelerator.with_changes(utilization=reached)
