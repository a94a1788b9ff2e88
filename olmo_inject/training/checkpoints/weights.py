"""Read weights from our checkpoints, from ai2-olmo's, or from a transformers folder.

Nothing is unpickled beyond tensors and plain containers. ai2-olmo's own reader of safetensors is not used, since it
unpickles the names of tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from olmo.config import ModelConfig
from olmo.model import OLMo
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open

from olmo_inject.errors import UserError, in_one_line
from olmo_inject.runs.checkpoints import RECORD, folder_of, steps_of
from olmo_inject.runs.read import is_run
from olmo_inject.training.checkpoints import record, sharded
from olmo_inject.training.checkpoints.architectures import ARCHITECTURES, architecture_of, settings_of
from olmo_inject.training.parallel import DistModel
from olmo_inject.utils.described_yaml import one_line
from olmo_inject.utils.files import read_json
from olmo_inject.utils.yaml_text import read_yaml, typed

Weights = dict[str, torch.Tensor]


def load_torch(path: Path) -> Any:
    """Read a `torch.save` file without running code; tensors are memory-mapped.

    Raises:
        UserError: the file is missing, damaged, or holds anything but tensors and plain containers.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Exception as error:  # many types: a zip, pickle or tensor that is not what it claims to be
        raise UserError(f"{path} is damaged, or holds more than tensors and plain values") from error


def load_tensors(path: Path) -> Weights:
    """Read a `torch.save` file that holds named tensors and nothing else.

    Raises:
        UserError: as in `load_torch`, or it holds something else.
    """
    value = load_torch(path)
    if not isinstance(value, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in value.values()):
        raise UserError(f"{path} holds something other than a model's weights")
    return value


def load_safetensors(path: Path) -> Weights:
    """Read a safetensors file, with the names that it has.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None


def check_is_checkpoint(path: Path) -> None:
    """Check that the path exists and is a checkpoint, not a run folder.

    Raises:
        UserError: it is neither; for a run folder the message names the last checkpoint.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if is_run(path):
        which = "without a checkpoint"
        if steps := steps_of(path):
            which = f"give one of its {len(steps)} checkpoints, as {folder_of(path, steps[-1])}"
        raise UserError(f"{path} is a run's folder: {which}")


def read_model_config(path: Path) -> ModelConfig:
    """Read the model configuration of a checkpoint of ours or of ai2-olmo.

    Raises:
        UserError: there is no configuration, or it does not describe a model.
    """
    check_is_checkpoint(path)
    file = path / "config.yaml"
    if (path / "config.json").is_file():
        raise UserError(f"{path} is a transformers folder; a checkpoint of ai2-olmo is needed")
    if not file.is_file():
        raise UserError(f"{path} cannot be read as a model: it has neither ai2-olmo's config.yaml nor a config.json")
    given = read_yaml(file)
    try:
        given = {name: typed(value, ModelConfig if name == "model" else Any) for name, value in given.items()}
        described = OmegaConf.select(OmegaConf.create(given), "model", throw_on_missing=True)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), described))
    except Exception as error:  # many types: of YAML, OmegaConf and ai2-olmo
        raise UserError(f"{file} does not describe an ai2-olmo model: {one_line(error)}") from error
    assert isinstance(config, ModelConfig)
    return config


def load_weights(path: Path, config: ModelConfig | None = None) -> Weights:
    """Read a model's weights under ai2-olmo's names, on the CPU, in the precision they were stored in.

    Files of this project's checkpoints are compared with their record first.

    Args:
        path: a checkpoint of this project or of ai2-olmo (unsharded), or a transformers folder of one of
            `ARCHITECTURES`.
        config: the model that the weights are for. If given, names, shapes and settings must fit it exactly.

    Raises:
        UserError: there are no weights, they cannot be read safely, or they do not fit `config`.
    """
    check_is_checkpoint(path)
    if (path / RECORD).is_file():
        record.verify(path, record.files_of_weights(record.read_record(path)))
    if (path / "model.pt").is_file():
        weights = load_tensors(path / "model.pt")
    elif (path / "model" / "metadata.json").is_file():
        weights = sharded.read_whole(path / "model")
    elif (path / "config.json").is_file():
        weights = _from_transformers(path, config)
    elif (path / "model.safetensors").is_file():
        weights = load_safetensors(path / "model.safetensors")
    else:
        raise UserError(f"{path} holds no weights: model.pt, model.safetensors or a transformers folder is needed")
    weights = {name.replace(sharded.FSDP_PREFIX, ""): value for name, value in weights.items()}
    if foreign := [name for name in weights if not name.startswith("transformer.")]:
        raise UserError(f"{path} is not an OLMo model: it holds a tensor named {foreign[0][:80]!r}")
    if config is not None:
        model = OLMo(config.update_with(init_device="meta"))
        weights, _ = model._make_state_dict_compatible(weights)  # older names, other block grouping
        sharded.check_fit(sharded.shapes(weights), sharded.shapes(model.state_dict()), path)
    return weights


def assign_weights(dist_model: DistModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy whole weights into a wrapped model; each rank copies its part (collective).

    Call it before the first forward pass, since FSDP may have gathered weights afterwards.
    """
    for name, view in sharded.parameters(dist_model).items():
        sharded.fill(view, weights[name])


def _from_transformers(path: Path, config: ModelConfig | None) -> Weights:
    """Read a folder of transformers: q, k, v joined into `att_proj`; up, then gate, into `ff_proj`."""
    kind = read_json(path / "config.json").get("model_type")
    if kind not in ARCHITECTURES:
        *rest, last = sorted(ARCHITECTURES)
        raise UserError(f"{path} is a transformers model of type {kind!r}; ai2-olmo can be {', '.join(rest)} or {last}")
    if config is not None:
        _check_settings(path, config)
    architecture = ARCHITECTURES[kind]
    index = path / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    theirs: Weights = {}
    for name in sorted(names):
        theirs |= load_safetensors(path / Path(name).name)
    ours: Weights = {}
    try:
        for name, their_name in architecture.outer.items():
            if their_name != "lm_head" or "lm_head.weight" in theirs:  # absent if the head is tied to the embedding
                ours[f"{name}.weight"] = theirs.pop(f"{their_name}.weight")
        for layer in sorted({int(m[1]) for name in theirs if (m := re.match(r"model\.layers\.(\d+)\.", name))}):
            for name, parts in architecture.block.items():
                joined = [theirs.pop(f"model.layers.{layer}.{part}.weight") for part in parts]
                ours[f"transformer.blocks.{layer}.{name}.weight"] = torch.cat(joined)
    except KeyError as error:
        raise UserError(f"{path} is not a whole {architecture.name}: {error.args[0]} is missing") from None
    if theirs:
        raise UserError(f"{path} is not an {architecture.name} that ai2-olmo can be: it holds {min(theirs)}")
    return ours


def _check_settings(path: Path, config: ModelConfig) -> None:
    """Compare what `config.json` says of the model with `config`; shapes of tensors do not tell all of it."""
    from transformers import AutoConfig  # seconds

    try:
        described: dict[str, Any] = AutoConfig.from_pretrained(path, local_files_only=True).to_dict()
    except Exception as error:  # many types, of wrong values
        reason = in_one_line(error)[:200]
        raise UserError(f"{path} has a config.json that transformers cannot read: {reason}") from error
    wanted = {"model_type": architecture_of(config).kind, **settings_of(config)}
    for name, value in wanted.items():
        theirs = described.get(name)
        if isinstance(value, dict):  # the rotation, with keys that do not matter for the default kind
            theirs = {key: (theirs or {}).get(key) for key in value}
        if theirs != value:
            raise UserError(f"{path} has {name} {theirs}; the experiment's `model` has {value}")
