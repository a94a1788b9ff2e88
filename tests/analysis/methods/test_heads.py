"""Which models' heads the gradients can go through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Olmo2Config

from analysis.methods.gradients import _check_head
from olmo_inject.errors import UserError

SHAPE: dict[str, Any] = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 16, "num_key_value_heads": 2, "initializer_range": 0.5}


def test_logits_that_are_capped_are_refused() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = AutoModelForCausalLM.from_config(Olmo2Config(**SHAPE)).eval()
        capped = AutoModelForCausalLM.from_config(Gemma2Config(**SHAPE, head_dim=4, final_logit_softcapping=1.0)).eval()
    _check_head(plain)
    with pytest.raises(UserError, match="Gemma2ForCausalLM: its logits are not a matrix times the last hidden state"):
        _check_head(capped)
