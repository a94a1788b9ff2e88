"""The tokens of a shard for a search, in stretches with what stands around each: mapped here, streamed from afar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from olmo_inject.corpus.foreign import check_tokens
from olmo_inject.corpus.sources import LocalSource, Source

STREAMED = 2**22  # tokens in memory at once of what is streamed


@dataclass(frozen=True)
class Stretch:
    """Consecutive tokens of one shard; indices are those in `tokens`.

    Attributes:
        tokens: what is searched, and on both sides of it what must be looked at to decide.
        base: index in the shard of the first of them.
        begin: of what is searched.
        end: of what is searched.
        row: where each row of so many tokens of the shard stands alone, as in a stage; None for running text.
    """

    tokens: np.ndarray
    base: int
    begin: int
    end: int
    row: int | None

    def bounds(self, place: int) -> tuple[int, int]:
        """First and beyond the last of the tokens that stand in one text with the one at `place`."""
        if self.row is None:
            return 0, len(self.tokens)
        first = (self.base + place) // self.row * self.row - self.base
        return max(0, first), min(first + self.row, len(self.tokens))

    def whole(self, places: Int64[np.ndarray, " n"], length: int) -> Bool[np.ndarray, " n"]:
        """Whether the `length` tokens from each place on stand in one text."""
        if self.row is None:
            return np.ones(len(places), bool)
        return (self.base + places) % self.row <= self.row - length


def stretches(
    source: Source, name: str, size: int, dtype: str, start: int, stop: int, around: int, row: int | None
) -> Iterator[Stretch]:
    """Tokens `start` to `stop` of a shard; a stretch is only good until the next.

    Args:
        source: of the shard.
        name: of the shard.
        size: its bytes.
        dtype: of its ids.
        start: first token that is searched.
        stop: first that is not.
        around: tokens before and after a place that can decide what it is.
        row: as `Stretch`'s.

    Raises:
        UserError: as `Source.stream`; a streamed shard that holds something else than token ids.
    """
    if isinstance(source, LocalSource):
        yield Stretch(np.memmap(Path(source.where(name)), dtype, mode="r").view(np.ndarray), 0, start, stop, row)
        return
    item = np.dtype(dtype).itemsize
    base, beyond = max(0, start - around), min(size // item, stop + around)
    buffer = np.empty(STREAMED + 2 * around, dtype)
    room, filled = buffer.view(np.uint8), 0
    for number, chunk in enumerate(source.stream(name, base * item, beyond * item, size)):
        if number == 0:
            check_tokens(source.where(name), bytes(chunk), np.dtype(dtype), is_start=base == 0)
        left = np.frombuffer(chunk, np.uint8)
        while len(left):
            fits = min(len(left), len(room) - filled)
            room[filled : filled + fits] = left[:fits]
            filled, left = filled + fits, left[fits:]
            if filled == len(room):
                end = min(base + len(buffer) - around, stop)
                yield Stretch(buffer, base, start - base, end - base, row)
                buffer[: 2 * around] = buffer[len(buffer) - 2 * around :]
                base, start, filled = base + STREAMED, end, 2 * around * item
    if start < stop:
        yield Stretch(buffer[: filled // item], base, start - base, stop - base, row)
