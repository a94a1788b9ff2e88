"""Scores a model on natural statements: the answer's tokens given the context, shared among ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from olmo_inject.corpus.references import ReferenceItem
from olmo_inject.training.compat import quiet_autocast

if TYPE_CHECKING:
    from olmo_inject.training.trainer import InjectionTrainer


@dataclass(frozen=True)
class ReferenceScores:
    """The scores of a model on a reference task.

    Attributes:
        loss: cross-entropy in nats per token of the answers, a sum over a count.
        accuracy: share of the items of which every token of the answer is the most likely one.
        tokens: number of answer tokens.
        items: number of items.
    """

    loss: float
    accuracy: float
    tokens: int
    items: int


def evaluate_reference(trainer: InjectionTrainer, items: Sequence[ReferenceItem]) -> ReferenceScores:
    """Score the trainer's model; leaves gradients, random states and the mode's effects alone.

    Items of about one length go through the model together, padded on the right, where a causal model does not look.
    No more tokens at once than in a training micro-batch, whose logits are known to fit. Every rank scores its share
    in equally many passes, so FSDP's collectives match (collective). The model is left in evaluation mode.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    lengths = np.array([len(item.context) + len(item.answer) for item in items])
    budget = trainer.cfg.device_train_microbatch_size * trainer.cfg.model.max_sequence_length
    rows = max(1, budget // int(lengths.max()))
    by_length = np.argsort(lengths, kind="stable")
    results = torch.zeros(len(items), 2, dtype=torch.float64, device=trainer.device)
    trainer.dist_model.eval()
    for start in range(0, len(items), rows * world):
        together = by_length[start : start + rows * world]
        mine = together[rank::world]
        # A rank whose share has run out still takes part, with any one item.
        scored = _score(trainer, [items[i] for i in (mine if len(mine) else together[:1])])
        if len(mine):
            results[torch.from_numpy(mine).to(trainer.device)] = scored
    dist.all_reduce(results)
    loss, correct = results.sum(dim=0).tolist()
    tokens = sum(len(item.answer) for item in items)
    return ReferenceScores(loss / tokens, correct / len(items), tokens, len(items))


def _score(trainer: InjectionTrainer, items: Sequence[ReferenceItem]) -> torch.Tensor:
    """Per item the summed cross-entropy of its answer, and whether all of it is most likely; [n, 2]."""
    longest = max(len(item.context) + len(item.answer) for item in items)
    tokens = torch.zeros(len(items), longest, dtype=torch.long)
    row, column = [], []
    for number, item in enumerate(items):
        whole = item.context + item.answer
        tokens[number, : len(whole)] = torch.tensor(whole)
        row += [number] * len(item.answer)
        column += range(len(item.context), len(whole))
    tokens, rows, columns = (x.to(trainer.device) for x in (tokens, torch.tensor(row), torch.tensor(column)))
    with torch.no_grad(), quiet_autocast(), torch.autocast("cuda", dtype=trainer.cfg.autocast_precision):
        logits = trainer.dist_model(input_ids=tokens).logits[rows, columns - 1].float()
    targets = tokens[rows, columns]
    losses = F.cross_entropy(logits, targets, reduction="none").to(torch.float64)
    wrong = (logits.argmax(dim=-1) != targets).to(torch.float64)
    sums = torch.zeros(len(items), 2, dtype=torch.float64, device=trainer.device)
    sums.index_add_(0, rows, torch.stack([losses, wrong], dim=1))
    return torch.stack([sums[:, 0], (sums[:, 1] == 0).to(torch.float64)], dim=1)
