"""Under FSDP a model is built one module at a time, with the bits of a whole build."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from olmo.config import FSDPConfig, FSDPWrapStrategy
from olmo.model import OLMo
from ranks import differing, numbers, tiny_config

from benchmarks.fsdp import Allocated
from olmo_inject.training import parallel

pytestmark = pytest.mark.slow

EVERYTHING = {
    "n_layers": 4,
    "block_group_size": 2,
    "include_bias": True,
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": True,
    "attention_layer_norm": True,
    "attention_layer_norm_with_affine": True,
    "embedding_layer_norm": True,
    "rope": False,  # then positions have an embedding
    "init_cutoff_factor": 3.0,
}


def built(strategy: str, wrapping: str | None, model: dict[str, Any]) -> dict[str, np.ndarray]:
    warnings.filterwarnings("ignore", "FSDP will not all-gather parameters for containers", UserWarning)  # groups
    fsdp = FSDPConfig(wrapping_strategy=None if wrapping is None else FSDPWrapStrategy(wrapping))
    config = tiny_config(strategy, fsdp=fsdp)
    config.model = config.model.update_with(**model)
    before = torch.get_rng_state()
    dist_model = parallel.build_model(config, torch.device("cpu"))[1]
    assert torch.equal(torch.get_rng_state(), before)
    return numbers(dist_model)


def peak_and_weights(strategy: str) -> tuple[int, int]:
    """The most bytes while a model of many blocks is built, and those of its weights."""
    config = tiny_config(strategy)
    config.model = config.model.update_with(n_layers=16, init_cutoff_factor=3.0)
    with Allocated() as allocated:
        parallel.build_model(config, torch.device("cpu"))
    weights = OLMo(config.model.update_with(init_device="meta")).num_params()
    return allocated.peak, 4 * weights


@pytest.mark.parametrize("wrapping", [None, *FSDPWrapStrategy])
def test_every_wrapping_gives_the_weights_of_a_whole_build(ranks, wrapping: str | None) -> None:
    whole = ranks.run(1, built, "ddp", None, EVERYTHING)[0]
    assert len(whole) == 4 * 16 + 8
    for world in (1, 2):
        assert differing(ranks.run(world, built, "fsdp", wrapping, EVERYTHING)[0], whole) == []


@pytest.mark.parametrize(
    "model",
    [
        {"weight_tying": True},
        {"init_cutoff_factor": 0.3},
        {"init_fn": "mitchell"},
        {"init_fn": "mitchell", "weight_tying": True, "include_bias": True, "layer_norm_type": "rms"},
        {"init_fn": "full_megatron", "scale_emb_init": True},
        {"init_fn": "full_megatron", "emb_init_std": 0.5, "n_kv_heads": 1},
        {"block_type": "llama", "init_cutoff_factor": 3.0},
        {"rope": False, "alibi": True, "norm_after": True},
    ],
    ids=str,
)
def test_every_initialisation_gives_the_weights_of_a_whole_build(ranks, model: dict[str, Any]) -> None:
    whole = ranks.run(1, built, "ddp", None, model)[0]
    assert differing(ranks.run(2, built, "fsdp", "by_block_and_size", model)[0], whole) == []


def test_a_rank_never_holds_the_whole_model(ranks) -> None:
    for strategy, least, most in (("ddp", 1.0, 3.0), ("fsdp", 0.0, 0.75)):
        for peak, weights in ranks.run(2, peak_and_weights, strategy):
            assert least < peak / weights < most, (strategy, peak / weights)
