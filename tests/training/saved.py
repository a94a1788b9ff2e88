"""Jobs on every rank that save and restore a small model, and files that run code when they are unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from olmo.config import TrainConfig
from ranks import alone, build, differing, numbers, tiny_config, train

from olmo_inject.errors import UserError
from olmo_inject.training import compat
from olmo_inject.training.checkpoints import save_restore
from olmo_inject.training.checkpoints.on_disk import Checkpoint, latest, read_checkpoint
from olmo_inject.training.checkpoints.weights import assign_weights, load_weights

STATE = {"global_step": 3, "checkpoints": []}


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def straight(folder: Path, strategy: str, schedule: str = "adamw") -> tuple[dict, dict]:
    """Three steps, a full and a weights-only checkpoint, three more; the numbers at both ends."""
    config = job_config(strategy, schedule)
    model, optim = build(config)
    train(model, optim, 0, 3)
    state = {**STATE, "rank": dist.get_rank(), "rng": compat.rng_state()}
    saved = save_restore.save(folder, 3, model, optim, state, config)
    assert saved == read_checkpoint(folder / "step3")
    save_restore.save(folder / "weights", 3, model, optim, state, config, weights_only=True)
    middle = numbers(model, optim if schedule == "adamw" else None)
    train(model, optim, 3, 6)
    return middle, numbers(model)


def resumed(folder: Path, strategy: str, schedule: str = "adamw") -> tuple[dict, dict, int]:
    """The same from the checkpoint, in a model that began elsewhere."""
    config = job_config(strategy, schedule, seed=99)
    model, optim = build(config)
    checkpoint = latest(folder)
    assert checkpoint is not None
    state = save_restore.restore(checkpoint, model, optim)
    assert state["global_step"] == 3
    middle = numbers(model, optim if schedule == "adamw" else None)
    train(model, optim, 3, 6)
    return middle, numbers(model), state["rank"]


def job_config(strategy: str, schedule: str, **changes: Any) -> TrainConfig:
    config = tiny_config(strategy, **changes)
    if schedule == "lionw":
        config.optimizer.name = "lionw"  # type: ignore[assignment]
    if schedule == "adaptive":  # clipping that keeps averages in the optimizer's state
        config.max_grad_norm_ratio, config.max_grad_norm = 1.05, None
    return config


def from_step_zero(folder: Path, strategy: str) -> list[str]:
    """A run that saves before its first step, one that does not, and one resumed from there."""
    ends = []
    for saves, restores in [(False, False), (True, False), (False, True)]:
        model, optim = build(tiny_config(strategy, seed=9 if restores else 7))
        if saves:
            save_restore.save(folder, 0, model, optim, STATE, tiny_config(strategy))
        if restores:
            save_restore.restore(read_checkpoint(folder / "step0"), model, optim)
        train(model, optim, 0, 3)
        ends.append(numbers(model))
    return [differing(ends[0], other) for other in ends[1:]] if dist.get_rank() == 0 else []


def settings_restored(folder: Path, strategy: str) -> list[dict]:
    """The first param group, changed in training, saved and restored into a fresh optimizer."""
    model, optim = build(tiny_config(strategy))
    optim.param_groups[0] |= {"lr": 0.123, "betas": (0.5, 0.75), "max_grad_norm": None}
    save_restore.save(folder, 3, model, optim, STATE, tiny_config(strategy))
    model, optim = build(tiny_config(strategy))
    save_restore.restore(read_checkpoint(folder / "step3"), model, optim)
    return [{k: v for k, v in group.items() if k != "params"} for group in optim.param_groups]


def restore_error(folder: Path, strategy: str, changes: dict | None = None) -> str:
    """What restoring says; every rank answers, so none hangs."""
    config = tiny_config(strategy)
    for key, value in (changes or {}).items():
        setattr(config.model, key, value)
    model, optim = build(config)
    with pytest.raises(UserError) as caught:
        save_restore.restore(Checkpoint(folder, 3, False, strategy == "fsdp"), model, optim)
    return str(caught.value)


def save_error(folder: Path, strategy: str, state: dict | None = None) -> str:
    """What saving says."""
    config = tiny_config(strategy)
    model, optim = build(config)
    with pytest.raises(UserError) as caught:
        save_restore.save(folder, 3, model, optim, state or STATE, config)
    return str(caught.value)


def save_padded(folder: Path, strategy: str, padding: int) -> str:
    """Save with a large state on the last rank, which fills the disk for it alone."""
    large = dist.get_rank() == dist.get_world_size() - 1
    return save_error(folder, strategy, {**STATE, "padding": torch.zeros(padding if large else 1)})


def assigned(folder: Path, strategy: str) -> dict[str, np.ndarray]:
    """A wrapped model filled from whole weights."""
    config = tiny_config(strategy, seed=99)
    model, _ = build(config)
    assign_weights(model, load_weights(folder, config.model))
    return numbers(model)


def reseal(folder: Path, *names: str) -> None:
    """Write the record as whoever made these files would have."""
    record = json.loads((folder / "checkpoint.json").read_text())
    for name in names:
        content = (folder / name).read_bytes()
        record["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "checkpoint.json").write_text(json.dumps(record))


def saved_steps(folder: Path, full: list[int], weights: list[int]) -> None:
    with alone():
        config = tiny_config()
        model, optim = build(config)
        for step in sorted(full + weights):
            save_restore.save(folder, step, model, optim, STATE, config, weights_only=step in weights)
