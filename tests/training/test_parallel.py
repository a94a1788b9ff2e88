from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from olmo.config import CompilerConfig, FSDPConfig
from ranks import alone, build, differing, numbers, tiny_config, train
from torch.distributed.fsdp import ShardingStrategy

from olmo_inject.errors import UserError
from olmo_inject.training import parallel
from olmo_inject.training.agreement import on_every_rank

pytestmark = pytest.mark.slow


def first_weights(strategy: str) -> dict[str, np.ndarray]:
    return numbers(parallel.build_model(tiny_config(strategy), torch.device("cpu"))[1])


def trained(strategy: str, changes: dict) -> dict[str, np.ndarray]:
    # torch's compiler looks at the gradient of every tensor it meets under FSDP, and warns itself about it
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    model, optim = build(tiny_config(strategy, **changes))
    train(model, optim, 0, 4)
    return numbers(model)


def resumed_in_memory(settle: bool) -> list[str]:
    """Six steps in one go, against three steps and three more in a newly wrapped model."""

    def wrapped(seed: int):
        config = tiny_config(seed=seed)
        _, model = parallel.build_model(config, torch.device("cpu"))
        if settle:
            parallel.settle_ddp_buckets(model, config)
        return model, parallel.build_optimizer(config, model)

    model, optim = wrapped(1)
    train(model, optim, 0, 3)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = optim.state_dict()
    state["state"] = {k: {n: t.clone() for n, t in v.items()} for k, v in state["state"].items()}
    train(model, optim, 3, 6)
    again, optim_again = wrapped(2)
    again.load_state_dict(weights)
    optim_again.load_state_dict(state)
    train(again, optim_again, 3, 6)
    ours, theirs = model.state_dict(), again.state_dict()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def fails_on_rank_one() -> str:
    def work() -> None:
        with on_every_rank("cannot read"):
            if dist.get_rank() == 1:
                raise OSError(28, "No space left on device")

    with pytest.raises(UserError) as caught:
        work()
    return str(caught.value)


def refuses_uneven_replicas() -> str:
    fsdp = FSDPConfig(sharding_strategy=ShardingStrategy.HYBRID_SHARD, hybrid_sharding_num_model_replicas=2)
    with pytest.raises(UserError) as caught:
        parallel.build_model(tiny_config("fsdp", fsdp=fsdp), torch.device("cpu"))
    return str(caught.value)


def test_one_process_needs_no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    before = dict(os.environ)
    with alone() as device:
        assert (dist.get_world_size(), dist.get_backend(), device.type) == (1, "gloo", "cpu")
    assert not dist.is_initialized()
    assert dict(os.environ) == before
    parallel.destroy()  # twice does no harm


def test_leaving_a_group_that_ddp_still_holds_does_not_hang() -> None:
    """Without a reference of ours this hangs before the twentieth group, as a finished run did."""
    script = """
import faulthandler
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from olmo_inject.training import parallel
from olmo_inject.training.agreement import on_every_rank

def once():
    parallel.init_process_group("cpu")
    model = DistributedDataParallel(torch.nn.Linear(4, 4))
    model(torch.zeros(1, 4)).sum().backward()
    for _ in range(3):
        dist.all_gather_object([None], None)
    parallel.destroy()

faulthandler.dump_traceback_later(100, exit=True)
for _ in range(100):
    once()
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    environment["PYTHONPATH"] = str(Path(parallel.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_rank_that_fails_alone_says_so_and_does_not_wait_for_the_others() -> None:
    """NCCL's leaving of a group waits for its other ranks, as this one does for ever."""
    script = """
import time
import torch.distributed as dist
from olmo_inject.errors import FoundByOneRank
from olmo_inject.training import parallel
from olmo_inject.training.agreement import on_every_rank

parallel.destroy = lambda: time.sleep(1000)
with parallel.process_group("cpu"):
    if dist.get_rank() == 1:
        raise FoundByOneRank("row 7 is damaged")
    dist.barrier()
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"PYTHONPATH": str(Path(parallel.__file__).parents[2]), "WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=100)[1] for process in processes]
    assert processes[1].returncode == 2
    assert said[1].strip() == "olmo-inject: row 7 is damaged"
    assert processes[0].returncode == 1  # gloo tells it that its peer is gone; torchrun's agent would end it


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="there is no GPU"):
        parallel.init_process_group("cuda")
    with pytest.raises(UserError, match="is not one of auto, cpu, cuda"):
        parallel.init_process_group("tpu")
    assert not dist.is_initialized()


def test_first_weights_do_not_depend_on_ranks_or_strategy(ranks) -> None:
    reference = ranks.run(1, first_weights, "ddp")[0]
    assert len(reference) == 10
    for world, strategy in [(3, "ddp"), (1, "fsdp"), (2, "fsdp"), (3, "fsdp")]:
        assert differing(ranks.run(world, first_weights, strategy)[0], reference) == []


def test_first_weights_depend_on_the_seed_and_leave_the_random_state_alone() -> None:
    with alone() as device:
        before = torch.get_rng_state()
        one = numbers(parallel.build_model(tiny_config(), device)[1])
        assert torch.equal(torch.get_rng_state(), before)
        two = numbers(parallel.build_model(tiny_config(seed=8), device)[1])
    assert len(differing(one, two)) == len(one)


def test_settled_buckets_make_a_resume_exact(ranks) -> None:
    assert ranks.run(3, resumed_in_memory, True) == [[], [], []]


def test_unsettled_buckets_do_not(ranks) -> None:
    """Once this fails, DDP no longer regroups its buckets, and `settle_ddp_buckets` can go."""
    assert ranks.run(3, resumed_in_memory, False)[0] != []


def test_settling_leaves_no_trace() -> None:
    config = tiny_config()
    config.model.residual_dropout = 0.1  # draws random numbers in every pass
    with alone() as device:
        model, dist_model = parallel.build_model(config, device)
        weights = numbers(dist_model)
        dist_model.eval()
        before = torch.get_rng_state()
        parallel.settle_ddp_buckets(dist_model, config)
        assert torch.equal(torch.get_rng_state(), before)
        assert not dist_model.training
        assert all(parameter.grad is None for parameter in model.parameters())
        assert differing(numbers(dist_model), weights) == []


def test_a_failure_on_one_rank_is_one_user_error_on_all(ranks) -> None:
    assert ranks.run(3, fails_on_rank_one) == ["cannot read: No space left on device"] * 3


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("fsdp", {}),
        ("ddp", {"activation_checkpointing": "whole_layer"}),
        ("fsdp", {"activation_checkpointing": "fine_grained"}),
        ("ddp", {"compile": CompilerConfig(backend="eager")}),
        ("fsdp", {"compile": CompilerConfig(backend="eager")}),
        ("fsdp", {"fsdp": FSDPConfig(sharding_strategy=ShardingStrategy.SHARD_GRAD_OP)}),
        (
            "fsdp",
            {"fsdp": FSDPConfig(sharding_strategy=ShardingStrategy.HYBRID_SHARD, hybrid_sharding_num_model_replicas=1)},
        ),
    ],
)
def test_every_way_of_wrapping_trains_the_same_model(ranks, strategy: str, changes: dict) -> None:
    reference = ranks.run(2, trained, "ddp", {})[0]
    other = ranks.run(2, trained, strategy, changes)[0]
    for name, expected in reference.items():
        np.testing.assert_allclose(other[name], expected, rtol=0, atol=2e-6, err_msg=name)


def test_pure_precision_computes_in_bfloat16_and_keeps_float32_weights(ranks) -> None:
    reference = ranks.run(2, trained, "fsdp", {})[0]
    other = ranks.run(2, trained, "fsdp", {"precision": "amp_bf16"})[0]
    worst = max(float(np.abs(other[name] - reference[name]).max()) for name in reference)
    assert all(value.dtype == np.float32 for value in other.values())
    assert 1e-5 < worst < 0.1


def test_uneven_replicas_are_refused(ranks) -> None:
    assert "must divide 3 ranks" in ranks.run(3, refuses_uneven_replicas)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distributed_strategy": None}, "use ddp or fsdp"),
        ({"distributed_strategy": "fsdp", "fsdp": None}, r"train\.fsdp is not set"),
        ({"distributed_strategy": "fsdp", "fsdp": FSDPConfig(use_orig_params=False)}, "must be true"),
        ({"distributed_strategy": "fsdp", "max_grad_norm_ratio": 2.0}, "only under ddp"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(changes: dict, message: str) -> None:
    with alone() as device, pytest.raises(UserError, match=message):
        parallel.build_model(tiny_config(**changes), device)


def test_optimizer_names_parameters_as_the_plain_model_does() -> None:
    with alone() as device:
        model, dist_model = parallel.build_model(tiny_config(), device)
        optim = parallel.build_optimizer(tiny_config(), dist_model)
    names = {name for group in optim.param_groups for name in group["param_names"]}
    assert names == set(model.state_dict())
