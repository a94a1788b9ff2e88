"""Where the token sequences of tasks occur in a token stream by themselves: instances, operand pairs, single tokens."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt64

from olmo_inject.tasks import Task

_ID_BITS = 21  # three ids in 63 bits
MAX_IDS = 1 << _ID_BITS


class Needles:
    """What one task must not find: its instances and its operand pairs, as sorted integers."""

    def __init__(self, task: Task) -> None:
        self.name = task.name
        self.tokens = np.unique(task.tokens).astype(np.int64)
        self.first, self.second = (np.unique(task.instances[:, column]).astype(np.int64) for column in (0, 1))
        columns = task.instances.astype(np.uint64).T
        self.pairs = np.sort(_packed(columns[0], columns[1]))
        self.instances = np.sort(_packed(_packed(columns[0], columns[1]), columns[2]))

    def found(
        self, tokens: np.ndarray, places: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " instances"]]:
        """Those of `places` where an operand pair begins, and where an instance does.

        Args:
            tokens: ids.
            places: ascending, each with a token after it.
        """
        pairs = _packed(tokens[places].astype(np.uint64), tokens[places + 1].astype(np.uint64))
        is_pair = _contained(pairs, self.pairs)
        places, pairs = places[is_pair], pairs[is_pair]
        whole = places + 2 < len(tokens)
        triples = _packed(pairs[whole], tokens[places[whole] + 2].astype(np.uint64))
        return places, places[whole][_contained(triples, self.instances)]


def _packed(high: UInt64[np.ndarray, " n"], low: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    return high << np.uint64(_ID_BITS) | low


def _contained(values: UInt64[np.ndarray, " n"], ascending: UInt64[np.ndarray, " m"]) -> np.ndarray:
    at = np.searchsorted(ascending, values)
    return ascending[np.minimum(at, len(ascending) - 1)] == values
