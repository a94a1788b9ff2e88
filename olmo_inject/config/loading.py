"""Load an experiment from YAML files, a named model and overrides, check it, and write it back to YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from olmo_inject.config.checks import check
from olmo_inject.config.olmo_settings import ModelConfig
from olmo_inject.config.schema import Described, Experiment
from olmo_inject.config.stream import OLMO, StreamExperiment, check_stream_experiment
from olmo_inject.errors import UserError
from olmo_inject.utils.described_yaml import ListError, check_lists, converted, defaults, one_line, to_yaml
from olmo_inject.utils.paths import configs_folder, expanded
from olmo_inject.utils.yaml_text import merged, parse_overrides, read_yaml, typed


def load_experiment(path: Path | str, overrides: Sequence[str] = (), changed_by: str = "command line") -> Experiment:
    """Read, merge and check an experiment.

    Layers from the lowest priority to the highest: the schema's defaults, the named model's file, the file that this
    one `extends`, the file itself, the overrides.

    Args:
        path: a YAML file, or the name of one in configs/experiments.
        overrides: `key=value` with dots, as ai2-olmo's; `injections.0.every=20` changes an entry of a list.
        changed_by: source of the overrides, for messages.

    Raises:
        UserError: the experiment is invalid; the message names the key, the value and what is allowed.
    """
    experiment = load_described(path, overrides, changed_by)
    if isinstance(experiment, StreamExperiment):
        raise UserError(f"{path}: trainer {experiment.trainer} is used from your own script; see docs/trainers.md")
    assert isinstance(experiment, Experiment)
    return experiment


def load_described(path: Path | str, overrides: Sequence[str] = (), changed_by: str = "command line") -> Described:
    """Load an experiment of any trainer; `trainer: NAME` names one that is not ai2-olmo's.

    Args:
        path: as in `load_experiment`.
        overrides: as in `load_experiment`.
        changed_by: as in `load_experiment`.

    Raises:
        UserError: as in `load_experiment`.
    """
    layers = _over(_read_extended(find_config(path, "experiments")), parse_overrides(list(map(_nest_model, overrides))))
    kind: type[Described] = StreamExperiment if layers.get("trainer", OLMO) != OLMO else Experiment
    if kind is Experiment:
        layers.pop("trainer", None)
        layers = _with_named_model(layers)
    given = typed(layers, kind)
    # Checks that no list is given instead of keys and values, which OmegaConf does not.
    _over(_default_values(kind), given)
    try:
        check_lists(given, kind)
        experiment = converted(kind, given)
    except (OmegaConfBaseException, ListError) as error:
        raise UserError(f"{changed_by if _good_without(path, overrides) else path}: {one_line(error)}") from None
    assert isinstance(experiment, Experiment | StreamExperiment)
    experiment.expand_paths()
    if isinstance(experiment, Experiment):
        check(experiment)
    else:
        check_stream_experiment(experiment)
    return experiment


def _good_without(path: Path | str, overrides: Sequence[str]) -> bool:
    """Whether the file is valid without the overrides, so that the mistake is in one of them."""
    if not overrides:
        return False
    try:
        load_described(path)
    except UserError:
        return False
    return True


@cache
def _default_values(kind: type[Described]) -> Any:
    return OmegaConf.to_container(defaults(kind))


def experiment_yaml(experiment: Described) -> str:
    """The resolved experiment as YAML; from which `load_experiment` reads an equal one."""
    return to_yaml(experiment)


def named_model(name: str) -> dict[str, Any]:
    """The model settings in a named model's file and in the files that it extends.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    return typed(_read_extended(find_config(name, "models")).get("model") or {}, dict[str, Any])


def find_config(path: Path | str, kind: str) -> Path:
    """The file at `path`, or the shipped configuration of that name in configs/`kind`.

    Raises:
        UserError: there is neither; the message names the shipped ones.
    """
    path = expanded(str(path), kind)
    candidates = [Path(path), configs_folder() / kind / f"{path}", configs_folder() / kind / f"{path}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"{path} is neither a file nor one of the shipped {kind}: {', '.join(shipped_configs(kind))}")


def shipped_configs(kind: str) -> list[str]:
    """The names of the configurations in configs/`kind`."""
    return sorted(file.stem for file in (configs_folder() / kind).glob("*.yaml"))


def _read_extended(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path}: extends itself")
    config = _named(read_yaml(path))
    base = config.pop("extends", None)
    if base is None:
        return config
    extended = path.parent / expanded(str(base), f"{path}: extends")
    if not extended.is_file() and base in shipped_configs("experiments"):
        extended = configs_folder() / "experiments" / f"{base}.yaml"
    if not extended.is_file():
        raise UserError(f"{path}: extends {base}, which is neither a file beside it nor a shipped experiment")
    return _over(_read_extended(extended, (*seen, path.resolve())), config)


def _nest_model(override: str) -> str:
    """`model=NAME` as `model.name=NAME`, so that other overrides keep the name; `model={...}` as it is."""
    name = override.removeprefix("model=")
    return override if name == override or name.lstrip().startswith("{") else f"model.name={name}"


def _named(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer with `model: NAME` written as `model: {name: NAME}`, so that higher layers keep the name."""
    return layer | {"model": {"name": layer["model"]}} if isinstance(layer.get("model"), str) else layer


def _over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """One layer of an experiment over another."""
    model, named = base.get("model"), changes.get("model")
    if isinstance(model, dict) and isinstance(named, dict) and model and "name" in named and "name" not in model:
        raise UserError(f"model: {named['name']} would not replace the settings under `model`, which have no name")
    corpus, other = base.get("corpus"), changes.get("corpus")
    if isinstance(corpus, dict) and isinstance(other, dict):
        base = base | {"corpus": _elsewhere(corpus, other)}
    return merged(base, changes)


def _elsewhere(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` for a corpus; if `changes` name another kind, only what no corpus decides remains."""
    kinds = ("name", "folder", "paths")
    after, before = ({kind for kind in kinds if layer.get(kind)} for layer in (changes, base))
    if not after or not before or after == before:
        return base
    return {key: base[key] for key in base.keys() & {"seed", "sequences"}}


def _with_named_model(plain: dict[str, Any]) -> dict[str, Any]:
    """Fill in a named model's settings: `model: 20M`, or `model: {name: 20M, ...}` to change some."""
    model = dict(plain.get("model") or {})
    name = model.pop("name", None)
    if name is None:
        if plain.get("model_name") is not None and not model.keys() >= {entry.name for entry in fields(ModelConfig)}:
            raise UserError("model_name: only in resolved experiments; write `model: NAME`")
        return plain
    return _over(_read_extended(find_config(str(name), "models")), plain | {"model": model, "model_name": str(name)})
