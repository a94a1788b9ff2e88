"""Checkpoints of a run: written whole or not at all, checked before they are read, safe to read.

`step{s}` holds the weights before plan step s, after s completed steps. There are three kinds:

- full, under DDP: `model.pt`, `optim.pt`, `train.pt`, `config.yaml`, as ai2-olmo's unsharded checkpoints, so
  its own tools read them; `train/rank{r}.pt` holds the trainer's state on the further ranks.
- full, under FSDP: `model/` and `optim/` in shards (see `sharded`), `train/rank{r}.pt`, `config.yaml`.
- weights only: `model.safetensors` with the plain model's names, `config.yaml`.

Each has a `checkpoint.json` with the size and sha256 of every file. All ranks must see the same folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from olmo.config import TrainConfig
from torch.distributed.fsdp import FullyShardedDataParallel

from olmo_inject.errors import UserError
from olmo_inject.training.agreement import on_every_rank
from olmo_inject.training.checkpoints import sharded
from olmo_inject.training.checkpoints.on_disk import Checkpoint, remove_unfinished
from olmo_inject.training.checkpoints.record import (
    file_record,
    read_record,
    save_tensors,
    verify,
    write_record,
)
from olmo_inject.training.checkpoints.weights import load_tensors, load_torch
from olmo_inject.training.compat import init_optimizer
from olmo_inject.training.parallel import DistModel
from olmo_inject.utils.described_yaml import to_yaml
from olmo_inject.utils.files import read_json
from olmo_inject.utils.owned_folder import install

Writer = Callable[[Path], list[Path]]  # writes into a folder and returns the files it wrote


def save(
    run_folder: Path,
    step: int,
    dist_model: DistModel,
    optim: torch.optim.Optimizer,
    trainer_state: dict[str, Any],
    train_config: TrainConfig,
    weights_only: bool = False,
    overwrite: bool = False,
) -> Checkpoint:
    """Write `run_folder/step{step}` (collective). Gradients are dropped.

    Also removes half-written and half-removed checkpoints of killed runs.

    Args:
        run_folder: the run folder, shared by all ranks.
        step: number of completed steps.
        dist_model: the wrapped model.
        optim: its optimizer.
        trainer_state: this rank's state of the trainer, in plain types (`compat.TrainerShims.trainer_state_dict`).
        train_config: ai2-olmo's configuration, which is written beside the weights.
        weights_only: leave out the optimizer and the trainer's state.
        overwrite: replace an existing checkpoint of this step, which a resumed run reaches again.

    Raises:
        UserError: on every rank: the step exists, or the disk is full or cannot be written. No part of a checkpoint
            remains.
    """
    final, tmp = run_folder / f"step{step}", run_folder / f".step{step}.tmp"
    first = dist.get_rank() == 0
    is_sharded = isinstance(dist_model, FullyShardedDataParallel) and not weights_only
    with on_every_rank(f"cannot write {final}"):
        if first:
            if final.exists() and not overwrite:
                raise UserError(f"{final} exists already")
            remove_unfinished(run_folder)
            tmp.mkdir(parents=True)
    optim.zero_grad(set_to_none=True)

    # All communication comes before all writing, so that a rank whose write fails leaves no other rank waiting.
    writers = _writers(dist_model, optim, weights_only)
    if not weights_only:
        state_file = "train.pt" if first and not is_sharded else f"train/rank{dist.get_rank()}.pt"
        writers.append(lambda folder: _save_torch(folder / state_file, trainer_state))
    if first:
        writers.append(lambda folder: _save_config(folder / "config.yaml", train_config))
    files: dict[str, dict[str, Any]] = {}
    try:
        with on_every_rank(f"cannot write {final}"):
            written = [path for write in writers for path in write(tmp)]
            files = {path.relative_to(tmp).as_posix(): file_record(path) for path in written}
        everywhere: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(everywhere, files)
        with on_every_rank(f"cannot write {final}"):
            if first:
                record = {
                    "step": step,
                    "kind": "weights" if weights_only else "full",
                    "sharded": is_sharded,
                    "world_size": dist.get_world_size(),
                    "files": {name: written for part in everywhere for name, written in part.items()},
                }
                write_record(tmp, record)
                install(tmp, final)
    except UserError:
        if first:
            shutil.rmtree(tmp, ignore_errors=True)
        raise
    return Checkpoint(final, step, weights_only, is_sharded)


def restore(checkpoint: Checkpoint, dist_model: DistModel, optim: torch.optim.Optimizer) -> dict[str, Any]:
    """Read a full checkpoint, of DDP or FSDP, into a model of either kind, at any number of ranks (collective).

    Call it before the first forward pass. Every file is checked before any is read.

    Args:
        checkpoint: a full checkpoint.
        dist_model: the wrapped model, which is filled.
        optim: its optimizer, which is filled.

    Returns:
        This rank's trainer state, or rank 0's if the number of ranks has changed.

    Raises:
        UserError: on every rank: the checkpoint is damaged, foreign, or does not fit the model.
    """
    path, rank, world = checkpoint.path, dist.get_rank(), dist.get_world_size()
    with on_every_rank(f"{path} is damaged"):
        record = read_record(path)
        if record["kind"] != "full":
            raise UserError(f"{path} holds weights only: start a run from it, or resume from a full checkpoint")
        verify(path, record["files"], rank, world)
    params = sharded.parameters(dist_model)
    init_optimizer(optim)
    with on_every_rank(f"{path} is damaged or foreign"), torch.no_grad():
        restore_state = _restore_sharded if record["sharded"] else _restore_unsharded
        restore_state(path, params, optim)
        source = rank if record["world_size"] == world else 0
        unsharded_first = source == 0 and not record["sharded"]
        trainer_state = load_torch(path / ("train.pt" if unsharded_first else f"train/rank{source}.pt"))
        if not isinstance(trainer_state, dict):
            raise UserError(f"{path} holds no trainer state")
    return trainer_state


def _restore_sharded(path: Path, params: sharded.Views, optim: torch.optim.Optimizer) -> None:
    sharded.check_fit(sharded.stored_shapes(path / "model"), sharded.shapes(params), path)
    sharded.read_shards(path / "model", params)
    sharded.restore_settings(optim, read_json(path / "optim" / "groups.json"))
    sharded.read_shards(path / "optim", sharded.optimizer_state(optim, params))


def _restore_unsharded(path: Path, params: sharded.Views, optim: torch.optim.Optimizer) -> None:
    weights = load_tensors(path / "model.pt")
    sharded.check_fit(sharded.shapes(weights), sharded.shapes(params), path)
    for name, view in params.items():
        sharded.fill(view, weights[name])
    saved = load_torch(path / "optim.pt")
    sharded.restore_settings(optim, saved["param_groups"])
    sharded.fill_optimizer(optim, params, saved)


def _writers(dist_model: DistModel, optim: torch.optim.Optimizer, weights_only: bool) -> list[Writer]:
    """Gather the parts of the model and the optimizer that this rank must write (collective)."""
    params = sharded.parameters(dist_model)
    first = dist.get_rank() == 0
    writers: list[Writer] = []
    if weights_only:
        whole = sharded.gather(params)
        if first:
            writers.append(lambda folder: _save_safetensors(folder / "model.safetensors", whole))
    elif isinstance(dist_model, FullyShardedDataParallel):
        init_optimizer(optim)
        model = sharded.ShardWriter(params)
        state = sharded.ShardWriter(sharded.optimizer_state(optim, params))
        writers += [
            lambda folder: model.write(folder / "model"),
            lambda folder: state.write(folder / "optim"),
        ]
        if first:
            settings = sharded.optimizer_settings(optim)
            writers.append(lambda folder: _save_json(folder / "optim" / "groups.json", settings))
    elif first:
        writers.append(lambda folder: _save_torch(folder / "model.pt", params))
        writers.append(lambda folder: _save_torch(folder / "optim.pt", optim.state_dict()))
    return writers


def _save_torch(path: Path, value: Any) -> list[Path]:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:  # if given a path, torch reports a full disk as an internal error
        try:
            torch.save(value, file)
        except RuntimeError as error:  # also of a file: closing its archive fails after the disk did
            raise (error.__context__ or error) from None
    return [path]


def _save_json(path: Path, value: Any) -> list[Path]:
    path.write_text(json.dumps(value), encoding="utf-8")
    return [path]


def _save_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> list[Path]:
    save_tensors(tensors, path)
    return [path]


def _save_config(path: Path, config: TrainConfig) -> list[Path]:
    path.write_text(to_yaml(config), encoding="utf-8")
    return [path]
