"""Distributed alignment search (Geiger et al. 2023): where, and in how many dimensions, a model holds a value.

At a site, the residual stream after so many blocks at one operand, an orthogonal subspace is trained such that
putting the source's part of it into the base's run gives the label that the base would have with the source's
value. What was found on pairs of train instances is judged on pairs of test instances, among the task's own labels.
"""

from __future__ import annotations

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
from analysis.hooks import changed, last_logits, outputs, untrained
from analysis.results import Method, Tables
from analysis.runs import wilson
from olmo_inject.errors import UserError
from olmo_inject.randomness import bits, integers, key
from olmo_inject.tasks import Task

METHOD = "das"
ROWS_PER_PASS = 512
# At TOK1 the model has read one operand. At TOK2 it may still hold each, or what comes of them.
QUESTIONS = ((TOK1, "first"), (TOK2, "first"), (TOK2, "second"), (TOK2, "result"))
Basis = Float[torch.Tensor, "k d"]


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
    interval, pairs, and nothing: the accuracy of changing nothing.

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

    return Method(METHOD, compute, {**asdict(options), "dimensions": list(options.dimensions)})


def search(model: PreTrainedModel, task: Task, options: Options) -> pd.DataFrame:
    """All sites, variables and dimensions of one task; see `method`.

    Raises:
        UserError: more dimensions than the model is wide.
    """
    width = int(model.config.hidden_size)
    if max(options.dimensions) > width:
        raise UserError(f"--dimensions: {max(options.dimensions)} is more than the model's width {width}")
    rows = []
    for position, variable in QUESTIONS:
        train = draw_pairs(task, variable, task.train_ids, options.pairs, "das train")
        held_out = draw_pairs(task, variable, task.test_ids, options.pairs, "das held out")
        for layer in range(len(residual_points(model))):
            site = Site(layer, position, variable)
            for dimension in options.dimensions:
                start = random_basis(width, dimension, f"{task.name} {layer} {position} {variable}")
                found = align(model, task, site, train, start, options)
                for subspace, basis in (("found", found), ("random", start)):
                    accuracy = interchange_accuracy(model, task, site, held_out, basis)
                    low, high = wilson(accuracy * len(held_out.base), len(held_out.base))
                    about = {"task": task.name, **asdict(site), "dimension": dimension, "subspace": subspace}
                    result = {"accuracy": accuracy, "low": low, "high": high, "pairs": len(held_out.base)}
                    rows.append(about | result | {"nothing": held_out.nothing})
    return pd.DataFrame(rows)


def align(model: PreTrainedModel, task: Task, site: Site, pairs: Pairs, start: Basis, options: Options) -> Basis:
    """Train a subspace at a site; the model is left as it is.

    Args:
        model: whose weights no longer ask for gradients.
        task: whose labels are predicted.
        site: where, and for what.
        pairs: to train on.
        start: orthonormal rows.
        options: updates, batch and learning rate.

    Returns:
        Orthonormal rows that span the subspace.
    """
    model.requires_grad_(False)
    device = next(model.parameters()).device
    projection: Any = skip_init(nn.Linear, start.shape[1], len(start), bias=False)
    with torch.no_grad():
        projection.weight.copy_(start)
    parametrizations.orthogonal(projection.to(device))
    optimizer = torch.optim.Adam(projection.parameters(), options.learning_rate)
    source = source_states(model, site, pairs)
    drawn = integers(key("das updates", task.name, str(site)), options.updates * options.batch, len(pairs.base))
    for chosen in torch.from_numpy(drawn).split(options.batch):
        logits = interchanged(model, site, pairs.base[chosen], source[chosen], projection.weight)
        loss = F.cross_entropy(scores(task, logits), pairs.label[chosen].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return projection.weight.detach().cpu()


def interchange_accuracy(model: PreTrainedModel, task: Task, site: Site, pairs: Pairs, basis: Basis) -> float:
    """The share of pairs on which the run with the source's part of the subspace gives the counterfactual label."""
    source, correct = source_states(model, site, pairs), 0
    with torch.no_grad():
        for rows in torch.arange(len(pairs.base)).split(ROWS_PER_PASS):
            logits = interchanged(model, site, pairs.base[rows], source[rows], basis.to(source.device))
            correct += int((scores(task, logits).argmax(dim=1).cpu() == pairs.label[rows]).sum())
    return correct / len(pairs.base)


def interchanged(
    model: PreTrainedModel,
    site: Site,
    base: Int64[torch.Tensor, "n 2"],
    source: Float[torch.Tensor, "n d"],
    basis: Basis,
) -> Float[torch.Tensor, "n v"]:
    """The last logits on `base` when at the site the part of the stream that lies in the subspace is the source's."""

    def interchange(hidden: torch.Tensor) -> torch.Tensor:
        new = hidden.clone()
        new[:, site.position] += (source - hidden[:, site.position]) @ basis.T @ basis
        return new

    with changed(residual_points(model)[site.layer], interchange):
        return last_logits(model, base.to(source.device))


def source_states(model: PreTrainedModel, site: Site, pairs: Pairs) -> Float[torch.Tensor, "n d"]:
    """The stream at the site in the sources' own runs."""
    device, module = next(model.parameters()).device, residual_points(model)[site.layer]
    parts = [outputs(model, [module], rows.to(device))[1][0] for rows in pairs.source.split(ROWS_PER_PASS)]
    return torch.cat([part[:, site.position] for part in parts])


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
