"""Score a model on instances of a task (LABEL given TOK1 TOK2), by a trainer over its ranks or by a plain model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import nn

from olmo_inject.tasks import LABEL_POSITION, Task
from olmo_inject.tasks.halves import unmirrored_among
from olmo_inject.training.agreement import is_group
from olmo_inject.training.compat import quiet_autocast

if TYPE_CHECKING:
    from olmo_inject.training.trainer import InjectionTrainer

OF_UNMIRRORED = ("accuracy", "accuracy_among_labels", "loss_among_labels", "auc")  # also measured on unmirrored pairs
NextLogits = Callable[[torch.Tensor], torch.Tensor]  # rows [b, t] -> logits after the last token [b, V], float32


@dataclass(frozen=True)
class Scores:
    """How a model answers instances of a task, one entry per instance.

    The loss is the sum of two parts: -log(label_mass), that the answer is a label at all, and loss_among_labels, which
    of the labels it is. A model that has learned only which tokens are labels has a small first part and a large second
    one.

    Attributes:
        loss: cross-entropy of LABEL over the whole vocabulary, in nats.
        correct: whether LABEL is the most likely token of the vocabulary.
        correct_among_labels: whether LABEL is the most likely of the task's labels.
        label_mass: probability of all the task's labels together.
        loss_among_labels: cross-entropy of LABEL if only the task's labels are possible, in nats.
        difference: with two labels, the logit of the second minus that of the first; otherwise 0.
    """

    loss: Float[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]
    correct_among_labels: Bool[np.ndarray, " n"]
    label_mass: Float[np.ndarray, " n"]
    loss_among_labels: Float[np.ndarray, " n"]
    difference: Float[np.ndarray, " n"]

    @classmethod
    def of(cls, columns: Float[np.ndarray, "n 6"]) -> Scores:
        """Make scores from the columns that `score` returns."""
        loss, correct, correct_among, *rest = columns.T
        return cls(loss, correct > 0, correct_among > 0, *rest)

    def at(self, places: Int64[np.ndarray, " m"]) -> Scores:
        """The scores of the instances at `places`."""
        return Scores(**{name: values[places] for name, values in vars(self).items()})

    def means(self) -> dict[str, float]:
        """Means over instances, by their names in metrics."""
        return {
            "loss": float(self.loss.mean()),
            "accuracy": float(self.correct.mean()),
            "accuracy_among_labels": float(self.correct_among_labels.mean()),
            "label_mass": float(self.label_mass.mean()),
            "loss_among_labels": float(self.loss_among_labels.mean()),
        }


COLUMNS = tuple(field.name for field in fields(Scores))


def score(
    logits: Float[torch.Tensor, "b V"], target: Int64[torch.Tensor, " b"], labels: Int64[torch.Tensor, " l"]
) -> Float[torch.Tensor, "b 6"]:
    """The columns of `Scores` for some instances, in float64.

    Args:
        logits: the model's logits for the token in LABEL's place.
        target: token id of LABEL.
        labels: token ids of the task's labels, ascending.
    """
    own = logits[:, labels]
    place = torch.searchsorted(labels, target.contiguous())
    difference = own[:, 1] - own[:, 0] if len(labels) == 2 else torch.zeros_like(own[:, 0])
    columns = [
        F.cross_entropy(logits, target, reduction="none"),
        logits.argmax(dim=-1) == target,
        own.argmax(dim=-1) == place,
        (own.logsumexp(dim=-1) - logits.logsumexp(dim=-1)).exp(),
        F.cross_entropy(own, place, reduction="none"),
        difference,
    ]
    return torch.stack([column.double() for column in columns], dim=1)


def auc(difference: Float[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> float | None:
    """How often a random instance with the second label has a larger logit difference than one with the first.

    It is 0.5 for a model that cannot tell them apart, whichever label it prefers. Ties count half. None if one of the
    labels has no instance.
    """
    ones, zeros = int(second.sum()), int((~second).sum())
    if not ones or not zeros:
        return None
    _, place, counts = np.unique(difference, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]  # from 1; ties share their mean rank
    return float((ranks[second].sum() - ones * (ones + 1) / 2) / (ones * zeros))


@dataclass(frozen=True)
class Mean:
    """A mean, and the number of instances it is over."""

    value: float
    count: int


def half_means(task: Task, half: str, ids: Int64[np.ndarray, " n"], scores: Scores) -> dict[str, Mean]:
    """The means of a half's scores, and AUC if the task has two labels, by their names in metrics.

    A test half also has the means over pairs whose mirror was not trained on, as NAME_unmirrored, if there are such
    pairs.

    Args:
        task: supplies labels and mirrors.
        half: `train` or `test`.
        ids: the instances that were scored.
        scores: their scores.
    """
    means = _means(task, ids, scores)
    if half == "test" and len(unmirrored := unmirrored_among(task, ids)):
        rest = _means(task, ids[unmirrored], scores.at(unmirrored))
        means |= {f"{name}_unmirrored": rest[name] for name in OF_UNMIRRORED if name in rest}
    return means


def _means(task: Task, ids: Int64[np.ndarray, " n"], scores: Scores) -> dict[str, Mean]:
    values = scores.means()
    if len(task.label_tokens) == 2:
        area = auc(scores.difference, task.labels[ids] == task.label_tokens[1])
        values |= {} if area is None else {"auc": area}
    return {name: Mean(value, len(ids)) for name, value in values.items()}


def evaluate_instances(trainer: InjectionTrainer, task: Task, ids: Int64[np.ndarray, " n"], batch_size: int) -> Scores:
    """Score `ids` of `task` with the trainer's model (collective). Gradients and random states are not touched.

    Every rank scores its share in the same number of passes, so FSDP's collectives match. The model is left in
    evaluation mode.

    Args:
        trainer: its model is scored, in its training precision.
        task: supplies instances and labels.
        ids: indices into `task.triples`.
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
    """Score any model. Several processes share the instances (collective).

    Args:
        next_logits: logits of the model, in evaluation mode.
        task: supplies instances and labels.
        ids: indices into `task.triples`.
        batch_size: instances per forward pass on each rank.
        device: where the model is.
    """
    if not is_group():
        return Scores.of(_scored(next_logits, task, ids, batch_size, device).cpu().numpy())
    results = _scored(next_logits, task, ids, batch_size, device, dist.get_rank(), dist.get_world_size())
    dist.all_reduce(results)
    return Scores.of(results.cpu().numpy())


def evaluate_model(model: nn.Module, task: Task, ids: Int64[np.ndarray, " n"], batch_size: int) -> Scores:
    """Score a plain model, in the precision of its weights.

    Args:
        model: any model of ai2-olmo or transformers.
        task: supplies instances and labels.
        ids: indices into `task.triples`.
        batch_size: instances per forward pass.
    """
    model.eval()
    device = next(model.parameters()).device
    return Scores.of(_scored(lambda rows: last_logits(model, rows), task, ids, batch_size, device).cpu().numpy())


def last_logits(model: nn.Module, tokens: Int64[torch.Tensor, "b t"]) -> Float[torch.Tensor, "b v"]:
    """Logits after the last token. Other positions' logits are not computed if the model allows it.

    Args:
        model: any model of ai2-olmo or transformers.
        tokens: input tokens.
    """
    accepted = inspect.signature(model.forward).parameters
    only = {name: value for name, value in (("last_logits_only", True), ("logits_to_keep", 1)) if name in accepted}
    return model(input_ids=tokens, use_cache=False, **only).logits[:, -1].float()


def _scored(
    next_logits: NextLogits,
    task: Task,
    ids: Int64[np.ndarray, " n"],
    batch_size: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
) -> Float[torch.Tensor, "n 6"]:
    """The columns of `Scores` for each instance; zeros for those of other ranks."""
    # TOK1 and TOK2 decide the LABEL, so two tokens are all the model reads.
    instances = torch.from_numpy(task.triples[ids].astype(np.int64)).to(device)
    labels = torch.from_numpy(task.label_tokens.astype(np.int64)).to(device)
    results = torch.zeros(len(ids), 6, dtype=torch.float64, device=device)
    for start in range(0, len(ids), batch_size * world):
        mine = slice(start + rank, start + batch_size * world, world)
        # A rank that has finished its share still takes part, with an arbitrary instance.
        rows = instances[mine] if mine.start < len(ids) else instances[:1]
        with torch.no_grad():
            logits = next_logits(rows[:, :LABEL_POSITION])
        scored = score(logits, rows[:, LABEL_POSITION], labels)
        if mine.start < len(ids):
            results[mine] = scored
    return results
