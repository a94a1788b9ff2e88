"""What a checkpoint has memorized: each probe of a run's texts, with how often and when last the run had shown it.

A task whose instances are a pair and a LABEL is left to `scores`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from analysis.methods.activations import check_vocabulary
from analysis.read.checkpoints import StoredModel
from analysis.read.store import Method, Report, Tables
from olmo_inject.errors import UserError
from olmo_inject.injection import Plan, sightings
from olmo_inject.tasks import Task
from olmo_inject.tasks.halves import chosen_ids
from olmo_inject.training.evaluation.probes import ask_model, probes_of

METHOD = "memory"
VERSION = 1
OPTIONS_PER_PASS = 256  # of the longest
_COLUMNS = ("task", "half", "instance", "group", "measure", "value", "seen", "last_seen")


def memory_method(most: int | None = None) -> Method:
    """The method `memory`: a table `probes`, a row for each probe and measure.

    `seen` is how often the run had injected the instance before the checkpoint's step, `last_seen` the last such step
    (-1: none); both are null for a model that is no run's.

    Args:
        most: instances of each half, the same ones each time; None for all.
    """

    def compute(model: PreTrainedModel, checkpoint: StoredModel, report: Report) -> Tables:
        tasks = [task for task in checkpoint.tasks if not task.is_triples]
        if not tasks:
            raise UserError("it has no task of texts; `analyze behaviour` shows the others")
        plan = None if checkpoint.run is None else checkpoint.run.saved.build_plan().plan
        found: list[dict[str, Any]] = []
        for number, task in enumerate(tasks):
            found += _of_task(model, task, plan, checkpoint.step, most)
            report((number + 1) / len(tasks))
        table = pd.DataFrame(found, columns=list(_COLUMNS))
        return {"probes": table.astype({"seen": "Int64", "last_seen": "Int64"})}

    return Method(METHOD, compute, {"max_instances": most}, VERSION)


def _of_task(
    model: PreTrainedModel, task: Task, plan: Plan | None, step: int | None, most: int | None
) -> Iterator[dict[str, Any]]:
    check_vocabulary(model, task)
    seen, last = (None, None) if plan is None or step is None else sightings(plan, task.name, step)
    if seen is not None and not len(seen):  # a task that is evaluated only
        seen, last = np.zeros(len(task.instances), np.int64), np.full(len(task.instances), -1)

    for half in ("train", "test"):
        asked = probes_of(task, chosen_ids(task, half, most))
        if not asked:
            continue
        for probe, values in zip(asked, ask_model(model, asked, OPTIONS_PER_PASS), strict=True):
            i = probe.instance
            about = {
                "task": task.name,
                "half": half,
                "instance": task.instance_id(i),
                "group": task.groups[i] if task.groups else None,
                "seen": None if seen is None else int(seen[i]),
                "last_seen": None if last is None else int(last[i]),
            }
            for measure, value in values.items():
                yield about | {"measure": measure, "value": value}
