"""YAML files described by a dataclass: its fields are the allowed keys, with the type of each value."""

from __future__ import annotations

import dataclasses
import pickle
import re
import typing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf

from olmo_inject.errors import UserError
from olmo_inject.utils.yaml_text import field_types, in_flow, read_yaml, typed, without_none

T = TypeVar("T")


def read_described(path: Path, kind: type[T]) -> T:
    """Read a YAML file as the dataclass `kind`.

    Raises:
        UserError: the file cannot be read; an unknown key, a missing one, or a value of the wrong type.
    """
    return described(kind, (str(path), read_yaml(path)))


def described(kind: type[T] | T, *layers: tuple[str, Any]) -> T:
    """Convert plain values to a dataclass.

    Args:
        kind: the dataclass, or an object of it whose values are the defaults.
        layers: name and values of each layer, as `read_yaml` returns them; later layers win. The name is that of a file
            or an option, for messages.

    Raises:
        UserError: an unknown key, a missing one, or a value of the wrong type.
    """
    of_type = kind if isinstance(kind, type) else type(kind)
    where, merged = "", defaults(kind) if isinstance(kind, type) else OmegaConf.structured(kind)
    try:
        for where, values in layers:  # noqa: B007
            given = typed(values, of_type)
            check_lists(given, of_type)
            merged = OmegaConf.unsafe_merge(merged, given)  # which copies neither
        read: Any = OmegaConf.to_object(merged)
    except Exception as error:  # OmegaConf's errors have no common base class
        raise UserError(f"{where}: {one_line(error)}") from None
    assert isinstance(read, of_type)
    return read


def defaults(kind: type) -> DictConfig:
    """A dataclass with its default values, to merge others into."""
    return pickle.loads(_pickled(kind))


@cache
def _pickled(kind: type) -> bytes:
    """Of `defaults`: OmegaConf takes ten times as long to build or copy them as pickle takes to read them."""
    return pickle.dumps(OmegaConf.structured(kind))


def converted(kind: type[T], given: Any) -> T:
    """Plain values as a dataclass, with its defaults.

    OmegaConf takes 40 ms for an experiment. It is only asked where a value has to be converted, resolved or refused;
    other experiments, such as the cells of a sweep, take 2 ms.

    Args:
        kind: the dataclass.
        given: as `typed` returns it, checked by `check_lists`.

    Raises:
        OmegaConfBaseException: an unknown key, a missing one, or a value of the wrong type.
    """
    try:
        return _directly(kind, given, kind())
    except _NeedsOmegaConf:
        merged = OmegaConf.unsafe_merge(defaults(kind), given)  # which copies neither
        return OmegaConf.to_object(merged)  # pyright: ignore[reportReturnType]


class _NeedsOmegaConf(Exception):
    """A value that refers to others, is missing, or may have to be converted or refused."""


def _directly(hint: Any, value: Any, default: Any = None) -> Any:
    """`value` as the type `hint`, if there is no doubt about it; a dataclass keeps the fields of `default`."""
    if isinstance(value, str) and ("${" in value or value == MISSING):
        raise _NeedsOmegaConf
    may_be_none, hint = hint is Any or without_none(hint) is not hint, without_none(hint)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if value is None and may_be_none:
        return None
    if dataclasses.is_dataclass(hint) and isinstance(value, dict | origin):
        base: Any = value if isinstance(value, origin) else default if isinstance(default, origin) else origin()
        given, types = value if isinstance(value, dict) else {}, field_types(hint)
        old = {entry.name: getattr(base, entry.name) for entry in dataclasses.fields(hint)}
        if given.keys() - old.keys():
            raise _NeedsOmegaConf
        return origin(**{name: _directly(types[name], given.get(name, was), was) for name, was in old.items()})
    if isinstance(value, list) and origin in (list, Any):
        return [_directly((arguments or (Any,))[0], entry) for entry in value]
    if isinstance(value, list | tuple) and origin is tuple and len(value) == len(arguments):
        return tuple(map(_directly, arguments, value))
    if isinstance(value, dict) and origin in (dict, Any) and not default and all(isinstance(key, str) for key in value):
        of_key, of_value = arguments or (str, Any)
        return {_directly(of_key, key): _directly(of_value, entry) for key, entry in value.items()}
    if isinstance(value, str) and (read := _READ.get(hint)) is not None and read[0].fullmatch(value):
        return read[1](value)
    if isinstance(value, str) and isinstance(hint, type) and issubclass(hint, Enum) and value in hint.__members__:
        return hint[value]
    allowed = arguments if origin is typing.Union else (hint,)
    if isinstance(value, str | bool | int | float) and (hint is Any or type(value) in allowed):
        return value
    if isinstance(value, Enum) and type(value) is hint:
        return value
    raise _NeedsOmegaConf


_READ: dict[Any, tuple[re.Pattern[str], Any]] = {
    int: (re.compile(r"-?[1-9]\d{0,17}|0"), int),
    float: (re.compile(r"-?\d+(\.\d+)?(e-?\d+)?"), float),
    bool: (re.compile("true|false"), "true".__eq__),
}


def plain(value: Any) -> Any:
    """Dataclasses as dicts, choices as their names; faster than by way of OmegaConf."""
    if dataclasses.is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value.name if isinstance(value, Enum) else value


def to_yaml(value: Any) -> str:
    """A dataclass as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(value)))


class ListError(Exception):
    """A list where one value or keys are allowed, or the reverse. OmegaConf's own message would name its types."""


def check_lists(value: Any, hint: Any, where: str = "") -> None:
    """Check that lists stand where the types of a dataclass have lists, and nowhere else.

    Args:
        value: plain values.
        hint: the dataclass, or the type of a field of one.
        where: dotted key of `value`, for messages.

    Raises:
        ListError: the key, and what is allowed.
    """
    hint = without_none(hint)
    origin = typing.get_origin(hint) or hint
    if origin is Any or not isinstance(origin, type) or value is None:  # any type, or a union
        return
    is_list = origin in (list, tuple)
    if isinstance(value, list) != is_list:
        allowed = (
            f"must be a list, such as {in_flow([value])}" if is_list and isinstance(value, str) else "must be a list"
        )
        raise ListError(f"{where}: {allowed if is_list else 'must not be a list'}")
    if is_list:
        for entry in value:
            check_lists(entry, (typing.get_args(hint) or (Any,))[0], where)
    elif isinstance(value, dict) and dataclasses.is_dataclass(hint):
        for name, inner in field_types(hint).items():
            check_lists(value.get(name), inner, f"{where}.{name}".lstrip("."))
    elif isinstance(value, dict) and hint in (str, int, float, bool):
        raise ListError(f"{where}: must be one value, not keys and values")


def one_line(error: Exception) -> str:
    """An error as one line: OmegaConf's first line with the full key in front, or all lines of another error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    key = getattr(error, "full_key", None)
    if key is None:
        return "; ".join(line.strip() for line in lines)
    null = lines[0].endswith("is not Optional") or lines[0].startswith("Incompatible value 'None'")
    return f"{key}: {'must not be null' if null else lines[0]}"
