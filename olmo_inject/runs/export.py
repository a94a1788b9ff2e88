"""Write the injected stream of some steps to files, for trainers that read their data from files.

The folder is a run folder with a file in place of the model. `audit` compares the files with the plan, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from olmo_inject.config import Described
from olmo_inject.data import ExperimentData
from olmo_inject.errors import UserError
from olmo_inject.runs import evidence
from olmo_inject.runs.folder import prepare
from olmo_inject.runs.metrics import JsonLines
from olmo_inject.runs.read import EVIDENCE_FILE, EXPORT
from olmo_inject.utils.files import read_json, sha256_of, write_json
from olmo_inject.utils.json_shape import check_shape
from olmo_inject.utils.owned_folder import check_writable, new_folder
from olmo_inject.utils.progress import show_progress

SHARD_BYTES = 2**30  # approximate size of a file; a step is never split
_EXPORT = {
    "first_step": int,
    "beyond_step": int,
    "dtype": str,
    "batch_size": int,
    "sequence_length": int,
    "files": [{"name": str, "first_step": int, "steps": int, "sha256": str}],
}


@dataclass(frozen=True)
class Export:
    """The contents of `export.json`.

    Attributes:
        folder: the exported folder.
        steps: the steps that were written.
        dtype: dtype of token ids.
        batch_size: rows per step.
        sequence_length: tokens per row.
        files: name, first step, number of steps and SHA-256 of each file, in order.
    """

    folder: Path
    steps: range
    dtype: str
    batch_size: int
    sequence_length: int
    files: list[dict[str, Any]]

    def step(self, step: int) -> Shaped[np.ndarray, "b t"]:
        """The tokens of a step as they were written.

        Raises:
            UserError: its file is missing or has been shortened.
        """
        file = next(entry for entry in self.files if 0 <= step - entry["first_step"] < entry["steps"])
        path = self.folder / file["name"]
        shape = file["steps"], self.batch_size, self.sequence_length
        if not path.is_file() or path.stat().st_size != np.prod(shape) * np.dtype(self.dtype).itemsize:
            raise UserError(f"{path} is missing, or not as long as it was written")
        return np.memmap(path, self.dtype, "r", shape=shape)[step - file["first_step"]]


def export_stream(
    experiment: Described, data: ExperimentData, steps: range, to: Path, *, shard_bytes: int = SHARD_BYTES
) -> Export:
    """Write the rows of `steps` in order, as raw arrays of token ids without a header.

    Args:
        experiment: what is injected.
        data: its corpus and plan.
        steps: the steps to write.
        to: a folder that is new or empty.
        shard_bytes: approximate size of a file.

    Raises:
        UserError: the folder is not empty or cannot be written, the steps are not within the run, or rows have masks,
            which files of tokens cannot hold.
    """
    check_new_or_empty(to)
    if not 0 <= steps.start < steps.stop <= experiment.steps:
        raise UserError(f"--steps: {steps.start}:{steps.stop} is not within the run's 0:{experiment.steps}")
    if experiment.loading.label_mask_paths or experiment.loading.instance_filter:
        raise UserError("train.data: files of tokens hold no masks: export without label masks and instance filter")
    size, dtype = experiment.batch_size, np.dtype(data.shards.dtype)
    data.order.require(steps, np.empty(0, np.int64), "--steps")
    each = max(1, shard_bytes // (size * experiment.sequence_length * dtype.itemsize))
    about: dict[str, Any] = {"first_step": steps.start, "beyond_step": steps.stop, "dtype": dtype.name}
    about |= {"batch_size": size, "sequence_length": experiment.sequence_length}
    described = deepcopy(experiment)
    described.folder = str(to)
    with (
        new_folder(to, overwrite=True, check=check_new_or_empty) as temporary,
        show_progress(f"exporting {to.name}", len(steps), "steps") as meter,
        closing(JsonLines(temporary / EVIDENCE_FILE)) as log,
    ):
        files = []
        for number, first in enumerate(range(steps.start, steps.stop, each)):
            part, path = range(first, min(first + each, steps.stop)), temporary / f"part-{number:05d}.npy"
            with path.open("wb") as file:
                for tokens, line in _lines(data, part):
                    file.write(np.ascontiguousarray(tokens, dtype).data)  # `tofile` does not report why it fails
                    log.append(line)
                    meter.advance()
            files.append({"name": path.name, "first_step": first, "steps": len(part), "sha256": sha256_of(path)})
        log.flush()
        write_json(temporary / EXPORT, about | {"files": files})
        prepare(described, data, steps.start, temporary)
    return read_export(to)


def check_new_or_empty(folder: Path) -> None:
    """Check, before long work, that an export can be written to a folder.

    Raises:
        UserError: it holds something, or cannot be written or replaced.
    """
    if folder.exists() and (not folder.is_dir() or folder.is_mount() or any(folder.iterdir())):
        raise UserError(f"{folder} is not a new or empty folder; choose another folder")
    check_writable(folder.parent)


def _lines(data: ExperimentData, steps: range) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """The tokens of each step with its line of evidence."""
    size, names = data.plan.batch_size, [task.name for task in data.plan.tasks]
    for step in steps:
        positions = data.plan.positions(step)
        tokens = data.corpus.rows(positions)["input_ids"].numpy()
        labels = dict(zip(names, data.corpus.spans(positions).answers_of_tasks(len(names)), strict=True))
        hashed, targets = evidence.step_hash(positions, tokens), size * (tokens.shape[1] - 1)
        yield tokens, evidence.step_line(step, size, hashed, targets, labels)


def read_export(folder: Path) -> Export:
    """Read a folder's `export.json`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    about = read_json(folder / EXPORT)
    check_shape(about, _EXPORT, str(folder / EXPORT))
    steps = range(about.pop("first_step"), about.pop("beyond_step"))
    return Export(folder, steps, **about)
