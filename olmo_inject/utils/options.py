"""The allowed values of the command line's options, in two tables.

A command's options are checked before it begins. Library functions that are also called directly check by the same
tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from olmo_inject.errors import UserError
from olmo_inject.utils.number_ranges import COUNT, FROM_0, INT32, MOST_PARTS, MOST_ROWS, NOT_NEGATIVE, Range

_MANY = Range(1, 4096)  # processes or GPUs of one machine
_BYTES = Range(1, 2**62)
NUMBERS: Mapping[str, Range] = {
    "processes": _MANY,
    "at_once": _MANY,
    "parts": Range(1, MOST_PARTS),
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
    "permutations": Range(100, INT32),
    "layer": FROM_0,
    "neurons": COUNT,
    "rows_per_pass": Range(1, MOST_ROWS),
    "pairs": Range(2, MOST_ROWS),
    "updates": COUNT,
}
WORDS: Mapping[str, Sequence[str]] = {
    "device": ("auto", "cpu", "cuda"),
    "submit": ("slurm", "local"),
    "read": ("auto", "ranges", "stream"),
    "targets": ("injected", "label"),
    "precision": ("fp32", "bf16"),
}


def check_options(**given: Any) -> None:
    """Check options by name, such as `rows_per_pass=4`. None and options outside the tables are not checked.

    Raises:
        UserError: a value is not allowed; the message names the option, the value and what is allowed.
    """
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if name in NUMBERS and not NUMBERS[name].holds(value):
            raise UserError(f"{option}: {value} must be {NUMBERS[name]}")
        if name in WORDS and value not in WORDS[name]:
            raise UserError(f"{option}: {value!r} is not one of {', '.join(WORDS[name])}")
