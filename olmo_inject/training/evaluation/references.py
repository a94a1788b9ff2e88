"""Score a model on natural statements: the answer's tokens given the context, shared among ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from olmo_inject.corpus.references import ReferenceItem
from olmo_inject.training.compat import quiet_autocast
from olmo_inject.training.evaluation.continuations import score_items

if TYPE_CHECKING:
    from olmo_inject.training.trainer import InjectionTrainer


@dataclass(frozen=True)
class ReferenceScores:
    """The scores of a model on a reference task.

    Attributes:
        loss: cross-entropy in nats per token of all answers.
        accuracy: share of items in which every token of the answer is the most likely one.
        tokens: number of answer tokens.
        items: number of items.
    """

    loss: float
    accuracy: float
    tokens: int
    items: int


def evaluate_reference(trainer: InjectionTrainer, items: Sequence[ReferenceItem]) -> ReferenceScores:
    """Score the trainer's model (collective). Gradients and random states are not touched.

    A pass holds no more tokens than a training micro-batch, whose logits are known to fit in memory. Every rank scores
    its share in the same number of passes, so FSDP's collectives match. The model is left in evaluation mode.
    """
    trainer.dist_model.eval()
    budget = trainer.cfg.device_train_microbatch_size * trainer.cfg.model.max_sequence_length

    def logits(rows: torch.Tensor) -> torch.Tensor:
        with quiet_autocast(), torch.autocast("cuda", dtype=trainer.cfg.autocast_precision):
            return trainer.dist_model(input_ids=rows).logits

    results = score_items(logits, items, budget, trainer.device, dist.get_rank(), dist.get_world_size())
    dist.all_reduce(results)
    loss, correct = results.sum(dim=0).tolist()
    tokens = sum(len(item.answer) for item in items)
    return ReferenceScores(loss / tokens, correct / len(items), tokens, len(items))
