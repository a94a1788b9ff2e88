"""Checks of a run: before its launch, and those that every rank repeats."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import numpy as np
import torch

from olmo_inject.config import Experiment, experiment_yaml
from olmo_inject.config.olmo_settings import DistributedStrategy
from olmo_inject.corpus.references import load_references
from olmo_inject.data import ExperimentData, build_data
from olmo_inject.errors import UserError
from olmo_inject.runs.folder import check_branch, check_no_other_folder, locked, prepare
from olmo_inject.runs.read import is_run, read_experiment
from olmo_inject.runs.same_run import check_same_run
from olmo_inject.steps import StepSelection
from olmo_inject.tasks import Task
from olmo_inject.training.checkpoints.hub import local_folder
from olmo_inject.training.checkpoints.on_disk import first_step_of, latest
from olmo_inject.training.checkpoints.weights import load_weights
from olmo_inject.training.gradients import with_references
from olmo_inject.training.olmo_config import model_config
from olmo_inject.utils.number_ranges import check_ranks_share
from olmo_inject.utils.worker_processes import check_sockets


class CheckedRun(NamedTuple):
    """A run that passed all checks before its launch.

    Attributes:
        data: its corpus and plan.
        done: why nothing needs to be started, or None.
    """

    data: ExperimentData
    done: str | None


def check_before_launch(
    experiment: Experiment, processes: int, device: str, overwrite: bool, tasks: list[Task] | None = None
) -> CheckedRun:
    """Check a run as its ranks will, so that a mistake gives one line instead of one per rank.

    Args:
        experiment: the run.
        processes: number of ranks on all nodes.
        device: auto, cpu or cuda.
        overwrite: whether the run in the folder will be deleted first.
        tasks: tasks that are already built; None builds them.

    Raises:
        UserError: as in `build_data`, `load_references`, `load_weights` and `check_same_run`; or the ranks cannot share
            the batch, the device lacks something, or a staged corpus does not hold the steps or rows.
    """
    check_ranks(experiment, processes, device)
    check_no_other_folder(experiment.run_folder, overwrite=overwrite)
    if experiment.gradients.at != StepSelection():
        from olmo_inject.training.checkpoints.transformers import transformers_config  # imports transformers: seconds

        transformers_config(model_config(experiment.model))  # what the gradients are computed with
    data = build_data(experiment, tasks=tasks)
    if experiment.gradients.at != StepSelection():
        with_references(data.tasks)
    load_references(experiment.reference_paths, data.source.vocabulary, experiment.sequence_length)
    folder = experiment.run_folder
    goes_on = not overwrite and is_run(folder)
    last = latest(folder) if goes_on else None
    first_step = first_step_of(experiment, last)
    if last is None:
        check_begin(experiment, first_step)
    # A run that has a checkpoint no longer needs the one it started from.
    if experiment.start_from is not None and experiment.start_state == "weights" and last is None:
        load_weights(local_folder(experiment.start_from), model_config(experiment.model))
    if goes_on:
        check_same_run(experiment, data)
        if last is not None and last.step > experiment.steps:
            raise UserError(f"train.max_duration: {experiment.steps} steps, but {folder} is at step {last.step}")
        if last is not None and last.step == experiment.steps:
            return CheckedRun(data, f"already trained to step {last.step}: nothing to do")
    # A staged corpus may hold only the rows of this node's ranks; each rank checks its own.
    data.order.require(range(first_step, experiment.steps), np.empty(0, np.int64))
    return CheckedRun(data, None)


def check_begin(experiment: Experiment, first_step: int) -> None:
    """Check that a new run can begin at the step where it branches off another, or at 0.

    Raises:
        UserError: it has no step left, or as in `check_branch`.
    """
    if first_step >= experiment.steps:
        raise UserError(
            f"start_from: {experiment.start_from} is at step {first_step}, train.max_duration {experiment.steps}"
        )
    check_branch(experiment, first_step)


def record_changes(experiment: Experiment, data: ExperimentData) -> None:
    """Record the settings that may change in a finished run, such as where its corpus is.

    Args:
        experiment: the run.
        data: its corpus and plan.

    Raises:
        UserError: the folder is in use, or cannot be written.
    """
    folder = experiment.run_folder
    if experiment_yaml(read_experiment(folder)) != experiment_yaml(experiment):
        with locked(folder):
            prepare(experiment, data, experiment.steps)


def check_ranks(experiment: Experiment, ranks: int, device: str) -> None:
    """Check that this many ranks on this device can train the run. Called before the ranks start, and by each rank.

    Args:
        experiment: the run.
        ranks: number of ranks on all nodes; before a launch, on this node.
        device: auto, cpu or cuda.

    Raises:
        UserError: the ranks cannot share the batch; document masking, flash attention or the fused loss without
            flash-attn on a GPU; or a TMPDIR where loader workers cannot work.
    """
    check_ranks_share(experiment.batch_size, ranks, "train.global_train_batch_size")
    fsdp = experiment.train.fsdp
    replicas = None if fsdp is None else fsdp.hybrid_sharding_num_model_replicas
    if experiment.train.distributed_strategy == DistributedStrategy.fsdp and replicas is not None and ranks % replicas:
        raise UserError(f"train.fsdp.hybrid_sharding_num_model_replicas: {replicas} does not divide {ranks} ranks")
    _check_device(experiment, device)
    if experiment.train.data.num_workers:
        check_sockets()


def _check_device(experiment: Experiment, device: str) -> None:
    """Check that the GPU and the packages that the settings need are available."""
    train, model = experiment.train, experiment.model
    for key, asked in (
        ("model.flash_attention", model.flash_attention),
        ("train.data.generate_doc_lengths (document masking)", train.data.generate_doc_lengths),
        ("train.fused_loss", bool(train.fused_loss)),
    ):
        if not asked:
            continue
        if device == "cpu" or not torch.cuda.is_available():
            raise UserError(f"{key}: needs a GPU and the flash-attn package; there is no GPU in use")
        if importlib.util.find_spec("flash_attn") is None:
            raise UserError(f"{key}: needs the flash-attn package, which is not installed")
    if train.data.generate_doc_lengths and not model.flash_attention:
        raise UserError("train.data.generate_doc_lengths: document masking needs model.flash_attention: true")
