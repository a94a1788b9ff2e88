"""Losses, accuracies and AUC of a checkpoint on both halves of its tasks, for steps that training did not evaluate.

`with_scores` adds them to a run's own measurements, so that figures and findings use both alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from analysis.methods.activations import check_vocabulary
from analysis.read.checkpoints import StoredModel
from analysis.read.runs import Run
from analysis.read.store import Method, Report, Tables, rows
from olmo_inject.tasks import Task
from olmo_inject.training.evaluation.tasks import evaluate_model, half_means

INSTANCES_PER_PASS = 512
HALVES = ("train", "test")
VERSION = 3


def scores_method() -> Method:
    """The method `scores`. Its table has the columns task, half, measure, value and count."""
    return Method("scores", _scores, version=VERSION)


def unmeasured(checkpoints: Sequence[StoredModel]) -> list[StoredModel]:
    """The checkpoints that lack an evaluation of a task of pairs at their step, and all models of no run."""
    return [
        checkpoint
        for checkpoint in checkpoints
        if checkpoint.run is None
        or any(
            checkpoint.step not in checkpoint.run.series(f"eval/{task.name}/{half}/accuracy").index
            for task in checkpoint.tasks
            if task.is_triples
            for half in HALVES
        )
    ]


def with_scores(run: Run, tables: Tables) -> Run:
    """The run with scores of its checkpoints added to its metrics. Its own measurements stay."""
    scores = rows(tables["scores"], folder=str(run.folder)) if tables else pd.DataFrame()
    measured = set(zip(run.metrics["step"], run.metrics["name"], strict=True))
    lines = [
        {"step": row["step"], "name": name, "value": row["value"], "count": row["count"]}
        for row in scores.to_dict("records")
        if (row["step"], name := f"eval/{row['task']}/{row['half']}/{row['measure']}") not in measured
    ]
    return replace(run, metrics=pd.concat([run.metrics, pd.DataFrame(lines)], ignore_index=True)) if lines else run


def _scores(model: PreTrainedModel, checkpoint: StoredModel, report: Report) -> Tables:
    scores: list[dict[str, Any]] = []
    for number, task in enumerate(checkpoint.tasks):
        scores += _of_task(model, task)
        report((number + 1) / len(checkpoint.tasks))
    return {"scores": pd.DataFrame(scores, columns=["task", "half", "measure", "value", "count"])}


def _of_task(model: PreTrainedModel, task: Task) -> Iterator[dict[str, Any]]:
    check_vocabulary(model, task)
    scores = evaluate_model(model, task, np.arange(len(task.triples)), INSTANCES_PER_PASS)
    for half, ids in zip(HALVES, (task.train_ids, task.test_ids), strict=True):
        for measure, mean in half_means(task, half, ids, scores.at(ids)).items():
            yield {"task": task.name, "half": half, "measure": measure, "value": mean.value, "count": mean.count}
