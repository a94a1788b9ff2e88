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

`@register` names a kind of this package; a class in a file of your own is named `FILE.py:CLASS` and needs none.
The last token of an instance is the one to predict. Instances may have any lengths. A kind that makes its instances
from texts, or from other tokens than it is given, has `material(inputs)` instead of both (see `material`).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt32

from olmo_inject.errors import UserError, in_one_line
from olmo_inject.tasks.material import Material, TaskInputs
from olmo_inject.utils.paths import expanded


@runtime_checkable
class MaterialKind(Protocol):
    """A kind of task that makes its own tokens, for example from texts."""

    def material(self, inputs: TaskInputs) -> Material:
        """The instances with their probes."""
        ...


@runtime_checkable
class TaskKind(Protocol):
    """A kind of task over symbols, which are tokens drawn at random from the vocabulary."""

    @property
    def n_tokens(self) -> int:
        """The number of distinct vocabulary tokens that it needs."""
        ...

    def instances(self, tokens: UInt32[np.ndarray, " t"]) -> np.ndarray:
        """All instances, an array [n, w] or a list of sequences, over its `n_tokens` tokens in random order.

        The last token of each is its label. Token i stands for value i, so the random order is the random bijection of
        docs/study.md.
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
    """Both operands of all `n_values`^2 ordered pairs. Pair (a, b) has number a * n_values + b."""
    pair = np.arange(n_values**2)
    return pair // n_values, pair % n_values


def is_own_code(name: str) -> bool:
    """Whether a kind is a class in a file, whose code is executed when a task is built."""
    return ".py:" in name


def default_fraction(name: str) -> float:
    """The default share of a kind's instances that is injected."""
    return getattr(_KINDS.get(name), "default_fraction", 0.5)


def rebuilds(name: str) -> bool:
    """Whether a task of this kind can be rebuilt from its options alone, without a file that may have changed."""
    return not is_own_code(name) and hasattr(_KINDS.get(name), "n_tokens")


def task_kind(name: str, options: Mapping[str, Any], where: str) -> TaskKind | MaterialKind:
    """The kind `name` with `options`.

    Args:
        name: a registered name, or `path/to/file.py:Class`.
        options: values for the kind's fields.
        where: the task, for messages.

    Raises:
        UserError: the kind or an option is unknown, a file cannot be loaded, or a type is wrong.
    """
    cls = _from_file(name, where) if is_own_code(name) else _KINDS.get(name)
    if cls is None:
        raise UserError(f"{where}: kind {name!r} is not one of {', '.join(sorted(_KINDS))} or FILE.py:CLASS")
    not_a_kind = f"{where}: kind {name!r} must be a dataclass with n_tokens and instances(tokens)"
    not_a_kind += ", or material(inputs)"
    if not dataclasses.is_dataclass(cls):
        raise UserError(not_a_kind)
    with code_of(cls, where):
        hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    for option, value in options.items():
        if option not in fields:
            raise UserError(f"{where}: kind {name!r} has no option {option!r}; it has {', '.join(fields) or 'none'}")
        if not _fits(value, fields[option]):
            raise UserError(f"{where}: option {option} must be {_in_words(fields[option])}, got {value!r}")
    with code_of(cls, where):
        try:
            kind = cls(**options)
        except (TypeError, ValueError) as error:  # a kind raises these to refuse its options
            raise UserError(f"{where}: {in_one_line(error)}") from None
        if isinstance(kind, MaterialKind):
            return kind
        if not isinstance(kind, TaskKind):  # evaluates its properties
            raise UserError(not_a_kind)
        tokens = kind.n_tokens
    if isinstance(tokens, bool) or not isinstance(tokens, int | np.integer) or tokens < 1:
        raise UserError(f"{where}: n_tokens must be a whole number above 0, got {tokens!r}")
    return kind


def line_of(function: Callable[..., Any]) -> str:
    """The place of a kind's function, as `FILE, line N: `, for a message about what it returned."""
    code = getattr(function, "__code__", None)
    return "" if code is None else f"{code.co_filename}, line {code.co_firstlineno}: "


@contextmanager
def code_of(kind: type, where: str, doing: str = "") -> Iterator[None]:
    """Run code of a kind. Its exceptions, and sys.exit, become one line with the place in its file.

    Args:
        kind: the kind whose code runs.
        where: the task, for the message.
        doing: words before the error message that say what failed.

    Raises:
        UserError: the code raised anything; a UserError is passed on unchanged.
    """
    with _code_in(str(getattr(sys.modules.get(kind.__module__), "__file__", kind.__module__)), where, doing):
        yield


@contextmanager
def _code_in(file: str, where: str, doing: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user needs to see whatever their code raises
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        if isinstance(error, SyntaxError) and error.filename == file:
            lines.append(error.lineno)
        place = f"{file}, line {lines[-1]}" if lines else file
        raise UserError(f"{where}: {place}: {doing}{type(error).__name__}: {' '.join(str(error).split())}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether an option's value has the declared type. Types that are not plain are checked by the kind itself."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, dict, list, type(None)):
        return isinstance(value, hint)
    if origin in (list, tuple, set, frozenset):
        return isinstance(value, list | tuple) and all(_fits(entry, arguments[0]) for entry in value)
    return True


def _in_words(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text (in quotes, if it looks like a number)"}
    return (words | {bool: "true or false"}).get(hint, f"{hint}".removeprefix("typing."))


def _from_file(name: str, where: str) -> type:
    path, _, class_name = name.rpartition(":")
    path = expanded(path, f"{where}: kind")
    spec = importlib.util.spec_from_file_location(f"task kinds of {Path(path).resolve()}", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"{where}: kind {name!r}: there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses looks up postponed annotations there
    with _code_in(path, where, "failed to load: "):
        spec.loader.exec_module(module)
    if not isinstance(cls := getattr(module, class_name, None), type):
        raise UserError(f"{where}: {path} has no class {class_name}")
    return cls
