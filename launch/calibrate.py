"""The utilization that an experiment reaches on this machine, measured by some of its own steps."""

from __future__ import annotations

import tempfile
from pathlib import Path

from launch.accelerators import Accelerator
from launch.cost import flops_per_token
from launch.torchrun import USER_ERROR, run_ranks
from olmo_inject.config import Experiment, experiment_yaml
from olmo_inject.errors import UserError
from olmo_inject.files import read_json
from olmo_inject.training.checks import check_before_launch
from olmo_inject.training.trial import Trial

STEPS = 5


def calibrate(experiment: Experiment, processes: int, *, device: str = "auto", steps: int = STEPS) -> Trial:
    """Train `steps` steps of an experiment here and time them; its run folder is not touched.

    Args:
        experiment: trained as it is, with its whole batch, which on one GPU may take its time.
        processes: ranks on this machine.
        device: auto, cpu or cuda.
        steps: to be timed, after one that is not.

    Raises:
        UserError: the experiment cannot be trained here, or the trial failed.
    """
    if steps < 1:
        raise UserError(f"--calibrate-steps: {steps} must be at least 1")
    check_before_launch(experiment, processes, device, overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        config, result = Path(folder) / "experiment.yaml", Path(folder) / "trial.json"
        config.write_text(experiment_yaml(experiment), encoding="utf-8")
        status = run_ranks("olmo_inject.training.trial", [str(config), str(result), str(steps), device], processes)
        if status != 0 or not result.is_file():
            said = "said above" if status == USER_ERROR else f"exit status {status}"
            raise UserError(f"{experiment.name}: the steps to calibrate with failed: {said}")
        return Trial(**read_json(result))


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
