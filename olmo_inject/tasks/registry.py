"""Which kinds of task exist: the built-in ones, and classes in a user's own file.

A kind is a frozen dataclass whose fields are its options:

    @register("subtraction")
    @dataclass(frozen=True)
    class Subtraction:
        n_values: int = 100

        @property
        def n_tokens(self) -> int:
            return self.n_values

        def instances(self, tokens):
            a, b = all_pairs(self.n_values)
            return np.stack([tokens[a], tokens[b], tokens[(a - b) % self.n_values]], axis=1)
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt32

from olmo_inject.errors import UserError


@runtime_checkable
class TaskKind(Protocol):
    """What a kind of task must say of itself."""

    @property
    def n_tokens(self) -> int:
        """How many distinct vocabulary tokens it needs."""
        ...

    def instances(self, tokens: UInt32[np.ndarray, " t"]) -> np.ndarray:
        """All instances (TOK1, TOK2, LABEL), shape [n, 3], over its `n_tokens` tokens in random order.

        Token i stands for value i, so the random order is the random bijection of PAPER.md.
        """
        ...


_KINDS: dict[str, type] = {}
K = TypeVar("K", bound=type)


def register(name: str) -> Callable[[K], K]:
    """Class decorator: make a kind known under `name`."""

    def add(kind: K) -> K:
        _KINDS[name] = kind
        return kind

    return add


def all_pairs(n_values: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Both operands of all `n_values`^2 ordered pairs; pair a, b is number a * n_values + b."""
    pair = np.arange(n_values**2)
    return pair // n_values, pair % n_values


def is_own_code(name: str) -> bool:
    """Whether a kind is a class in a file, whose code runs where a task is built of it."""
    return ".py:" in name


def task_kind(name: str, options: Mapping[str, Any], where: str) -> TaskKind:
    """The kind `name` with `options`.

    Args:
        name: a registered name, or `path/to/file.py:Class`.
        options: values for the kind's fields.
        where: what to name in an error.

    Raises:
        UserError: no such kind, a file that cannot be loaded, an unknown option or a wrong type.
    """
    cls = _from_file(name, where) if is_own_code(name) else _KINDS.get(name)
    if cls is None:
        raise UserError(f"{where}: kind {name!r} is not one of {', '.join(sorted(_KINDS))} or FILE.py:CLASS")
    not_a_kind = f"{where}: kind {name!r} must be a dataclass with n_tokens and instances(tokens)"
    if not dataclasses.is_dataclass(cls):
        raise UserError(not_a_kind)
    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    for option, value in options.items():
        if option not in fields:
            raise UserError(f"{where}: kind {name!r} has no option {option!r}; it has {', '.join(fields) or 'none'}")
        expected = fields[option]
        if expected is int and (not isinstance(value, int) or isinstance(value, bool)):
            raise UserError(f"{where}: option {option} must be a whole number, got {value!r}")
    try:
        kind = cls(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(kind, TaskKind):
        raise UserError(not_a_kind)
    return kind


def _from_file(name: str, where: str) -> type:
    path, _, class_name = name.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"task kinds of {Path(path).resolve()}", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"{where}: kind {name!r}: there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses looks up postponed annotations
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises is theirs to see
        raise UserError(f"{where}: {path} failed to load: {error!r}") from error
    if not isinstance(cls := getattr(module, class_name, None), type):
        raise UserError(f"{where}: {path} has no class {class_name}")
    return cls
