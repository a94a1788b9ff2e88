"""Activations of a task's tokens: the residual stream at every layer and position, from one forward pass.

Layer 0 is the embedding, layer l the output of block l - 1. A task's tokens stand for values (token i of the task
for value i), so a site is a position of the instance and which value is read there: TOK1's at TOK1 and at TOK2, TOK2's
at TOK2, and the LABEL's at LABEL where it is a value too. Activations are averaged over all instances with the same
value, so each mean belongs to one token and, in a model that knows nothing of the values, to any value alike. Left out
is what does not have that property: at LABEL, a comparison's answer is on average in the order of the operands in any
model; at TOK2, means over all pairs of one sum are convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import nn
from transformers import PreTrainedModel

from olmo_inject.errors import UserError
from olmo_inject.tasks import LABEL_POSITION, Task

TOKENS = ("TOK1", "TOK2", "LABEL")
INSTANCES_PER_PASS = 1024


@dataclass(frozen=True)
class Site:
    """Where in an instance activations are taken, and as a function of which value.

    Attributes:
        position: 0 to 2.
        variable: which token's value, 0 to 2 as in `TOKENS`.
    """

    position: int
    variable: int

    @property
    def name(self) -> str:
        """For people: `TOK1 at TOK2`."""
        return f"{TOKENS[self.variable]} at {TOKENS[self.position]}"


@dataclass(frozen=True)
class Activations:
    """Mean activations at one site.

    Attributes:
        site: where.
        means: by layer, value and coordinate.
    """

    site: Site
    means: Float64[np.ndarray, "layers values d_model"]


def residual_points(model: PreTrainedModel) -> list[nn.Module]:
    """The modules whose outputs are the residual stream: the embedding, then each block.

    Raises:
        UserError: the model has no list of blocks as long as its configuration says.
    """
    n_layers = getattr(model.config, "num_hidden_layers", None)
    blocks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    embedding = model.get_input_embeddings()
    if not blocks or embedding is None:
        raise UserError(f"{type(model).__name__}: cannot tell its blocks, a list of config.num_hidden_layers modules")
    return [embedding, *blocks[0]]


@contextmanager
def recorded(points: Sequence[nn.Module]) -> Iterator[list[torch.Tensor | None]]:
    """Within the context, the last output of each module; of one that returns a tuple, its first."""
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


def sites_of(task: Task) -> list[Site]:
    """The sites of a task, by position."""
    sites = [Site(0, 0), Site(1, 0), Site(1, 1)]
    if np.isin(task.label_tokens, operands(task)).all():
        sites.append(Site(LABEL_POSITION, LABEL_POSITION))
    return sites


def operands(task: Task) -> np.ndarray:
    """The tokens that stand for values: those that occur as an operand, in the order of their values."""
    return task.tokens[np.isin(task.tokens, task.instances[:, :LABEL_POSITION])]


@torch.no_grad()
def activations(model: PreTrainedModel, task: Task, points: Sequence[nn.Module] | None = None) -> list[Activations]:
    """The mean activation of every value at every site and layer, over all instances of the task.

    Args:
        model: in evaluation mode; its head is not computed.
        task: the task; its tokens must be in the model's vocabulary.
        points: whose outputs to take as layers; `residual_points(model)` by default.

    Raises:
        UserError: the vocabulary is too small, or as `residual_points`.
    """
    vocabulary = model.config.vocab_size
    if (largest := int(task.instances.max())) >= vocabulary:
        raise UserError(f"{task.name} has token {largest}, the model's vocabulary ends at {vocabulary - 1}")
    points = residual_points(model) if points is None else points
    tokens, values = task.instances.astype(np.int64), values_of(task)
    sites, sums = sites_of(task), list[torch.Tensor | None]()
    with recorded(points) as outputs:
        for start in range(0, len(tokens), INSTANCES_PER_PASS):
            chunk = slice(start, start + INSTANCES_PER_PASS)
            model.base_model(input_ids=torch.from_numpy(tokens[chunk]).to(model.device), use_cache=False)
            stream = torch.stack([output for output in outputs if output is not None])
            sums = sums or [None] * len(sites)
            for number, site in enumerate(sites):
                of_value = _sum_by(stream[:, :, site.position], values[chunk, site.variable], len(operands(task)))
                sums[number] = of_value if (before := sums[number]) is None else before + of_value
    counts = [np.bincount(values[:, site.variable], minlength=len(operands(task))) for site in sites]
    return [
        Activations(site, total.cpu().numpy() / np.maximum(count, 1)[:, None])
        for site, total, count in zip(sites, sums, counts, strict=True)
        if total is not None
    ]


def values_of(task: Task) -> Int64[np.ndarray, "n 3"]:
    """The value of each token of each instance; -1 for a LABEL that stands for none."""
    values = np.full(int(max(task.tokens.max(), task.instances.max())) + 1, -1)
    values[operands(task)] = np.arange(len(operands(task)))
    return values[task.instances.astype(np.int64)]


def _sum_by(
    stream: Float[torch.Tensor, "layers rows d_model"], values: Int64[np.ndarray, " rows"], n: int
) -> Float[torch.Tensor, "layers {n} d_model"]:
    """The sum over rows of each value, in float64 and in a fixed order of rows."""
    sums = torch.zeros(len(stream), n, stream.shape[2], dtype=torch.float64, device=stream.device)
    return sums.index_add_(1, torch.from_numpy(values).to(stream.device), stream.double())
