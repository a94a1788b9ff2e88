"""Measure the utilization that an experiment reaches on this machine, by timing some of its steps."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from launch.cost.accelerators import CORE, Accelerator, read_accelerators
from launch.cost.cost import flops_per_token
from launch.torchrun import USER_ERROR, run_ranks
from olmo_inject.config import Experiment, configs_folder, experiment_yaml
from olmo_inject.errors import UserError
from olmo_inject.runs.read import TASKS
from olmo_inject.tasks import Task
from olmo_inject.training.checks import check_before_launch
from olmo_inject.training.parallel import choose_device
from olmo_inject.training.timed_steps import TimedSteps
from olmo_inject.utils.files import read_json
from olmo_inject.utils.options import check_options

STEPS = 5


def time_run(
    experiment: Experiment,
    processes: int,
    *,
    device: str = "auto",
    steps: int = STEPS,
    tasks: list[Task] | None = None,
) -> TimedSteps:
    """Train some steps of an experiment on ranks of this machine and time them. Its run folder is not touched.

    Args:
        experiment: trained as it is, with its whole global batch.
        processes: ranks on this machine.
        device: auto, cpu or cuda.
        steps: number of steps to time, after one that is not timed.
        tasks: tasks that are already built; None builds them.

    Raises:
        UserError: the experiment cannot be trained here, or a rank failed.
    """
    check_options(calibrate_steps=steps)
    check_before_launch(experiment, processes, device, overwrite=True, tasks=tasks)
    if choose_device(device).type == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # costs count one core per rank
    with tempfile.TemporaryDirectory() as folder:
        config, result = Path(folder) / "experiment.yaml", Path(folder) / "timed.json"
        config.write_text(experiment_yaml(experiment), encoding="utf-8")
        for task in tasks or ():
            task.save(Path(folder) / TASKS)
        status = run_ranks(
            "olmo_inject.training.timed_steps", [str(config), str(result), str(steps), device], processes
        )
        if status != 0 or not result.is_file():
            why = "see above" if status == USER_ERROR else f"exit status {status}"
            raise UserError(f"{experiment.name}: --calibrate failed: {why}")
        return TimedSteps(**read_json(result))


def check_device(accelerator: Accelerator, device: str) -> None:
    """Check, before anything is measured, that the device is of the accelerator's kind.

    Args:
        accelerator: in which the cost is counted.
        device: auto, cpu or cuda.

    Raises:
        UserError: one is a CPU and the other a GPU.
    """
    measured = choose_device(device).type
    if measured == accelerator.device:
        return
    if measured == "cpu":
        raise UserError(
            f"--calibrate: the device is a CPU and {accelerator.name} is not: give --accelerator {CORE}, or calibrate "
            "on a GPU"
        )
    raise UserError(
        f"--calibrate: the device is a GPU and {accelerator.name} is not: give the GPU's name with --accelerator, or "
        "--device cpu"
    )


def another_card(accelerator: Accelerator, timed: TimedSteps) -> str | None:
    """A warning if the name of the measured card is not that of the accelerator."""
    shipped = {name.partition("-")[0] for name in read_accelerators(configs_folder() / "accelerators.yaml")}
    card = accelerator.name.partition("-")[0]
    if accelerator.device == "cpu" or card not in shipped or card in timed.device.lower():
        return None
    return f"--accelerator: measured on {timed.device}, but counted in {accelerator.name}"


def utilization(experiment: Experiment, accelerator: Accelerator, timed: TimedSteps) -> float:
    """The fraction of the accelerators' peak FLOP/s that timed steps reached.

    Args:
        experiment: whose steps were timed.
        accelerator: what each rank ran on.
        timed: the steps.
    """
    flops = flops_per_token(experiment.model) * experiment.batch_size * experiment.sequence_length
    return flops / timed.step_seconds / (timed.ranks * accelerator.peak_flops)


def calibrated(experiment: Experiment, accelerator: Accelerator, timed: TimedSteps) -> Accelerator:
    """The accelerator with the measured utilization.

    Args:
        experiment: whose steps were timed.
        accelerator: what each rank ran on.
        timed: the steps.

    Raises:
        UserError: the steps reached more than its peak, so it is not this machine's.
    """
    reached = utilization(experiment, accelerator, timed)
    if reached > 1:
        raise UserError(
            f"--accelerator: {timed.device} reached {reached:.1f} times the peak of {accelerator.name}, "
            "so it is another accelerator"
        )
    return accelerator.with_changes(utilization=reached)
