"""Builds the vocabulary, tasks, plan and corpus of an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from olmo_inject.config import Experiment
from olmo_inject.corpus.kinds import Corpus, find_corpus
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.entries import planned_tasks
from olmo_inject.errors import UserError
from olmo_inject.injection import Plan
from olmo_inject.injection.splicing import check_fits
from olmo_inject.tasks import Task, build_tasks
from olmo_inject.vocabulary import Vocabulary

if TYPE_CHECKING:
    from olmo_inject.corpus.injected import InjectedCorpus

EMBEDDING_MULTIPLE = 128  # OLMo's embeddings are rounded up to a multiple of this


@dataclass(frozen=True)
class TaskPlan:
    """What is injected into which corpus and when; no shard is open yet."""

    source: Corpus
    tasks: list[Task]
    plan: Plan


@dataclass(frozen=True)
class ExperimentData(TaskPlan):
    """The whole data path of a run; `corpus` gives the rows that the model reads."""

    shards: TokenShards
    order: Order
    corpus: InjectedCorpus


def build_plan(experiment: Experiment, tasks: list[Task] | None = None, source: Corpus | None = None) -> TaskPlan:
    """Build the tasks and the plan of an experiment.

    Args:
        experiment: what to build.
        tasks: those that its run saved; None: build them, which runs the code of a kind in a file.
        source: the corpus, if it was found already.

    Raises:
        UserError: the corpus folder or tokenizer is missing, its ids contradict the model's, a task does not fit the
            vocabulary, or the plan overflows a batch.
    """
    source = find_corpus(experiment.corpus) if source is None else source
    _check_ids(experiment, source.vocabulary)
    tasks = build_tasks(experiment.tasks, source.vocabulary) if tasks is None else tasks
    entries = planned_tasks(experiment, tasks)
    plan = Plan(entries, experiment.batch_size, experiment.plan_seed, experiment.steps, experiment.sequence_length)
    check_fits(plan, experiment.sequence_length)
    return TaskPlan(source, tasks, plan)


def build_data(
    experiment: Experiment, order_folder: Path | None = None, tasks: list[Task] | None = None
) -> ExperimentData:
    """Build everything up to the dataset of rows. Opens the shards and reads a sample of them.

    Args:
        experiment: what to build.
        order_folder: as `Order`'s.
        tasks: as `build_plan`'s.

    Raises:
        UserError: as `build_plan`; shards are missing, truncated, or of another dtype or vocabulary; a staged corpus
            ends before the run does.
    """
    from olmo_inject.corpus.injected import InjectedCorpus, LabelMasks  # imports torch: seconds

    planned = build_plan(experiment, tasks)
    source, data = planned.source, experiment.train.data
    masks = data.label_mask_paths
    if masks is not None and not source.paths:
        raise UserError("train.data.label_mask_paths: a staged or remote corpus has no label masks beside its shards")
    shards = source.open_shards(experiment.sequence_length)
    shards.check_sample()
    order = source.open_order(shards, experiment.batch_size, experiment.corpus.seed, order_folder)
    order.require(range(experiment.steps - 1, experiment.steps), np.empty(0, np.int64))
    corpus = InjectedCorpus(
        shards,
        order,
        planned.plan,
        source.vocabulary.eos_id,
        experiment.steps * experiment.batch_size,
        instance_filter=None if data.instance_filter is None else RepetitionFilter(**vars(data.instance_filter)),
        label_masks=None if masks is None else LabelMasks([Path(path) for path in masks], shards),
        document_lengths=data.generate_doc_lengths,
    )
    return ExperimentData(**vars(planned), shards=shards, order=order, corpus=corpus)


@dataclass(frozen=True)
class RepetitionFilter:
    """ai2-olmo's n-gram repetition filter: decides whether the loss of a sequence counts."""

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


def _check_ids(experiment: Experiment, vocabulary: Vocabulary) -> None:
    """Check that the model's ids are the tokenizer's; the message lists every key to change."""
    model, wrong = experiment.model, {}
    if vocabulary.size > model.vocab_size:
        wrong["vocab_size"] = vocabulary.size
    if model.embedding_size is not None and vocabulary.size > model.embedding_size:
        wrong["embedding_size"] = -(-vocabulary.size // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE
    wrong |= {
        name: ours
        for name, ours in (("eos_token_id", vocabulary.eos_id), ("pad_token_id", vocabulary.pad_id))
        if getattr(model, name) != ours
    }
    if wrong:
        raise UserError(
            f"model: its ids are not those of tokenizer {vocabulary.identifier}: set "
            + " ".join(f"model.{name}={ours}" for name, ours in wrong.items())
            + " (now "
            + ", ".join(str(getattr(model, name)) for name in wrong)
            + ")"
        )
