"""Searching for the subspace of a residual stream that holds a value: its training, and its interchange accuracy.

At a site, the residual stream after so many blocks at one operand, the part of a base's stream that lies in a subspace
is taken from a source's, and the model's upper part goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import nn
from torch.nn.utils import parametrizations, skip_init

from analysis.counterfactuals import Pairs
from analysis.upper_part import ROWS_PER_PASS, UpperPart
from olmo_inject.errors import UserError
from olmo_inject.randomness import bits, integers, key
from olmo_inject.tasks import Task

Basis = Float[torch.Tensor, "k d"]
BasisOfAny = Float[torch.Tensor, "_ d"]  # where bases of several dimensions stand together
_global_generator = Lock()  # torch's, which is seeded for a moment


@dataclass(frozen=True)
class Site:
    """A place in the residual stream, and which variable of the task is sought there.

    Attributes:
        layer: after so many blocks; 0 is the embedding.
        position: 0 at TOK1, 1 at TOK2.
        variable: `first`, `second` or `result`.
    """

    layer: int
    position: int
    variable: str


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        dimensions: of the subspaces.
        updates: of the optimizer for each.
        batch: pairs in one update.
        learning_rate: Adam's.
        pairs: train pairs, and as many held-out ones.
        controls: also search in an untrained model.
    """

    dimensions: tuple[int, ...] = (1, 2)
    updates: int = 100
    batch: int = 64
    learning_rate: float = 0.02
    pairs: int = 1024
    controls: bool = True

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: naming the option.
        """
        if not self.dimensions or min(self.dimensions) < 1:
            raise UserError(f"--dimensions: {','.join(map(str, self.dimensions))} must be whole numbers from 1 on")
        for name in ("updates", "pairs"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}: {getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class Streams:
    """Pairs of instances in a model: its residual streams on them, on its device.

    Attributes:
        base: operands, [n, 2].
        base_stream: at every layer, from the position on that is exchanged.
        source_stream: at every layer and the one position that is exchanged.
        label: the counterfactual label's place among the task's.
        nothing: the share of pairs with that label where nothing is exchanged.
    """

    base: Int64[torch.Tensor, "n 2"]
    base_stream: Float[torch.Tensor, "layers n s d"]
    source_stream: Float[torch.Tensor, "layers n d"]
    label: Int64[torch.Tensor, " n"]
    nothing: float

    @classmethod
    def of(cls, upper: UpperPart, pairs: Pairs, position: int) -> Streams:
        """Those of `pairs`, from one pass each of the bases and the sources."""
        device = upper.model.device
        base, label = pairs.base.to(device), pairs.label.to(device)
        streams = upper.streams(base, position)
        source = upper.streams(pairs.source.to(device), position)[:, :, 0]
        with torch.no_grad():
            answers = upper.scores(upper.depth, base, streams[upper.depth]).argmax(dim=1)
        return cls(base, streams, source, label, (answers == label).double().mean().item())

    def exchanged(
        self, site: Site, rows: Int64[torch.Tensor, " m"], basis: Basis
    ) -> tuple[Int64[torch.Tensor, "m 2"], Float[torch.Tensor, "m s d"]]:
        """Bases, and their stream at the site with the part of it that lies in the subspace as the source's."""
        stream, source = self.base_stream[site.layer, rows], self.source_stream[site.layer, rows]
        moved = stream[:, 0] + (source - stream[:, 0]) @ basis.T @ basis
        return self.base[rows], torch.cat([moved[:, None], stream[:, 1:]], dim=1)


def align(
    upper: UpperPart,
    task: Task,
    sites: Sequence[Site],
    pairs: Sequence[Streams],
    starts: Sequence[BasisOfAny],
    options: Options,
    check: Callable[[], None] = lambda: None,
) -> list[BasisOfAny]:
    """Train a subspace at each site, each by itself though all of them go through the model together.

    Args:
        upper: of a model whose weights ask for no gradients.
        task: whose labels are predicted.
        sites: where, and for what; all of one layer.
        pairs: to train on, of each site.
        starts: orthonormal rows, of each site.
        options: updates, batch and learning rate.
        check: called before every update; what it raises ends the search.

    Returns:
        Of each site, orthonormal rows that span the subspace.
    """
    device, [layer] = pairs[0].base.device, {site.layer for site in sites}
    projections = [_projection(start).to(device) for start in starts]
    optimizer = torch.optim.Adam([p for one in projections for p in one.parameters()], options.learning_rate)
    n = options.updates * options.batch
    drawn = [
        torch.from_numpy(integers(key("das updates", task.name, str(site)), n, len(of_site.label))).to(device)
        for site, of_site in zip(sites, pairs, strict=True)
    ]
    for rows in torch.stack(drawn, dim=1).split(options.batch):
        check()
        each = zip(sites, pairs, projections, rows.T, strict=True)
        exchanged = [of_site.exchanged(site, chosen, one.weight) for site, of_site, one, chosen in each]
        tokens, streams = (torch.cat(parts) for parts in zip(*exchanged, strict=True))
        labels = torch.cat([of_site.label[chosen] for of_site, chosen in zip(pairs, rows.T, strict=True)])
        # The sum of the sites' mean losses: no subspace's gradient holds anything of another's.
        loss = F.cross_entropy(upper.scores(layer, tokens, streams), labels) * len(sites)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return [one.weight.detach() for one in projections]


def _projection(start: Basis) -> Any:
    """A module whose `weight` is orthonormal rows that can be trained, `start` to begin with."""
    projection: Any = skip_init(nn.Linear, start.shape[1], len(start), bias=False)
    with torch.no_grad():
        projection.weight.copy_(start)
    with _global_generator, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # torch completes the rows to a whole basis by random ones
        return parametrizations.orthogonal(projection)


@torch.no_grad()
def interchange_accuracy(upper: UpperPart, site: Site, pairs: Streams, basis: Basis) -> float:
    """The share of pairs on which the run with the source's part of the subspace gives the counterfactual label."""
    correct, basis = 0, basis.to(pairs.base.device)
    for rows in torch.arange(len(pairs.label), device=pairs.base.device).split(ROWS_PER_PASS):
        found = upper.scores(site.layer, *pairs.exchanged(site, rows, basis)).argmax(dim=1)
        correct += int((found == pairs.label[rows]).sum())
    return correct / len(pairs.label)


def random_basis(width: int, dimension: int, purpose: str) -> Basis:
    """Orthonormal rows in a random direction, the same each time."""
    words = bits(key("das basis", purpose), 2 * width * dimension)
    uniform = (words >> np.uint64(11)).astype(np.float64) / 2**53
    radius, angle = np.sqrt(-2 * np.log1p(-uniform[: width * dimension])), 2 * np.pi * uniform[width * dimension :]
    normal = torch.from_numpy(radius * np.cos(angle)).reshape(width, dimension)  # Box and Muller 1958
    return torch.linalg.qr(normal)[0].T.float().contiguous()
