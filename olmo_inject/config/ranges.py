"""The allowed numbers and words of each setting, ai2-olmo's and ours.

OmegaConf checks the types first. ai2-olmo itself checks few values, by asserts deep inside a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from olmo_inject.errors import UserError
from olmo_inject.utils.number_ranges import COUNT, FROM_0, INT32, MOST_ROWS, NOT_NEGATIVE, NUMBER, SHARE, Range
from olmo_inject.utils.options import WORDS

PRECISIONS = ("fp32", "amp_bf16")  # not amp_fp16: ai2-olmo does not scale its gradients, so they underflow
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

RANGES = {
    "model.d_model": COUNT,
    "model.n_heads": COUNT,
    "model.n_kv_heads": COUNT,
    "model.clip_qkv": NUMBER,
    "model.n_layers": COUNT,
    "model.mlp_ratio": COUNT,
    "model.mlp_hidden_size": COUNT,
    "model.block_group_size": COUNT,
    "model.alibi_bias_max": NUMBER,
    "model.rope_theta": Range(1, 2**53),  # it is converted to a float
    "model.attention_dropout": SHARE,
    "model.residual_dropout": SHARE,
    "model.embedding_dropout": SHARE,
    "model.layer_norm_eps": NUMBER,
    "model.max_sequence_length": COUNT,
    "model.vocab_size": COUNT,
    "model.embedding_size": COUNT,
    "model.init_std": NUMBER,
    "model.init_cutoff_factor": NUMBER,
    "model.emb_init_std": NUMBER,
    "train.seed": Range(-(2**63), 2**63 - 1),
    "train.optimizer.learning_rate": NUMBER,
    "train.optimizer.weight_decay": NOT_NEGATIVE,
    "train.optimizer.betas": SHARE,
    "train.optimizer.eps": NUMBER,
    "train.scheduler.t_warmup": NOT_NEGATIVE,
    "train.scheduler.t_max": NUMBER,
    "train.scheduler.alpha_f": NOT_NEGATIVE,
    "train.scheduler.grad_clip_warmup_steps": NOT_NEGATIVE,
    "train.scheduler.grad_clip_warmup_factor": NUMBER,
    "train.scheduler.warmup_min_lr": NOT_NEGATIVE,
    "train.data.num_workers": Range(0, 1024),
    "train.data.prefetch_factor": COUNT,
    "train.data.timeout": FROM_0,
    "train.data.instance_filter.repetition_max_period": COUNT,
    "train.data.instance_filter.repetition_min_period": COUNT,
    "train.data.instance_filter.repetition_max_count": COUNT,
    "train.eval_interval": COUNT,
    "train.save_interval": COUNT,
    "train.save_num_checkpoints_to_keep": Range(-1, INT32),
    "train.global_train_batch_size": Range(1, MOST_ROWS),
    "train.device_train_microbatch_size": COUNT,
    "train.max_grad_norm": NUMBER,
    "train.max_grad_norm_ratio": NUMBER,
    "train.console_log_interval": COUNT,
    "train.gen1_gc_interval": COUNT,
    "train.time_limit": NOT_NEGATIVE,
    "train.fsdp.hybrid_sharding_num_model_replicas": COUNT,
    "train.wandb.log_interval": COUNT,
    "corpus.vocab_size": COUNT,
    "corpus.eos_token_id": FROM_0,
    "corpus.pad_token_id": FROM_0,
    "corpus.sequences": COUNT,
    "corpus.seed": NOT_NEGATIVE,
    "evaluation.batch_size": COUNT,
    "evaluation.max_instances": COUNT,
    "evaluation.also.log_spaced": Range(0, 1000),
    "checkpoints.also.log_spaced": Range(0, 1000),
    "gradients.at.log_spaced": Range(0, 1000),
    "gradients.layer": FROM_0,
    "gradients.neurons": COUNT,
    "gradients.rows_per_pass": COUNT,
    "safety.spike_factor": Range(above=True, null=True),
    "safety.spike_window": Range(2, INT32),
}
CHOICES = {
    "model.init_device": ("cpu", "cuda", "meta"),  # the run's device decides where the model is created
    "model.precision": PRECISIONS,
    "model.init_fn": ("normal", "mitchell", "full_megatron"),
    "train.precision": PRECISIONS,
    "train.distributed_strategy": ("ddp", "fsdp"),
    "train.compile.mode": COMPILE_MODES,
    "start_state": ("weights", "full"),
    "gradients.targets": WORDS["targets"],
    "gradients.precision": WORDS["precision"],
}


def check_ranges(
    config: Any, ranges: Mapping[str, Range] = RANGES, choices: Mapping[str, Sequence[str]] = CHOICES
) -> None:
    """Check every setting in the two tables. Null is allowed if the key may be null.

    Args:
        config: what to check.
        ranges: allowed numbers by dotted key.
        choices: allowed words by dotted key.

    Raises:
        UserError: a value is invalid; the message names the key, the value and what is allowed.
    """
    for key, allowed in ranges.items():
        for value in _values(config, key):
            if not allowed.holds(value):
                finite = "" if math.isfinite(value) else "finite, "
                raise UserError(f"{key}: {value} must be {finite}{allowed}")
    for key, words in choices.items():
        for value in _values(config, key):
            if value not in words:
                raise UserError(f"{key}: {str(value)!r} is not {', '.join(words[:-1])} or {words[-1]}")


def _values(config: Any, key: str) -> Iterator[Any]:
    """The values at a dotted key; none if the key, or a key above it, is null."""
    for name in key.split("."):
        if (config := getattr(config, name)) is None:
            return
    yield from config if isinstance(config, tuple) else (config,)
