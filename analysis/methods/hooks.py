"""Change the outputs of a model's modules, and read its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from analysis.methods.activations import recorded
from olmo_inject.training.evaluation.tasks import last_logits

Hidden = Float[torch.Tensor, "b t d"]


@contextmanager
def changed(module: nn.Module, change: Callable[[Hidden], Hidden]) -> Iterator[None]:
    """Within the context, pass the module's output through `change`."""

    def hook(_: nn.Module, __: object, output: Hidden | tuple[Hidden, ...]) -> object:
        if isinstance(output, tuple):
            return change(output[0]), *output[1:]
        return change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def outputs(
    model: PreTrainedModel, modules: list[nn.Module], tokens: Int64[torch.Tensor, "b t"]
) -> tuple[Float[torch.Tensor, "b v"], list[Hidden]]:
    """The logits after the last token, and the output of each of `modules`, from one pass without gradients.

    Args:
        model: in evaluation mode.
        modules: modules of the model whose outputs are hidden states.
        tokens: input tokens.
    """
    with torch.no_grad(), recorded(modules) as kept:
        logits = last_logits(model, tokens)
    assert all(output is not None for output in kept)
    return logits, kept  # pyright: ignore[reportReturnType]


def untrained(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """A control model: the same shape with random weights, the same ones for the same seed."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(model.config)
    return fresh.float().eval().to(device)
