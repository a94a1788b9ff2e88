"""The memory of each GPU in a run: exact for weights, gradients and optimizer, an estimate for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from olmo_inject.config import Experiment
from olmo_inject.config.olmo_settings import (
    DistributedStrategy,
    FSDPConfig,
    FSDPPrecision,
    FSDPWrapStrategy,
    ModelConfig,
    OptimizerType,
    ShardingStrategy,
    TrainConfig,
)

FP32, HALF = 4, 2  # bytes
_HYBRID = (ShardingStrategy.HYBRID_SHARD, ShardingStrategy._HYBRID_SHARD_ZERO2)
# Weights stay gathered from forward to backward.
_KEEP_WEIGHTS = (ShardingStrategy.SHARD_GRAD_OP, ShardingStrategy._HYBRID_SHARD_ZERO2)


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters.

    Attributes:
        total: all of them.
        without_embedding: all but the input embedding, which is ai2-olmo's N for FLOPs and learning rates.
        block: of one transformer block.
        computing: those in matrix products: `without_embedding`, plus the head if it is tied to the embedding.
    """

    total: int
    without_embedding: int
    block: int
    computing: int


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU at the peak of a step.

    Attributes:
        weights: parameters that this GPU keeps, in fp32.
        gradients: of these parameters, in fp32.
        optimizer: AdamW's two averages, or Lion's one.
        working: estimate: DDP's buckets and half-precision copies, or what FSDP gathers and reduces.
        activations: estimate: what one micro-batch keeps for its backward pass, with logits.
    """

    weights: int
    gradients: int
    optimizer: int
    working: int
    activations: int

    @property
    def total(self) -> int:
        """The sum. CUDA's context (about 1 GB) and fragmentation come on top."""
        return self.weights + self.gradients + self.optimizer + self.working + self.activations


def count_parameters(model: ModelConfig) -> Parameters:
    """Count parameters by building the model on torch's meta device, so that any ai2-olmo model is counted right."""
    return _count(tuple(vars(model).items()))


@cache
def _count(settings: tuple[tuple[str, Any], ...]) -> Parameters:
    from olmo.model import OLMo  # imports take seconds

    from olmo_inject.training.olmo_config import model_config

    config = model_config(ModelConfig(**dict(settings)))
    model = OLMo(config.update_with(init_device="meta"), init_params=False)
    without = model.num_params(include_embedding=False)
    blocks = sum(p.numel() for name, p in model.named_parameters() if ".block" in name)
    total = model.num_params()
    head = (config.embedding_size or config.vocab_size) * config.d_model if config.weight_tying else 0
    return Parameters(total, without, blocks // config.n_layers, without + head)


def estimate_memory(experiment: Experiment, gpus: int, gpus_per_node: int) -> Memory:
    """Estimate the memory of each GPU at the peak of a step.

    Args:
        experiment: gives model, strategy, precision, micro-batch and activation checkpointing.
        gpus: number in all; a micro-batch is at most a GPU's share of the batch.
        gpus_per_node: the group over which hybrid sharding shards.
    """
    train, count = experiment.train, count_parameters(experiment.model)
    microbatch = min(train.device_train_microbatch_size, -(-experiment.batch_size // gpus))
    activations = activation_bytes(experiment.model, train, microbatch)
    averages = 2 if train.optimizer.name == OptimizerType.adamw else 1
    half = HALF if train.precision != "fp32" else 0
    if train.distributed_strategy == DistributedStrategy.ddp or gpus == 1 or train.fsdp is None:
        # DDP's buckets are a second copy of the gradients, unless `gradient_as_bucket_view` shares them.
        buckets = FP32 * count.total if train.distributed_strategy == DistributedStrategy.ddp else 0
        whole = FP32 * count.total
        return Memory(whole, whole, averages * whole, buckets + half * count.total, activations)
    shards = _shards(train.fsdp, gpus, gpus_per_node)
    part = -(-FP32 * count.total // shards)
    keeps = train.fsdp.sharding_strategy in (*_KEEP_WEIGHTS, ShardingStrategy.NO_SHARD)
    return Memory(part, part, averages * part, _gathered(experiment, train.fsdp, count, keeps), activations)


def activation_bytes(model: ModelConfig, train: TrainConfig, sequences: int) -> int:
    """Estimate the bytes kept for the backward pass, for OLMo's block of norm, attention, norm and SwiGLU.

    For each token, a block keeps its input and its middle in fp32; and in the precision of the matrix products two
    outputs of norms, q, k, v, the attention's output, the MLP's joined up and gate, silu(gate) and their product. Each
    logit is kept three times at the peak, in that precision: without the last position, and as the gradient with and
    without it. The loss of `LOGITS_AT_ONCE` of them at a time takes three more in fp32 (`olmo_inject.training.loss`).

    Args:
        model: the model.
        train: gives precision and activation checkpointing.
        sequences: rows of the micro-batch.
    """
    b = FP32 if train.precision == "fp32" else HALF
    head = model.d_model // model.n_heads
    hidden = model.mlp_hidden_size or model.mlp_ratio * model.d_model
    q_k_v = model.d_model + 2 * model.effective_n_kv_heads * head
    residuals = 2 * FP32 * model.d_model
    block = residuals + b * (3 * model.d_model + q_k_v + 2 * hidden)
    from olmo.model import should_checkpoint_block  # imports take seconds

    strategy: Any = train.activation_checkpointing  # compares as text, so ours serves as well as ai2-olmo's
    recomputed = [should_checkpoint_block(strategy, i) for i in range(model.n_layers)]
    kept = sum(FP32 * model.d_model if again else block for again in recomputed)
    if any(recomputed):
        kept += block  # the block that is being recomputed
    tokens = sequences * model.max_sequence_length
    logits = tokens * (model.embedding_size or model.vocab_size)
    from olmo_inject.training.loss import LOGITS_AT_ONCE

    return tokens * kept + 3 * b * logits + 3 * FP32 * min(logits, LOGITS_AT_ONCE)


def _shards(fsdp: FSDPConfig, gpus: int, gpus_per_node: int) -> int:
    """Number of GPUs over which the weights are sharded."""
    if fsdp.sharding_strategy == ShardingStrategy.NO_SHARD:
        return 1
    if fsdp.sharding_strategy in _HYBRID:
        return max(1, gpus // (fsdp.hybrid_sharding_num_model_replicas or max(1, gpus // gpus_per_node)))
    return gpus


def _gathered(experiment: Experiment, fsdp: FSDPConfig, count: Parameters, keeps: bool) -> int:
    """Bytes that FSDP has gathered at its peak: the outermost unit, two blocks, and the gradients of one unit."""
    in_half = fsdp.precision is not None and experiment.train.precision != "fp32"
    weights = HALF if in_half else FP32
    gradients = HALF if in_half and fsdp.precision == FSDPPrecision.pure else FP32
    blocks = count.block * experiment.model.n_layers
    outer = count.total if fsdp.wrapping_strategy is None else count.total - blocks
    block = 0 if fsdp.wrapping_strategy is None else count.block * _blocks_in_a_unit(fsdp, experiment.model)
    whole = count.total if keeps else outer + 2 * block
    return weights * whole + (weights + gradients) * max(outer, block)


def _blocks_in_a_unit(fsdp: FSDPConfig, model: ModelConfig) -> int:
    grouped = (FSDPWrapStrategy.by_block_group, FSDPWrapStrategy.by_block_group_and_size)
    return model.block_group_size if fsdp.wrapping_strategy in grouped else 1
