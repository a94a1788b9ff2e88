"""Convert an ai2-olmo model to a transformers `OlmoForCausalLM` with the same logits, on a CPU bit for bit.

(The last bits differ if a joined matrix has parts narrower than 16, or a number of neurons such as 48 that vector
instructions do not divide: the CPU computes the parts by other instructions than the whole.)

`weights.load_weights` converts the other way. Other architectures are refused: transformers' Olmo has pre-norm blocks,
a layer norm without parameters, SwiGLU, rotary positions and no biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from olmo.config import ActivationType, BlockType, LayerNormType, ModelConfig
from transformers import OlmoConfig, OlmoForCausalLM
from transformers.models.olmo.modeling_olmo import OlmoRotaryEmbedding

from olmo_inject.errors import UserError
from olmo_inject.training.checkpoints.weights import Weights

# Settings for which transformers' Olmo has only one value. Those without effect in evaluation at full precision are
# left out: dropout, and the precision of norms and rotations under autocast.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "block_type": (BlockType.sequential,),
    "layer_norm_type": (LayerNormType.default, LayerNormType.low_precision),
    "layer_norm_with_affine": (False,),
    "layer_norm_eps": (1e-5,),
    "include_bias": (False,),
    "activation_type": (ActivationType.swiglu,),
    "rope": (True,),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "embedding_layer_norm": (False,),
    "norm_after": (False,),
    "scale_logits": (False,),
}


def transformers_config(config: ModelConfig) -> OlmoConfig:
    """The transformers configuration of an ai2-olmo model. `vocab_size` includes the embedding's padding rows.

    Raises:
        UserError: transformers' Olmo cannot be this model; the message names the first setting that differs.
    """
    for name, allowed in _FIXED.items():
        if (value := getattr(config, name)) not in allowed:
            raise UserError(
                f"model.{name}: {_plain(value)} does not exist in transformers' OlmoForCausalLM, "
                f"which has {' or '.join(_plain(one) for one in allowed)}"
            )
    hidden = config.mlp_hidden_size or config.mlp_ratio * config.d_model
    return OlmoConfig(
        vocab_size=config.embedding_size or config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=hidden // 2,  # ai2-olmo's number includes both gate and up
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.effective_n_kv_heads,
        max_position_embeddings=config.max_sequence_length,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        tie_word_embeddings=config.weight_tying,
        clip_qkv=config.clip_qkv,
        rope_parameters={"rope_type": "default", "rope_theta": float(config.rope_theta)},
    )


def transformers_weights(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> Weights:
    """The same weights under transformers' names: `att_proj` split into q, k, v, `ff_proj` into up and gate.

    Args:
        weights: under ai2-olmo's names, as `load_weights` returns them; the result shares their memory.
        config: configuration of their model.

    """
    head = config.d_model // config.n_heads
    widths = [config.d_model, *[config.effective_n_kv_heads * head] * 2]
    blocks = dict(weights)
    theirs = {"model.embed_tokens.weight": blocks.pop("transformer.wte.weight")}
    theirs["lm_head.weight"] = blocks.pop("transformer.ff_out.weight", theirs["model.embed_tokens.weight"])
    for layer in range(config.n_layers):
        prefix = f"transformer.blocks.{layer}"
        if config.block_group_size > 1:
            group, member = divmod(layer, config.block_group_size)
            prefix = f"transformer.block_groups.{group}.{member}"
        q, k, v = blocks.pop(f"{prefix}.att_proj.weight").split(widths)
        up, gate = blocks.pop(f"{prefix}.ff_proj.weight").chunk(2)
        parts = {
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": blocks.pop(f"{prefix}.attn_out.weight"),
            "mlp.up_proj": up,
            "mlp.gate_proj": gate,
            "mlp.down_proj": blocks.pop(f"{prefix}.ff_out.weight"),
        }
        theirs |= {f"model.layers.{layer}.{name}.weight": part for name, part in parts.items()}
    assert not blocks, f"weights that the architecture has no place for: {sorted(blocks)}"
    return theirs


def to_transformers(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> OlmoForCausalLM:
    """An OlmoForCausalLM on the CPU, in evaluation mode and float32, that computes the same function as the OLMo model.

    Args:
        weights: under ai2-olmo's names, fitting `config`. Float32 tensors are shared with the model, not copied.
        config: ai2-olmo's configuration.

    Raises:
        UserError: transformers' Olmo cannot be this model.
    """
    theirs = transformers_config(config)
    with torch.device("meta"):  # initial weights would only be replaced
        model = OlmoForCausalLM(theirs)
    shared = {name: tensor.float() for name, tensor in transformers_weights(weights, config).items()}
    model.load_state_dict(shared, assign=True)
    model.tie_weights()
    model.model.rotary_emb = OlmoRotaryEmbedding(theirs)  # its frequencies are computed, not loaded
    model.model.embed_tokens.padding_idx = None  # ai2-olmo gives the padding token a gradient like any other
    return model.eval()


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))
