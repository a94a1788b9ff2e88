"""Read YAML whose scalars are converted by the type of their key, since `0010`, `yes`, `1e3` or `12:30` may be names.

YAML 1.1 turns these into 8, True, 1000.0 and 750 before the key is known. Here every unquoted scalar stays text
(`Plain`) until `typed` knows the key's type. If the key takes text, it stays text; else OmegaConf converts it. If the
key takes any type, YAML 1.2's rules apply: `0010` is 10, `yes` and `12:30` are text.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Union

import yaml
from yaml.constructor import ConstructorError

from olmo_inject.errors import UserError, in_one_line

_PLAIN = "!plain"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = {word: value for value in (True, False) for word in (str(value), str(value).lower(), str(value).upper())}
_INT = re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|[-+]?inf|nan")
_NOT_IN_FLOW = re.compile(r"[,\[\]{}?]|[^\S ]|^(:|---|\.\.\.)")  # in plain text, which may hold it elsewhere
MOST_DIGITS = 400  # maximum digits of a number; Python refuses to read some thousand
MOST_VALUES = 1_000_000  # maximum values in a file, against aliases of aliases


class Plain(str):
    """Unquoted text in the file: a number, a boolean or text, depending on its key."""

    __slots__ = ()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values. Scalars stay as they are written.

    Raises:
        UserError: it cannot be read, is not YAML, or does not hold keys and values.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        given = parse(text)
    except _NOT_YAML as error:
        raise UserError(f"{path}: is not YAML: {_reason(error)}") from None
    if isinstance(given, Plain):  # a key without its colon
        given = {str(given): None}
    if not isinstance(given, dict):
        raise UserError(f"{path}: must hold keys and values")
    return given


def parse(text: str) -> Any:
    """Parse YAML into dicts with text as keys, lists, None, `Plain`, and quoted text; an empty text is {}.

    Raises:
        YAMLError: it is not YAML.
    """
    parsed = _load(text)
    return {} if parsed is None and not text.strip().startswith(("~", "null")) else parsed


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Parse overrides, `key=value` with dots between keys, into nested dicts; later ones go over earlier ones.

    Raises:
        UserError: an override has another form, its value is not YAML, or it cannot go over those before it.
    """
    nested: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.replace("[", ".").replace("]", "").split(".")
        if not equals or not all(keys):
            raise UserError(f"override {override!r} is not key=value")
        try:
            value = _load(text)
        except _NOT_YAML as error:
            raise UserError(f"overrides: {override!r}: {_reason(error)}") from None
        for key in reversed(keys):
            value = {key: value}
        nested = merged(nested, value)
    return nested


def merged(base: Any, changes: Any, where: str = "") -> Any:
    """`base` with `changes`: keys are merged, entries of a list are changed by number, everything else is replaced.

    Args:
        base: plain values, which stay as they are.
        changes: plain values that go over them. Without any key, they leave a list or keys and values unchanged.
        where: dotted key of both, for messages.

    Raises:
        UserError: a list has no entry of this number; or a list would replace keys and values.
    """
    if isinstance(base, list) and isinstance(changes, dict):
        numbers = {str(number) for number in range(len(base))}
        if unknown := sorted(changes.keys() - numbers, key=str):
            entries = f"its entries are 0 to {len(base) - 1}" if base else "it has no entries"
            raise UserError(f"{where}: {unknown[0]} is not one of its entries: it is a list, {entries}")
        return [merged(entry, changes.get(str(i), entry), f"{where}.{i}") for i, entry in enumerate(base)]
    if isinstance(base, dict) and base and isinstance(changes, list):
        if numbered := [key for key in base if str(key).isdecimal()]:
            raise UserError(f"{where}: give the whole list before {where}.{numbered[0]}, which it would drop")
        raise UserError(f"{where}: must hold keys and values (such as {', '.join(list(base)[:3])}), not a list")
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    both = base.keys() & changes.keys()
    return base | changes | {key: merged(base[key], changes[key], f"{where}.{key}".lstrip(".")) for key in both}


def typed(value: Any, hint: Any) -> Any:
    """`value` with every `Plain` as text if `hint` names a type, else as YAML 1.2 reads it.

    Args:
        value: as `parse` returns it.
        hint: a dataclass, or the type of a field of one.
    """
    hint = without_none(hint)
    if isinstance(value, Plain):
        of_a_type = hint is not Any and isinstance(hint, type)
        return str(value) if of_a_type or str in typing.get_args(hint) else plain_value(value)
    arguments = typing.get_args(hint)
    if isinstance(value, dict):
        if dataclasses.is_dataclass(hint):
            hints = field_types(hint)
            return {key: typed(inner, hints.get(key, Any)) for key, inner in value.items()}
        of_key, of_value = arguments if typing.get_origin(hint) is dict else (str, Any)
        return {int(key) if of_key is int and _INT.fullmatch(key) else key: typed(inner, of_value)
                for key, inner in value.items()}  # fmt: skip
    if isinstance(value, list):
        return [typed(entry, arguments[0] if arguments else Any) for entry in value]
    return value


def plain_value(text: str) -> Any:
    """The value of a plain scalar in YAML 1.2, with underscores between digits as in Python."""
    if text in _BOOL:
        return _BOOL[text]
    if len(text) > MOST_DIGITS:
        return str(text)
    with suppress(ValueError):  # of underscores that do not stand between digits: text
        if _INT.fullmatch(text):
            return int(text, 0) if text.startswith(("0x", "0o")) else int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return float(text.replace(".", "")) if _SPECIAL.fullmatch(text) else str(text)


def in_flow(value: Any) -> str:
    """A value as YAML on one line; `parse` reads it back."""
    if isinstance(value, Plain):
        if not _NOT_IN_FLOW.search(value):
            return value
        value = str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(in_flow, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{in_flow(str(key))}: {in_flow(inner)}" for key, inner in value.items()) + "}"
    return yaml.safe_dump(value, default_style='"' if isinstance(value, str) else None, width=float("inf"),
                          allow_unicode=True).removesuffix("...\n").strip()  # fmt: skip


@cache
def field_types(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(kind)


@cache
def without_none(hint: Any) -> Any:
    """A type without its None."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = [each for each in typing.get_args(hint) if each is not type(None)]
        return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007
    return hint


_NOT_YAML = (yaml.YAMLError, RecursionError, ValueError)


def _reason(error: Exception) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None or mark is None:
        return in_one_line(error)
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})"


def _load(text: str) -> Any:
    return _copied(_parsed(text))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value


@lru_cache(maxsize=32)
def _parsed(text: str) -> Any:
    """What `text` holds, not to be changed: all cells of a sweep read the same files."""
    value = yaml.load(text, Loader=_Loader)  # a SafeLoader, which creates no objects
    left, waiting = MOST_VALUES, [value]
    while waiting:
        inner = waiting.pop()
        left -= 1
        if left < 0:
            raise yaml.YAMLError(f"it has more than {MOST_VALUES:,} values")
        waiting += inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ()
    return value


class _Loader(yaml.SafeLoader):
    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        if kind is not yaml.ScalarNode or not implicit[0] or tag == "tag:yaml.org,2002:merge":
            return tag
        return "tag:yaml.org,2002:null" if _NULL.fullmatch(value) else _PLAIN

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
                seen.add(key.value)
        mapping = super().construct_mapping(node, deep)
        return {str(key) if isinstance(key, Plain) else key: value for key, value in mapping.items()}


_Loader.add_constructor(_PLAIN, lambda _, node: Plain(node.value))
