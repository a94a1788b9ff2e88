"""Exchanging a part of a residual stream between two runs of a model, and how often that gives the label it should.

At a site, the residual stream after so many blocks at one operand, the part of a base's stream that lies in a subspace
is taken from a source's, and the model's upper part goes on from there.
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
    """Which variable of the task is sought at which place of the residual stream.

    Attributes:
        layer: after so many blocks; 0 is the embedding.
        position: 0 at TOK1, 1 at TOK2.
        variable: `first`, `second` or `result`.
    """

    layer: int
    position: int
    variable: str

    def __str__(self) -> str:
        """What random draws are keyed by."""
        return f"Site(layer={self.layer}, position={self.position}, variable={self.variable!r})"


@dataclass(frozen=True)
class Streams:
    """Pairs of instances in a model: its residual streams on them, on its device.

    Attributes:
        base: operands, [n, 2].
        base_stream: at every layer, from the position on that is exchanged.
        source_stream: at every layer and the one position that is exchanged.
        label: the counterfactual label's place among the task's.
        no_swap: the share of pairs with that label where nothing is exchanged.
    """

    base: Int64[torch.Tensor, "n 2"]
    base_stream: Float[torch.Tensor, "layers n s d"]
    source_stream: Float[torch.Tensor, "layers n d"]
    label: Int64[torch.Tensor, " n"]
    no_swap: float

    @classmethod
    def of(cls, upper: ForwardFrom, pairs: Pairs, position: int) -> Streams:
        """Those of `pairs`, from one pass each of the bases and the sources."""
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
        """Bases, and their stream at the site with the part of it that lies in the subspace as the source's."""
        stream, source = self.base_stream[site.layer, rows], self.source_stream[site.layer, rows]
        moved = stream[:, 0] + (source - stream[:, 0]) @ basis.T @ basis
        return self.base[rows], torch.cat([moved[:, None], stream[:, 1:]], dim=1)


@torch.no_grad()
def interchange(upper: ForwardFrom, site: Alignment, pairs: Streams, basis: Basis) -> tuple[float, float]:
    """The share of pairs on which the run with the source's part of the subspace gives the counterfactual label.

    Args:
        upper: of the model.
        site: where.
        pairs: of that site's position and variable.
        basis: orthonormal rows that span the subspace.

    Returns:
        The share, and the mean loss of that label among the task's, in nats.
    """
    correct, loss, basis = 0, 0.0, basis.to(pairs.base.device)
    for rows in torch.arange(len(pairs.label), device=pairs.base.device).split(ROWS_PER_PASS):
        said = upper.scores(site.layer, *pairs.exchanged(site, rows, basis))
        correct += int((said.argmax(dim=1) == pairs.label[rows]).sum())
        loss += F.cross_entropy(said, pairs.label[rows], reduction="sum").item()
    return correct / len(pairs.label), loss / len(pairs.label)
