"""What an experiment costs: arithmetic, GPU-hours, money, memory and disk, before anything runs.

Counts are exact; the memory of activations, and whatever rests on a utilization or a price, is an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

from olmo.config import ActivationCheckpointingStrategy, DistributedStrategy, ModelConfig
from omegaconf import OmegaConf

from olmo_inject.config import Experiment, configs_folder
from olmo_inject.errors import UserError

HOUR = 3600.0
STATE_BYTES = 16  # a parameter: weight, gradient and AdamW's two moments, in float32
CHECKPOINT_BYTES = 12  # a parameter: weight and moments
WEIGHT_BYTES = 4
# A token's activations in a layer, in bytes a unit of d_model, kept for the backward pass under bf16 autocast with
# fused attention: both norms' inputs and the residual in float32 (12), their outputs, q, k, v and attention's output
# in bf16 (12), and 4 bytes for each unit of the MLP's two halves, its activation and their product.
NORM_AND_ATTENTION_BYTES = 24
MLP_BYTES = 4
LOGIT_BYTES = 10  # a vocabulary entry of a token: bf16 logits, their float32 copy and gradient


@dataclass(frozen=True)
class Accelerator:
    """A card.

    Attributes:
        name: as in configs/accelerators.yaml.
        tflops: peak dense bf16 throughput, TFLOP/s.
        memory_gb: its memory.
        price: US dollars an hour.
    """

    name: str
    tflops: float
    memory_gb: float
    price: float


@dataclass(frozen=True)
class Cost:
    """Of one run.

    Attributes:
        parameters: with the input embedding.
        counted_parameters: without it, as OLMo counts.
        tokens: trained on.
        flops_6nd: 6 x counted parameters x tokens.
        flops: that and attention's 12 x layers x d_model x length a token (PaLM, arXiv 2204.02311, appendix B),
            of which a causal kernel skips up to half.
        gpu_hours: `flops` at the utilization.
        hours: of the clock, on all GPUs of the run.
        dollars: at the card's price.
        memory_gb: on each GPU, an estimate.
        checkpoints_gb: on disk at the end.
        corpus_gb: of the tokens it reads, staged.
    """

    parameters: int
    counted_parameters: int
    tokens: int
    flops_6nd: float
    flops: float
    gpu_hours: float
    hours: float
    dollars: float
    memory_gb: float
    checkpoints_gb: float
    corpus_gb: float


def accelerator(name: str, price: float | None = None) -> Accelerator:
    """A card of configs/accelerators.yaml, at a price of one's own if given.

    Raises:
        UserError: no card of that name.
    """
    known = OmegaConf.to_container(OmegaConf.load(configs_folder() / "accelerators.yaml"))
    assert isinstance(known, dict)
    if name not in known:
        raise UserError(f"--accelerator: {name!r} is not one of {', '.join(map(str, known))}")
    card = Accelerator(name, **known[name])
    return card if price is None else Accelerator(name, card.tflops, card.memory_gb, price)


def cost(experiment: Experiment, gpus: int, card: Accelerator, utilization: float) -> Cost:
    """What one run costs.

    Args:
        experiment: what is trained.
        gpus: in all; 0 (a CPU run) is reckoned as one.
        card: on which.
        utilization: share of the peak that is reached, 0 to 1 (model FLOPs utilization).

    Raises:
        UserError: a utilization outside (0, 1].
    """
    if not 0 < utilization <= 1:
        raise UserError(f"--utilization: {utilization} is not in (0, 1]")
    gpus = max(gpus, 1)
    model = experiment.model
    everything, counted = count_parameters(model)
    tokens = experiment.steps * experiment.batch_size * experiment.sequence_length
    flops_6nd = 6.0 * counted * tokens
    flops = flops_6nd + 12.0 * model.n_layers * model.d_model * experiment.sequence_length * tokens
    gpu_hours = flops / (card.tflops * 1e12 * utilization) / HOUR
    return Cost(
        parameters=everything,
        counted_parameters=counted,
        tokens=tokens,
        flops_6nd=flops_6nd,
        flops=flops,
        gpu_hours=gpu_hours,
        hours=gpu_hours / gpus,
        dollars=gpu_hours * card.price,
        memory_gb=_memory(experiment, everything, gpus) / 1e9,
        checkpoints_gb=_checkpoints(experiment, everything) / 1e9,
        corpus_gb=2 * tokens / 1e9,
    )


def total(costs: Sequence[Cost]) -> Cost:
    """The sum over runs that share one staged corpus; memory and hours are the largest, not the sum."""
    largest = ("parameters", "counted_parameters", "memory_gb", "hours", "corpus_gb")
    return Cost(
        **{
            column.name: (max if column.name in largest else sum)(getattr(one, column.name) for one in costs)
            for column in fields(Cost)
        }
    )


def count_parameters(model: ModelConfig) -> tuple[int, int]:
    """Parameters of an ai2-olmo `ModelConfig`, with and without the input embedding."""
    return _count(OmegaConf.to_yaml(OmegaConf.structured(model)))


@lru_cache(maxsize=64)
def _count(config: str) -> tuple[int, int]:
    from olmo.model import OLMo  # some seconds of imports

    loaded = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.create(config)))
    assert isinstance(loaded, ModelConfig)
    loaded.init_device = "meta"
    built = OLMo(loaded, init_params=False)
    return built.num_params(), built.num_params(include_embedding=False)


def _memory(experiment: Experiment, parameters: int, gpus: int) -> float:
    """Bytes on each GPU: state, sharded under FSDP, and the activations of one micro-batch."""
    train, model = experiment.train, experiment.model
    shards = gpus if train.distributed_strategy == DistributedStrategy.fsdp else 1
    rows = min(train.device_train_microbatch_size, max(1, experiment.batch_size // gpus))
    tokens = rows * experiment.sequence_length
    width = 2 if train.precision == "fp32" else 1  # what autocast halves is whole
    hidden = model.mlp_hidden_size or model.mlp_ratio * model.d_model
    layer = tokens * width * (NORM_AND_ATTENTION_BYTES * model.d_model + MLP_BYTES * hidden)
    layers = 1 if train.activation_checkpointing == ActivationCheckpointingStrategy.whole_layer else model.n_layers
    kept = (model.n_layers - layers) * tokens * 4 * model.d_model  # checkpointing keeps each layer's input
    logits = tokens * LOGIT_BYTES * (model.embedding_size or model.vocab_size)
    return STATE_BYTES * parameters / shards + layers * layer + kept + logits


def _checkpoints(experiment: Experiment, parameters: int) -> float:
    """Bytes of all checkpoints at the end of the run."""
    train = experiment.train
    regular = {experiment.steps}
    if train.save_interval is not None:
        regular |= set(range(train.save_interval, experiment.steps + 1, train.save_interval))
    others = experiment.checkpoints.also.up_to(experiment.steps) - regular
    keep = train.save_num_checkpoints_to_keep
    weights = len(others) if experiment.checkpoints.weights_only else 0
    full = len(regular) + len(others) - weights
    full = min(full, keep) if keep > 0 else full
    return parameters * (full * CHECKPOINT_BYTES + weights * WEIGHT_BYTES)
