"""Evidence of the rows that the model was given: one number per step, the same for any world size.

Each row is hashed with its position, and the hashes of a step are summed modulo 2^64. The trainer hashes the tensors
that it passes to the model. The audit hashes the rows that corpus, order and plan define.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt64

from olmo_inject import randomness

_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # from splitmix64's finalizer (Vigna 2015)
_SHIFTS = (30, 27, 31)
_POSITION = 0x9E3779B97F4A7C15


def hash_rows(positions: Int64[np.ndarray, " b"], tokens: Int64[np.ndarray, "b t"]) -> UInt64[np.ndarray, " b"]:
    """One 64-bit hash of each row's position and tokens."""
    with np.errstate(over="ignore"):
        weighted = tokens.astype(np.uint64) @ _weights(tokens.shape[1])
        x = weighted + positions.astype(np.uint64) * np.uint64(_POSITION)
        for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(multiplier)
    return x


def hash_sum(positions: Int64[torch.Tensor, " b"], tokens: Int64[torch.Tensor, "b t"]) -> Int64[torch.Tensor, ""]:
    """The sum of `hash_rows` modulo 2^64, on the tensors' device, as a signed 64-bit integer."""
    weights = _weights_on(tokens.device, tokens.shape[1])
    x = (tokens * weights).sum(dim=1) + positions * _signed(_POSITION)
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        # torch shifts signed integers arithmetically; the mask turns this into an unsigned shift.
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * _signed(multiplier)
    return x.sum()


def step_hash(positions: Int64[np.ndarray, " b"], tokens: Int64[np.ndarray, "b t"]) -> str:
    """The `tokens` value in the evidence of a step with these rows."""
    with np.errstate(over="ignore"):
        return to_hex(int(hash_rows(positions, tokens).sum(dtype=np.uint64)))


def step_line(
    step: int, rows: int, tokens: str, targets: int, labels: Mapping[str, int], overrides: int = 0
) -> dict[str, Any]:
    """A step's line in `evidence.jsonl`.

    Args:
        step: its number.
        rows: rows that the model was given.
        tokens: as of `step_hash`.
        targets: tokens in the loss.
        labels: LABELs in the loss, by task.
        overrides: rows in which the spliced tokens count although the host's masks leave them out.
    """
    return {
        "step": step,
        "rows": rows,
        "tokens": tokens,
        "targets": targets,
        "labels": dict(labels),
        "overrides": overrides,
    }


def to_hex(total: int) -> str:
    """A signed or unsigned sum as 16 hexadecimal digits, as in evidence files."""
    return f"{total % 2**64:016x}"


@lru_cache(maxsize=4)
def _weights(length: int) -> UInt64[np.ndarray, " t"]:
    # Odd, so that a change of one token always changes the hash.
    return randomness.bits(randomness.key("evidence"), length) | np.uint64(1)


@lru_cache(maxsize=4)
def _weights_on(device: torch.device, length: int) -> Int64[torch.Tensor, " t"]:
    return torch.from_numpy(_weights(length).view(np.int64)).to(device)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
