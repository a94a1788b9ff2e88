"""TCMP: is value(TOK1) < value(TOK2)? (docs/study.md, Tasks)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt32

from olmo_inject.tasks.registry import all_pairs, register


@register("comparison")
@dataclass(frozen=True)
class Comparison:
    """All ordered pairs of `n_values` tokens. LABEL is one of two further tokens, "less" and "not less".

    Ties are "not less", so at 100 values P("less") = 0.495.
    """

    n_values: int = 100

    def __post_init__(self) -> None:
        if self.n_values < 2:
            raise ValueError(f"n_values must be at least 2, got {self.n_values}")

    @property
    def n_tokens(self) -> int:
        """The values and the two labels."""
        return self.n_values + 2

    def instances(self, tokens: UInt32[np.ndarray, " t"]) -> UInt32[np.ndarray, "n 3"]:
        """TOK1, TOK2, LABEL of every ordered pair."""
        a, b = all_pairs(self.n_values)
        less, not_less = tokens[self.n_values :]
        return np.stack([tokens[a], tokens[b], np.where(a < b, less, not_less)], axis=1)
