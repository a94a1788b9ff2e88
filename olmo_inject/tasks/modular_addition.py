"""TADD: (value(TOK1) + value(TOK2)) mod n (docs/study.md, Tasks)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt32

from olmo_inject.tasks.registry import all_pairs, register


@register("modular_addition")
@dataclass(frozen=True)
class ModularAddition:
    """All ordered pairs of `n_values` tokens; LABEL is the value token of the sum modulo `n_values`."""

    n_values: int = 100

    def __post_init__(self) -> None:
        if self.n_values < 2:
            raise ValueError(f"n_values must be at least 2, got {self.n_values}")

    @property
    def n_tokens(self) -> int:
        """The values; the labels are among them."""
        return self.n_values

    def instances(self, tokens: UInt32[np.ndarray, " t"]) -> UInt32[np.ndarray, "n 3"]:
        """TOK1, TOK2, LABEL of every ordered pair."""
        a, b = all_pairs(self.n_values)
        return np.stack([tokens[a], tokens[b], tokens[(a + b) % self.n_values]], axis=1)
