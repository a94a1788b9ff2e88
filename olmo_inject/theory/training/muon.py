"""Muon, an optimizer that steps along the orthogonal factor of the momentum."""

from __future__ import annotations

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Steps along U V^T of the momentum's singular value decomposition U S V^T, so that all directions move alike.

    The decomposition is exact, where Muon proper takes a few Newton-Schulz iterations. A zero momentum does not move.
    Directions below 1e-6 of the strongest count as zero.

    Args:
        tensors: parameters.
        learning_rate: length of a step.
        momentum: decay of the momentum.
    """

    def __init__(self, tensors: list[Tensor], learning_rate: float, momentum: float) -> None:
        super().__init__(tensors, {"lr": learning_rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of all tensors."""
        for group in self.param_groups:
            for tensor in group["params"]:
                state = self.state[tensor]
                kept = state.setdefault("momentum", torch.zeros_like(tensor))
                kept.mul_(group["momentum"]).add_(tensor.grad, alpha=1 - group["momentum"])
                left, strengths, right = torch.linalg.svd(kept, full_matrices=False)
                moved = strengths > 1e-6 * strengths.amax(-1, keepdim=True).clamp_min(1e-30)
                tensor.sub_((left * moved[..., None, :]) @ right, alpha=group["lr"])
