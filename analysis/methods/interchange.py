"""Interchange interventions: exchange a part of the residual stream between two inputs, and count the expected labels.

A site is the residual stream after a number of blocks at one operand. There, the part of the base's stream that lies in
a subspace is replaced by the source's, and the model's upper blocks run on the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64

from analysis.methods.counterfactuals import Pairs
from analysis.methods.forward_from import ROWS_PER_PASS, ForwardFrom
from analysis.methods.subspaces import Basis


@dataclass(frozen=True)
class Alignment:
    """A site of the residual stream, and the variable of the task that is sought there.

    Attributes:
        layer: number of blocks below; 0 is the embedding.
        position: 0 at TOK1, 1 at TOK2.
        variable: `first`, `second` or `result`.
    """

    layer: int
    position: int
    variable: str

    def __str__(self) -> str:
        """The key of random draws; it must never change."""
        return f"Site(layer={self.layer}, position={self.position}, variable={self.variable!r})"


@dataclass(frozen=True)
class Streams:
    """A model's residual streams on pairs of instances, on the model's device.

    Attributes:
        base: operands (TOK1, TOK2) of the bases.
        base_stream: the bases' stream at every layer, from the exchanged position on.
        source_stream: the sources' stream at every layer, at the exchanged position.
        label: the counterfactual label, as an index of the task's labels.
        no_swap: share of pairs on which the model gives that label if nothing is exchanged.
    """

    base: Int64[torch.Tensor, "n 2"]
    base_stream: Float[torch.Tensor, "layers n s d"]
    source_stream: Float[torch.Tensor, "layers n d"]
    label: Int64[torch.Tensor, " n"]
    no_swap: float

    @classmethod
    def of(cls, upper: ForwardFrom, pairs: Pairs, position: int) -> Streams:
        """Compute the streams of `pairs`: one pass over the bases and one over the sources.

        Args:
            upper: the model.
            pairs: bases, sources and counterfactual labels.
            position: where the stream is exchanged, 0 or 1.
        """
        device = upper.model.device
        base, label = pairs.base.to(device), pairs.label.to(device)
        streams = upper.streams(base, position)
        source = upper.streams(pairs.source.to(device), position)[:, :, 0]
        with torch.no_grad():
            answers = upper.scores(upper.depth, base, streams[upper.depth]).argmax(dim=1)
        return cls(base, streams, source, label, (answers == label).double().mean().item())

    def exchanged(
        self, site: Alignment, rows: Int64[torch.Tensor, " m"], basis: Basis
    ) -> tuple[Int64[torch.Tensor, "m 2"], Float[torch.Tensor, "m s d"]]:
        """The rows' bases, and their stream at the site after the exchange within the subspace.

        Args:
            site: the layer and position.
            rows: indices of pairs.
            basis: orthonormal rows that span the subspace.
        """
        stream, source = self.base_stream[site.layer, rows], self.source_stream[site.layer, rows]
        moved = stream[:, 0] + (source - stream[:, 0]) @ basis.T @ basis
        return self.base[rows], torch.cat([moved[:, None], stream[:, 1:]], dim=1)


@torch.no_grad()
def interchange(upper: ForwardFrom, site: Alignment, pairs: Streams, basis: Basis) -> tuple[float, float]:
    """The share of pairs on which the model gives the counterfactual label after the exchange.

    Args:
        upper: the model.
        site: where the stream is exchanged.
        pairs: streams for that site's position and variable.
        basis: orthonormal rows that span the subspace.

    Returns:
        The share, and the mean loss of the counterfactual label among the task's labels, in nats.
    """
    sums, basis = [], basis.to(pairs.base.device)
    for rows in torch.arange(len(pairs.label), device=pairs.base.device).split(ROWS_PER_PASS):
        logits = upper.scores(site.layer, *pairs.exchanged(site, rows, basis))
        losses = F.cross_entropy(logits, pairs.label[rows], reduction="sum")
        sums.append(torch.stack([(logits.argmax(dim=1) == pairs.label[rows]).sum(), losses]))
    correct, loss = (sum(of) / len(pairs.label) for of in zip(*torch.stack(sums).tolist(), strict=True))
    return correct, loss
