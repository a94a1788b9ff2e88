"""Estimate what a run costs before it starts: FLOPs, GPU-hours, money, memory and disk.

Parameters, tokens, FLOPs, checkpoints and their bytes are exact. GPU-hours and money depend on the utilization, which
is assumed until `calibrate` measures it. `memory` says which of its numbers are estimates.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from launch.cost.accelerators import Accelerator
from launch.cost.memory import FP32, Memory, Parameters, count_parameters, estimate_memory
from olmo_inject.config import Experiment, find_config
from olmo_inject.config.olmo_settings import ModelConfig, OptimizerType
from olmo_inject.corpus.catalog import read_catalog
from olmo_inject.corpus.folder import DESCRIPTION, read_corpus_folder
from olmo_inject.training.checkpoints.on_disk import first_step_of
from olmo_inject.utils.number_ranges import check_ranks_share
from olmo_inject.utils.options import check_options


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
) -> Cost:
    """Estimate the cost of one run, from the step at which it branches off another.

    Args:
        experiment: the run.
        accelerator: what it runs on, with price and utilization.
        nodes: number of nodes, at least 1.
        gpus_per_node: accelerators of each node, at least 1.

    Raises:
        UserError: there is no GPU, or the batch is not divisible by the GPUs; the catalog has no such corpus.
    """
    gpus = nodes * gpus_per_node
    check_options(nodes=nodes, gpus=gpus_per_node)
    check_ranks_share(experiment.batch_size, gpus, "train.global_train_batch_size")
    model, train = experiment.model, experiment.train
    assert train.distributed_strategy is not None
    count = count_parameters(model)
    first_step = first_step_of(experiment, None)
    steps = max(0, experiment.steps - first_step)
    tokens = steps * experiment.batch_size * experiment.sequence_length
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
        corpus_bytes=corpus_bytes(experiment),
    )


def corpus_bytes(experiment: Experiment) -> int:
    """Bytes of the tokens that a run reads up to its end, or of its whole corpus where that is known to be smaller."""
    corpus, dtype = experiment.corpus, experiment.corpus.dtype
    tokens = experiment.steps * experiment.batch_size * experiment.sequence_length
    if corpus.name is not None:
        dtype = _dtype_of(corpus.name)
    elif corpus.folder is not None and (Path(corpus.folder) / DESCRIPTION).is_file():
        described = read_corpus_folder(Path(corpus.folder))
        dtype, tokens = described.dtype, min(tokens, described.tokens)
    if corpus.sequences is not None:
        tokens = min(tokens, corpus.sequences * experiment.sequence_length)
    return tokens * np.dtype(dtype).itemsize


@lru_cache(maxsize=8)  # the cells of a sweep share a corpus, whose file lists thousands of shards
def _dtype_of(name: str) -> str:
    return read_catalog(find_config(name, "corpora")).entry.dtype


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
