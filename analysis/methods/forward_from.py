"""The upper part of a causal language model: run its last blocks on a residual stream that is put in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from analysis.methods.activations import recorded
from olmo_inject.training.structure import residual_points

ROWS_PER_PASS = 512


class ForwardFrom:
    """Run a model from a given layer on: put in a residual stream, get the logits of the labels.

    Blocks below the layer are not computed. Where the stream covers the second position alone, the first position is
    not computed either: no token attends to a later one, so the blocks' keys and values of the first token do not
    depend on what is put in.

    Args:
        model: a causal language model whose blocks `residual_points` can find.
        labels: tokens whose logits are wanted.
        firsts: tokens that may stand at the first position.

    Attributes:
        model: the model, unchanged.
        depth: its number of blocks.
    """

    def __init__(
        self, model: PreTrainedModel, labels: Integer[np.ndarray, " l"], firsts: Integer[np.ndarray, " f"]
    ) -> None:
        self.model = model
        self._points = residual_points(model)
        self.depth = len(self._points) - 1
        self._wanted = labels, firsts
        device = next(model.parameters()).device
        self._labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        head = model.get_output_embeddings()
        # Only the needed rows of the head are computed: in a small model the whole head costs more than all blocks.
        self._head = head if isinstance(head, nn.Linear) else None
        self._firsts = torch.from_numpy(np.unique(firsts).astype(np.int64)).to(device)
        self._in_tuples = self._which_return_tuples()
        self._past, self._first_stream = self._of_firsts()

    def replica(self) -> ForwardFrom:
        """A copy for another thread, with modules of its own and the same weights (not copied)."""
        kept = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
        return ForwardFrom(copy.deepcopy(self.model, kept), *self._wanted)

    @torch.no_grad()
    def streams(self, tokens: Int64[torch.Tensor, "n t"], start: int) -> Float[torch.Tensor, "layers n s d"]:
        """The residual stream at every layer, from position `start` on. The output head is not computed."""
        parts = []
        with recorded(self._points) as outputs:
            for rows in tokens.split(ROWS_PER_PASS):
                self.model.base_model(input_ids=rows, use_cache=False)
                parts.append(torch.stack([output[:, start:] for output in outputs if output is not None]))
        return torch.cat(parts, dim=1)

    def scores(
        self, layer: int, tokens: Int64[torch.Tensor, "b 2"], stream: Float[torch.Tensor, "b s d"]
    ) -> Float[torch.Tensor, "b l"]:
        """The labels' logits after the second token, from the stream after `layer` blocks (0: the embedding's output).

        Args:
            layer: number of blocks that are skipped.
            tokens: both tokens, for models that also use them outside the stream.
            stream: at both positions, or at the second alone. Gradients flow back to it.

        Returns:
            Logits in float32, one column per label.
        """
        past = None
        if stream.shape[1] == 1:
            which = torch.searchsorted(self._firsts, tokens[:, 0].contiguous())
            if self._past is None:
                stream = torch.cat([self._first_stream[layer, which], stream], dim=1)
            else:
                past, tokens = self._past_of(which, layer), tokens[:, 1:]
        with ExitStack() as stack:
            for point, in_tuple in zip(self._points[: layer + 1], self._in_tuples, strict=False):
                stack.enter_context(_replaced(point, lambda *_, out=(stream,) if in_tuple else stream, **__: out))
            if self._head is not None:
                stack.enter_context(_replaced(self._head, self._label_logits))
            output = self.model(input_ids=tokens, past_key_values=past, use_cache=past is not None)  # pyright: ignore[reportCallIssue]
        logits = output.logits[:, -1].float()
        return logits if self._head is not None else logits[:, self._labels]

    def _label_logits(self, hidden: Float[torch.Tensor, "b t d"]) -> Float[torch.Tensor, "b 1 l"]:
        assert self._head is not None
        bias = None if self._head.bias is None else self._head.bias[self._labels]
        return F.linear(hidden[:, -1:], self._head.weight[self._labels], bias)

    def _past_of(self, which: Int64[torch.Tensor, " b"], layer: int) -> DynamicCache:
        """Keys and values of these first tokens, in a new cache: the model will append the second position to it."""
        assert self._past is not None
        past = copy.copy(self._past)
        past.layers = [copy.copy(of_block) for of_block in self._past.layers]
        for of_block in past.layers[layer:]:  # the layers below only tell the model the number of positions
            assert isinstance(of_block, DynamicLayer)
            of_block.batch_select_indices(which)
        return past

    @torch.no_grad()
    def _of_firsts(self) -> tuple[DynamicCache | None, Float[torch.Tensor, "layers f 1 d"]]:
        """The model's cache after every possible first token, and the residual stream there.

        The cache is None if it holds anything but keys and values, such as the state of a recurrent block.
        """
        with recorded(self._points) as outputs:
            answer = self.model.base_model(input_ids=self._firsts[:, None], use_cache=True)
        past = getattr(answer, "past_key_values", None)
        plain = isinstance(past, DynamicCache) and all(isinstance(layer, DynamicLayer) for layer in past.layers)
        return past if plain else None, torch.stack([output for output in outputs if output is not None])

    @torch.no_grad()
    def _which_return_tuples(self) -> list[bool]:
        tuples: list[bool] = []
        handles = [
            point.register_forward_hook(lambda _, __, output: tuples.append(isinstance(output, tuple)))
            for point in self._points
        ]
        self.model.base_model(input_ids=self._firsts[:1, None], use_cache=False)
        for handle in handles:
            handle.remove()
        return tuples


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """Within the context, replace the module's forward function."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # the instance's attribute; the class's method shows again
