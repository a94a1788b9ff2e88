"""The tokens of a shard in stretches with their context. Local shards are mapped, remote ones streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from olmo_inject.corpus.not_token_ids import check_tokens
from olmo_inject.corpus.sources import Source
from olmo_inject.utils.files import mapped

STREAMED = 2**22  # tokens of a streamed shard in memory at once


@dataclass(frozen=True)
class Stretch:
    """Consecutive tokens of one shard, of which `begin` to `end` are searched; indices are into `tokens`.

    Attributes:
        tokens: the tokens to search, with context on both sides that may decide what they are.
        base: index in the shard of the first token.
        begin: first token to search.
        end: first token after them.
        row: tokens per row, if each row of the shard is a separate text as in a stage; None for running text.
    """

    tokens: np.ndarray
    base: int
    begin: int
    end: int
    row: int | None

    def first(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """First token of the text that contains each place; it may be before those at hand."""
        row = self.row
        return np.full(len(places), -self.base) if row is None else (self.base + places) // row * row - self.base

    def bounds(self, place: int) -> tuple[int, int]:
        """First and last (exclusive) token of the text that contains `place`."""
        if self.row is None:
            return 0, len(self.tokens)
        first = int(self.first(np.array([place]))[0])
        return max(0, first), min(first + self.row, len(self.tokens))

    def whole(self, places: Int64[np.ndarray, " n"], length: int | Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether the `length` tokens from each place on belong to one text."""
        if self.row is None:
            return np.ones(len(places), bool)
        return (self.base + places) % self.row <= self.row - length


def stretches(
    source: Source, name: str, size: int, dtype: str, start: int, stop: int, around: int, row: int | None
) -> Iterator[Stretch]:
    """Tokens `start` to `stop` of a shard. The tokens of a stretch are overwritten by the next one.

    Args:
        source: of the shard.
        name: of the shard.
        size: bytes of the shard.
        dtype: of its ids.
        start: first token to search.
        stop: first token after them.
        around: tokens of context before and after a place.
        row: tokens per row, as in `Stretch`.

    Raises:
        UserError: as in `Source.stream`; a streamed shard holds something other than token ids.
    """
    if (path := source.local_path(name)) is not None:
        yield Stretch(mapped(path, dtype), 0, start, stop, row)
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
