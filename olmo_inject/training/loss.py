"""Cross-entropy of many logits on a GPU, some rows at a time, without a copy of all of them in float32.

ai2-olmo's loss takes logits of 50,304 tokens, in bf16, through torch's cross-entropy. Autocast makes a float32 copy of
all of them, the log probabilities are another, and their gradient a third: 12 bytes a logit, 2.5 GB a row of 4,096.
Here a few rows at a time are in float32, and only the gradient, in the logits' precision, has a value for each logit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64

IGNORED = -100  # target of a token that is not in the loss
LOGITS_AT_ONCE = 2**26  # copied to float32: 256 MiB; the loss holds about three such tensors


def batch_targets(batch: Mapping[str, torch.Tensor]) -> Int64[torch.Tensor, "n u"]:
    """The token that should follow each token of a batch; -100 where the batch's masks remove it from the loss."""
    targets = batch["input_ids"].clone()
    if (mask := batch.get("label_mask")) is not None:
        targets.masked_fill_(~mask, IGNORED)
    if (mask := batch.get("instance_mask")) is not None:
        targets.masked_fill_(~mask[:, None], IGNORED)
    return targets[:, 1:]


def count_targets(batch: Mapping[str, torch.Tensor]) -> int:
    """The number of targets in a batch."""
    return int((batch_targets(batch) != IGNORED).sum())


def loss_in_parts(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = IGNORED,
    reduction: str = "mean",
    compute_z_loss: bool = False,
    z_loss_multiplier: float = 1e-4,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """ai2-olmo's `cross_entropy_loss`, whose sums are computed some rows at a time.

    Args:
        logits: [n, V].
        labels: [n] token ids, or `ignore_index`.
        ignore_index: marks a target without a loss.
        reduction: only `sum`, with which ai2-olmo trains, is in parts; `mean` and `none` are ai2-olmo's.
        compute_z_loss: whether to return the z-loss too.
        z_loss_multiplier: its weight.
    """
    if reduction != "sum":
        from olmo.train import cross_entropy_loss  # seconds, which those who want the constant alone do not have

        return cross_entropy_loss(logits, labels, ignore_index, reduction, compute_z_loss, z_loss_multiplier)
    summed: Any = _SummedLoss.apply(logits, labels, ignore_index, z_loss_multiplier)
    return summed[0], summed[1] if compute_z_loss else None


class _SummedLoss(torch.autograd.Function):
    """Summed cross-entropy and z-loss. The backward pass computes the probabilities again, from the log-normalizers."""

    @staticmethod
    def forward(
        ctx: Any, logits: Float[torch.Tensor, "n V"], labels: Int64[torch.Tensor, " n"], ignored: int, z_weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        loss, z_loss = torch.zeros(2, device=logits.device)
        counted, wanted = labels != ignored, labels.clamp(min=0)
        normalizers = torch.empty(len(logits), device=logits.device)
        for some in _parts(logits):
            part = logits[some].float()
            normalizers[some] = part.logsumexp(dim=-1)
            own = part.gather(1, wanted[some, None])[:, 0]
            loss += ((normalizers[some] - own) * counted[some]).sum()
            z_loss += z_weight * (normalizers[some].square() * counted[some]).sum()
        ctx.save_for_backward(logits, wanted, counted, normalizers)
        ctx.z_weight = z_weight
        return loss, z_loss

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        of_loss, of_z = upstream
        logits, wanted, counted, normalizers = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for some in _parts(logits):
            part = logits[some].float().sub_(normalizers[some, None]).exp_()
            part *= (of_loss + of_z * 2 * ctx.z_weight * normalizers[some, None]) * counted[some, None]
            part.scatter_add_(1, wanted[some, None], -(of_loss * counted[some, None]))
            gradient[some] = part
        return gradient, None, None, None


def _parts(logits: torch.Tensor) -> list[slice]:
    rows = max(1, LOGITS_AT_ONCE // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]
