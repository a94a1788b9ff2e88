"""Find the natural occurrences of tasks' tokens: instances, operand pairs and single tokens."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt64

from olmo_inject.tasks import Task

_ID_BITS = 21  # bits of an id, so that three ids fit into 63 bits
MAX_IDS = 1 << _ID_BITS


class InstanceIndex:
    """The instances and operand pairs of tasks, as sorted distinct integers.

    Attributes:
        tokens: all ids of the tasks.
        first: ids of TOK1.
        second: ids of TOK2.
        pairs: TOK1 and TOK2 of every instance, packed into one integer.
        instances: the three tokens of every instance, packed in the same way.
    """

    def __init__(self, *tasks: Task) -> None:
        self.tokens = np.unique(np.concatenate([task.tokens for task in tasks])).astype(np.int64)
        instances = np.concatenate([task.triples for task in tasks])
        self.first, self.second = (np.unique(instances[:, column]).astype(np.int64) for column in (0, 1))
        columns = instances.astype(np.uint64).T
        self.pairs = np.unique(_packed(columns[0], columns[1]))
        self.instances = np.unique(_packed(_packed(columns[0], columns[1]), columns[2]))

    def numbers(self, tokens: np.ndarray, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Which of `instances` begins at each of `places`; `find` gives such places."""
        columns = (tokens[places + i].astype(np.uint64) for i in range(3))
        return np.searchsorted(self.instances, _packed(_packed(next(columns), next(columns)), next(columns)))

    def numbers_of(self, task: Task) -> Int64[np.ndarray, " n"]:
        """Which of `instances` belong to one of the indexed tasks."""
        return np.searchsorted(self.instances, InstanceIndex(task).instances)

    def find(
        self, tokens: np.ndarray, places: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " instances"]]:
        """The places where an operand pair begins, and those where an instance begins.

        Args:
            tokens: ids.
            places: indices to look at, ascending, each with a token after it.
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
    nearest = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return ascending[nearest] == values
