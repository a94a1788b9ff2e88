"""Sequences of tokens of any length in one array. An instance is one of these sequences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Int, Int64, Shaped, UInt32


@dataclass(frozen=True, eq=False)
class Ragged:
    """Sequences stored one after another. A rectangular table is the case of equal lengths, stored in the same way.

    Attributes:
        values: the tokens of all sequences.
        offsets: sequence i is `values[offsets[i] : offsets[i + 1]]`.
    """

    values: UInt32[np.ndarray, " total"]
    offsets: Int64[np.ndarray, " n_plus_1"]

    @classmethod
    def of(cls, sequences: Sequence[Iterable[Any]] | Shaped[np.ndarray, "n w"]) -> Ragged:
        """The sequences as they are: a table, or any sequence of sequences of token ids."""
        if isinstance(sequences, np.ndarray):
            n, width = sequences.shape
            return cls(np.ascontiguousarray(sequences, np.uint32).reshape(-1), np.arange(n + 1) * width)
        rows = [list(sequence) for sequence in sequences]
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return cls(np.fromiter(chain.from_iterable(rows), np.uint32, int(offsets[-1])), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int | np.integer) -> UInt32[np.ndarray, " t"]:
        """One sequence."""
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))

    @cached_property
    def lengths(self) -> Int64[np.ndarray, " n"]:
        """Tokens in each sequence."""
        return np.diff(self.offsets)

    @cached_property
    def width(self) -> int | None:
        """The length that all sequences have, or None."""
        lengths = self.lengths
        return int(lengths[0]) if len(lengths) and (lengths == lengths[0]).all() else None

    def table(self) -> UInt32[np.ndarray, "n w"]:
        """The sequences as rows of a table, if they all have one length."""
        assert self.width is not None
        return self.values.reshape(len(self), self.width)

    def places(self, ids: Int[np.ndarray, " k"]) -> Int64[np.ndarray, " total"]:
        """Indices into `values` of the tokens of the sequences `ids`, one sequence after another."""
        lengths = self.lengths[ids]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        return np.arange(total) + np.repeat(self.offsets[ids] - (ends - lengths), lengths)

    def take(self, ids: Int[np.ndarray, " k"]) -> Ragged:
        """The sequences `ids`, in that order."""
        return Ragged(self.values[self.places(ids)], np.concatenate([[0], np.cumsum(self.lengths[ids])]))

    def followed_by(self, other: Ragged) -> Ragged:
        """These sequences and then the other's."""
        offsets = np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Ragged(np.concatenate([self.values, other.values]), offsets)

    def tolist(self) -> list[list[int]]:
        """As lists."""
        return [sequence.tolist() for sequence in self]
