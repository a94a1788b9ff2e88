"""What a checkpoint has memorized: each probe of a run's texts, with how often and when last the run had shown it.

A task whose instances are a pair and a LABEL is left to `scores`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from analysis.methods.activations import check_vocabulary
from analysis.read.checkpoints import StoredModel
from analysis.read.store import Method, Report, Tables, task_fingerprints
from olmo_inject.training.evaluation.probes import ask_task

METHOD = "memory"
VERSION = 2
OPTIONS_PER_PASS = 256  # of the longest
_COLUMNS = ("task", "half", "instance", "group", "measure", "value", "seen", "last_seen")


def memory_method(most: int | None = None) -> Method:
    """The method `memory`: a table `probes`, a row for each probe and measure.

    `seen` is how often the run itself had injected the instance before the checkpoint's step (not what the parent of a
    branch did), `last_seen` the last such step, null if there is none; both are null for a model that is no run's.

    Args:
        most: instances of each half, the same ones each time; None for all.
    """

    def compute(model: PreTrainedModel, checkpoint: StoredModel, report: Report) -> Tables:
        seen_before = None
        if checkpoint.run is not None and checkpoint.step is not None:
            steps = range(checkpoint.run.own_steps.start, checkpoint.step)
            seen_before = checkpoint.run.saved.build_plan().plan, steps
        rows: list[dict[str, Any]] = []
        for number, task in enumerate(checkpoint.tasks):
            check_vocabulary(model, task)
            answers = ask_task(model, task, OPTIONS_PER_PASS, most, seen_before)
            rows += [{"task": task.name, **answer} for answer in answers]
            report((number + 1) / len(checkpoint.tasks))
        table = pd.DataFrame(rows, columns=list(_COLUMNS))
        return {"probes": table.astype({"seen": "Int64", "last_seen": "Int64"})}

    return Method(METHOD, compute, {"max_instances": most}, VERSION, _inputs, pairs=False)


def _inputs(checkpoint: StoredModel) -> Any:
    """The tasks, and of a branch where it begins; so results of other runs that were stored without it are found."""
    tasks, begun = task_fingerprints(checkpoint), 0 if checkpoint.run is None else checkpoint.run.own_steps.start
    return {"tasks": tasks, "first_step": begun} if begun else tasks
