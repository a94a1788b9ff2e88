"""Estimate what a run costs before it starts: FLOPs, GPU-hours, money, memory and disk.

Parameters, tokens, FLOPs, checkpoints and their bytes are exact. GPU-hours and money depend on the utilization, which
is assumed until `calibrate` measures it. `memory` says which of its numbers are estimates.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from launch.cost.accelerators import Accelerator
from launch.cost.memory import FP32, Memory, Parameters, count_parameters, estimate_memory
from olmo_inject.config import Experiment
from olmo_inject.config.olmo_settings import ModelConfig, OptimizerType
from olmo_inject.errors import UserError

TOKEN_BYTES = {"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "int32": 4, "int64": 8}


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run.

    Attributes:
        full: maximum number with optimizer state that exist at once, including the one being written.
        weights_only: number with weights only.
        bytes: of all of them.
    """

    full: int
    weights_only: int
    bytes: int


@dataclass(frozen=True)
class Cost:
    """The cost of one run.

    Attributes:
        name: of the run.
        parameters: of its model.
        steps: steps to train.
        tokens: tokens in these steps.
        flops_6nd: 6 N D, N without the input embedding.
        flops: 6 N D and the attention's 12 L d T for each token, as in PaLM's appendix B (arXiv 2204.02311),
            which does not halve it for the causal mask. `gpu_hours` is computed from these.
        strategy: ddp or fsdp.
        gpus: number of accelerators.
        accelerator: their kind, price and utilization.
        memory: bytes on each GPU.
        checkpoints: on disk.
        corpus_bytes: bytes of the staged corpus; a sequence that is read twice counts once.
    """

    name: str
    parameters: Parameters
    steps: int
    tokens: int
    flops_6nd: int
    flops: int
    strategy: str
    gpus: int
    accelerator: Accelerator
    memory: Memory
    checkpoints: Checkpoints
    corpus_bytes: int

    @property
    def gpu_hours(self) -> float:
        """Hours of one accelerator."""
        return self.flops / (self.accelerator.peak_flops * self.accelerator.utilization) / 3600

    @property
    def hours(self) -> float:
        """Wall-clock hours, if the run scales perfectly over `gpus`."""
        return self.gpu_hours / self.gpus

    @property
    def step_seconds(self) -> float:
        """Wall-clock seconds of one step."""
        return self.hours * 3600 / self.steps if self.steps else 0.0

    @property
    def money(self) -> float:
        """US dollars."""
        return self.gpu_hours * self.accelerator.price

    @property
    def fits(self) -> bool:
        """Whether the estimated memory fits the accelerator."""
        return self.memory.total <= self.accelerator.memory

    def record(self) -> dict[str, Any]:
        """For JSON, in bytes, FLOPs, hours and US dollars."""
        derived = ("gpu_hours", "hours", "step_seconds", "money", "fits")
        values = asdict(self) | {name: getattr(self, name) for name in derived}
        values["memory"]["total"] = self.memory.total
        return values


def estimate(
    experiment: Experiment,
    accelerator: Accelerator,
    *,
    nodes: int = 1,
    gpus_per_node: int = 1,
    corpus_tokens: int | None = None,
    first_step: int = 0,
) -> Cost:
    """Estimate the cost of one run.

    Args:
        experiment: the run.
        accelerator: what it runs on, with price and utilization.
        nodes: number of nodes, at least 1.
        gpus_per_node: accelerators of each node, at least 1.
        corpus_tokens: tokens of the corpus; None: as many as the run reads.
        first_step: first step to train, which is not 0 if the run branches off or resumes.

    Raises:
        UserError: there is no GPU, or the GPUs cannot share the batch evenly.
    """
    gpus = nodes * gpus_per_node
    if nodes < 1 or gpus_per_node < 1:
        raise UserError(f"{nodes} nodes of {gpus_per_node} GPUs: both must be at least 1")
    if experiment.batch_size % gpus:
        raise UserError(f"train.global_train_batch_size: {experiment.batch_size} is not divisible by {gpus} GPUs")
    model, train = experiment.model, experiment.train
    assert train.distributed_strategy is not None
    count = count_parameters(model)
    steps = max(0, experiment.steps - first_step)
    tokens = steps * experiment.batch_size * experiment.sequence_length
    read = experiment.steps * experiment.batch_size * experiment.sequence_length
    staged = read if corpus_tokens is None else min(read, corpus_tokens)
    return Cost(
        name=experiment.name,
        parameters=count,
        steps=steps,
        tokens=tokens,
        flops_6nd=6 * count.computing * tokens,
        flops=flops_per_token(model) * tokens,
        strategy=train.distributed_strategy.value,
        gpus=gpus,
        accelerator=accelerator,
        memory=estimate_memory(experiment, gpus, gpus_per_node),
        checkpoints=count_checkpoints(experiment, first_step),
        corpus_bytes=staged * TOKEN_BYTES.get(experiment.corpus.dtype, 2),
    )


def flops_per_token(model: ModelConfig) -> int:
    """FLOPs of the forward and backward pass per token, with attention: 6 N + 12 L d T."""
    attention = 12 * model.n_layers * model.d_model * model.max_sequence_length
    return 6 * count_parameters(model).computing + attention


def count_checkpoints(experiment: Experiment, first_step: int = 0) -> Checkpoints:
    """The checkpoints of an uninterrupted run, and their maximum bytes on disk."""
    train, last = experiment.train, experiment.steps
    regular = {last}
    if train.save_interval is not None:
        regular |= set(range(train.save_interval, last + 1, train.save_interval))
    regular = {step for step in regular if step > first_step}
    listed = {step for step in experiment.checkpoints.also.up_to(last) if step >= first_step}  # never removed
    weights_only = len(listed - regular) if experiment.checkpoints.weights_only else 0
    passing = len(regular - listed)
    if train.save_num_checkpoints_to_keep > 0:
        passing = min(passing, train.save_num_checkpoints_to_keep + 1)  # the oldest goes when the newest is whole
    full = len(listed) - weights_only + passing
    weights = FP32 * count_parameters(experiment.model).total
    averages = 2 if train.optimizer.name == OptimizerType.adamw else 1
    return Checkpoints(full, weights_only, weights * ((1 + averages) * full + weights_only))
