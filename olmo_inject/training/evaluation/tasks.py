"""Scoring a model on instances of a task: LABEL given TOK1 TOK2, by a trainer over its ranks or by a plain model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64

from olmo_inject.tasks import LABEL_POSITION, Task
from olmo_inject.tasks.halves import UNMIRRORED, unmirrored_among
from olmo_inject.training.compat import quiet_autocast

if TYPE_CHECKING:
    from olmo.model import OLMo

    from olmo_inject.training.trainer import InjectionTrainer

NextLogits = Callable[[torch.Tensor], torch.Tensor]  # rows [b, t] -> logits after the last token [b, V], float32


@dataclass(frozen=True)
class Scores:
    """Per instance: cross-entropy of LABEL in nats, and whether it is the most likely token.

    Attributes:
        loss: over the whole vocabulary.
        correct: LABEL is the most likely of the whole vocabulary.
        correct_among_labels: LABEL is the most likely of the task's own labels.
    """

    loss: Float[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]
    correct_among_labels: Bool[np.ndarray, " n"]

    def means(self) -> dict[str, float]:
        """Mean loss and both accuracies."""
        return {
            "loss": float(self.loss.mean()),
            "accuracy": float(self.correct.mean()),
            "accuracy_among_labels": float(self.correct_among_labels.mean()),
        }


@dataclass(frozen=True)
class Mean:
    """A mean and over how many instances."""

    value: float
    count: int


def half_means(task: Task, half: str, ids: Int64[np.ndarray, " n"], scores: Scores) -> dict[str, Mean]:
    """The means of a half's scores; of a test half also that on pairs whose mirror was not trained on, if any."""
    means = {name: Mean(value, len(ids)) for name, value in scores.means().items()}
    if half == "test" and len(unmirrored := unmirrored_among(task, ids)):
        means[UNMIRRORED] = Mean(float(scores.correct[unmirrored].mean()), len(unmirrored))
    return means


def evaluate_instances(trainer: InjectionTrainer, task: Task, ids: Int64[np.ndarray, " n"], batch_size: int) -> Scores:
    """Score `ids` of `task` with the trainer's model; leaves gradients, random states and the mode's effects alone.

    Every rank scores its share in equally many passes, so FSDP's collectives match (collective). The model is
    left in evaluation mode.

    Args:
        trainer: whose model to score, in its training precision.
        task: the task.
        ids: indices into `task.instances`.
        batch_size: instances per forward pass on each rank.
    """

    def next_logits(rows: torch.Tensor) -> torch.Tensor:
        with quiet_autocast(), torch.autocast("cuda", dtype=trainer.cfg.autocast_precision):
            return trainer.dist_model(input_ids=rows, last_logits_only=True).logits[:, -1].float()

    trainer.dist_model.eval()
    return evaluate_shared(next_logits, task, ids, batch_size, trainer.device)


def evaluate_shared(
    next_logits: NextLogits, task: Task, ids: Int64[np.ndarray, " n"], batch_size: int, device: torch.device
) -> Scores:
    """Score any model, its instances shared among the processes if there are several (collective).

    Args:
        next_logits: of the model, in evaluation mode.
        task: the task.
        ids: indices into `task.instances`.
        batch_size: instances per forward pass on each rank.
        device: of the model.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return _scores(_scored(next_logits, task, ids, batch_size, device))
    results = _scored(next_logits, task, ids, batch_size, device, dist.get_rank(), dist.get_world_size())
    dist.all_reduce(results)
    return _scores(results)


def evaluate_model(model: OLMo, task: Task, ids: Int64[np.ndarray, " n"], batch_size: int) -> Scores:
    """Score `ids` of `task` with a plain model, in the precision of its weights; as `evaluate_instances`."""
    model.eval()
    device = next(model.parameters()).device

    def next_logits(rows: torch.Tensor) -> torch.Tensor:
        return model(input_ids=rows, last_logits_only=True).logits[:, -1].float()

    return _scores(_scored(next_logits, task, ids, batch_size, device))


def _scored(
    next_logits: NextLogits,
    task: Task,
    ids: Int64[np.ndarray, " n"],
    batch_size: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
) -> Float[torch.Tensor, "n 3"]:
    """Loss and both kinds of correct for each instance; zeros where it was another rank's."""
    # TOK1 and TOK2 decide the LABEL, so two tokens are all the model reads.
    instances = torch.from_numpy(task.instances[ids].astype(np.int64))
    labels = torch.from_numpy(task.label_tokens.astype(np.int64)).to(device)
    results = torch.zeros(len(ids), 3, dtype=torch.float64, device=device)
    for start in range(0, len(ids), batch_size * world):
        mine = torch.arange(start + rank, min(start + batch_size * world, len(ids)), world)
        # A rank whose share has run out still takes part, with any one instance.
        rows = instances[mine if len(mine) else mine.new_zeros(1)].to(device)
        with torch.no_grad():
            logits = next_logits(rows[:, :LABEL_POSITION])
        target = rows[:, LABEL_POSITION]
        among = labels[logits[:, labels].argmax(dim=-1)]
        scored = torch.stack(
            [
                F.cross_entropy(logits, target, reduction="none"),
                logits.argmax(dim=-1) == target,
                among == target,
            ],
            dim=1,
        )
        if len(mine):
            results[mine.to(device)] = scored.to(torch.float64)
    return results


def _scores(results: Float[torch.Tensor, "n 3"]) -> Scores:
    loss, correct, among_correct = results.cpu().numpy().T
    return Scores(loss, correct > 0, among_correct > 0)
