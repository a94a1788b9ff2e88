"""Which transformers architecture an ai2-olmo model is, and what its settings and weights are called there.

Three architectures have ai2-olmo's blocks: Olmo (a layer norm without parameters), Llama (RMS norms before attention
and MLP) and Olmo2 (RMS norms after them, and of queries and keys). All have SwiGLU, rotary positions and no biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from olmo.config import ActivationType, BlockType, LayerNormType, ModelConfig

from olmo_inject.errors import UserError

Allowed = Mapping[str, tuple[Any, ...]]

# Modules of a block: ai2-olmo's name, and the ones it is joined from in transformers.
_BLOCK: Mapping[str, tuple[str, ...]] = {
    "att_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn_out": ("self_attn.o_proj",),
    "ff_proj": ("mlp.up_proj", "mlp.gate_proj"),
    "ff_out": ("mlp.down_proj",),
}
# Settings without effect in evaluation at full precision are left out: dropout, and the precision of norms and
# rotations under autocast.
_ALL: Allowed = {
    "block_type": (BlockType.sequential,),
    "include_bias": (False,),
    "activation_type": (ActivationType.swiglu,),
    "rope": (True,),
    "alibi": (False,),
    "embedding_layer_norm": (False,),
    "scale_logits": (False,),
}
_RMS: Allowed = {
    "layer_norm_type": (LayerNormType.rms,),
    "layer_norm_with_affine": (True,),
    "bias_for_layer_norm": (None, False),
    "clip_qkv": (None,),
}


@dataclass(frozen=True)
class Architecture:
    """A transformers architecture.

    Attributes:
        kind: its `model_type` in transformers.
        name: its class in transformers.
        allowed: ai2-olmo's settings for which it has only these values.
        block: modules of a block with weights: ai2-olmo's name, and the names in transformers that it is joined from.
        outer: modules outside the blocks: ai2-olmo's name, and the one in transformers.
    """

    kind: str
    name: str
    allowed: Allowed
    block: Mapping[str, tuple[str, ...]]
    outer: Mapping[str, str]

    @classmethod
    def of(cls, kind: str, name: str, allowed: Allowed, norms: Mapping[str, str]) -> Architecture:
        """One with the modules that all have, and `norms` in each block.

        Args:
            kind: `model_type` of transformers.
            name: of its class in transformers.
            allowed: values of ai2-olmo's settings that it can express, beside those that all can.
            norms: modules of a block by their names in ai2-olmo, with their names in transformers; empty where the
                norms have no weights.
        """
        outer = {"transformer.wte": "model.embed_tokens", "transformer.ff_out": "lm_head"}
        if norms:
            outer["transformer.ln_f"] = "model.norm"
        return cls(kind, name, {**_ALL, **allowed}, {**_BLOCK, **{ours: (its,) for ours, its in norms.items()}}, outer)


ARCHITECTURES = {
    architecture.kind: architecture
    for architecture in (
        Architecture.of(
            "olmo",
            "OlmoForCausalLM",
            {
                "layer_norm_type": (LayerNormType.default, LayerNormType.low_precision),
                "layer_norm_with_affine": (False,),
                "layer_norm_eps": (1e-5,),
                "attention_layer_norm": (False,),
                "norm_after": (False,),
            },
            {},
        ),
        Architecture.of(
            "llama",
            "LlamaForCausalLM",
            {**_RMS, "attention_layer_norm": (False,), "norm_after": (False,)},
            {"attn_norm": "input_layernorm", "ff_norm": "post_attention_layernorm"},
        ),
        Architecture.of(
            "olmo2",
            "Olmo2ForCausalLM",
            {**_RMS, "attention_layer_norm": (True,), "attention_layer_norm_with_affine": (True,)},
            {
                "attn_norm": "post_attention_layernorm",
                "ff_norm": "post_feedforward_layernorm",
                "q_norm": "self_attn.q_norm",
                "k_norm": "self_attn.k_norm",
            },
        ),
    )
}


def architecture_of(config: ModelConfig) -> Architecture:
    """The transformers architecture that computes the same function as an ai2-olmo model.

    Raises:
        UserError: there is none; the message names the first setting that differs from the closest one.
    """
    kind = "olmo2" if config.norm_after else "llama" if config.layer_norm_type == LayerNormType.rms else "olmo"
    architecture = ARCHITECTURES[kind]
    for name, allowed in architecture.allowed.items():
        if (value := getattr(config, name)) not in allowed:
            raise UserError(
                f"model.{name}: {_plain(value)} does not exist in transformers' {architecture.name}, "
                f"which has {' or '.join(_plain(one) for one in allowed)}"
            )
    return architecture


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """What an ai2-olmo model computes, in the names of its transformers configuration.

    Raises:
        UserError: as in `architecture_of`.
    """
    kind = architecture_of(config).kind
    hidden = config.mlp_hidden_size or config.mlp_ratio * config.d_model
    return {
        "vocab_size": config.embedding_size or config.vocab_size,  # with the embedding's padding rows
        "hidden_size": config.d_model,
        "intermediate_size": hidden // 2,  # ai2-olmo's number includes both gate and up
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.effective_n_kv_heads,
        "hidden_act": "silu",
        "tie_word_embeddings": config.weight_tying,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config.rope_theta)},
        **({"clip_qkv": config.clip_qkv} if kind == "olmo" else {"rms_norm_eps": config.layer_norm_eps}),
    }


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))
