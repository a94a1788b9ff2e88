"""Score a model on continuations of contexts: their summed loss, and whether greedy decoding would produce them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float

from olmo_inject.training.compat import quiet_autocast

if TYPE_CHECKING:
    from olmo_inject.training.trainer import InjectionTrainer

Logits = Callable[[torch.Tensor], torch.Tensor]  # rows [b, t] -> logits [b, t, V]


@runtime_checkable
class Item(Protocol):
    """A context and the answer that should follow it."""

    @property
    def context(self) -> Sequence[int]:
        """Tokens that the model reads; at least one."""
        ...

    @property
    def answer(self) -> Sequence[int]:
        """Tokens that the model should predict."""
        ...


def score_items(
    logits: Logits, items: Sequence[Item], tokens_per_pass: int, device: torch.device, rank: int = 0, world: int = 1
) -> Float[torch.Tensor, "n 2"]:
    """For each item the summed cross-entropy of its answer in nats, and whether greedy decoding gives the answer.

    Greedy decoding gives the answer if each of its tokens is the most likely one after the true tokens before it. Items
    of similar length share a forward pass. Padding is on the right, where a causal model does not look.

    Args:
        logits: the model.
        items: contexts and answers.
        tokens_per_pass: maximum tokens per forward pass; a pass has at least one item.
        device: where to compute.
        rank: whose share to score; other ranks' items are zeros. Every rank makes the same number of passes.
        world: number of ranks.
    """
    lengths = np.array([len(item.context) + len(item.answer) for item in items])
    rows = max(1, tokens_per_pass // int(lengths.max()))
    by_length = np.argsort(lengths, kind="stable")
    results = torch.zeros(len(items), 2, dtype=torch.float64, device=device)
    for start in range(0, len(items), rows * world):
        together = by_length[start : start + rows * world]
        mine = together[rank::world]
        # A rank that has finished its share still takes part, with an arbitrary item.
        scored = _score(logits, [items[i] for i in (mine if len(mine) else together[:1])], device)
        if len(mine):
            results[torch.from_numpy(mine).to(device)] = scored
    return results


def _score(logits: Logits, items: Sequence[Item], device: torch.device) -> torch.Tensor:
    longest = max(len(item.context) + len(item.answer) for item in items)
    tokens = torch.zeros(len(items), longest, dtype=torch.long)
    row, column = [], []
    for number, item in enumerate(items):
        whole = [*item.context, *item.answer]
        tokens[number, : len(whole)] = torch.tensor(whole)
        row += [number] * len(item.answer)
        column += range(len(item.context), len(whole))
    tokens, rows, columns = (x.to(device) for x in (tokens, torch.tensor(row), torch.tensor(column)))
    with torch.no_grad():
        predicted = logits(tokens)[rows, columns - 1].float()
    targets = tokens[rows, columns]
    losses = F.cross_entropy(predicted, targets, reduction="none").to(torch.float64)
    wrong = (predicted.argmax(dim=-1) != targets).to(torch.float64)
    sums = torch.zeros(len(items), 2, dtype=torch.float64, device=device)
    sums.index_add_(0, rows, torch.stack([losses, wrong], dim=1))
    return torch.stack([sums[:, 0], (sums[:, 1] == 0).to(torch.float64)], dim=1)


def score_with_trainer(trainer: InjectionTrainer, items: Sequence[Item]) -> torch.Tensor:
    """`score_items` of the trainer's model, which is in evaluation mode, on all ranks (collective).

    Gradients and random states are not touched. A pass holds no more tokens than a training micro-batch, whose logits
    are known to fit in memory. Every rank scores its share in the same number of passes, so FSDP's collectives match.
    """
    budget = trainer.cfg.device_train_microbatch_size * trainer.cfg.model.max_sequence_length

    def logits(rows: torch.Tensor) -> torch.Tensor:
        with quiet_autocast(), torch.autocast("cuda", dtype=trainer.cfg.autocast_precision):
            return trainer.dist_model(input_ids=rows).logits

    results = score_items(logits, items, budget, trainer.device, dist.get_rank(), dist.get_world_size())
    dist.all_reduce(results)
    return results
