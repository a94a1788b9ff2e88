"""Gradient interference over checkpoints (docs/study.md, Fig. 9), on each step's exact batch.

The batch is rebuilt from the run folder alone.
`olmo_inject.training.gradients` defines what is computed. Checkpoint `step{s}` goes with batch s, the batch that the
run trained on next (or would have, after its last step). If the run has evidence of what its model was given at that
step, the batch is compared with it.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel

from analysis.read.checkpoints import StoredModel
from analysis.read.store import Method, Report, Tables
from olmo_inject.config import Described, Experiment, GradientConfig
from olmo_inject.data import ExperimentData
from olmo_inject.errors import UserError
from olmo_inject.injection.layout import InjectedSpans
from olmo_inject.runs.evidence import step_hash
from olmo_inject.runs.read import EVIDENCE_FILE, load_run, read_evidence
from olmo_inject.runs.same_run import check_same_data, identity
from olmo_inject.training.gradients import batch_gradients, cosines, with_references
from olmo_inject.training.loss import count_targets
from olmo_inject.utils.options import check_options

METHOD = "gradients"
VERSION = 5
DECISIVE = ("layer", "neurons", "targets", "precision")  # options on which the results depend


def method(options: GradientConfig) -> Method:
    """The analysis of one checkpoint, which writes the table `cosines`.

    Columns: task (whose reference gradient g_r and whose neurons are used), kind of the other gradient (`batch`,
    `injected`, `rest`, `reference`), of (the one task that the other gradient is of, or empty), cosine (missing if a
    gradient is zero), norm, null and among (cosines with the task's two other references, see
    `olmo_inject.training.gradients`), instances (of `task` in the batch), proven (whether the batch agrees with the
    run's evidence; false if there is none for the step), and the options mlp (`layer`), neurons, targets and precision.

    Raises:
        UserError: an option is out of its range.
    """
    check_options(**{name: getattr(options, name) for name in (*DECISIVE, "rows_per_pass")})

    def compute(model: PreTrainedModel, checkpoint: StoredModel, _: Report) -> Tables:  # one step, no partial progress
        return {"cosines": step_cosines(model, checkpoint, options)}

    decisive = {name: getattr(options, name) for name in DECISIVE}
    return Method(METHOD, compute, decisive, version=VERSION, inputs=_inputs, work=_work)


def step_cosines(model: PreTrainedModel, checkpoint: StoredModel, options: GradientConfig) -> pd.DataFrame:
    """The table of one checkpoint; see `method` for the columns.

    Args:
        model: the checkpoint's weights.
        checkpoint: a checkpoint of a run.
        options: checked options.

    Raises:
        UserError: not a checkpoint of a run, rows that cannot be read again, a corpus that is not the run's, or a model
            whose neurons or head cannot be told.
    """
    if checkpoint.run is None or checkpoint.step is None:
        raise UserError(f"{checkpoint.path} is no checkpoint of a run: its batches are not known")
    experiment, data = run_data(checkpoint.run.folder, checkpoint.run.corpus)
    _check_head(model)
    batch, spans = batch_of(data, checkpoint.step)
    proven = _compare_with_evidence(checkpoint.run.folder, data, checkpoint.step, batch)
    names = [task.name for task in data.plan.tasks]
    # Another trainer's loss is taken to be the cross-entropy.
    train = experiment.train if isinstance(experiment, Experiment) else None
    references = with_references(data.tasks)
    gradients = batch_gradients(model, options, batch, spans, data.plan.tasks, references, train)
    table = pd.DataFrame([asdict(row) for row in cosines(gradients, options.neurons)])
    table[["cosine", "null", "among"]] = table[["cosine", "null", "among"]].astype(float)
    whole = spans.task[spans.skipped == 0]  # an instance longer than a row goes on in others
    counts = {name: int((whole == number).sum()) for number, name in enumerate(names)}
    measured = {"mlp" if name == "layer" else name: getattr(options, name) for name in DECISIVE}
    return table.assign(instances=[counts.get(task, 0) for task in table["task"]], proven=proven, **measured)


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """Check that the logits are those of the output matrix: gradients go through it, a few positions at a time.

    Raises:
        UserError: the model scales or caps its logits, or has no such matrix.
    """
    head, size = model.get_output_embeddings(), model.config.vocab_size
    tokens = torch.tensor([[1, size // 2, size - 1]], device=model.device)  # several: one of padding embeds as zeros
    if not (
        isinstance(head, torch.nn.Linear)
        and torch.allclose(head(model.base_model(tokens)[0]), model(tokens).logits, rtol=1e-3, atol=1e-4)  # pyright: ignore[reportCallIssue]
    ):
        raise UserError(f"{type(model).__name__}: its logits are not a matrix times the last hidden state")


def batch_of(data: ExperimentData, step: int) -> tuple[dict[str, torch.Tensor], InjectedSpans]:
    """The batch that plan step `step` trains on, in the order of its rows, and what is injected into it.

    Returns:
        `input_ids` [B, T] with the configured masks, and the injected tokens.
    """
    positions = data.plan.positions(step)
    return data.corpus.rows(positions), data.corpus.spans(positions)


@lru_cache(maxsize=1)  # checkpoints of one run come one after the other
def run_data(folder: Path, corpus: Path | None = None) -> tuple[Described, ExperimentData]:
    """A run's experiment and data, checked against what the run was trained on. The arguments are those of `load_run`.

    Raises:
        UserError: not a run, a corpus that is unreadable or has changed, rows of another loader, or document masking.
    """
    run = load_run(folder, corpus)
    if not run.has_host:
        raise UserError(f"{folder}: its rows came from the trainer's own loader and cannot be read again")
    if isinstance(run.experiment, Experiment) and run.experiment.train.data.generate_doc_lengths:
        raise UserError(f"{folder} was trained with document masking, which gradients are not computed under")
    data = run.build_data()
    check_same_data(run, data)
    data.share_order(range(run.experiment.steps + 1))  # with the batch after the last step
    return run.experiment, data


def _compare_with_evidence(folder: Path, data: ExperimentData, step: int, batch: dict[str, torch.Tensor]) -> bool:
    """Compare the batch with the run's evidence. False if the run has none for this step.

    Raises:
        UserError: the batch differs.
    """
    line = _evidence(folder).get(step)
    if line is None:
        return False
    positions = data.plan.positions(step)
    for name, recorded, rebuilt in (
        ("tokens", line["tokens"], step_hash(positions, batch["input_ids"].numpy())),
        ("count of targets", line["targets"], count_targets(batch)),
    ):
        if recorded != rebuilt:
            raise UserError(
                f"{folder}: the batch of step {step} is not what the run's model was given: its {name} differ from "
                f"{EVIDENCE_FILE} ({rebuilt}, recorded {recorded}): has a shard of the corpus changed?"
            )
    return True


def _evidence(folder: Path) -> dict[int, dict[str, Any]]:
    """The evidence of each step; empty if the run kept none."""
    path = folder / EVIDENCE_FILE
    return _lines(path, path.stat().st_mtime_ns) if path.is_file() else {}


@lru_cache(maxsize=1)
def _lines(path: Path, written: int) -> dict[int, dict[str, Any]]:
    """The lines of the evidence file by step. A change of `written` reads the file again."""
    return {line["step"]: line for line in read_evidence(path.parent)}


def _work(checkpoint: StoredModel) -> str:
    if checkpoint.run is None:
        return ""
    experiment = checkpoint.run.experiment
    instances = sum(len(task.instances) for task in checkpoint.tasks if task.is_triples)
    return (
        f"forwards and backwards over {experiment.batch_size:,} rows of {experiment.sequence_length:,} tokens and over "
        f"all {instances:,} instances"
    )


def _inputs(checkpoint: StoredModel) -> Any:
    if checkpoint.run is None or checkpoint.step is None:
        return None
    # All that decides the batch and its comparison. Not the run's length, which may grow.
    return {
        "run": identity(checkpoint.run.experiment),
        "fingerprints": checkpoint.run.plan["fingerprints"],
        "evidence": _evidence(checkpoint.run.folder).get(checkpoint.step),
    }
