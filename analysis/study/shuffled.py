"""A control: the comparison with its labels permuted among the pairs, to be learned by heart and not understood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt32

from olmo_inject.randomness import key, permutation
from olmo_inject.tasks.comparison import Comparison


@dataclass(frozen=True)
class ShuffledComparison(Comparison):
    """As `comparison`: the same tokens, labels and shares of labels."""

    def instances(self, tokens: UInt32[np.ndarray, " t"]) -> UInt32[np.ndarray, "n 3"]:
        """TOK1, TOK2, LABEL of every ordered pair."""
        pairs = super().instances(tokens)
        pairs[:, 2] = pairs[permutation(key("shuffled comparison"), len(pairs)), 2]
        return pairs
