"""Shims that let ai2-olmo 0.6.0 and ai2-olmo-core 0.1.0 run on current torch, each with its reason.

Every shim has a test in `tests/training/test_compat.py` that fails once the shim is no longer needed.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from olmo.train import Trainer as _Trainer
else:  # a plain mixin at run time: importing olmo.train takes seconds, and reading a checkpoint does not need it
    _Trainer = object


class TrainerShims(_Trainer):
    """Lets ai2-olmo's trainer run without CUDA: `class OurTrainer(TrainerShims, Trainer)`."""

    def trainer_state_dict(self) -> dict[str, Any]:
        """ai2-olmo's trainer state, in plain types that load with `weights_only=True`.

        The original calls `torch.cuda.get_rng_state()` on any machine and holds `PosixPath` and numpy arrays. Its lists
        of checkpoints stay empty here, since a run's checkpoints are read from its folder.
        """
        return {
            "epoch": self.epoch or 0,
            "global_step": self.global_step,
            "global_train_examples_seen_this_epoch": self.global_train_examples_seen_this_epoch,
            "global_train_tokens_seen": self.global_train_tokens_seen,
            "world_size": torch.distributed.get_world_size(),
            "checkpoints": [],
            "unsharded_checkpoints": [],
            "ephemeral_checkpoints": [],
            "rng": rng_state(),
        }

    def restore_rng_state(self, rng_state: dict[str, Any]) -> None:
        """Restore what `rng_state` returned. The original calls `torch.cuda.set_rng_state` on any machine."""
        restore_rng(rng_state)

    def train_batch(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Call the original, without its warning if there is no CUDA."""
        with quiet_autocast():
            return super().train_batch(batch)

    def eval_batch(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Call the original, without its warning if there is no CUDA."""
        with quiet_autocast():
            return super().eval_batch(batch)


def rng_state() -> dict[str, Any]:
    """The random states of this process, in ai2-olmo's layout, as plain types and byte tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Restore random states saved by `rng_state` or by ai2-olmo, with CUDA's if both sides have it."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    torch.random.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state.get("cuda") is not None:
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def quiet_autocast() -> Iterator[None]:
    """Silence the warning of `torch.autocast("cuda")`, which ai2-olmo hard-codes, if there is no CUDA.

    Without CUDA it does nothing, so runs on a CPU are in float32.
    """
    if torch.cuda.is_available():
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"CUDA is not available or torch_xla", UserWarning)
        warnings.filterwarnings("ignore", r"User provided device_type of 'cuda'", UserWarning)  # torch < 2.9
        yield


def init_optimizer(optim: torch.optim.Optimizer) -> None:
    """Give every parameter its optimizer state, all zero, without moving a weight. Gradients end as `None`.

    ai2-olmo-core does this by a step with zero gradients. That step decays the weights and counts in AdamW's bias
    correction, so a run resumed from step 0 took other steps than the original.
    """
    if optim.state:
        return
    rates = [group["lr"] for group in optim.param_groups]
    for group in optim.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            if parameter.numel() > 0:  # a sharded parameter may have nothing on this rank
                parameter.grad = torch.zeros_like(parameter)
    optim.step()
    optim.zero_grad(set_to_none=True)
    for group, rate in zip(optim.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optim.state.values():
        if "step" in state:
            state["step"].zero_()
