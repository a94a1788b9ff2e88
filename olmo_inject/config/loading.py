"""From YAML files, a named model and overrides to one checked experiment, and back to YAML."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from olmo_inject.config.checks import check
from olmo_inject.config.olmo_settings import ModelConfig
from olmo_inject.config.parts import Described
from olmo_inject.config.schema import Experiment
from olmo_inject.config.stream import OLMO, StreamExperiment, check_stream_experiment
from olmo_inject.errors import UserError
from olmo_inject.paths import expanded
from olmo_inject.yaml_text import in_flow, parse_overrides, read_yaml, typed, without_none

Kind = TypeVar("Kind")


def configs_folder() -> Path:
    """The shipped configurations: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def load_experiment(path: Path | str, overrides: Sequence[str] = (), changed_by: str = "command line") -> Experiment:
    """Read, merge and check an experiment.

    Later wins: the schema's defaults, the named model's file, what the file `extends`, the file, overrides.

    Args:
        path: a YAML file, or the name of one in configs/experiments.
        overrides: `key=value` with dots, as ai2-olmo's; `injections.0.every=20` reaches into a list.
        changed_by: where overrides come from, for the message of a mistake in one.

    Raises:
        UserError: anything that cannot be a run, in one line that names the key, the value and what is allowed.
    """
    experiment = load_described(path, overrides, changed_by)
    if isinstance(experiment, StreamExperiment):
        raise UserError(f"{path}: trainer {experiment.trainer} trains by a script of your own; see docs/trainers.md")
    assert isinstance(experiment, Experiment)
    return experiment


def load_described(path: Path | str, overrides: Sequence[str] = (), changed_by: str = "command line") -> Described:
    """As `load_experiment`, of any trainer: `trainer: NAME` says that it is another than ai2-olmo's.

    Raises:
        UserError: as `load_experiment`.
    """
    layers = _over(_read_extended(find_config(path, "experiments")), parse_overrides(list(map(_nest_model, overrides))))
    kind, check = _kind(layers)
    given = typed(layers if kind is StreamExperiment else _with_named_model(layers), kind)
    schema, defaults = _schema(kind)
    _over(defaults, given)  # refuses a list for keys by name, which OmegaConf does not
    try:
        _check_lists(given, kind)
        experiment = OmegaConf.to_object(OmegaConf.merge(schema, given))
    except (OmegaConfBaseException, _ListError) as error:
        raise UserError(f"{changed_by if _good_without(path, overrides) else path}: {one_line(error)}") from None
    assert isinstance(experiment, kind)
    experiment.expand_paths()
    check(experiment)
    return experiment


def _kind(layers: dict[str, Any]) -> tuple[type[Described], Callable[[Any], None]]:
    """The description that a configuration is of, and its check."""
    if layers.get("trainer", OLMO) != OLMO:
        return StreamExperiment, check_stream_experiment
    layers.pop("trainer", None)
    return Experiment, check


def _good_without(path: Path | str, overrides: Sequence[str]) -> bool:
    """Whether a mistake is in the overrides, since the file is good without them."""
    if not overrides:
        return False
    try:
        load_described(path)
    except UserError:
        return False
    return True


@cache
def _schema(kind: type[Described]) -> tuple[DictConfig, Any]:
    """What may be written, which takes OmegaConf longer to work out than to check a file, and its defaults."""
    schema = OmegaConf.structured(kind)
    return schema, OmegaConf.to_container(schema)


def experiment_yaml(experiment: Described) -> str:
    """The resolved experiment as YAML; `load_described` reads it back to the same."""
    return OmegaConf.to_yaml(OmegaConf.structured(experiment))


def read_described(path: Path, kind: type[Kind]) -> Kind:
    """A YAML file as the dataclass that says what may stand in it.

    Raises:
        UserError: it cannot be read, or the key, the value and what is allowed.
    """
    given = typed(read_yaml(path), kind)
    try:
        _check_lists(given, kind)
        read = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), given))
    except Exception as error:  # of OmegaConf's several families
        raise UserError(f"{path}: {one_line(error)}") from None
    assert isinstance(read, kind)
    return read


class _ListError(Exception):
    """A list where none may stand, or none where one must; OmegaConf speaks of it in terms of its own."""


def _check_lists(value: Any, hint: Any, where: str = "") -> None:
    """Refuse a list for what is none, and the other way round, wherever the types of a dataclass say which it is.

    Raises:
        _ListError: the key, and what is allowed.
    """
    hint = without_none(hint)
    origin = typing.get_origin(hint) or hint
    if origin is Any or not isinstance(origin, type) or value is None:  # anything, or one of several types
        return
    is_list = origin in (list, tuple)
    if isinstance(value, list) != is_list:
        allowed = (
            f"must be a list, such as {in_flow([value])}" if is_list and isinstance(value, str) else "must be a list"
        )
        raise _ListError(f"{where}: {allowed if is_list else 'must not be a list'}")
    if is_list:
        for entry in value:
            _check_lists(entry, (typing.get_args(hint) or (Any,))[0], where)
    elif isinstance(value, dict) and dataclasses.is_dataclass(hint):
        for name, inner in typing.get_type_hints(hint).items():
            _check_lists(value.get(name), inner, f"{where}.{name}".lstrip("."))
    elif isinstance(value, dict) and hint in (str, int, float, bool):
        raise _ListError(f"{where}: must be one value, not keys and values")


def named_model(name: str) -> dict[str, Any]:
    """What the named model's file, and those it extends, say of ai2-olmo's model settings.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    return typed(_read_extended(find_config(name, "models")).get("model") or {}, dict[str, Any])


def find_config(path: Path | str, kind: str) -> Path:
    """The file at `path`, or the shipped configuration of that name in configs/`kind`.

    Raises:
        UserError: neither is there; the shipped ones are named.
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
    found = path.parent / expanded(str(base), f"{path}: extends")
    if not found.is_file():
        raise UserError(f"{path}: extends {base}, which is not a file beside it")
    return _over(_read_extended(found, (*seen, path.resolve())), config)


def _nest_model(override: str) -> str:
    name = override.removeprefix("model=")
    return override if name == override else f"model.name={name}"


def _named(layer: dict[str, Any]) -> dict[str, Any]:
    """One layer with `model: NAME` as `model: {name: NAME}`, so that layers over it keep the name."""
    return layer | {"model": {"name": layer["model"]}} if isinstance(layer.get("model"), str) else layer


def _over(base: Any, changes: Any, where: str = "") -> Any:
    """`changes` over `base`: keys one by one, entries of a list by number (as overrides name them), all else whole."""
    if isinstance(base, list) and isinstance(changes, dict):
        numbers = {str(number) for number in range(len(base))}
        if unknown := sorted(changes.keys() - numbers):
            entries = f"its entries are 0 to {len(base) - 1}" if base else "it has no entries"
            raise UserError(f"{where}: {unknown[0]} is none of its entries: it is a list, {entries}")
        return [_over(entry, changes.get(str(i), entry), f"{where}.{i}") for i, entry in enumerate(base)]
    if not isinstance(base, dict):
        return changes
    if isinstance(changes, list):
        raise UserError(f"{where}: must hold keys and values, not a list")
    if not isinstance(changes, dict):
        return changes
    if where == "model" and "name" in changes and base and "name" not in base:
        raise UserError(
            f"model: {changes['name']} would not replace the settings that stand under `model` without a name"
        )
    if where == "corpus":
        base = _elsewhere(base, changes)
    merged = {key: _over(base[key], changes[key], f"{where}.{key}".lstrip(".")) for key in base.keys() & changes.keys()}
    return base | changes | merged


def _elsewhere(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """What is left of a corpus where `changes` take it from another kind of place: the seed of its order alone."""
    kinds = ("name", "folder", "paths")
    taken, before = ({kind for kind in kinds if layer.get(kind)} for layer in (changes, base))
    return {key: base[key] for key in base.keys() & {"seed"}} if taken and before and taken != before else base


def _with_named_model(plain: dict[str, Any]) -> dict[str, Any]:
    """Put a named model's file under the rest: `model: 20M`, or `model: {name: 20M, ...}` to change parts."""
    model = dict(plain.get("model") or {})
    name = model.pop("name", None)
    if name is None:
        if plain.get("model_name") is not None and not model.keys() >= {entry.name for entry in fields(ModelConfig)}:
            raise UserError("model_name: stands in resolved experiments only; write `model: NAME`")
        return plain
    return _over(_read_extended(find_config(str(name), "models")), plain | {"model": model, "model_name": str(name)})


def one_line(error: Exception) -> str:
    """OmegaConf's first line, with the full key in front; any other error's lines joined."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    full_key = getattr(error, "full_key", None)
    if full_key is None:
        return "; ".join(line.strip() for line in lines)
    return f"{full_key}: {lines[0]}"
