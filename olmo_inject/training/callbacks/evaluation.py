"""Evaluate every task, and the natural reference tasks, during training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from olmo_inject.config import EvaluationConfig
from olmo_inject.corpus.references import Reference
from olmo_inject.tasks import Task
from olmo_inject.tasks.halves import chosen_ids
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.evaluation import probes
from olmo_inject.training.evaluation.references import evaluate_reference
from olmo_inject.training.evaluation.tasks import Scores, evaluate_instances, half_means

if TYPE_CHECKING:
    from olmo_inject.training.trainer import InjectionTrainer


class Evaluation(Callback):
    """Evaluates both halves of every task at the start, every `interval` steps, at extra steps and at the end.

    A result at step s belongs to the weights before plan step s, which are those of checkpoint `step{s}`.

    Args:
        config: extra steps, batch size and maximum number of instances.
        tasks: tasks to evaluate.
        references: reference tasks to evaluate.
        interval: steps between evaluations.
        last_step: number of steps of the run.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        tasks: list[Task],
        references: list[Reference],
        interval: int,
        last_step: int,
    ) -> None:
        self.config = config
        self.tasks = tasks
        self.references = references
        self.interval = interval
        self.last_step = last_step

    def before_first_step(self, trainer: InjectionTrainer) -> None:
        """Evaluate the initial weights."""
        if not trainer.resumed:
            self.evaluate(trainer, trainer.global_step)

    def after_step(self, trainer: InjectionTrainer, step: int, sums: object) -> None:
        """Evaluate if due."""
        completed = step + 1
        if completed % self.interval == 0 or completed in self.config.also or completed == self.last_step:
            self.evaluate(trainer, completed)

    def evaluate(self, trainer: InjectionTrainer, step: int) -> None:
        """Evaluate now, and log under `eval/TASK/train|test/...` and `eval/NAME/reference/...` (collective)."""
        for task in self.tasks:
            for half in ("train", "test"):
                ids = chosen_ids(task, half, self.config.max_instances)
                if task.is_triples:
                    means = half_means(task, half, ids, self.score(trainer, task, ids))
                elif asked := self.probes(task, ids):
                    means = probes.means(task, asked, probes.ask_trainer(trainer, asked))
                else:
                    continue
                named = {f"eval/{task.name}/{half}/{name}": mean for name, mean in means.items()}
                trainer.metrics.log(
                    step,
                    {name: mean.value for name, mean in named.items()},
                    count={name: mean.count for name, mean in named.items()},
                )
        for reference in self.references:
            # Their order is random, so the first ones are a sample, and always the same one.
            scores = evaluate_reference(trainer, reference.items[: self.config.max_instances])
            prefix = f"eval/{reference.name}/reference"
            trainer.metrics.log(step, {f"{prefix}/loss": scores.loss}, count=scores.tokens)
            trainer.metrics.log(step, {f"{prefix}/accuracy": scores.accuracy}, count=scores.items)
        trainer.dist_model.train()

    def probes(self, task: Task, ids: Int64[np.ndarray, " n"]) -> list[probes.Probe]:
        """The probes for a task whose instances are not triples."""
        return probes.probes_of(task, ids)

    def score(self, trainer: InjectionTrainer, task: Task, ids: Int64[np.ndarray, " n"]) -> Scores:
        """Score the trainer's model on instances of a task (collective).

        Args:
            trainer: its model is scored.
            task: supplies instances and labels.
            ids: indices into `task.triples`.
        """
        at_once = self.config.batch_size
        if trainer.device.type == "cuda":
            # A pass fills the card. It has fewer logits than a micro-batch, whose loss needs more than these scores do.
            tokens = trainer.cfg.device_train_microbatch_size * trainer.cfg.model.max_sequence_length
            at_once = max(at_once, tokens // 4)
        return evaluate_instances(trainer, task, ids, at_once)
