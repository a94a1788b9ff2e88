"""Which checkpoints a run folder holds, without reading their weights. Needs neither torch nor ai2-olmo."""

from __future__ import annotations

import shutil
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from olmo_inject.config import Experiment
from olmo_inject.runs.checkpoints import RECORD, run_and_step, step_folders
from olmo_inject.training.checkpoints.record import read_record
from olmo_inject.utils.owned_folder import discard


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        path: its folder.
        step: number of completed steps, which is also the plan step that comes next.
        weights_only: whether it lacks what a resume needs.
        sharded: whether it was written by FSDP, in shards.
    """

    path: Path
    step: int
    weights_only: bool
    sharded: bool


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the record of a checkpoint folder.

    Raises:
        UserError: it is not a checkpoint of this project, or its record is damaged.
    """
    record = read_record(path)
    return Checkpoint(path, record["step"], record["kind"] == "weights", record["sharded"])


def step_of(path: Path) -> int | None:
    """The completed steps of a checkpoint; None if it does not say."""
    if (path / RECORD).is_file():
        return read_checkpoint(path).step
    place = run_and_step(path)
    return None if place is None else place[1]


def checkpoints_of(run_folder: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run, by step.

    Raises:
        UserError: a record is damaged.
    """
    checkpoints = [read_checkpoint(path) for path in step_folders(run_folder) if (path / RECORD).is_file()]
    return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)


def first_step_of(experiment: Experiment, last: Checkpoint | None) -> int:
    """The first step of a run: after its `last` checkpoint, or where it branches off another run.

    Raises:
        UserError: the record of the checkpoint that it branches off is damaged.
    """
    if last is not None:
        return last.step
    if experiment.start_from is not None and experiment.start_state == "full":
        return read_checkpoint(Path(experiment.start_from)).step
    return 0


def latest(run_folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that it can resume from."""
    checkpoints = [each for each in checkpoints_of(run_folder) if not each.weights_only]
    return checkpoints[-1] if checkpoints else None


def prune(run_folder: Path, keep: int, listed: Container[int] = ()) -> None:
    """Remove the oldest full checkpoints beyond `keep`. Weights-only, `listed` and the newest checkpoints stay.

    Only one process may call it, while no other writes checkpoints.

    Args:
        run_folder: the run folder.
        keep: number of full checkpoints to keep, at least 1.
        listed: steps whose checkpoints are never removed.
    """
    full = [checkpoint for checkpoint in checkpoints_of(run_folder) if not checkpoint.weights_only]
    counted = [checkpoint for checkpoint in full if checkpoint is full[-1] or checkpoint.step not in listed]
    for checkpoint in counted[: -max(keep, 1)]:
        discard(checkpoint.path)


def remove_unfinished(run_folder: Path) -> None:
    """Remove half-written and half-removed checkpoints of killed runs (one process)."""
    for leftover in [*run_folder.glob(".step*.tmp"), *run_folder.glob(".step*.old")]:
        shutil.rmtree(leftover)
