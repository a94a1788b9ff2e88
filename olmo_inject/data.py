"""From an experiment's configuration to its vocabulary, tasks, plan and corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from olmo_inject.config import Described
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.source import CorpusSource, read_source
from olmo_inject.errors import UserError
from olmo_inject.injection import Plan, PlannedTask
from olmo_inject.tasks import Task, build_tasks

if TYPE_CHECKING:
    from olmo_inject.corpus.injected import InjectedCorpus


@dataclass(frozen=True)
class TaskPlan:
    """What is injected and when: known without opening a shard."""

    source: CorpusSource
    tasks: list[Task]
    plan: Plan


@dataclass(frozen=True)
class ExperimentData(TaskPlan):
    """The whole data path of a run."""

    shards: TokenShards
    order: Order
    corpus: InjectedCorpus


def build_plan(experiment: Described, tasks: list[Task] | None = None) -> TaskPlan:
    """Vocabulary, tasks and plan of an experiment.

    Args:
        experiment: what to build.
        tasks: those that its run saved; None: build them, which runs the code of a kind in a file.

    Raises:
        UserError: a missing corpus folder or tokenizer, ids that contradict the model's, a task that does
            not fit the vocabulary, a plan that overflows a batch.
    """
    source = read_source(experiment.corpus)
    experiment.check_vocabulary(source.vocabulary)
    tasks = build_tasks(experiment.tasks, source.vocabulary) if tasks is None else tasks
    by_name = {task.name: task for task in tasks}
    entries = [
        PlannedTask(by_name[injection.task], experiment.schedule(injection), injection.draw)  # pyright: ignore[reportArgumentType]
        for injection in experiment.injections
    ]
    return TaskPlan(source, tasks, Plan(entries, experiment.batch_size, experiment.plan_seed, experiment.steps))


def build_data(
    experiment: Described, order_folder: Path | None = None, tasks: list[Task] | None = None
) -> ExperimentData:
    """Everything up to the dataset of rows; opens the shards and samples them.

    Args:
        experiment: what to build.
        order_folder: as `Order`'s.
        tasks: as `build_plan`'s.

    Raises:
        UserError: as `build_plan`; shards that are missing, truncated, of another dtype or vocabulary; a staged
            corpus that ends before the run does.
    """
    from olmo_inject.corpus.injected import InjectedCorpus, LabelMasks  # imports torch: seconds

    what = build_plan(experiment, tasks)
    loading = experiment.loading
    masks = loading.label_mask_paths
    if masks is not None and not what.source.paths:
        raise UserError("train.data.label_mask_paths: a staged or remote corpus has no label masks beside its shards")
    shards = what.source.open_shards(experiment.sequence_length)
    shards.check_sample()
    order = what.source.open_order(shards, experiment.batch_size, experiment.corpus.seed, order_folder)
    order.require(range(experiment.steps - 1, experiment.steps), np.empty(0, np.int64))
    corpus = InjectedCorpus(
        shards,
        order,
        what.plan,
        what.source.vocabulary.eos_id,
        experiment.steps * experiment.batch_size,
        instance_filter=None if loading.instance_filter is None else RepetitionFilter(**vars(loading.instance_filter)),
        label_masks=None if masks is None else LabelMasks([Path(path) for path in masks], shards),
        document_lengths=loading.document_lengths,
    )
    return ExperimentData(what.source, what.tasks, what.plan, shards, order, corpus)


@dataclass(frozen=True)
class RepetitionFilter:
    """ai2-olmo's n-gram repetition filter: whether a sequence's loss counts."""

    repetition_max_period: int
    repetition_min_period: int
    repetition_max_count: int

    def __call__(self, tokens) -> bool:
        """False for a sequence that repeats one n-gram `repetition_max_count` times or more."""
        from olmo.data.util import find_periodic_sequences

        found = find_periodic_sequences(
            tokens, max_period=self.repetition_max_period, min_period=self.repetition_min_period
        )
        return all(match.times < self.repetition_max_count for match in found)
