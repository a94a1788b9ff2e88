"""Changing what modules of a causal language model put out, and what it then says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from analysis.activations import recorded, residual_points
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
    """What the model says after the last token."""
    return model(input_ids=tokens, use_cache=False).logits[:, -1].float()  # pyright: ignore[reportCallIssue]


def outputs(
    model: PreTrainedModel, modules: list[nn.Module], tokens: Int64[torch.Tensor, "b t"]
) -> tuple[Float[torch.Tensor, "b v"], list[Hidden]]:
    """The logits after the last token, and what each of `modules` put out, in one pass without gradients."""
    with torch.no_grad(), recorded(modules) as kept:
        logits = last_logits(model, tokens)
    assert all(output is not None for output in kept)
    return logits, kept  # pyright: ignore[reportReturnType]


class UpperPart:
    """What a model says of a residual stream that is put in after so many of its blocks; those are not computed.

    Args:
        model: any whose blocks can be told.
        labels: the tokens whose logits are asked for.
    """

    def __init__(self, model: PreTrainedModel, labels: Integer[np.ndarray, " l"]) -> None:
        self._model = model
        self._points = residual_points(model)
        device = next(model.parameters()).device
        self._labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        head = model.get_output_embeddings()
        # The rows of the head that are needed: of a small model the whole head costs more than all blocks.
        self._head = head if isinstance(head, nn.Linear) else None
        self._in_tuples = self._which_return_tuples(self._labels[:1, None])

    def scores(
        self, layer: int, tokens: Int64[torch.Tensor, "b t"], stream: Float[torch.Tensor, "b t d"]
    ) -> Float[torch.Tensor, "b l"]:
        """The labels' logits after the last token, of the stream after `layer` blocks (0: the embedding's output).

        Args:
            layer: how many blocks are left out.
            tokens: that the stream is of, for models that look at them elsewhere too.
            stream: gradients flow back to it.
        """
        with ExitStack() as stack:
            for point, in_tuple in zip(self._points[: layer + 1], self._in_tuples, strict=False):
                stack.enter_context(_replaced(point, lambda *_, out=(stream,) if in_tuple else stream, **__: out))
            if self._head is not None:
                stack.enter_context(_replaced(self._head, self._label_logits))
            logits = last_logits(self._model, tokens)
        return logits if self._head is not None else logits[:, self._labels]

    def _label_logits(self, hidden: Float[torch.Tensor, "b t d"]) -> Float[torch.Tensor, "b 1 l"]:
        assert self._head is not None
        bias = None if self._head.bias is None else self._head.bias[self._labels]
        return F.linear(hidden[:, -1:], self._head.weight[self._labels], bias)

    @torch.no_grad()
    def _which_return_tuples(self, tokens: Int64[torch.Tensor, "1 1"]) -> list[bool]:
        found: list[bool] = []
        handles = [
            point.register_forward_hook(lambda _, __, output: found.append(isinstance(output, tuple)))
            for point in self._points
        ]
        last_logits(self._model, tokens)
        for handle in handles:
            handle.remove()
        return found


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """Within the context, the module computes `forward` instead of its own."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # of the instance: its class's is there again


def untrained(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """A model of the same shape with random weights, the same ones each time: a control."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(model.config)
    return fresh.float().eval().to(device)
