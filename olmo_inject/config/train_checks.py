"""Checks of ai2-olmo's settings that must fit each other: model, schedule, loader, sharding and compiler."""

from __future__ import annotations

from typing import Any

from olmo_inject.config.olmo_settings import (
    ActivationType,
    DistributedStrategy,
    FSDPWrapStrategy,
    ModelConfig,
    SchedulerConfig,
    SchedulerType,
    TrainConfig,
)
from olmo_inject.errors import UserError


def check_model(model: ModelConfig) -> None:
    """Check settings of the model that ai2-olmo checks by asserts or not at all.

    Raises:
        UserError: a value is invalid; the message names the key, the value and what is allowed.
    """
    if model.d_model % model.n_heads:
        raise UserError(f"model.n_heads: {model.n_heads} does not divide d_model {model.d_model}")
    if model.rope and model.d_model // model.n_heads % 2:
        raise UserError(
            f"model.n_heads: rotary embeddings need an even head size, not {model.d_model // model.n_heads}"
        )
    if model.multi_query_attention is not None and model.n_kv_heads is not None:
        raise UserError("model.multi_query_attention: not with n_kv_heads, which decides it")
    if model.n_heads % model.effective_n_kv_heads:
        raise UserError(f"model.n_kv_heads: {model.n_kv_heads} does not divide n_heads {model.n_heads}")
    if model.n_layers % model.block_group_size:
        raise UserError(f"model.block_group_size: {model.block_group_size} does not divide n_layers {model.n_layers}")
    if model.alibi and (model.rope or model.flash_attention):
        raise UserError(f"model.alibi: not with model.{'rope' if model.rope else 'flash_attention'}")
    hidden = model.mlp_hidden_size or model.mlp_ratio * model.d_model
    if model.activation_type == ActivationType.swiglu and hidden % 2:
        raise UserError(f"model.mlp_hidden_size: swiglu needs an even number, not {hidden}")
    if model.embedding_size is not None and model.embedding_size < model.vocab_size:
        raise UserError(f"model.embedding_size: {model.embedding_size} is less than vocab_size {model.vocab_size}")
    for name in ("eos_token_id", "pad_token_id"):
        if not 0 <= getattr(model, name) < model.vocab_size:
            raise UserError(f"model.{name}: {getattr(model, name)} is not in the vocabulary of {model.vocab_size}")


def check_train(train: TrainConfig, model: ModelConfig) -> None:
    """Check schedule, loader, sharding and compiler.

    Raises:
        UserError: a value is invalid; the message names the key, the value and what is allowed.
    """
    if len(train.optimizer.betas) != 2:
        raise UserError(f"train.optimizer.betas: two are needed, not {len(train.optimizer.betas)}")
    _check_schedule(train.scheduler, train.optimizer.learning_rate)
    periods = train.data.instance_filter
    if periods is not None and periods.repetition_min_period > periods.repetition_max_period:
        raise UserError(
            f"train.data.instance_filter.repetition_min_period: {periods.repetition_min_period} is more than "
            f"repetition_max_period {periods.repetition_max_period}"
        )
    if train.save_num_checkpoints_to_keep == 0:
        raise UserError("train.save_num_checkpoints_to_keep: 0 keeps none; give 1 or more, or -1 for all")
    if train.distributed_strategy is None:
        raise UserError("train.distributed_strategy: must be ddp or fsdp, also for one process")
    if train.distributed_strategy == DistributedStrategy.fsdp:
        check_fsdp(train, model)
    if train.compile is not None:
        from torch._dynamo import list_backends

        if train.compile.backend not in (backends := list_backends(None)):
            raise UserError(f"train.compile.backend: {train.compile.backend!r} is not one of {', '.join(backends)}")


def check_fsdp(train: Any, model: Any) -> None:
    """Check the settings of a run under FSDP.

    Args:
        train: the trainer's settings, in our classes or ai2-olmo's.
        model: the model's settings, in the same kind of class.

    Raises:
        UserError: a setting is missing or invalid; the message names the key and what is allowed.
    """
    fsdp = train.fsdp
    if fsdp is None:
        raise UserError("train.distributed_strategy is fsdp, and train.fsdp is not set")
    if not fsdp.use_orig_params:
        raise UserError("train.fsdp.use_orig_params must be true: sharded checkpoints name each parameter")
    if train.max_grad_norm_ratio is not None:  # AdamW fails on its state for parameters whose shard is empty
        raise UserError("train.max_grad_norm_ratio works only under ddp: use train.max_grad_norm with fsdp")
    by_group = (FSDPWrapStrategy.by_block_group, FSDPWrapStrategy.by_block_group_and_size)
    if fsdp.wrapping_strategy in by_group and model.block_group_size == 1:
        raise UserError(f"train.fsdp.wrapping_strategy: {fsdp.wrapping_strategy} needs model.block_group_size above 1")


def _check_schedule(scheduler: SchedulerConfig, learning_rate: float) -> None:
    roots = (SchedulerType.inverse_sqrt_with_warmup, SchedulerType.max_scheduler)
    if scheduler.name in roots and scheduler.t_warmup < 1:
        raise UserError(f"train.scheduler.t_warmup: {scheduler.t_warmup} must be at least 1 with {scheduler.name}")
    if scheduler.warmup_min_lr is not None and scheduler.warmup_min_lr >= learning_rate:
        raise UserError(
            f"train.scheduler.warmup_min_lr: {scheduler.warmup_min_lr} must be below the learning rate {learning_rate}"
        )
