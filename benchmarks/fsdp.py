"""Memory of one rank of FSDP on many ranks, without them: fake tensors and torch's fake process group, on a CPU.

FSDP, ai2-olmo's model, the optimizer and the loss are those that train; only the tensors have no data. Their storages
are counted. Kernels' own work space, fragmentation and CUDA's context are not in it.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.timing import experiment_of, print_table
from launch.cost.memory import estimate_memory
from launch.cost.report import in_bytes


def print_memory(model: str, worlds: tuple[int, ...]) -> None:
    """Print a table of `model` under FSDP on several numbers of ranks, beside the estimate of `cost`."""
    rows = []
    for world in worlds:
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.fsdp", model, str(world)], capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise SystemExit(f"{model} on {world} ranks: {ended.stderr.strip().splitlines()[-1]}")
        numbers = json.loads(ended.stdout.splitlines()[-1])
        estimated = estimate_memory(experiment_of(model), world, 8)
        held = estimated.weights + estimated.gradients + estimated.optimizer
        rows.append(
            [
                str(world),
                *(in_bytes(numbers[name]) for name in ("building", "built", "held", "peak")),
                in_bytes(held),
                in_bytes(estimated.total),
                f"{numbers['peak'] / estimated.total:.2f}",
                f"{numbers['seconds']:.0f} s",
            ]
        )
    print_table(
        f"{model} under FSDP, one rank: building it, built, with gradients and optimizer, and at the peak of a step",
        ["ranks", "building", "built", "held", "peak", "held, est.", "peak, est.", "ratio", "to build"],
        rows,
    )


class Allocated(TorchDispatchMode):
    """Counts the bytes of all storages of tensors that were made within it, at their present sizes, and the peak."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: weakref.WeakValueDictionary[int, torch.UntypedStorage] = weakref.WeakValueDictionary()
        self.peak = 0

    @property
    def now(self) -> int:
        """Bytes at present."""
        return sum(storage.nbytes() for storage in self._storages.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = storage
        self.peak = max(self.peak, self.now)
        return outputs


def measure(model: str, world: int) -> dict[str, Any]:
    """Build a rank of `world`, train two steps of one micro-batch, and return bytes and seconds."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from olmo_inject.training.loss import loss_in_parts
    from olmo_inject.training.parallel import build_model, build_optimizer
    from olmo_inject.training.run import runtime_config

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    experiment, device = experiment_of(model), torch.device("cpu")
    cfg = runtime_config(experiment, world)
    begun = time.perf_counter()
    with FakeTensorMode(allow_non_fake_inputs=True), Allocated() as allocated:
        torch.nn.init.trunc_normal_ = _truncated
        _, dist_model = build_model(cfg, device)
        optim = build_optimizer(cfg, dist_model)
        seconds, building = time.perf_counter() - begun, allocated.peak
        gc.collect()
        built, held, allocated.peak = allocated.now, 0, 0
        tokens = torch.zeros(cfg.device_train_microbatch_size, experiment.sequence_length, dtype=torch.long)
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = dist_model(input_ids=tokens).logits
            labels = tokens[:, 1:].reshape(-1)
            loss, _ = loss_in_parts(logits[:, :-1].contiguous().flatten(0, 1), labels, reduction="sum")
            del logits
            loss.backward()
            del loss
            optim.step()
            held = allocated.now
            optim.zero_grad(set_to_none=True)
    return {"building": building, "built": built, "held": held, "peak": allocated.peak, "seconds": seconds}


@torch.no_grad()
def _truncated(tensor: torch.Tensor, mean: float, std: float, a: float, b: float) -> torch.Tensor:
    """Two rounds of torch's `trunc_normal_`, which goes on until all are within bounds, unknown of fake tensors."""
    result = tensor.normal_(mean, std)
    for _ in range(2):
        outside = (result < a) | (result > b)
        result = torch.where(outside, torch.empty_like(result).normal_(mean, std), result)
    return tensor.copy_(result)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
