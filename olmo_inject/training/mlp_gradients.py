"""The gradient of a loss at one MLP, by neuron.

A neuron is its row in each matrix into the MLP (gate and up, or one), its bias if there is one, and its column in the
matrix out of it (down). So a gated MLP's gradient is [neurons, 3 d_model], a plain one's [neurons, 2 d_model], and one
more with biases. Only the chosen MLP's weights require gradients, so the backward pass ends there. Logits are computed
for a part of the targets at a time, since those of a whole pass would take most of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import nn

from olmo_inject.training.loss import IGNORED
from olmo_inject.training.structure import neuron_parameters

LOGITS_IN_A_PASS = 2**24  # 64 MiB in float32; their gradient and the softmax need about three times as much
NeuronGradient = Float[torch.Tensor, "neurons weights"]


class MlpGradients:
    """Gradients of one MLP of a model, in passes of bounded size.

    Args:
        model: a causal language model of transformers whose head is one matrix. All its weights but the MLP's stop
            requiring gradients.
        layer: index of the block, from 0.
        tokens_per_pass: maximum tokens of one forward and backward pass, which bounds memory. A pass has at least one
            row, and gradients add over passes.
        z_loss: weight of the squared log-normalizer of each target in the loss, as in ai2-olmo.
        precision: of the matrix products: `fp32` or `bf16`. Losses and sums keep the precision of the weights.

    Raises:
        UserError: the model has no such layer, or its neurons cannot be found.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: int,
        tokens_per_pass: int,
        z_loss: float = 0.0,
        precision: str = "fp32",
    ) -> None:
        self.model: Any = model
        self.head = self.model.get_output_embeddings()
        self.tokens_per_pass = tokens_per_pass
        self.z_loss = z_loss
        self.half = precision == "bf16"
        self.parameters = neuron_parameters(model, layer)
        model.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def summed(
        self,
        tokens: Int64[torch.Tensor, "n t"],
        targets: Int64[torch.Tensor, "n u"],
        among: Int64[torch.Tensor, " l"] | None = None,
    ) -> NeuronGradient:
        """Gradient of the summed loss of all targets.

        Rows without a target are left out. By causality so are the tokens from the last target on: for injected tokens,
        only the first three tokens of injected rows are computed.

        Args:
            tokens: the rows, with t = u or t > u.
            targets: the token that should follow each token; -100 for no loss.
            among: the only possible tokens, ascending, including all targets; None: the whole vocabulary.
        """
        total = torch.zeros_like(by_neuron(self.parameters))
        counted = targets != IGNORED
        rows = counted.any(dim=1).nonzero().flatten()
        if not len(rows):
            return total
        length = int(counted.any(dim=0).nonzero().max()) + 1
        device = total.device
        for chosen in rows.split(max(1, self.tokens_per_pass // length)):
            with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
                hidden = self.model.base_model(input_ids=tokens[chosen, :length].to(device), use_cache=False)[0]
                wanted = targets[chosen, :length].to(device)
                upstream = loss_gradient(self.head, hidden.detach(), wanted, self.z_loss, among)
            total += by_neuron(torch.autograd.grad(hidden, self.parameters, upstream))
        return total


def loss_gradient(
    head: nn.Linear,
    hidden: Float[torch.Tensor, "n u d"],
    targets: Int64[torch.Tensor, "n u"],
    z_loss: float = 0.0,
    among: Int64[torch.Tensor, " l"] | None = None,
) -> Float[torch.Tensor, "n u d"]:
    """Gradient of the summed loss of all targets with respect to the input of the head.

    A target's loss depends on its own position alone. So a few positions at a time go forwards and backwards through
    the head, and their logits are freed before the next ones.

    Args:
        head: maps hidden states to logits; its weights require no gradient.
        hidden: input of the head.
        targets: token ids; -100 for no loss, where the gradient is zero.
        z_loss: as in `MlpGradients`.
        among: as in `MlpGradients.summed`; such a loss has no z-loss.
    """
    gradient = torch.zeros_like(hidden)
    counted = targets != IGNORED
    places, wanted = counted.nonzero(as_tuple=True), targets[counted]
    vocabulary = head.out_features
    for some in torch.arange(len(wanted), device=wanted.device).split(max(1, LOGITS_IN_A_PASS // vocabulary)):  # pyright: ignore[reportArgumentType]
        where = tuple(place[some] for place in places)
        part = hidden[where].requires_grad_(True)
        logits = head(part)
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        if among is not None:
            among = among.to(logits.device)
            loss = F.cross_entropy(logits[:, among], torch.searchsorted(among, wanted[some]), reduction="sum")
        else:
            loss = F.cross_entropy(logits, wanted[some], reduction="sum")
        if z_loss and among is None:
            loss = loss + z_loss * logits.logsumexp(-1).square().sum()
        [gradient[where]] = torch.autograd.grad(loss, part)
    return gradient


def by_neuron(parameters: Sequence[torch.Tensor]) -> NeuronGradient:
    """Rows and biases into the neurons, then columns out of them, with one neuron per row.

    Args:
        parameters: as `neuron_parameters` returns them, or their gradients.
    """
    *into, out = (parameter.detach() for parameter in parameters)
    rows = [part.unflatten(0, (-1, out.shape[1])).transpose(0, 1).flatten(1) for part in into]
    return torch.cat([*rows, out.T], dim=1)
