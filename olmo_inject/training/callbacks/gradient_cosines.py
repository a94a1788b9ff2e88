"""Measure gradient interference during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from olmo_inject.config import GradientConfig
from olmo_inject.corpus.injected import InjectedCorpus
from olmo_inject.tasks import Task
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.gradients import batch_gradients, cosines, with_references
from olmo_inject.training.trainer import InjectionTrainer


class GradientCosines(Callback):
    """Logs the cosines of a step's gradients with each task's reference gradient, before the step's update.

    It computes in float32 unless configured otherwise, on a view of the weights, and does not affect training.
    `gradient/TASK/cos_batch`, `cos_injected` and `cos_rest` are the cosines of g, g_t and g_nt; `cos_injected/OTHER`
    and `cos_reference/OTHER` are those of one other task. With `null_` or `among_` in place of `cos_`, they are cosines
    with the task's two other references (`olmo_inject.training.gradients`).

    Args:
        config: steps, MLP, neurons and precision.
        corpus: says which tokens are injected.
        tasks: of the run; references are those of the tasks of pairs.

    Raises:
        UserError: none of the tasks is of pairs.
    """

    def __init__(self, config: GradientConfig, corpus: InjectedCorpus, tasks: list[Task]) -> None:
        self.config = config
        self.corpus = corpus
        self.tasks = with_references(tasks)

    def before_step(self, trainer: InjectionTrainer, step: int, batch: dict[str, Any]) -> None:
        """Measure if the step is selected (collective)."""
        if step not in self.config.at:
            return
        batch = batch | {"input_ids": batch["input_ids"].long()}
        spans = self.corpus.spans(batch["index"].numpy())
        with _whole_model(trainer) as model, torch.autocast(trainer.device.type, enabled=False):
            gradients = batch_gradients(
                model,
                self.config,
                batch,
                spans,
                self.corpus.plan.tasks,
                self.tasks,
                trainer.cfg,
                (dist.get_rank(), dist.get_world_size()),
                dist.all_reduce,
            )
        values = {}
        for row in cosines(gradients, self.config.neurons):
            ending = f"{row.kind}/{row.of}" if row.of else row.kind
            for name, cosine in (("cos", row.cosine), ("null", row.null), ("among", row.among)):
                if cosine is not None:
                    values[f"gradient/{row.task}/{name}_{ending}"] = cosine
            values[f"gradient/{row.task}/norm_{ending}"] = row.norm
        trainer.metrics.log(step, values)


@contextmanager
def _whole_model(trainer: InjectionTrainer) -> Iterator[nn.Module]:
    """Within the context, a transformers model that shares memory with the weights, which FSDP gathers meanwhile."""
    from olmo_inject.training.checkpoints.transformers import to_transformers  # imports transformers: seconds

    model = trainer.dist_model
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
            yield to_transformers(weights, trainer.cfg.model).to(trainer.device)  # pyright: ignore[reportArgumentType]
    else:
        weights = {name: parameter.detach() for name, parameter in model.module.named_parameters()}
        yield to_transformers(weights, trainer.cfg.model).to(trainer.device)  # pyright: ignore[reportArgumentType]
