"""Score a model on natural statements: the answer's tokens given the context, shared among ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from olmo_inject.corpus.references import ReferenceItem
from olmo_inject.training.evaluation.continuations import score_with_trainer

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
    """Score the trainer's model (collective). The model is left in evaluation mode."""
    trainer.dist_model.eval()
    loss, correct = score_with_trainer(trainer, items).sum(dim=0).tolist()
    tokens = sum(len(item.answer) for item in items)
    return ReferenceScores(loss / tokens, correct / len(items), tokens, len(items))
