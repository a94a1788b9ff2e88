"""Activations of a task's tokens: the residual stream at every layer and position, from one forward pass.

Layer 0 is the embedding; layer l is the output of block l - 1. Token i of a task stands for value i. A site is a
position in the instance and the token whose value is read there: TOK1 at TOK1, TOK1 at TOK2, TOK2 at TOK2, and LABEL at
LABEL if the label is also a value. Two sites are left out. A comparison's answer at LABEL is an operand, whose mean
activation lies in the order of the operands in any model. An addition's answer at TOK2 is a mean over all pairs with
one sum, which is a convolution in any model.

A plain mean over all instances with one value also carries their labels. In a comparison, the label is "less" more
often for larger values, so the plain means lie in order even in a model that learned every pair by heart and knows no
order. A value's balanced activation removes this: a least-squares fit writes each activation as a sum of a part for the
value of TOK1, a part for the value of TOK2 and a part for LABEL, and the value's own part is kept. (Means within each
label would not do: among pairs with one label, the other operand still depends on the value.) Where every value meets
every label equally often, as in modular addition, balanced and plain activations are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import nn
from transformers import PreTrainedModel

from olmo_inject.errors import UserError
from olmo_inject.tasks import LABEL_POSITION, Task
from olmo_inject.training.structure import residual_points

TOKENS = ("TOK1", "TOK2", "LABEL")
INSTANCES_PER_PASS = 1024


@dataclass(frozen=True)
class ProbePosition:
    """A position in an instance, and the token whose value is read there.

    Attributes:
        position: where activations are taken, 0 to 2.
        variable: the token whose value is read, 0 to 2, an index of `TOKENS`.
    """

    position: int
    variable: int

    @property
    def name(self) -> str:
        """The site's name in tables and figures, such as `TOK1 at TOK2`."""
        return f"{TOKENS[self.variable]} at {TOKENS[self.position]}"


@dataclass(frozen=True)
class Activations:
    """Activations of each value at one site.

    Attributes:
        site: the position and the token whose value is read.
        means: plain mean over all instances with the value.
        balanced: the value's part alone, without those of the label and the other operand.
        separable: whether the value occurs with more than one label, so that value and label can be separated. True for
            every value at sites other than TOK2.
    """

    site: ProbePosition
    means: Float64[np.ndarray, "layers values d_model"]
    balanced: Float64[np.ndarray, "layers values d_model"]
    separable: Bool[np.ndarray, " values"]


@contextmanager
def recorded(points: Sequence[nn.Module]) -> Iterator[list[torch.Tensor | None]]:
    """Within the context, record the last output of each module: a tensor, or the first item of a tuple."""
    outputs: list[torch.Tensor | None] = [None] * len(points)

    def keep(number: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[number] = output if isinstance(output, torch.Tensor) else output[0]

        return hook

    handles = [point.register_forward_hook(keep(number)) for number, point in enumerate(points)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def sites_of(task: Task) -> list[ProbePosition]:
    """The sites of a task, by position."""
    sites = [ProbePosition(0, 0), ProbePosition(1, 0), ProbePosition(1, 1)]
    if np.isin(task.label_tokens, value_tokens(task)).all():
        sites.append(ProbePosition(LABEL_POSITION, LABEL_POSITION))
    return sites


def value_tokens(task: Task) -> np.ndarray:
    """The tokens that stand for values (those that occur as an operand), in the order of their values."""
    return task.tokens[np.isin(task.tokens, task.triples[:, :LABEL_POSITION])]


@torch.no_grad()
def activations(model: PreTrainedModel, task: Task, points: Sequence[nn.Module] | None = None) -> list[Activations]:
    """The activation of every value at every site and layer, over all instances of the task.

    Args:
        model: in evaluation mode; the output head is not computed.
        task: all its tokens must be in the model's vocabulary.
        points: modules whose outputs count as layers; `residual_points(model)` by default.

    Raises:
        UserError: the vocabulary is too small, or the model's blocks cannot be found.
    """
    check_vocabulary(model, task)
    points = residual_points(model) if points is None else points
    tokens, values, n = task.triples.astype(np.int64), values_of(task), len(value_tokens(task))
    labels = np.unique(task.labels, return_inverse=True)[1]
    groups = {site: values[:, site.variable] for site in sites_of(task)} | {_LABELS: labels}
    sizes = {site: n if site is not _LABELS else int(labels.max()) + 1 for site in groups}
    inputs = torch.from_numpy(tokens).to(model.device)
    on_device = {site: torch.from_numpy(of).to(model.device) for site, of in groups.items()}
    sums: dict[ProbePosition, torch.Tensor] = {}
    with recorded(points) as outputs:
        for start in range(0, len(tokens), INSTANCES_PER_PASS):
            chunk = slice(start, start + INSTANCES_PER_PASS)
            model.base_model(input_ids=inputs[chunk], use_cache=False)
            stream = torch.stack([output for output in outputs if output is not None])
            for site, of in on_device.items():
                more = _sum_by(stream[:, :, site.position], of[chunk], sizes[site])
                sums[site] = sums[site] + more if site in sums else more
    together = torch.cat([sums[site] for site in groups], dim=1).cpu().numpy()  # in one copy from the device
    totals = dict(zip(groups, np.split(together, np.cumsum(list(sizes.values()))[:-1], axis=1), strict=True))
    parts = _parts([groups[site] for site in _AT_TOK2], [totals[site] for site in _AT_TOK2])
    balanced = dict(zip(_AT_TOK2, parts, strict=True))
    of_sites = []
    for site in sites_of(task):
        means = totals[site] / np.maximum(np.bincount(groups[site], minlength=n), 1)[:, None]
        even, separable = means, np.ones(n, bool)
        if site in balanced:
            pairs = np.unique(np.stack([groups[site], labels]), axis=1)
            even, separable = balanced[site], np.bincount(pairs[0], minlength=n) > 1
        of_sites.append(Activations(site, means, even, separable))
    return of_sites


_LABELS = ProbePosition(1, LABEL_POSITION)  # the value of LABEL, read at TOK2
_AT_TOK2 = (ProbePosition(1, 0), ProbePosition(1, 1), _LABELS)


def _parts(
    groups: Sequence[Int64[np.ndarray, " n"]], sums: Sequence[Float64[np.ndarray, "layers _ d_model"]]
) -> list[Float64[np.ndarray, "layers _ d_model"]]:
    """What each group adds to the activation, by least squares over instances, plus the mean of all instances.

    Args:
        groups: for each way of grouping, the group of every instance.
        sums: for each way of grouping, the sum of activations in each group.
    """
    ends = np.cumsum([total.shape[1] for total in sums])
    columns = np.stack([group + end - total.shape[1] for group, end, total in zip(groups, ends, sums, strict=True)])
    together = np.zeros((ends[-1], ends[-1]))  # number of instances that two groups share
    for one in columns:
        for other in columns:
            np.add.at(together, (one, other), 1)
    solved = np.linalg.pinv(together, rcond=1e-9, hermitian=True) @ np.concatenate(sums, axis=1)
    mean = sums[0].sum(axis=1, keepdims=True) / len(groups[0])
    return [part - part.mean(axis=1, keepdims=True) + mean for part in np.split(solved, ends[:-1], axis=1)]


def check_vocabulary(model: PreTrainedModel, task: Task) -> None:
    """Check that the model's vocabulary holds every token of the task.

    Raises:
        UserError: it does not; the message names the largest token.
    """
    vocabulary = model.config.vocab_size
    if (largest := int(task.instances.values.max())) >= vocabulary:
        raise UserError(f"{task.name} has token {largest}, the model's vocabulary ends at {vocabulary - 1}")


def values_of(task: Task) -> Int64[np.ndarray, "n 3"]:
    """The value of each token of each instance; -1 for a LABEL that is not a value."""
    values = np.full(int(max(task.tokens.max(), task.triples.max())) + 1, -1)
    values[value_tokens(task)] = np.arange(len(value_tokens(task)))
    return values[task.triples.astype(np.int64)]


def _sum_by(
    stream: Float[torch.Tensor, "layers rows d_model"], values: Int64[torch.Tensor, " rows"], n: int
) -> Float[torch.Tensor, "layers {n} d_model"]:
    """Sum the rows of each value, in float64 and in a fixed order of rows."""
    sums = torch.zeros(len(stream), n, stream.shape[2], dtype=torch.float64, device=stream.device)
    return sums.index_add_(1, values, stream.double())
