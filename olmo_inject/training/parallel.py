"""Process groups and wrapped models. Initial weights are the same on any number of ranks."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from olmo.config import DDPConfig, DistributedStrategy, TrainConfig
from olmo.model import OLMo
from olmo.optim import Optimizer
from olmo.optim import build_optimizer as olmo_build_optimizer
from olmo.torch_util import get_local_rank, get_local_world_size
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.nn.parallel import DistributedDataParallel

from olmo_inject.config.train_checks import check_fsdp
from olmo_inject.errors import FoundByOneRank, UserError, in_one_line, report
from olmo_inject.rank_environment import is_rank
from olmo_inject.training.sharded_build import build_without_weights
from olmo_inject.utils.options import check_options

DistModel = DistributedDataParallel | FullyShardedDataParallel

# All ranks wait while rank 0 writes, hashes or deletes a checkpoint, or shuffles a corpus; torch allows 10 minutes.
TIMEOUT = timedelta(hours=1)
HYBRID = (ShardingStrategy.HYBRID_SHARD, ShardingStrategy._HYBRID_SHARD_ZERO2)


def choose_device(name: str) -> torch.device:
    """The device called `auto` (a GPU if there is one), `cpu` or `cuda`.

    Raises:
        UserError: another name, or there is no GPU.
    """
    check_options(device=name)
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: there is no GPU that torch can use")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def init_process_group(device: str = "auto") -> torch.device:
    """Join torchrun's process group, or create a group of one without torchrun.

    Args:
        device: "auto" (a GPU if there is one), "cpu" (gloo) or "cuda" (NCCL).

    Returns:
        This rank's device.

    Raises:
        UserError: CUDA was asked for and this process has no GPU of its own.
    """
    if choose_device(device).type == "cpu":
        chosen, backend = torch.device("cpu"), "gloo"
    elif get_local_rank() >= (count := torch.cuda.device_count()):
        raise UserError(f"local rank {get_local_rank()} needs a GPU of its own: this node has {count}")
    else:
        chosen, backend = torch.device("cuda", get_local_rank()), "nccl"
        torch.cuda.set_device(chosen)
    if is_rank():
        dist.init_process_group(backend, timeout=TIMEOUT)
    else:  # ai2-olmo's trainer reduces even for one process; a store in memory needs no port
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    return chosen


@contextmanager
def process_group(device: str = "auto") -> Iterator[torch.device]:
    """Join the process group, yield this rank's device, and leave the group at the end.

    If an error occurs on this rank alone, the other ranks wait in a collective, and leaving NCCL's group would wait for
    them. So the error is printed and the process exits at once; torchrun's agent then ends the other ranks.

    Args:
        device: as in `init_process_group`.

    Raises:
        UserError: as in `init_process_group`.
    """
    chosen = init_process_group(device)
    try:
        yield chosen
    except torch.OutOfMemoryError as error:
        _leave_after(FoundByOneRank(f"rank {dist.get_rank()}: {in_one_line(error)}"))
    except Exception as error:
        _leave_after(error)
    except BaseException:
        destroy()
        raise
    destroy()


def _leave_after(error: Exception) -> NoReturn:
    known_to_all = isinstance(error, UserError) and not isinstance(error, FoundByOneRank)
    if known_to_all or dist.get_world_size() == 1:
        destroy()
        raise error
    if isinstance(error, UserError):
        report(error)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2 if isinstance(error, UserError) else 1)


_last_group: dist.ProcessGroup | None = None


def destroy() -> None:
    """Leave the process group, if there is one.

    A reference to the group is kept until the next one ends. If DDP held the last reference, deallocation would
    wait for gloo's threads while holding the GIL, and those threads wait for the GIL to release the tensors of
    the last collective: finished processes hung on torch 2.13. Released from Python, the GIL is dropped first.
    """
    global _last_group
    if dist.is_initialized():
        _last_group = dist.group.WORLD
        dist.destroy_process_group()


def build_model(cfg: TrainConfig, device: torch.device) -> tuple[OLMo, DistModel]:
    """Build the model and wrap it in DDP or FSDP.

    The weights are those of a whole model initialised from `cfg.seed`, so they do not depend on the number of ranks or
    on sharding. Under FSDP a rank draws a wrapped module's weights, keeps its part and goes on to the next module. The
    random state of the process does not change.

    Returns:
        The plain model, and the same model wrapped in DDP or FSDP.

    Raises:
        UserError: the strategy or its options cannot be used.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(cfg.seed)
        config = cfg.model.update_with(init_device=str(device), precision=cfg.precision)
        if cfg.distributed_strategy == DistributedStrategy.fsdp:
            model, give_weights = build_without_weights(config)
        else:
            model, give_weights = OLMo(config), None
        return model, _wrap(model, cfg, device, give_weights)


def _wrap(
    model: OLMo, cfg: TrainConfig, device: torch.device, give_weights: Callable[[nn.Module], None] | None
) -> DistModel:
    model.set_activation_checkpointing(cfg.activation_checkpointing)
    if cfg.distributed_strategy == DistributedStrategy.ddp:
        ddp = cfg.ddp or DDPConfig()
        dist_model: DistModel = DistributedDataParallel(model, find_unused_parameters=ddp.find_unused_params)
    elif cfg.distributed_strategy == DistributedStrategy.fsdp:
        dist_model = _shard(model, cfg, device, give_weights)
    else:
        raise UserError("train.distributed_strategy is not set: use ddp or fsdp (also for one process)")
    if cfg.compile is not None:
        dist_model.compile(**cfg.compile.asdict())  # in place: parameter names and types stay as they are
    return dist_model


def _shard(
    model: OLMo, cfg: TrainConfig, device: torch.device, give_weights: Callable[[nn.Module], None] | None
) -> FullyShardedDataParallel:
    check_fsdp(cfg, cfg.model)
    fsdp = cfg.fsdp
    assert fsdp is not None
    world = dist.get_world_size()
    strategy, mesh = fsdp.sharding_strategy, None
    if world == 1:
        strategy = ShardingStrategy.NO_SHARD  # FSDP would choose this too, after a warning
    elif strategy in HYBRID:
        replicas = fsdp.hybrid_sharding_num_model_replicas or world // get_local_world_size()
        if replicas < 1 or world % replicas:
            raise UserError(
                f"train.fsdp.hybrid_sharding_num_model_replicas is {replicas}: it must divide {world} ranks"
            )
        mesh = init_device_mesh(device.type, (replicas, world // replicas))
    return FullyShardedDataParallel(
        model,
        sharding_strategy=strategy,
        device_mesh=mesh,
        mixed_precision=cfg.fsdp_precision,
        param_init_fn=give_weights,
        auto_wrap_policy=model.get_fsdp_wrap_policy(fsdp.wrapping_strategy),
        use_orig_params=True,
        limit_all_gathers=True,
        device_id=device,
    )


def settle_ddp_buckets(dist_model: DistModel, cfg: TrainConfig) -> None:
    """Run two forward and backward passes and discard them.

    DDP regroups its gradient buckets after the first backward pass, which changes the order of summation: at three
    ranks or more a resumed run would differ from an uninterrupted one. After two passes every step is summed
    alike. Gradients end as `None` and the random state does not change. FSDP has no buckets: nothing is done.

    Args:
        dist_model: the wrapped model.
        cfg: `device_train_microbatch_size`, the sequence length and the precision are taken from it, so that
            a compiled model sees the shapes it will train on.
    """
    if not isinstance(dist_model, DistributedDataParallel):
        return
    device = next(dist_model.parameters()).device
    shape = (cfg.device_train_microbatch_size, cfg.model.max_sequence_length)
    was_training = dist_model.training
    dist_model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for _ in range(2):
            with torch.autocast(device.type, enabled=device.type == "cuda", dtype=cfg.autocast_precision):
                logits = dist_model(input_ids=torch.zeros(shape, dtype=torch.long, device=device)).logits
            logits.float().mean().backward()
    dist_model.zero_grad(set_to_none=True)
    dist_model.train(was_training)


def build_optimizer(cfg: TrainConfig, dist_model: DistModel) -> Optimizer:
    """ai2-olmo's optimizer. Under DDP its parameters have the plain model's names, without `module.`."""
    return olmo_build_optimizer(
        cfg, dist_model if isinstance(dist_model, FullyShardedDataParallel) else dist_model.module
    )
