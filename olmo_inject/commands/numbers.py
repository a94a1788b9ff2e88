"""The allowed range of every numeric option, in one table that is checked before a command begins."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from olmo_inject.errors import UserError
from olmo_inject.number_ranges import COUNT, FROM_0, MOST_ROWS, NOT_NEGATIVE, Range

F = TypeVar("F", bound=Callable[..., Any])

_MANY = Range(1, 4096)  # processes or GPUs of one machine
_BYTES = Range(1, 2**62)
NUMBERS = {
    "processes": _MANY,
    "at_once": _MANY,
    "parts": _MANY,
    "gpus": _MANY,
    "nodes": Range(1, MOST_ROWS),
    "price": NOT_NEGATIVE,
    "utilization": Range(0, 1, above=True),
    "calibrate_steps": COUNT,
    "step": FROM_0,
    "batch_size": Range(1, MOST_ROWS),
    "sequence_length": COUNT,
    "seed": NOT_NEGATIVE,
    "vocab_size": COUNT,
    "eos_id": FROM_0,
    "pad_id": FROM_0,
    "shard_tokens": _BYTES,
    "file_size": _BYTES,
    "memory": Range(0, 2**62),
    "items": COUNT,
    "context": COUNT,
    "near": Range(0, 1, above=True),
    "resample": FROM_0,
    "resamples": FROM_0,
    "show": FROM_0,
    "tokens": FROM_0,
    "max_instances": COUNT,
    "components": COUNT,
    "permutations": COUNT,
    "layer": FROM_0,
    "neurons": COUNT,
    "rows_per_pass": Range(1, MOST_ROWS),
    "pairs": Range(2, MOST_ROWS),
    "updates": COUNT,
}


def with_checked_numbers(command: F) -> F:
    """Wrap a command so that its numbers are checked against the table before it runs."""

    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> Any:
        for name, value in kwargs.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and not NUMBERS[name].holds(value):
                raise UserError(f"--{name.replace('_', '-')}: {value} must be {NUMBERS[name]}")
        return command(*args, **kwargs)

    return cast("F", called)
