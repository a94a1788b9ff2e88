"""Gradient interference over checkpoints (Fig. 9): a step's exact batch, rebuilt from the run folder alone.

`olmo_inject.training.gradients` says what is computed; a checkpoint `step{s}` is taken with batch s, which is
what the run trained on next, or after its last step would have. Where the run has evidence of what its model was given
at that step, the batch is compared with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import OlmoForCausalLM, PreTrainedModel

from analysis.read.checkpoints import StoredModel
from analysis.read.store import Method, Report, Tables
from olmo_inject.config import Experiment
from olmo_inject.config.ranges import CHOICES
from olmo_inject.data import ExperimentData
from olmo_inject.errors import UserError
from olmo_inject.runs.evidence import step_hash
from olmo_inject.runs.folder import check_same_data, identity
from olmo_inject.runs.read import load_run, read_evidence
from olmo_inject.training.callbacks.evidence import EVIDENCE_FILE
from olmo_inject.training.gradients import (
    IGNORED,
    TARGETS,
    MlpGradients,
    batch_targets,
    cosines,
    step_gradients,
    tokens_per_pass,
    z_loss_of,
)

METHOD = "gradients"
VERSION = 4


@dataclass(frozen=True)
class Options:
    """What to compare.

    Attributes:
        layer: whose MLP, from 0.
        neurons: how many of it, those with the largest task gradient.
        targets: which losses g_t is from, a key of `TARGETS`.
        rows_per_pass: rows of one forward and backward pass, None: the run's micro-batch; decides memory and not the
            result.
        precision: of the matrix products, fp32 or bf16.
    """

    layer: int = 0
    neurons: int = 16
    targets: str = "injected"
    rows_per_pass: int | None = None
    precision: str = "fp32"

    def check(self) -> None:
        """Validate the options.

        Raises:
            UserError: naming the option.
        """
        if self.targets not in TARGETS:
            raise UserError(f"--targets: {self.targets!r} is not one of {', '.join(TARGETS)}")
        if self.precision not in (allowed := CHOICES["gradients.precision"]):
            raise UserError(f"--precision: {self.precision!r} is not one of {', '.join(allowed)}")
        for name in ("neurons", "rows_per_pass"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')}: {value} must be at least 1")
        if self.layer < 0:
            raise UserError(f"--layer: {self.layer} must be at least 0")


def method(options: Options) -> Method:
    """The analysis of one checkpoint, to the table `cosines`.

    Columns: task (whose g_r, and on whose neurons), kind (`batch`, `injected`, `rest`, `reference`), of (the one task
    it is of, or nothing), cosine (absent where the gradient is zero), norm, null and among (cosines with the
    task's two other references, `olmo_inject.training.gradients`), instances (of `task` in the batch), proven
    (whether the batch agreed with the run's evidence; false where it has none of the step), and the options mlp
    (`layer`), neurons, targets and precision.

    Raises:
        UserError: an option out of its range.
    """
    options.check()

    def compute(model: PreTrainedModel, checkpoint: StoredModel, _: Report) -> Tables:  # a step is one piece of work
        return {"cosines": step_cosines(model, checkpoint, options)}

    decisive = {name: value for name, value in asdict(options).items() if name != "rows_per_pass"}
    return Method(METHOD, compute, decisive, version=VERSION, inputs=_inputs)


def step_cosines(model: PreTrainedModel, checkpoint: StoredModel, options: Options) -> pd.DataFrame:
    """The table of one checkpoint; see `method`.

    Raises:
        UserError: not a checkpoint of a run, a run of another kind, or a corpus that is not the run's.
    """
    if checkpoint.run is None or checkpoint.step is None:
        raise UserError(f"{checkpoint.path} is no checkpoint of a run: its batches are not known")
    experiment, data = run_data(checkpoint.run.folder, checkpoint.run.corpus)
    if not isinstance(model, OlmoForCausalLM):
        raise UserError(f"{checkpoint.path} is not an OLMo model")
    batch, of_row = batch_of(data, checkpoint.step)
    proven = _compare_with_evidence(checkpoint.run.folder, data, checkpoint.step, batch)
    names = [task.name for task in data.plan.tasks]
    tokens = tokens_per_pass(experiment.train, options.rows_per_pass)
    mlp = MlpGradients(model, options.layer, tokens, z_loss_of(experiment.train), options.precision)
    gradients = step_gradients(mlp, batch, of_row, names, data.tasks, options.targets)
    table = pd.DataFrame([asdict(found) for found in cosines(gradients, options.neurons)])
    table[["cosine", "null", "among"]] = table[["cosine", "null", "among"]].astype(float)
    counts = {name: int((of_row == number).sum()) for number, name in enumerate(names)}
    measured = {
        "mlp": options.layer,
        "neurons": options.neurons,
        "targets": options.targets,
        "precision": options.precision,
    }
    return table.assign(instances=[counts.get(task, 0) for task in table["task"]], proven=proven, **measured)


def batch_of(data: ExperimentData, step: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The batch that plan step `step` trains on, in the order of its rows, and what each row is injected with.

    Returns:
        `input_ids` [B, T] with the masks that are configured, and [B] indices of the plan's tasks, -1 for none.
    """
    size = data.plan.batch_size
    of_row = data.plan.tasks_of(step, np.arange(size))
    return data.corpus.rows(np.arange(step * size, (step + 1) * size)), torch.from_numpy(of_row)


@lru_cache(maxsize=1)  # a run's checkpoints are analyzed one after the other
def run_data(folder: Path, corpus: Path | None = None) -> tuple[Experiment, ExperimentData]:
    """A run's experiment, and its data compared with what the run was trained on; arguments as `load_run`'s.

    Raises:
        UserError: no run, a corpus that cannot be read or has changed, or document masking.
    """
    run = load_run(folder, corpus)
    if not isinstance(run.experiment, Experiment):
        raise UserError(f"{folder} was not trained by ai2-olmo: its gradients by step cannot be computed again")
    if run.experiment.train.data.generate_doc_lengths:
        raise UserError(f"{folder} was trained with document masking, which gradients are not computed under")
    data = run.build_data()
    check_same_data(run, data)
    return run.experiment, data


def _compare_with_evidence(folder: Path, data: ExperimentData, step: int, batch: dict[str, torch.Tensor]) -> bool:
    """Whether the batch is what the model was given, or else nothing says so.

    Raises:
        UserError: it is another.
    """
    line = _evidence(folder).get(step)
    if line is None:
        return False
    positions = np.arange(step * data.plan.batch_size, (step + 1) * data.plan.batch_size)
    for name, recorded, found in (
        ("tokens", line["tokens"], step_hash(positions, batch["input_ids"].numpy())),
        ("count of targets", line["targets"], int((batch_targets(batch) != IGNORED).sum())),
    ):
        if recorded != found:
            raise UserError(
                f"{folder}: the batch of step {step} is not what the run's model was given: its {name} differ from "
                f"{EVIDENCE_FILE} ({found}, recorded {recorded}): has a shard of the corpus changed?"
            )
    return True


def _evidence(folder: Path) -> dict[int, dict[str, Any]]:
    """What the run noted of each step's batch; nothing where it kept no evidence."""
    path = folder / EVIDENCE_FILE
    return _lines(path, path.stat().st_mtime_ns) if path.is_file() else {}


@lru_cache(maxsize=1)
def _lines(path: Path, written: int) -> dict[int, dict[str, Any]]:
    """The lines of a file by step; read again when it was written to."""
    return {line["step"]: line for line in read_evidence(path.parent)}


def _inputs(checkpoint: StoredModel) -> Any:
    if checkpoint.run is None or checkpoint.step is None:
        return None
    # All that makes a batch, and whether it could be compared; not the run's length, which may grow.
    return {
        "run": identity(checkpoint.run.experiment),
        "fingerprints": checkpoint.run.plan["fingerprints"],
        "evidence": _evidence(checkpoint.run.folder).get(checkpoint.step),
    }
