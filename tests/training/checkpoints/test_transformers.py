"""The mapping to transformers: the same bits, forward and back, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from olmo.config import ActivationType, BlockType, LayerNormType, ModelConfig
from olmo.model import OLMo

from olmo_inject.errors import UserError
from olmo_inject.training.checkpoints.transformers import to_transformers, transformers_weights
from olmo_inject.training.checkpoints.weights import load_weights


def model_config(**changes: Any) -> ModelConfig:
    return ModelConfig(
        d_model=24,
        n_heads=4,
        n_layers=2,
        mlp_ratio=8,
        vocab_size=50,
        embedding_size=128,
        max_sequence_length=12,
        rope=True,
        layer_norm_with_affine=False,
        include_bias=False,
        weight_tying=False,
        attention_dropout=0.1,  # ai2-olmo's defaults: nothing of them in evaluation
        residual_dropout=0.1,
        embedding_dropout=0.1,
        init_std=0.2,  # so that layers matter
        init_device="cpu",
        eos_token_id=0,
        pad_token_id=1,
    ).update_with(**changes)


def olmo(config: ModelConfig, seed: int = 0) -> OLMo:
    """A random model, with norms that have learned something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = OLMo(config).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_f" in name:
                torch.nn.init.uniform_(parameter, 0.5, 2)
    return model


RMS: dict[str, Any] = {"layer_norm_type": LayerNormType.rms, "layer_norm_with_affine": True}
OLMO2: dict[str, Any] = {**RMS, "norm_after": True, "attention_layer_norm": True, "layer_norm_eps": 1e-6}
KINDS: dict[str, dict[str, Any]] = {"olmo": {}, "llama": RMS, "olmo2": OLMO2}
tokens = torch.arange(60).reshape(5, 12) % 50


@pytest.mark.slow
@settings(max_examples=15)
@given(
    width_and_heads=st.sampled_from([(16, 4), (32, 4), (24, 4), (24, 1), (64, 8), (192, 8)]),
    tied=st.booleans(),
    layers=st.sampled_from([1, 2, 4]),
    more=st.sampled_from(
        [{}, {"clip_qkv": 0.3}, {"mlp_hidden_size": 128}, {"rope_theta": 500}, {"embedding_size": None}, RMS, OLMO2]
    ),
)
def test_same_logits_to_the_bit(
    width_and_heads: tuple[int, int], tied: bool, layers: int, more: dict[str, Any]
) -> None:
    width, heads = width_and_heads
    config = model_config(d_model=width, n_heads=heads, weight_tying=tied, n_layers=layers, **more)
    ours = olmo(config)
    theirs = to_transformers(ours.state_dict(), config)
    with torch.no_grad():
        assert torch.equal(theirs(tokens).logits, ours(tokens).logits)


@pytest.mark.parametrize("change", [{"n_kv_heads": 1}, {"n_kv_heads": 2}, {"d_model": 8}, {"mlp_hidden_size": 40}])
def test_narrow_parts_differ_in_rounding_alone(change: dict[str, Any]) -> None:
    # Parts this narrow, or not a multiple of a vector's length, take other instructions than the joined matrix.
    config = model_config(**change)
    ours = olmo(config)
    with torch.no_grad():
        theirs = to_transformers(ours.state_dict(), config)(tokens).logits
        torch.testing.assert_close(theirs, ours(tokens).logits, rtol=1e-5, atol=1e-5)


def test_blocks_in_groups() -> None:
    plain, grouped = model_config(n_layers=4), model_config(n_layers=4, block_group_size=2)
    ours = olmo(plain)
    weights, _ = OLMo(grouped)._make_state_dict_compatible(ours.state_dict())
    with torch.no_grad():
        assert torch.equal(to_transformers(weights, grouped)(tokens).logits, ours(tokens).logits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_same_gradients(tied: bool, kind: str) -> None:
    none = dict.fromkeys(("attention_dropout", "residual_dropout", "embedding_dropout"), 0.0)
    config = model_config(weight_tying=tied, n_layers=1, **none, **KINDS[kind])
    ours = olmo(config)
    theirs = to_transformers(ours.state_dict(), config)
    for model in (ours, theirs):
        model(tokens).logits.square().sum().backward()
    mapped = transformers_weights({name: p.grad for name, p in ours.named_parameters()}, config)
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        # Sums of many terms round by the largest of them, and in another order on another processor.
        torch.testing.assert_close(parameter.grad, mapped[name], rtol=0, atol=1e-5 * mapped[name].abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(tmp_path: Path, kind: str) -> None:
    config = model_config(**KINDS[kind], n_kv_heads=2)
    weights = olmo(config).state_dict()
    theirs = to_transformers(weights, config)
    assert theirs.config.model_type == kind
    theirs.save_pretrained(tmp_path)
    back = load_weights(tmp_path, config)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_theta": 500}, r"has rope_parameters {.*10000.*}; the experiment's `model` has {.*500.*}"),
        ({"layer_norm_eps": 1e-5}, "has rms_norm_eps 1e-06; the experiment's `model` has 1e-05"),
        ({"n_heads": 8, "n_kv_heads": 4}, "has num_attention_heads 4; the experiment's `model` has 8"),
        ({**RMS, "norm_after": False, "attention_layer_norm": False}, "has model_type olmo2; .* has llama"),
        ({"weight_tying": True}, "has tie_word_embeddings False"),
    ],
)
def test_weights_of_a_model_with_other_settings_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = model_config(**OLMO2, n_kv_heads=2)
    to_transformers(olmo(config).state_dict(), config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        load_weights(tmp_path, config.update_with(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_type": BlockType.llama}, "model.block_type: llama does not exist .* which has sequential"),
        ({"layer_norm_type": LayerNormType.rms}, "layer_norm_with_affine: False .* LlamaForCausalLM, which has True"),
        ({**RMS, "clip_qkv": 8.0}, "clip_qkv: 8.0 .* LlamaForCausalLM, which has None"),
        ({**RMS, "attention_layer_norm": True}, "attention_layer_norm: True .* LlamaForCausalLM, which has False"),
        ({**OLMO2, "attention_layer_norm": False}, "attention_layer_norm: False .* Olmo2ForCausalLM, which has True"),
        ({**OLMO2, "layer_norm_type": LayerNormType.default}, "layer_norm_type: default .* Olmo2ForCausalLM"),
        ({"layer_norm_with_affine": True}, "layer_norm_with_affine: True"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps: 1e-06"),
        ({"include_bias": True}, "include_bias: True"),
        ({"activation_type": ActivationType.gelu}, "activation_type: gelu"),
        ({"rope": False, "alibi": True}, "rope: False"),
        ({"attention_layer_norm": True}, "attention_layer_norm: True"),
        ({"embedding_layer_norm": True}, "embedding_layer_norm: True"),
        ({"norm_after": True}, "layer_norm_type: default"),
        ({"scale_logits": True}, "scale_logits: True"),
    ],
)
def test_other_models_are_refused(change: dict[str, Any], message: str) -> None:
    config = model_config()
    weights = olmo(config).state_dict()
    with pytest.raises(UserError, match=message):
        to_transformers(weights, config.update_with(**change))
