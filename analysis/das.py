"""Distributed alignment search (Geiger et al. 2023): where, and in how many dimensions, a model holds a value.

At a site, the residual stream after so many blocks at one operand, an orthogonal subspace is trained such that
putting the source's part of it into the base's run gives the label that the base would have with the source's
value. What was found on pairs of train instances is judged on pairs of test instances, among the task's own labels.

The streams of all layers come from one pass; of a search only the blocks above its site are computed, and the labels'
logits alone. All searches of one layer and position go through the model together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import nn
from torch.nn.utils import parametrizations, skip_init
from transformers import PreTrainedModel

from analysis.activations import residual_points
from analysis.checkpoints import Subject
from analysis.counterfactuals import TOK1, TOK2, Pairs, draw_pairs, scores
from analysis.hooks import UpperPart, outputs, untrained
from analysis.results import Method, Tables
from analysis.runs import wilson
from olmo_inject.errors import UserError
from olmo_inject.randomness import bits, integers, key
from olmo_inject.tasks import Task

METHOD = "das"
VERSION = 2
ROWS_PER_PASS = 512
# At TOK1 the model has read one operand. At TOK2 it may still hold each, or what comes of them.
QUESTIONS = ((TOK1, "first"), (TOK2, "first"), (TOK2, "second"), (TOK2, "result"))
Basis = Float[torch.Tensor, "k d"]
BasisOfAny = Float[torch.Tensor, "_ d"]  # where bases of several dimensions stand together


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


def method(options: Options) -> Method:
    """The analysis of one checkpoint, to the table `sites`.

    Columns: task, weights (`trained`, or `untrained` as a control), subspace (`found`, or `random` as a control),
    layer, position, variable, dimension, accuracy on held-out pairs with the ends `low` and `high` of its Wilson
    interval, pairs, and nothing: the accuracy of changing nothing in this model.

    Raises:
        UserError: an option that cannot be.
    """
    options.check()

    def compute(model: PreTrainedModel, subject: Subject) -> Tables:
        models: dict[str, PreTrainedModel] = {"trained": model} | (
            {"untrained": untrained(model)} if options.controls else {}
        )
        tables = [
            search(which, task, options).assign(weights=weights)
            for weights, which in models.items()
            for task in subject.tasks
        ]
        return {"sites": pd.concat(tables, ignore_index=True)}

    return Method(METHOD, compute, {**asdict(options), "dimensions": list(options.dimensions)}, version=VERSION)


def search(model: PreTrainedModel, task: Task, options: Options) -> pd.DataFrame:
    """All sites, variables and dimensions of one task; see `method`.

    Raises:
        UserError: more dimensions than the model is wide.
    """
    model.requires_grad_(False)
    width, depth = int(model.config.hidden_size), len(residual_points(model))
    if max(options.dimensions) > width:
        raise UserError(f"--dimensions: {max(options.dimensions)} is more than the model's width {width}")
    upper = UpperPart(model, task.label_tokens)
    rows = []
    for position in (TOK1, TOK2):
        variables = [variable for place, variable in QUESTIONS if place == position]
        train, held_out = (
            {v: Streams.of(model, task, draw_pairs(task, v, ids, options.pairs, purpose), position) for v in variables}
            for ids, purpose in ((task.train_ids, "das train"), (task.test_ids, "das held out"))
        )
        for layer in range(depth):
            asked = [(variable, dimension) for variable in variables for dimension in options.dimensions]
            sites = [Site(layer, position, variable) for variable, _ in asked]
            starts = [random_basis(width, d, f"{task.name} {layer} {position} {variable}") for variable, d in asked]
            found = align(upper, task, sites, [train[variable] for variable, _ in asked], starts, options)
            for subspace, bases in (("found", found), ("random", starts)):
                for (variable, dimension), site, basis in zip(asked, sites, bases, strict=True):
                    pairs = held_out[variable]
                    accuracy, n = interchange_accuracy(upper, site, pairs, basis), len(pairs.label)
                    low, high = wilson(accuracy * n, n)
                    about = {"task": task.name, **asdict(site), "dimension": dimension, "subspace": subspace}
                    result = {"accuracy": accuracy, "low": low, "high": high, "pairs": n}
                    rows.append(about | result | {"nothing": pairs.nothing})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Streams:
    """Pairs of instances in a model: its residual streams on them, on its device.

    Attributes:
        base: operands, [n, 2].
        base_stream: at every layer and both operands.
        source_stream: at every layer and the one position that is exchanged.
        label: the counterfactual label's place among the task's.
        nothing: the share of pairs with that label where nothing is exchanged.
    """

    base: Int64[torch.Tensor, "n 2"]
    base_stream: Float[torch.Tensor, "layers n 2 d"]
    source_stream: Float[torch.Tensor, "layers n d"]
    label: Int64[torch.Tensor, " n"]
    nothing: float

    @classmethod
    def of(cls, model: PreTrainedModel, task: Task, pairs: Pairs, position: int) -> Streams:
        """Those of `pairs`, from one pass each of the bases and the sources."""
        device = next(model.parameters()).device
        logits, base = _streams(model, pairs.base.to(device), slice(None))
        _, source = _streams(model, pairs.source.to(device), position)
        label = pairs.label.to(device)
        unchanged = (scores(task, logits).argmax(dim=1) == label).double().mean().item()
        return cls(pairs.base.to(device), base, source, label, unchanged)

    def exchanged(
        self, site: Site, rows: Int64[torch.Tensor, " m"], basis: Basis
    ) -> tuple[Int64[torch.Tensor, "m 2"], Float[torch.Tensor, "m 2 d"]]:
        """Bases, and their stream at the site with the part of it that lies in the subspace as the source's."""
        stream, source = self.base_stream[site.layer, rows], self.source_stream[site.layer, rows]
        moved = stream[:, site.position] + (source - stream[:, site.position]) @ basis.T @ basis
        both = [moved if position == site.position else stream[:, position] for position in (TOK1, TOK2)]
        return self.base[rows], torch.stack(both, dim=1)


def _streams(
    model: PreTrainedModel, tokens: Int64[torch.Tensor, "n 2"], position: int | slice
) -> tuple[Float[torch.Tensor, "n v"], Float[torch.Tensor, "layers n *rest"]]:
    """The last logits, and the stream at every layer."""
    points = residual_points(model)
    parts = [outputs(model, points, rows) for rows in tokens.split(ROWS_PER_PASS)]
    streams = [torch.stack([layer[:, position] for layer in layers]) for _, layers in parts]
    return torch.cat([logits for logits, _ in parts]), torch.cat(streams, dim=1)


def align(
    upper: UpperPart,
    task: Task,
    sites: Sequence[Site],
    pairs: Sequence[Streams],
    starts: Sequence[BasisOfAny],
    options: Options,
) -> list[BasisOfAny]:
    """Train a subspace at each site, each by itself though all of them go through the model together.

    Args:
        upper: of a model whose weights ask for no gradients.
        task: whose labels are predicted.
        sites: where, and for what; all of one layer.
        pairs: to train on, of each site.
        starts: orthonormal rows, of each site.
        options: updates, batch and learning rate.

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
    with torch.random.fork_rng(devices=[]):  # torch completes the rows to a whole basis by random ones
        torch.manual_seed(0)
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


def parse_dimensions(text: str) -> tuple[int, ...]:
    """Numbers joined by commas.

    Raises:
        UserError: something else.
    """
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UserError(f"--dimensions: {text!r} is not numbers joined by commas, as 1,2,4") from None
