"""Where in a row: the places of the instances of one entry, and how much of a row or of several they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64

PLACES = ("start", "end", "random", "offset", "document")
EOS = {"none": (0, 0), "before": (1, 0), "after": (0, 1), "both": (1, 1)}  # tokens before and after an instance


@dataclass(frozen=True)
class Placement:
    """Where an entry's instances stand. The default is the study's: first in the row, then one end of document.

    Attributes:
        place: `start`, `end`, `offset`, `random` (anywhere in the row that it fits), or `document`: where one of the
            host's documents begins inside the row, a random one of those after which it fits; at the row's start
            where there is none.
        offset: the first token, for place `offset`.
        eos: where an end-of-document token stands: `none`, `before`, `after` or `both`. It counts as injected.
        per_row: how many instances share a row; a step's instances fill rows one after another.
        split: whether an instance that is longer than a row goes on in further rows of the step, each filled whole.
    """

    place: str = "start"
    offset: int = 0
    eos: str = "after"
    per_row: int = 1
    split: bool = False

    @property
    def beside(self) -> int:
        """Tokens that an instance takes beside its own."""
        return sum(EOS[self.eos])

    @property
    def words(self) -> int:
        """Random words for a row, one for each instance in it."""
        return self.per_row if self.place in ("random", "document") else 0

    @property
    def reads_host(self) -> bool:
        """Whether a place depends on the host's tokens."""
        return self.place == "document"

    def rows_of(self, counts: Int64[np.ndarray, ...], pieces: int = 1) -> np.ndarray | np.integer:
        """Rows of a step that so many instances take, each of at most `pieces` rows."""
        return -(-counts // self.per_row) * pieces


def starts_in_row(
    placement: Placement,
    lengths: Sequence[int],
    row_length: int,
    words: UInt64[np.ndarray, " m"],
    boundaries: Int64[np.ndarray, " b"],
) -> list[int]:
    """The first tokens of the instances of one row; no two overlap, and none leaves the row.

    Args:
        placement: of their entry.
        lengths: tokens of each, with its end of document; together no more than the row from the offset on.
        row_length: tokens in the row.
        words: random, one for each.
        boundaries: where the host's documents begin, ascending.
    """
    behind = np.concatenate([[0], np.cumsum(lengths)])
    free = row_length - int(behind[-1])
    if placement.place == "random":
        gaps = np.sort([below(int(word), free + 1) for word in words[: len(lengths)]])
        return (gaps + behind[:-1]).tolist()
    if placement.place == "document" and (found := _at_documents(lengths, row_length, words, boundaries)) is not None:
        return found
    first = {"offset": placement.offset, "end": free}.get(placement.place, 0)
    return (first + behind[:-1]).tolist()


def below(word: int, bound: int) -> int:
    """A random word as a number from 0 to below `bound`."""
    return (word * bound) >> 64


def _at_documents(
    lengths: Sequence[int], row_length: int, words: UInt64[np.ndarray, " m"], boundaries: Int64[np.ndarray, " b"]
) -> list[int] | None:
    """A random boundary for each, of those where it overlaps none before it; None if one of them finds none."""
    taken: list[tuple[int, int]] = []
    for length, word in zip(lengths, words, strict=False):
        fitting = [
            place
            for place in boundaries.tolist()
            if place + length <= row_length and all(place + length <= a or b <= place for a, b in taken)
        ]
        if not fitting:
            return None
        place = fitting[below(int(word), len(fitting))]
        taken.append((place, place + length))
    return [place for place, _ in taken]
