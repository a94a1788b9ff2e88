"""Where a causal language model can be read and changed: its blocks, their MLPs and the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from olmo_inject.errors import UserError

Hidden = Float[torch.Tensor, "b t d"]


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The model's blocks, from below, as most causal language models call them.

    Raises:
        UserError: they are called something else, or have no `mlp`.
    """
    base = model.base_model
    for name in ("layers", "h"):
        found = getattr(base, name, None)
        if isinstance(found, nn.ModuleList) and all(hasattr(block, "mlp") for block in found):
            return list(found)
    raise UserError(f"a {type(model).__name__} keeps its blocks or their MLPs under names that are not known here")


def mlps(model: PreTrainedModel) -> list[nn.Module]:
    """The MLP of every block, from below.

    Raises:
        UserError: as `blocks`.
    """
    return [block.mlp for block in blocks(model)]  # pyright: ignore[reportReturnType]


def residual(model: PreTrainedModel, layer: int) -> nn.Module:
    """What puts out the residual stream after `layer` blocks; 0 is the embedding."""
    return blocks(model)[layer - 1] if layer else model.get_input_embeddings()


@contextmanager
def changed(module: nn.Module, change: Callable[[Hidden], Hidden | None]) -> Iterator[None]:
    """Within the context, the module puts out `change` of its output, or the same where that is None."""

    def hook(_: nn.Module, __: object, output: Hidden | tuple[Hidden, ...]) -> object:
        hidden = output[0] if isinstance(output, tuple) else output
        new = change(hidden)
        if new is None:
            return output
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def last_logits(model: PreTrainedModel, tokens: Int64[torch.Tensor, "b t"]) -> Float[torch.Tensor, "b v"]:
    """What the model says after the last token."""
    return model(input_ids=tokens, use_cache=False).logits[:, -1].float()  # pyright: ignore[reportCallIssue]


def outputs(
    model: PreTrainedModel, modules: list[nn.Module], tokens: Int64[torch.Tensor, "b t"]
) -> tuple[Float[torch.Tensor, "b v"], list[Hidden]]:
    """The logits after the last token, and what each of `modules` put out, in one pass without gradients."""
    kept: dict[int, Hidden] = {}

    def keep(number: int) -> Callable[[Hidden], None]:
        return lambda hidden: kept.update({number: hidden.detach()})

    contexts = [changed(module, keep(number)) for number, module in enumerate(modules)]
    with torch.no_grad():
        for context in contexts:
            context.__enter__()
        try:
            logits = last_logits(model, tokens)
        finally:
            for context in contexts:
                context.__exit__(None, None, None)
    return logits, [kept[number] for number in range(len(modules))]


def untrained(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same shape with random weights, the same ones each time: a control."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = AutoModelForCausalLM.from_config(model.config)
    return fresh.float().eval().to(device)
