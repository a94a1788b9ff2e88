"""Parameters and optimizer state by plain name, whole under DDP or in shards under FSDP.

The files have ai2-olmo-core's sharded format: one safetensors file per rank with flat slices, and one JSON file that
says where each slice lies. They can be read at any number of ranks and into a model of either kind. ai2-olmo-core also
pickles the optimizer's settings there; here they are a JSON file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel

from olmo_inject.errors import UserError
from olmo_inject.training.checkpoints import record
from olmo_inject.training.parallel import DistModel
from olmo_inject.utils.extras import require_olmo_core

require_olmo_core("0.1.", "ai2-olmo 0.6.0 needs it, so give OLMo-core 3 an environment of its own (make core-env)")

from olmo_core.distributed.checkpoint import Checkpointer, _get_model_state_dict_for_checkpoint  # noqa: E402
from olmo_core.distributed.tensors import ShardedFlatTensor  # noqa: E402

Shapes = dict[str, tuple[int, ...]]
Views = dict[str, torch.Tensor]  # plain name -> a tensor, or this rank's part as a ShardedFlatTensor
FSDP_PREFIX = "_fsdp_wrapped_module."
NOT_SETTINGS = ("params", "param_names", "sharded")  # keys of a param group that belong to the wrapped model


@torch.no_grad()
def parameters(dist_model: DistModel) -> Views:
    """Every parameter under its plain name, sharing memory with the model (collective under FSDP)."""
    return _get_model_state_dict_for_checkpoint(
        dist_model if isinstance(dist_model, FullyShardedDataParallel) else dist_model.module
    )


def optimizer_state(optim: torch.optim.Optimizer, params: Views) -> Views:
    """The optimizer's tensors as `state.<parameter>.__<key>`, sharing memory, sharded like their parameters."""
    views: Views = {}
    for group in optim.param_groups:
        for name, parameter in zip(plain_names(group), group["params"], strict=True):
            whole = params[name]
            for key, value in optim.state.get(parameter, {}).items():
                if isinstance(whole, ShardedFlatTensor) and value.shape == parameter.shape:
                    value = whole.wrap(value, requires_grad=False)
                views[f"state.{name}.__{key}"] = value
    return views


def plain_names(group: dict[str, Any]) -> list[str]:
    """Names of a param group's parameters in the plain model, without what a wrapper added."""
    return [name.replace(FSDP_PREFIX, "").removeprefix("module.") for name in group["param_names"]]


def optimizer_settings(optim: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Each param group's settings and parameter names, as plain values."""
    return [
        {"param_names": plain_names(group)} | {k: v for k, v in group.items() if k not in NOT_SETTINGS}
        for group in optim.param_groups
    ]


def restore_settings(optim: torch.optim.Optimizer, saved: list[dict[str, Any]]) -> None:
    """Set each param group's learning rate, betas and other settings to the saved ones.

    Raises:
        UserError: the optimizer has other parameter groups than the saved one.
    """
    ours = [set(plain_names(group)) for group in optim.param_groups]
    if ours != [set(plain_names(group)) for group in saved]:
        raise UserError("the optimizer in the checkpoint has other parameter groups than this run's")
    for group, settings in zip(optim.param_groups, saved, strict=True):
        for key in group.keys() - set(NOT_SETTINGS):
            if key in settings:
                value = settings[key]
                group[key] = tuple(value) if isinstance(value, list) else value


def fill(view: torch.Tensor, whole: torch.Tensor) -> None:
    """Copy this rank's part of a whole tensor into a view of `parameters` or `optimizer_state`."""
    if isinstance(view, ShardedFlatTensor):
        ((start, end),) = view.sharding_spec.unsharded_flattened_offsets[dist.get_rank(view.process_group)]
        view.sharded_data.copy_(whole.flatten()[start:end])
    else:
        view.copy_(whole)


def gather(views: Views) -> dict[str, torch.Tensor]:
    """The whole tensors on rank 0's CPU; nothing on the other ranks (collective; one tensor at a time)."""
    wholes: dict[str, torch.Tensor] = {}
    for name, view in views.items():
        whole = view.gather() if isinstance(view, ShardedFlatTensor) else view
        if dist.get_rank() == 0:
            wholes[name] = whole.cpu()
    return wholes


def fill_optimizer(optim: torch.optim.Optimizer, params: Views, saved: dict[str, Any]) -> None:
    """Fill an initialised optimizer from a torch optimizer's state dict, by parameter names.

    Args:
        optim: the optimizer.
        params: parameters by plain name.
        saved: the state dict.

    Raises:
        UserError: `saved` is the state of another kind of optimizer.
    """
    states: dict[str, dict[str, torch.Tensor]] = {}
    for group in saved["param_groups"]:
        for name, number in zip(plain_names(group), group["params"], strict=True):
            states[name] = saved["state"].get(number, {})
    if not any(states.values()):
        return  # it was saved before the first step
    for group in optim.param_groups:
        for name, parameter in zip(plain_names(group), group["params"], strict=True):
            if ours := optim.state.get(parameter):
                for key in (
                    states[name].keys() - ours.keys()
                ):  # clipping's averages, which the first step does not create
                    ours[key] = states[name][key].to(parameter.device, copy=True)
    wholes = {f"state.{name}.__{key}": value for name, state in states.items() for key, value in state.items()}
    for key, view in optimizer_state(optim, params).items():
        if key not in wholes:
            raise UserError(f"the optimizer in the checkpoint does not hold {key}")
        fill(view, wholes[key])


def shapes(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """The whole shape of each tensor or view."""
    return {
        name: tuple(view.unsharded_shape if isinstance(view, ShardedFlatTensor) else view.shape)
        for name, view in tensors.items()
    }


def check_fit(theirs: Shapes, ours: Shapes, path: Path) -> None:
    """Check that the weights have the model's names and shapes.

    Args:
        theirs: shapes of the weights in `path`.
        ours: shapes of the model's weights.
        path: where the weights are, for the message.

    Raises:
        UserError: a tensor is missing, unknown or of another shape; the message names the first one.
    """
    if missing := sorted(ours.keys() - theirs.keys()):
        raise UserError(f"{path} does not fit the model: it lacks {missing[0]} ({len(missing)} in all)")
    if unknown := sorted(theirs.keys() - ours.keys()):
        raise UserError(f"{path} does not fit the model, which has no {unknown[0]} ({len(unknown)} in all)")
    for name, shape in ours.items():
        if theirs[name] != shape:
            raise UserError(f"{path} does not fit the model: {name} is {theirs[name]}, the model's is {shape}")


class ShardWriter:
    """Writes tensors below a folder. The constructor communicates; `write` may fail."""

    def __init__(self, views: Views) -> None:
        """Assign tensors to ranks (collective)."""
        rank = dist.get_rank()
        flat, plan, self.metadata = Checkpointer()._get_global_save_plan_and_metadata(views)
        self.file = f"rank_{rank}.safetensors"
        self.tensors = {name: flat[name] for name in views if rank in plan.tensors[name].shard_spec_per_rank}

    def write(self, folder: Path) -> list[Path]:
        """Write this rank's file, and rank 0's index; returns the files written."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / self.file]
        record.save_tensors(self.tensors, written[0])
        if dist.get_rank() == 0:
            written.append(folder / Checkpointer.METADATA_FILENAME)
            written[1].write_text(json.dumps(self.metadata.model_dump()), encoding="utf-8")
        return written


def read_shards(folder: Path, views: Views) -> None:
    """Fill the views in place from the shards below a folder, without communication.

    Raises:
        UserError: a tensor is missing.
    """
    reader = Checkpointer()
    metadata = reader.get_metadata(str(folder), no_dist=True)
    if missing := views.keys() - metadata.tensors.keys():
        raise UserError(f"{folder} does not hold {min(missing)}")
    reader.load(str(folder), dict(views), no_dist=True, metadata=metadata)


def stored_shapes(folder: Path) -> Shapes:
    """The whole shape of each tensor in the shards below a folder."""
    metadata = Checkpointer().get_metadata(str(folder), no_dist=True)
    return {name: tensor.shape for name, tensor in metadata.tensors.items()}


def read_whole(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors below a folder, joined, on the CPU."""
    return Checkpointer().unshard(str(folder), no_dist=True, num_threads=0)
