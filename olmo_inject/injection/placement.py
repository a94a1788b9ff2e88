"""Where in a row the instances of an entry go, and how many rows they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64

from olmo_inject import randomness

PLACES = ("start", "end", "random", "offset", "document")
EOS = {"none": (0, 0), "before": (1, 0), "after": (0, 1), "both": (1, 1)}  # tokens before and after an instance


@dataclass(frozen=True)
class Placement:
    """Where an entry's instances go. The default is the study's: first in the row, then one end-of-document token.

    Attributes:
        place: `start`, `end`, `offset`, `random` (anywhere in the row where it fits), or `document` (where a document
            of the host begins inside the row, chosen at random among those after which the instance fits; at the row's
            start if there is none).
        offset: index of the first token, for place `offset`.
        eos: where an end-of-document token goes: `none`, `before`, `after` or `both`. It counts as injected.
        per_row: number of instances that share a row. A step's instances fill one row after another.
        split: whether an instance longer than a row continues in further rows of the step, each filled completely.
    """

    place: str = "start"
    offset: int = 0
    eos: str = "after"
    per_row: int = 1
    split: bool = False

    @property
    def beside(self) -> int:
        """Number of end-of-document tokens that an instance adds."""
        return sum(EOS[self.eos])

    @property
    def is_drawn(self) -> bool:
        """Whether the place is drawn at random."""
        return self.place in ("random", "document")

    @property
    def reads_host(self) -> bool:
        """Whether a place depends on the host's tokens."""
        return self.place == "document"

    def rows_of(self, counts: Int64[np.ndarray, ...], pieces: int = 1) -> np.ndarray | np.integer:
        """Number of rows of a step that this many instances take.

        Args:
            counts: numbers of instances.
            pieces: rows of the longest instance.
        """
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
        gaps = np.sort(randomness.below(words[: len(lengths)], free + 1))
        return (gaps + behind[:-1]).tolist()
    if placement.place == "document" and (starts := _at_documents(lengths, row_length, words, boundaries)) is not None:
        return starts
    first = {"offset": placement.offset, "end": free}.get(placement.place, 0)
    return (first + behind[:-1]).tolist()


def starts_alone(
    placement: Placement,
    lengths: Int64[np.ndarray, " k"],
    row_length: int,
    words: UInt64[np.ndarray, " k"],
    boundaries: tuple[Int64[np.ndarray, " d"], Int64[np.ndarray, " d"]],
) -> Int64[np.ndarray, " k"]:
    """`starts_in_row` of many rows at once, each of one instance at a place that is drawn.

    Args:
        placement: `random` or `document`.
        lengths: tokens of each row's instance, with its end of document.
        row_length: tokens in a row.
        words: random, one for each row.
        boundaries: where the host's documents begin: rows, ascending, and the places in them, ascending.
    """
    if placement.place == "random":
        return randomness.below(words, row_length - lengths + 1)
    row, place = (column[boundaries[1] + lengths[boundaries[0]] <= row_length] for column in boundaries)
    fitting = np.bincount(row, minlength=len(lengths))
    some = np.flatnonzero(fitting)
    starts = np.zeros(len(lengths), np.int64)
    starts[some] = place[(np.cumsum(fitting) - fitting)[some] + randomness.below(words[some], fitting[some])]
    return starts


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
        place = fitting[(int(word) * len(fitting)) >> 64]
        taken.append((place, place + length))
    return [place for place, _ in taken]
