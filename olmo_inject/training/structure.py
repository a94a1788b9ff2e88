"""Find the blocks, MLPs and neurons of a transformers model by its structure, whatever the architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from olmo_inject.errors import UserError


def residual_points(model: nn.Module) -> list[nn.Module]:
    """The modules whose outputs are the residual stream: the embedding, then each block.

    Raises:
        UserError: the model has no module list with as many blocks as its configuration says.
    """
    whole: Any = model
    n_layers = getattr(whole.config, "num_hidden_layers", None)
    blocks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    embedding = whole.get_input_embeddings()
    if not blocks or embedding is None:
        raise UserError(f"{type(model).__name__}: cannot tell its blocks, a list of config.num_hidden_layers modules")
    return [embedding, *blocks[0]]


def mlps(model: nn.Module) -> list[nn.Module]:
    """The MLP of every block, from the lowest.

    Raises:
        UserError: the model's blocks cannot be found, or have no `mlp`.
    """
    modules = [getattr(block, "mlp", None) for block in residual_points(model)[1:]]
    if not all(isinstance(mlp, nn.Module) for mlp in modules):
        raise UserError(f"{type(model).__name__}: its blocks have no module called mlp")
    return modules  # pyright: ignore[reportReturnType]


def neuron_parameters(model: nn.Module, layer: int) -> list[torch.Tensor]:
    """The parameters of one MLP's neurons, gated or plain: weights and biases into them, and the weight out of them.

    The first axis of all but the last counts neurons, several times where matrices are joined. The second axis of the
    last, [d_model, neurons], counts them too. The bias after the neurons belongs to none of them.

    Args:
        model: a transformers model.
        layer: index of the block, from 0.

    Raises:
        UserError: there is no such layer, or its MLP consists of something else, such as experts.
    """
    of_blocks = mlps(model)
    if not 0 <= layer < len(of_blocks):
        raise UserError(f"layer {layer} is not in 0..{len(of_blocks) - 1}, the model's layers")
    mlp = of_blocks[layer]
    linears = [module for module in mlp.modules() if isinstance(module, nn.Linear)]
    for out in reversed(linears):  # if there are as many neurons as dimensions, the last one leads out
        into = [linear for linear in linears if linear is not out]
        width, neurons = out.out_features, out.in_features
        fits = all(one.in_features == width and one.out_features % neurons == 0 for one in into)
        if into and fits and _numbers(mlp) == sum(map(_numbers, linears)):
            return [parameter for one in into for parameter in _weight_and_bias(one)] + [out.weight]
    raise UserError(
        f"{type(model).__name__}: cannot tell the neurons of its {type(mlp).__name__}, which is not made of linear "
        "layers into them and one out of them"
    )


def _weight_and_bias(linear: nn.Linear) -> Iterator[torch.Tensor]:
    yield linear.weight
    if linear.bias is not None:
        yield linear.bias


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
