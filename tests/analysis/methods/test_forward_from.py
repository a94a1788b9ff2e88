"""The upper part of a model against the whole of it, on architectures that put their blocks together in other ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from analysis.methods.activations import recorded
from analysis.methods.forward_from import ForwardFrom
from analysis.methods.hooks import changed
from olmo_inject.training.evaluation.tasks import last_logits
from olmo_inject.training.structure import residual_points

BLOCKS, WIDTH = 3, 8
TOKENS = torch.tensor([[3, 7], [9, 3], [11, 20], [9, 9]])
LABELS = np.array([4, 30, 49], np.uint32)
KINDS = ["olmo", "olmo2", "olmo3", "gpt_neox", "qwen3", "gpt2", "gemma2", "llama", "mamba"]


def tiny(kind: str) -> Any:
    """A random model, of weights large enough that each position counts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config: dict[str, Any] = {"vocab_size": 50, "hidden_size": WIDTH, "num_hidden_layers": BLOCKS}
        heads = config | {"num_attention_heads": 2, "intermediate_size": 16, "initializer_range": 0.5}
        if kind == "gpt2":  # learned positions
            shape = GPT2Config(n_layer=BLOCKS, n_head=2, n_embd=WIDTH, vocab_size=50, initializer_range=0.5)
            return GPT2LMHeadModel(shape).eval()
        if kind == "gemma2":  # scales what its embedding says, has windows, caps its logits
            return Gemma2ForCausalLM(Gemma2Config(**heads, num_key_value_heads=2, head_dim=4)).eval()
        if kind == "llama":  # fewer keys than queries
            return LlamaForCausalLM(LlamaConfig(**heads, num_key_value_heads=1)).eval()
        if kind == "mamba":  # keeps a state and no keys
            return MambaForCausalLM(MambaConfig(**config, state_size=4, initializer_range=0.5)).eval()
        if kind == "olmo2":  # norms after attention and MLP
            return Olmo2ForCausalLM(Olmo2Config(**heads)).eval()
        if kind == "olmo3":  # the same with windows in three of four blocks
            return Olmo3ForCausalLM(Olmo3Config(**heads, sliding_window=4)).eval()
        if kind == "gpt_neox":  # attention and MLP read the same stream; a plain MLP with biases
            return GPTNeoXForCausalLM(GPTNeoXConfig(**heads)).eval()
        if kind == "qwen3":  # norms of each head's queries and keys
            return Qwen3ForCausalLM(Qwen3Config(**heads, num_key_value_heads=1, head_dim=4)).eval()
        return OlmoForCausalLM(OlmoConfig(**heads)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", range(BLOCKS + 1))
@pytest.mark.parametrize("position", [0, 1])
def test_the_upper_part_says_what_the_whole_model_does(kind: str, layer: int, position: int) -> None:
    model = tiny(kind).requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    push = torch.linspace(-1, 2, len(TOKENS) * WIDTH).reshape(len(TOKENS), WIDTH).requires_grad_(True)
    points = residual_points(model)

    def pushed(stream: torch.Tensor) -> torch.Tensor:
        both = [stream[:, place] + (push if place == position else 0) for place in (0, 1)]
        return torch.stack(both, dim=1)

    with changed(points[layer], pushed):
        whole = last_logits(model, TOKENS)[:, LABELS.astype(np.int64)]
    upper = ForwardFrom(model, LABELS, TOKENS[:, 0].numpy())
    stream = upper.streams(TOKENS, position)[layer]
    assert stream.shape == (len(TOKENS), 2 - position, WIDTH)
    found = upper.scores(layer, TOKENS, torch.cat([stream[:, :1] + push[:, None], stream[:, 1:]], dim=1))
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
    weights = torch.tensor([1.0, -2.0, 0.5])
    of_whole, of_found = (
        torch.autograd.grad((logits * weights).sum(), push, allow_unused=True)[0] for logits in (whole, found)
    )
    torch.testing.assert_close(of_found, of_whole, rtol=1e-4, atol=1e-5)
    if position == 1 or layer < BLOCKS:
        assert bool((of_found != 0).any(dim=1).all())
    # The model is as it was.
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_position_counts_and_is_not_the_streams(kind: str) -> None:
    model = tiny(kind).requires_grad_(False)
    upper = ForwardFrom(model, LABELS, TOKENS[:, 0].numpy())
    stream = upper.streams(TOKENS, 1)[1]
    others = torch.stack([TOKENS[[1, 2, 3, 0], 0], TOKENS[:, 1]], dim=1)
    with torch.no_grad():
        own, other = (upper.scores(1, tokens, stream) for tokens in (TOKENS, others))
    assert bool(((own - other).abs().amax(dim=1) > 1e-4)[[0, 1, 2, 3]].all())


@pytest.mark.parametrize("layer", range(BLOCKS + 1))
def test_only_what_is_above_and_from_the_position_on_is_computed(layer: int) -> None:
    model = tiny("olmo").requires_grad_(False)
    upper = ForwardFrom(model, LABELS, TOKENS[:, 0].numpy())
    streams = [upper.streams(TOKENS, position)[layer] for position in (0, 1)]
    seen: list[int] = []
    for block in residual_points(model)[1:]:
        block.mlp.register_forward_hook(lambda _, __, output: seen.append(output.shape[1]))
    upper.scores(layer, TOKENS, streams[0])
    assert seen == [2] * (BLOCKS - layer)
    seen.clear()
    upper.scores(layer, TOKENS, streams[1])
    assert seen == [1] * (BLOCKS - layer)


def test_what_is_kept_of_first_tokens_is_left_as_it_was() -> None:
    model = tiny("gemma2").requires_grad_(False)
    upper = ForwardFrom(model, LABELS, TOKENS[:, 0].numpy())
    stream = upper.streams(TOKENS, 1)[2]
    first, again = (upper.scores(2, TOKENS, stream) for _ in range(2))
    assert torch.equal(first, again)
    some = upper.scores(2, TOKENS[2:], stream[2:])
    torch.testing.assert_close(some, first[2:])


def test_a_twin_has_the_same_weights_and_modules_of_its_own() -> None:
    model = tiny("olmo").requires_grad_(False)
    upper = ForwardFrom(model, LABELS, TOKENS[:, 0].numpy())
    twin = upper.replica()
    own, other = dict(model.named_parameters()), dict(twin.model.named_parameters())
    assert own.keys() == other.keys()
    assert all(own[name] is other[name] for name in own)
    assert not {id(module) for module in model.modules()} & {id(module) for module in twin.model.modules()}
    stream = upper.streams(TOKENS, 1)[1]
    assert torch.equal(upper.scores(1, TOKENS, stream), twin.scores(1, TOKENS, stream))
    with recorded(residual_points(model)) as untouched:
        twin.scores(1, TOKENS, stream)
    assert untouched == [None] * (BLOCKS + 1)
