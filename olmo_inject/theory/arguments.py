"""Validation of arguments for the whole submodule: numbers, whole numbers, lists of either, choices, classes.

Every public function checks its arguments here. So a NaN, a boolean mask or a complex number gives one line that names
the argument and what is allowed, and never a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from olmo_inject.errors import UserError

T = TypeVar("T")
BEYOND_WHOLE = 2.0**53  # from here on float64 does not hold every whole number


def number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """A finite real number within its limits, as a float.

    Args:
        name: of the argument, for the message.
        value: what was given; a Python or numpy number, no boolean.
        above: an exclusive lower limit.
        at_least: an inclusive lower limit.
        below: an exclusive upper limit.
        at_most: an inclusive upper limit.

    Raises:
        UserError: it is no such number.
    """
    array = numbers(name, value, above=above, at_least=at_least, below=below, at_most=at_most)
    if array.ndim:
        raise UserError(f"{name} must be one number, got {array.size}")
    return float(array)


def numbers(
    name: str,
    values: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Float[np.ndarray, ...]:
    """Finite real numbers within their limits, as a float64 array of any shape.

    Args:
        name: of the argument, for the message.
        values: one number or a (nested) list or array of them.
        above: an exclusive lower limit.
        at_least: an inclusive lower limit.
        below: an exclusive upper limit.
        at_most: an inclusive upper limit.

    Raises:
        UserError: one of them is no such number.
    """
    array = _real(name, values)
    allowed = np.isfinite(array)
    limits = ((above, np.greater, "above"), (at_least, np.greater_equal, "at least"))
    limits += ((below, np.less, "below"), (at_most, np.less_equal, "at most"))
    for limit, compare, _ in limits:
        if limit is not None:
            allowed = allowed & compare(array, limit)
    if not allowed.all():
        words = " and ".join(f"{word} {limit:g}" for limit, _, word in limits if limit is not None)
        wrong = array[~allowed].flat[0] if array.ndim else array.item()
        raise UserError(f"{name} must be a finite number{' ' + words if words else ''}, got {wrong:g}")
    return array


def whole(name: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """A whole number from `low` to `high`; a float such as 3.0 counts, a boolean does not.

    Args:
        name: of the argument, for the message.
        value: what was given.
        low: the least allowed; no limit where None.
        high: the most allowed; no limit where None.

    Raises:
        UserError: it is no such number.
    """
    array = _real(name, value)
    if array.ndim:
        raise UserError(f"{name} must be one whole number, got {array.size}")
    return int(_whole(name, array, low, high))


def wholes(name: str, values: object, low: int | None = None, high: int | None = None) -> Int[np.ndarray, " n"]:
    """Whole numbers from `low` to `high`, as a one-dimensional array.

    Args:
        name: of the argument, for the message.
        values: what was given: a list, array, range or set.
        low: the least allowed; no limit where None.
        high: the most allowed; no limit where None.

    Raises:
        UserError: one of them is no such number.
    """
    array = _real(name, list(values) if isinstance(values, set | frozenset | range) else values)
    if array.ndim != 1:
        raise UserError(f"{name} must be a list of whole numbers")
    return _whole(name, array, low, high)


def task_indices(tasks: Iterable[int] | None, count: int, name: str = "tasks") -> Int[np.ndarray, " _"]:
    """Tasks by their index, sorted and each once; all of them where None.

    Args:
        tasks: what was given: any collection of whole numbers.
        count: K, of the mixture.
        name: of the argument, for the message.

    Raises:
        UserError: one is not from 0 to `count - 1`, or a boolean mask was given.
    """
    if tasks is None:
        return np.arange(count)
    return np.unique(wholes(name, listed(name, tasks), 0, count - 1))


def choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Check a word against those allowed.

    Args:
        name: of the argument, for the message.
        value: what was given.
        allowed: all words that are.

    Raises:
        UserError: it is not one of them.
    """
    if not isinstance(value, str) or value not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def kind(name: str, value: object, expected: type[T]) -> T:
    """An argument of a class, such as a mixture or a recipe.

    Args:
        name: of the argument, for the message.
        value: what was given.
        expected: the class it must have.

    Raises:
        UserError: it is of another class.
    """
    if not isinstance(value, expected):
        article = "an" if expected.__name__[0] in "AEIOU" else "a"
        raise UserError(f"{name} must be {article} {expected.__name__}, got {type(value).__name__}")
    return value


def listed(name: str, values: object) -> list[Any]:
    """The entries of a list, a tuple or an array.

    Raises:
        UserError: it is none.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"{name} must be a list, got {_shown(values)}")
    return list(values)


def frozen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy that cannot be written to."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _real(name: str, values: object) -> Float[np.ndarray, ...]:
    try:
        raw = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):
        raise UserError(f"{name} must be a number or an array of numbers, got {_shown(values)}") from None
    if not raw.size and raw.dtype.kind == "f":
        return raw.astype(np.float64)
    if raw.dtype.kind == "O" and all(type(value) is int for value in raw.flat):
        raise UserError(f"{name} must have 64 bits at most, got {_shown(values)}")
    # Other object arrays are fractions, or what is no number at all.
    mixed = isinstance(values, list | tuple) and any(isinstance(value, bool | np.bool_) for value in values)
    if raw.dtype.kind not in "iuf" or mixed:
        raise UserError(f"{name} must be a number or an array of numbers, got {_shown(values)}")
    return raw.astype(np.float64)


def _whole(name: str, values: Float[np.ndarray, ...], low: int | None, high: int | None) -> Int[np.ndarray, ...]:
    lowest, highest = -math.inf if low is None else low, math.inf if high is None else high
    allowed = np.isfinite(values) & (values == np.floor(values)) & (values >= lowest) & (values <= highest)
    allowed &= np.abs(values) < BEYOND_WHOLE
    if not allowed.all():
        wrong = values[~allowed].flat[0] if values.ndim else values.item()
        limits = "" if low is None else f" from {low} to {high}" if high is not None else f" of {low} or more"
        limits += ", below 2^53" if BEYOND_WHOLE <= wrong < math.inf and high is None else ""
        raise UserError(f"{name} must be a whole number{limits}, got {wrong:g}")
    return values.astype(np.int64)


def _shown(values: object) -> str:
    text = " ".join(repr(values).split())
    return text if len(text) <= 60 else text[:57] + "..."
