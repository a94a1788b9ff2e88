"""Which weights to analyze, and how to load them: always as a transformers model, whatever format they are stored in.

A `StoredModel` is a checkpoint of a run, or a model outside any run: a folder of ai2-olmo or of transformers. Steps are
plan steps: `step{s}` holds the weights before plan step s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from analysis.read.runs import Run, order_of, read_run
from analysis.read.skipped import Skipped
from olmo_inject.errors import UserError
from olmo_inject.runs.checkpoints import RECORD, find_checkpoints, folder_of, weight_files
from olmo_inject.tasks import Task
from olmo_inject.training.checkpoints.load import load_model
from olmo_inject.training.checkpoints.record import (
    files_of_weights,
    identifying_files,
    read_record,
    verify_length,
)

FOLDER = "analysis"  # folder of results, in a run folder or beside a model's weights


@dataclass(frozen=True)
class StoredModel:
    """One set of weights to analyze.

    Attributes:
        path: folder of the weights.
        step: plan step before which a run's checkpoint was written; None for a model outside a run.
        run: the run that the checkpoint belongs to; None for a model outside a run.
        tasks: tasks to analyze it on.
        folder: where its results are stored: `analysis/` of the run or of the model.
    """

    path: Path
    step: int | None
    run: Run | None
    tasks: list[Task]
    folder: Path

    @property
    def name(self) -> str:
        """The run's name and the checkpoint's, or the folder's name for a model outside a run."""
        return self.path.name if self.run is None else f"{self.run.name} {self.path.name}"

    def columns(self) -> dict[str, Any]:
        """The columns that identify it in a joined table. A model outside a run has step -1."""
        if self.run is None:
            return {"run": self.path.name, "folder": str(self.path), "model": self.path.name, "step": -1}
        run = self.run
        return {"run": run.name, "folder": str(run.folder), "model": run.size, "step": self.step}

    def load(self, device: torch.device) -> PreTrainedModel:
        """Load the model, in evaluation mode and float32.

        Raises:
            UserError: it is missing, damaged, unsafe to read, or of an unknown kind.
        """
        return load_model(self.path).to(device)  # pyright: ignore[reportArgumentType]


def select_checkpoints(
    paths: Sequence[Path],
    steps: str,
    skipped: Skipped,
    tasks: Sequence[Path] | None = (),
    corpus: Path | None = None,
) -> list[StoredModel]:
    """The checkpoints of runs in the order of `read_runs` and by step, then models outside runs.

    Args:
        paths: run folders, folders of runs, checkpoints of runs, or models.
        steps: which checkpoints of a run, as in `olmo_inject.runs.checkpoints.select_steps`.
        skipped: receives a message for each step without a checkpoint.
        tasks: task files (a run's `tasks/NAME.json`) for models outside runs; None if such models are not allowed.
        corpus: where the runs' corpus is now, if it has moved.

    Raises:
        UserError: a path does not exist or is neither a run nor a model, or a model outside a run has no task.
    """
    selection = find_checkpoints(paths, steps)
    folders = dict.fromkeys(checkpoint.run for checkpoint in selection.checkpoints if checkpoint.run)
    runs = {folder: read_run(folder, corpus) for folder in folders}
    order = {folder: order_of(run) for folder, run in runs.items()}
    checkpoints: list[tuple[Any, StoredModel]] = []
    models: list[StoredModel] = []
    for checkpoint in selection.checkpoints:
        if checkpoint.run is not None and checkpoint.step is not None:
            checkpoints.append((order[checkpoint.run], checkpoint_of(runs[checkpoint.run], checkpoint.step)))
        elif tasks is None:
            raise UserError(f"{checkpoint.path} is a model and not a checkpoint of a run: its batches are not known")
        elif not tasks:
            raise UserError(f"{checkpoint.path} is a model and not a run: name the tasks to analyze it on with --tasks")
        else:
            own = [Task.load(file) for file in tasks]
            models.append(StoredModel(checkpoint.path, None, None, own, checkpoint.path / FOLDER))
    if tasks and not models:
        raise UserError("--tasks is only for models that belong to no run; a run has its own tasks")
    for message in selection.missing:
        skipped.add(message)
    in_order = sorted(checkpoints, key=lambda place: place[0])  # stable: by step within a run
    return [*(model for _, model in in_order), *models]


def identity(path: Path) -> str:
    """A hash that identifies the weights in a folder: of the checkpoint's record, or else of the files themselves.

    Files in a record are compared with it by length alone. Results that were computed from the whole weights stay
    valid, but a missing or shortened file is reported even if the results are already stored.

    Raises:
        UserError: there are no weights, or a file is missing or shortened.
    """
    if (path / RECORD).is_file():
        verify_length(path, files_of_weights(read_record(path)))
        return hashlib.sha256((path / RECORD).read_bytes()).hexdigest()
    digest = hashlib.sha256()
    if not weight_files(path):
        raise UserError(f"{path} is not a complete checkpoint: it has no {RECORD} and no weights")
    for file in identifying_files(path):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as content:
            while block := content.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def checkpoint_of(run: Run, step: int) -> StoredModel:
    """One checkpoint of a run."""
    return StoredModel(folder_of(run.folder, step), step, run, run.tasks, run.folder / FOLDER)
