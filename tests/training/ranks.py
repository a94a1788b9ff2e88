"""Real process groups for tests: four processes, started once, that form gloo groups of 1 to 4."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from olmo.config import (
    DDPConfig,
    FSDPConfig,
    FSDPWrapStrategy,
    ModelConfig,
    OptimizerConfig,
    OptimizerType,
    TrainConfig,
)
from torch.nn import functional

from olmo_inject.training import parallel
from olmo_inject.training.checkpoints import sharded

LIMIT_S = 300.0  # for one job; a hung group fails its test, and is killed
GLOBAL_BATCH, LENGTH = 6, 16


class RankError(AssertionError):
    """What a job raised, with the traceback of its process."""


class Ranks:
    """Runs a function on every rank of a fresh process group, and returns what each gave."""

    def __init__(self, processes: int = 4) -> None:
        # A server imports what a run needs once and is forked for each process, which saves most of the start.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["runs", "saved", "torch._dynamo"])  # an optimizer's first step imports the last
        self.pipes: list[Connection] = []
        self.processes = []
        with pytest.MonkeyPatch.context() as patch:  # Python 3.11's server ignores the path that it is given
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            for _ in range(processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self.pipes.append(ours)
                self.processes.append(process)

    def run(self, world: int, job: Callable[..., Any], *args: Any) -> list[Any]:
        """Run `job(*args)` on `world` ranks; arguments and results must pickle (no tensors)."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(world):
            self.pipes[rank].send((rank, world, port, job, args))
        deadline = time.monotonic() + LIMIT_S
        answers = []
        for rank in range(world):
            if not self.pipes[rank].poll(max(0.0, deadline - time.monotonic())):
                self.close()
                raise RankError(f"rank {rank} of {world} did not answer within {LIMIT_S:.0f} s")
            answers.append(self.pipes[rank].recv())
        if errors := [f"rank {rank} of {world}:\n{value}" for rank, (ok, value) in enumerate(answers) if not ok]:
            raise RankError("\n".join(errors))
        return [value for _, value in answers]

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()
            process.join()


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            rank, world, port, job, args = pipe.recv()
        except EOFError:
            return
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                parallel.init_process_group("cpu")
                answer = (True, job(*args))
        except Exception:
            answer = (False, traceback.format_exc())
        finally:
            parallel.destroy()
        pipe.send(answer)


@contextmanager
def alone() -> Iterator[torch.device]:
    """A group of one in this process."""
    device = parallel.init_process_group("cpu")
    try:
        yield device
    finally:
        parallel.destroy()


def tiny_config(strategy: str = "ddp", **changes: Any) -> TrainConfig:
    """A model of 10,368 parameters: width 16, two layers, 64 tokens."""
    model = ModelConfig(
        d_model=16,
        n_heads=2,
        n_layers=2,
        mlp_ratio=8,
        vocab_size=64,
        embedding_size=64,
        max_sequence_length=LENGTH,
        attention_dropout=0.0,
        residual_dropout=0.0,
        embedding_dropout=0.0,
        rope=True,
        include_bias=False,
        bias_for_layer_norm=False,
        layer_norm_with_affine=False,
        weight_tying=False,
        activation_type="swiglu",  # type: ignore[arg-type]
        flash_attention=False,
    )
    config = TrainConfig(
        model=model,
        optimizer=OptimizerConfig(name=OptimizerType.adamw, learning_rate=1e-2, weight_decay=0.1),
        precision="fp32",
        distributed_strategy=strategy,  # type: ignore[arg-type]
        fsdp=FSDPConfig(wrapping_strategy=FSDPWrapStrategy.by_block_and_size),
        ddp=DDPConfig(),
        max_grad_norm=1.0,
        device_train_microbatch_size=2,
        seed=7,
    )
    return config.update_with(**changes)


def build(config: TrainConfig) -> tuple[parallel.DistModel, Any]:
    """The wrapped model, its buckets settled, and its optimizer."""
    _, model = parallel.build_model(config, torch.device("cpu"))
    parallel.settle_ddp_buckets(model, config)
    return model, parallel.build_optimizer(config, model)


def train(model: parallel.DistModel, optim: Any, first: int, last: int) -> None:
    """Steps `first` to `last - 1`, on batches that depend on the step alone, split over the ranks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for step in range(first, last):
        tokens = torch.randint(64, (GLOBAL_BATCH, LENGTH), generator=torch.Generator().manual_seed(step))
        logits = model(input_ids=tokens[rank::world]).logits[:, :-1]
        functional.cross_entropy(logits.flatten(0, 1), tokens[rank::world, 1:].flatten()).backward()
        optim.clip_grads_and_collect_metrics(step, False, process_group=model.process_group)
        optim.step()
        optim.zero_grad(set_to_none=True)


def numbers(model: parallel.DistModel, optim: Any = None) -> dict[str, np.ndarray]:
    """All parameters, and the optimizer's state if given, whole, on rank 0."""
    views = sharded.parameters(model)
    if optim is not None:
        state = sharded.optimizer_state(optim, views)
        for name, view in list(views.items()):
            for key in ("exp_avg", "exp_avg_sq"):  # a rank without a part of a parameter has no state for it
                full_name = f"state.{name}.__{key}"
                views[full_name] = state[full_name] if full_name in state else view.wrap(torch.empty(0))
    return {name: tensor.numpy().copy() for name, tensor in sharded.gather(views).items()}


def differing(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> list[str]:
    """The names under which two results are not bit-identical."""
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not np.array_equal(ours[name], theirs[name])]
