"""Convert an ai2-olmo model to transformers (Olmo, Llama or Olmo2) with the same logits, on a CPU bit for bit.

(The last bits differ if a joined matrix has parts narrower than 16, or a number of neurons such as 48 that vector
instructions do not divide: the CPU computes the parts by other instructions than the whole.)

`weights.load_weights` converts the other way. `architectures` says which models can be converted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from olmo.config import ModelConfig
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from olmo_inject.training.checkpoints.architectures import architecture_of, settings_of
from olmo_inject.training.checkpoints.weights import Weights


def transformers_config(config: ModelConfig) -> PreTrainedConfig:
    """The transformers configuration of an ai2-olmo model.

    Raises:
        UserError: as in `architecture_of`.
    """
    return AutoConfig.for_model(
        architecture_of(config).kind,
        **settings_of(config),
        max_position_embeddings=config.max_sequence_length,
        pad_token_id=config.pad_token_id,
        bos_token_id=None,
        eos_token_id=config.eos_token_id,
    )


def transformers_weights(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> Weights:
    """The same weights under transformers' names: `att_proj` split into q, k, v, `ff_proj` into up and gate.

    Args:
        weights: under ai2-olmo's names, as `load_weights` returns them; the result shares their memory.
        config: configuration of their model.
    """
    architecture, ours = architecture_of(config), dict(weights)
    head = config.d_model // config.n_heads
    heads = [config.d_model, *[config.effective_n_kv_heads * head] * 2]
    theirs: Weights = {}
    for name, their_name in architecture.outer.items():
        tied = name == "transformer.ff_out" and config.weight_tying
        theirs[f"{their_name}.weight"] = theirs["model.embed_tokens.weight"] if tied else ours.pop(f"{name}.weight")
    for layer in range(config.n_layers):
        prefix = f"transformer.blocks.{layer}"
        if config.block_group_size > 1:
            group, member = divmod(layer, config.block_group_size)
            prefix = f"transformer.block_groups.{group}.{member}"
        for name, parts in architecture.block.items():
            joined = ours.pop(f"{prefix}.{name}.weight")
            split = joined.split(heads) if len(parts) == len(heads) else joined.chunk(len(parts))
            theirs |= {f"model.layers.{layer}.{part}.weight": one for part, one in zip(parts, split, strict=True)}
    assert not ours, f"weights that the architecture has no place for: {sorted(ours)}"
    return theirs


def to_transformers(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> PreTrainedModel:
    """A transformers model on the CPU, in evaluation mode and float32, with the same function as the OLMo model.

    Args:
        weights: under ai2-olmo's names, fitting `config`. Float32 tensors are shared with the model, not copied.
        config: ai2-olmo's configuration.

    Raises:
        UserError: as in `architecture_of`.
    """
    theirs = transformers_config(config)
    with torch.device("meta"):  # initial weights would only be replaced
        model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(theirs)](theirs)
    shared = {name: tensor.float() for name, tensor in transformers_weights(weights, config).items()}
    model.load_state_dict(shared, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(theirs)  # its frequencies are computed, not loaded
    model.model.embed_tokens.padding_idx = None  # ai2-olmo gives the padding token a gradient like any other
    return model.eval()
