"""One source of shards: sizes and byte ranges, with everything that can go wrong on the way tried again."""

from __future__ import annotations

import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from olmo_inject.errors import UserError

T = TypeVar("T")
ATTEMPTS = 6  # in a row without a byte received; they take 31 s with the pauses below
_POLL_S = 0.05
FIRST_PAUSE_S = 1.0
TOLD_AT = 3  # failures in a row, after which a user would wonder what goes on
CHUNK = 4 << 20  # bytes
NETWORK_CHUNK = 1 << 18  # what a dropped connection loses at most
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Stopped(Exception):
    """Raised inside a piece of work that is to end early."""


class Transient(Exception):
    """What may go well when it is tried again: a dropped connection, a server's 500, a short answer."""


@dataclass(frozen=True)
class Cost:
    """What reading costs, for choosing between ranges and whole shards; round figures, per connection.

    Attributes:
        request_s: seconds until a range's first byte.
        bytes_per_s: afterwards.
    """

    request_s: float
    bytes_per_s: float


class Source(ABC):
    """Shards below one root. Threads may share a source; pickling gives a new one.

    Attributes:
        root: as the user wrote it.
        cost: of reading from here.
        connections: ranges that are worth asking for at once.
        rows_at_once: ranges of one file that are best asked for one after the other.
    """

    cost: Cost
    connections: int
    rows_at_once = 1
    pause_s = FIRST_PAUSE_S

    def __init__(self, root: str) -> None:
        self.root = root
        self.should_stop: Callable[[], bool] = lambda: False  # asked while it pauses between attempts
        self._tell = threading.Lock()  # held for ever by the first that says that it waits
        self._tags: dict[str, str] = {}

    def __reduce__(self) -> tuple[type[Source], tuple[str]]:
        return type(self), (self.root,)

    def size(self, name: str) -> int:
        """Bytes of a shard.

        Raises:
            UserError: it is not there, or cannot be asked after several attempts.
        """
        return self._patiently(name, lambda: self._size(name))

    def sizes(self, names: list[str], advance: Callable[[], None] = lambda: None) -> dict[str, int]:
        """`size` of every shard, asked in parallel; `advance` is called after each."""
        found: dict[str, int] = {}
        with ThreadPoolExecutor(self.connections) as pool:
            distinct = list(dict.fromkeys(names))
            for name, size in zip(distinct, pool.map(self.size, distinct), strict=True):
                found[name] = size
                advance()
        return found

    def read(self, name: str, start: int, stop: int, size: int) -> bytes:
        """Bytes [start, stop) of a shard of `size` bytes.

        Raises:
            UserError: as `stream`.
        """
        return b"".join(self.stream(name, start, stop, size))

    def stream(self, name: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        """Bytes [start, stop) in chunks; after a fault it goes on at the byte it had come to.

        Args:
            name: of the shard.
            start: first byte.
            stop: first byte that is not wanted.
            size: of the shard, from the manifest; another size means that the shard has changed.

        Raises:
            UserError: the shard is gone, has changed, cannot be read by ranges, or gives nothing in several attempts.
        """
        failures = 0
        while start < stop:
            try:
                for chunk in self._open(name, start, stop, size):
                    if len(chunk) > stop - start:
                        raise Transient(f"more than the {stop - start} bytes asked for")
                    start += len(chunk)
                    failures = 0
                    yield chunk
                if start < stop:
                    raise Transient(f"the answer ended {stop - start:,} bytes early")
            except Transient as fault:
                failures += 1
                self._pause(name, failures, fault)

    def read_rows(self, name: str, starts: Sequence[int], rows: Sequence[UInt8[np.ndarray, " b"]], size: int) -> None:
        """Fill each row with the bytes of a shard of `size` bytes from its start on.

        Raises:
            UserError: as `stream`.
        """
        for start, row in zip(starts, rows, strict=True):
            row[:] = np.frombuffer(self.read(name, start, start + len(row), size), np.uint8)

    def where(self, name: str) -> str:
        """A shard for people."""
        return f"{self.root.rstrip('/')}/{name}"

    def check_size(self, name: str, found: int, expected: int) -> None:
        """Refuse a shard whose size is not the manifest's.

        Raises:
            UserError: it is not.
        """
        if found != expected:
            raise UserError(
                f"{self.where(name)} has {found:,} bytes where the manifest records {expected:,}: it has changed"
            )

    def check_tag(self, name: str, tag: str | None) -> None:
        """Refuse a shard of another ETag than an earlier answer had; a weak one says nothing of the bytes.

        Raises:
            UserError: it has.
        """
        if tag and not tag.startswith("W/") and self._tags.setdefault(name, tag) != tag:
            raise UserError(
                f"{self.where(name)} has changed while it was read: its ETag was {self._tags[name]} and is now {tag}"
            )

    def check_range(self, name: str, said: str | None, span: tuple[int, int], length: int | None, size: int) -> None:
        """Refuse an answer of other bytes than those asked for, which a faulty cache may give.

        Args:
            name: of the shard.
            said: the answer's Content-Range.
            span: the first byte asked for, and the first that is not.
            length: the answer's Content-Length, if it has one.
            size: of the shard, from the manifest.

        Raises:
            Transient: they are other bytes; another attempt may meet a sound server.
            UserError: the shard has another size, or the answer does not say which bytes it holds.
        """
        if (match := _RANGE.fullmatch(said or "")) is None:
            raise UserError(f"{self.where(name)}: the server does not say how large it is, or which bytes it sends")
        first, last, total = map(int, match.groups())
        self.check_size(name, total, size)
        if (first, last + 1) != span:
            raise Transient(f"asked for bytes {span[0]:,} to {span[1] - 1:,}, the server sends {first:,} to {last:,}")
        if length not in (None, span[1] - span[0]):
            raise Transient(f"asked for {span[1] - span[0]:,} bytes, the server sends {length:,}")

    @abstractmethod
    def _size(self, name: str) -> int:
        """One attempt at `size`; raises Transient or UserError."""

    @abstractmethod
    def _open(self, name: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        """One attempt at `stream`; may end early; raises Transient or UserError."""

    def _patiently(self, name: str, attempt: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                return attempt()
            except Transient as fault:
                failures += 1
                self._pause(name, failures, fault)

    def _pause(self, name: str, failures: int, fault: Transient) -> None:
        if failures >= ATTEMPTS:
            raise UserError(f"{self.where(name)}: {fault} ({failures} attempts)") from None
        if failures == TOLD_AT and self._tell.acquire(blocking=False):  # of one shard: others say the same
            left = self.pause_s * (2 ** (ATTEMPTS - 1) - 2 ** (failures - 1))
            print(
                f"olmo-inject: {self.where(name)}: {fault}; trying again for {left:.0f} s", file=sys.stderr, flush=True
            )
        ends = time.monotonic() + self.pause_s * 2 ** (failures - 1)
        while (left := ends - time.monotonic()) > 0:
            if self.should_stop():
                raise Stopped
            time.sleep(min(left, _POLL_S))
