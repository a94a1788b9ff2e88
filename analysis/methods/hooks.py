"""Changing what modules of a causal language model put out, and what it then says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from analysis.methods.activations import recorded, residual_points
from olmo_inject.errors import UserError

Hidden = Float[torch.Tensor, "b t d"]


def mlps(model: PreTrainedModel) -> list[nn.Module]:
    """The MLP of every block, from below.

    Raises:
        UserError: the blocks cannot be told, or have no `mlp`.
    """
    found = [getattr(block, "mlp", None) for block in residual_points(model)[1:]]
    if not all(isinstance(mlp, nn.Module) for mlp in found):
        raise UserError(f"{type(model).__name__}: its blocks have no module called mlp")
    return found  # pyright: ignore[reportReturnType]


@contextmanager
def changed(module: nn.Module, change: Callable[[Hidden], Hidden]) -> Iterator[None]:
    """Within the context, the module puts out `change` of its output."""

    def hook(_: nn.Module, __: object, output: Hidden | tuple[Hidden, ...]) -> object:
        if isinstance(output, tuple):
            return change(output[0]), *output[1:]
        return change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def last_logits(model: PreTrainedModel, tokens: Int64[torch.Tensor, "b t"]) -> Float[torch.Tensor, "b v"]:
    """What the model says after the last token; logits of no other are computed where the model can be told so."""
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    return model(input_ids=tokens, use_cache=False, **keep).logits[:, -1].float()  # pyright: ignore[reportCallIssue]


def outputs(
    model: PreTrainedModel, modules: list[nn.Module], tokens: Int64[torch.Tensor, "b t"]
) -> tuple[Float[torch.Tensor, "b v"], list[Hidden]]:
    """The logits after the last token, and what each of `modules` put out, in one pass without gradients."""
    with torch.no_grad(), recorded(modules) as kept:
        logits = last_logits(model, tokens)
    assert all(output is not None for output in kept)
    return logits, kept  # pyright: ignore[reportReturnType]


def untrained(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """A model of the same shape with random weights, the same ones each time: a control."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(model.config)
    return fresh.float().eval().to(device)
