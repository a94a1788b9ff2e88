"""Build the vocabulary, tasks, plan and corpus of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt

from olmo_inject.config import Described
from olmo_inject.corpus.kinds import Corpus, find_corpus
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.errors import UserError
from olmo_inject.injection import Plan
from olmo_inject.injection.layout import check_fits
from olmo_inject.plan_entries import planned_tasks
from olmo_inject.tasks import Task, build_tasks
from olmo_inject.tasks.material import Rows

if TYPE_CHECKING:
    from olmo_inject.corpus.injected import InjectedCorpus


@dataclass(frozen=True)
class TaskPlan:
    """What is injected, when, and into which corpus. No shard is open yet."""

    source: Corpus
    tasks: list[Task]
    plan: Plan


@dataclass(frozen=True)
class ExperimentData(TaskPlan):
    """The whole data path of a run; `corpus` returns the rows that the model reads."""

    shards: TokenShards
    order: Order
    corpus: InjectedCorpus

    def share_order(self, steps: range) -> None:
        """Store the shuffles of `steps` unless they are, so that of several processes that read them one shuffles.

        If no folder can be written, the order stays in this process's memory.
        """
        with suppress(UserError):
            self.order.prepare(steps.stop * self.order.batch_size, steps.start * self.order.batch_size)


def build_plan(
    experiment: Described,
    tasks: list[Task] | None = None,
    source: Corpus | None = None,
    checked_sizes: Sequence[int] | None = None,
) -> TaskPlan:
    """Build the tasks and the plan of an experiment.

    Args:
        experiment: what to build.
        tasks: tasks that its run saved. None builds them, which executes the code of a kind in a file.
        source: the corpus, if it has been found already.
        checked_sizes: as in `build_data`.

    Raises:
        UserError: the corpus folder or tokenizer is missing, its ids contradict the model's, a task does not fit the
            vocabulary, or the plan overflows a batch.
    """
    source = find_corpus(experiment.corpus, sizes_checked=checked_sizes is not None) if source is None else source
    experiment.check_vocabulary(source.vocabulary)
    if tasks is None:
        rows = partial(rows_of, source, experiment.sequence_length, checked_sizes)
        tasks = build_tasks(experiment.tasks, source.vocabulary, rows)
    entries = planned_tasks(experiment, tasks)
    plan = Plan(entries, experiment.batch_size, experiment.plan_seed, experiment.steps, experiment.sequence_length)
    check_fits(plan, experiment.sequence_length)
    return TaskPlan(source, tasks, plan)


@dataclass(frozen=True)
class _FirstRows:
    """The rows that a run trains on: the corpus's, or its first ones."""

    shards: TokenShards
    n: int

    def __len__(self) -> int:
        return self.n

    def read(self, sequences: Int64[np.ndarray, " b"]) -> UInt[np.ndarray, "b t"]:
        return self.shards.read(sequences)


def rows_of(source: Corpus, sequence_length: int, checked_sizes: Sequence[int] | None = None) -> Rows:
    """The rows of a corpus that a run trains on, from which tasks may be made.

    Args:
        source: the corpus.
        sequence_length: tokens of a row.
        checked_sizes: as in `build_data`.

    Raises:
        UserError: it is a stage, which holds the rows of some steps.
    """
    shards = source.open_shards(sequence_length, checked_sizes)
    if not shards.is_running_text:
        raise UserError("corpus: a staged corpus holds the rows of some steps; this task draws from the whole corpus")
    return _FirstRows(shards, min(source.sequences or len(shards), len(shards)))


def build_data(
    experiment: Described, tasks: list[Task] | None = None, checked_sizes: Sequence[int] | None = None
) -> ExperimentData:
    """Build everything up to the dataset of rows. Looks at every shard and reads a sample of them.

    Args:
        experiment: what to build.
        tasks: tasks that its run saved; None builds them, as in `build_plan`.
        checked_sizes: bytes of each shard, if another process has checked them; then none is checked here.

    Raises:
        UserError: as in `build_plan`; or shards are missing, truncated, or of another dtype or vocabulary; or a staged
            corpus ends before the run does.
    """
    from olmo_inject.corpus.injected import InjectedCorpus, LabelMasks  # imports torch: seconds

    planned = build_plan(experiment, tasks, checked_sizes=checked_sizes)
    source, loading = planned.source, experiment.loading
    masks = loading.label_mask_paths
    if masks is not None and not source.paths:
        raise UserError("train.data.label_mask_paths: a staged or remote corpus has no label masks beside its shards")
    shards = source.open_shards(experiment.sequence_length, checked_sizes)
    if checked_sizes is None:
        shards.check_sample()
    # A run has its shuffles in its folder if the cache cannot be written.
    second = Path(experiment.folder) / "order"
    order = source.open_order(shards, experiment.batch_size, experiment.corpus.seed, second)
    order.require(range(experiment.steps - 1, experiment.steps), np.empty(0, np.int64))
    corpus = InjectedCorpus(
        shards,
        order,
        planned.plan,
        source.vocabulary.eos_id,
        experiment.steps * experiment.batch_size,
        instance_filter=None if loading.instance_filter is None else RepetitionFilter(**vars(loading.instance_filter)),
        label_masks=None
        if masks is None
        else LabelMasks(list(map(Path, masks)), shards, sizes_checked=checked_sizes is not None),
        document_lengths=loading.document_lengths,
    )
    return ExperimentData(**vars(planned), shards=shards, order=order, corpus=corpus)


@dataclass(frozen=True)
class RepetitionFilter:
    """ai2-olmo's n-gram repetition filter, which decides whether the loss of a sequence counts."""

    repetition_max_period: int
    repetition_min_period: int
    repetition_max_count: int

    def __call__(self, tokens) -> bool:
        """False for a sequence that repeats one n-gram `repetition_max_count` times or more."""
        from olmo.data.util import find_periodic_sequences

        repetitions = find_periodic_sequences(
            tokens, max_period=self.repetition_max_period, min_period=self.repetition_min_period
        )
        return all(repetition.times < self.repetition_max_count for repetition in repetitions)
