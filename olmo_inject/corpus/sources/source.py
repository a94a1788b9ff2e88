"""A source of shards: their sizes and byte ranges. Transient errors are retried."""

from __future__ import annotations

import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from olmo_inject.errors import UserError

T = TypeVar("T")
ATTEMPTS = 6  # consecutive attempts without a byte received; with their pauses they take 31 s
_POLL_S = 0.05
FIRST_PAUSE_S = 1.0
REPORTED_AT = 3  # consecutive failures after which the user is told
CHUNK = 4 << 20  # bytes
NETWORK_CHUNK = 1 << 18  # bytes that a dropped connection loses at most
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Halted(Exception):
    """Raised in a piece of work that is to end early."""


class Transient(Exception):
    """An error that a retry may cure: a dropped connection, a server's 500, a short answer."""


class Source(ABC):
    """Shards below one root. Threads may share a source. Pickling gives a new one.

    Attributes:
        root: as the user wrote it.
        range_cost: bytes that can be streamed in the time that one more range takes.
        connections: number of ranges to request at once.
        rows_at_once: number of ranges of one file that are read in sequence.
    """

    connections: int
    range_cost = 1 << 20
    rows_at_once = 1
    pause_s = FIRST_PAUSE_S

    def __init__(self, root: str) -> None:
        self.root = root
        self.should_stop: Callable[[], bool] = lambda: False  # called during pauses between attempts
        self._reported = threading.Lock()  # the first thread that reports a wait acquires it and keeps it
        self._tags: dict[str, str] = {}

    def __reduce__(self) -> tuple[type[Source], tuple[str]]:
        return type(self), (self.root,)

    def size(self, name: str) -> int:
        """Bytes of a shard.

        Raises:
            UserError: it is missing, or several attempts failed.
        """
        return self._with_retries(name, lambda: self._size(name))

    def sizes(self, names: list[str], advance: Callable[[], None] = lambda: None) -> dict[str, int]:
        """The size of every shard, asked in parallel; `advance` is called after each."""
        sizes: dict[str, int] = {}
        with ThreadPoolExecutor(self.connections) as pool:
            distinct = list(dict.fromkeys(names))
            for name, size in zip(distinct, pool.map(self.size, distinct), strict=True):
                sizes[name] = size
                advance()
        return sizes

    def read(self, name: str, start: int, stop: int, size: int) -> bytes:
        """Read bytes [start, stop) of a shard.

        Args:
            name: name of the shard.
            start: first byte.
            stop: end of the range, exclusive.
            size: bytes of the shard, from the manifest.

        Raises:
            UserError: as in `stream`.
        """
        return b"".join(self.stream(name, start, stop, size))

    def stream(self, name: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        """Bytes [start, stop) of a shard in chunks. After an error the stream continues at the byte that was reached.

        Args:
            name: of the shard.
            start: first byte.
            stop: end of the range, exclusive.
            size: bytes of the shard, from the manifest; another size means that the shard has changed.

        Raises:
            UserError: the shard is missing or has changed, cannot be read by ranges, or several attempts failed.
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
        """Read rows of a shard.

        Args:
            name: of the shard.
            starts: first byte of each row.
            rows: arrays to fill.
            size: bytes of the shard, from the manifest.

        Raises:
            UserError: as in `stream`.
        """
        for start, row in zip(starts, rows, strict=True):
            row[:] = np.frombuffer(self.read(name, start, start + len(row), size), np.uint8)

    def local_path(self, name: str) -> Path | None:
        """The shard's file, if it is on this machine."""
        return None

    def where(self, name: str) -> str:
        """The address of a shard, for messages."""
        return f"{self.root.rstrip('/')}/{name}"

    def address(self, name: str) -> str:
        """What tells a shard from others of its name and size."""
        return self.where(name)

    def check_size(self, name: str, size: int, expected: int) -> None:
        """Check that a shard has the size that the manifest records.

        Args:
            name: of the shard.
            size: bytes.
            expected: bytes, from the manifest.

        Raises:
            UserError: it has not.
        """
        if size != expected:
            raise UserError(
                f"{self.where(name)} has {size:,} bytes where the manifest records {expected:,}: it has changed"
            )

    def check_tag(self, name: str, tag: str | None) -> None:
        """Check that a shard has the ETag of earlier answers. A weak ETag says nothing about the bytes.

        Raises:
            UserError: it has another.
        """
        if tag and not tag.startswith("W/") and self._tags.setdefault(name, tag) != tag:
            raise UserError(
                f"{self.where(name)} has changed while it was read: its ETag was {self._tags[name]} and is now {tag}"
            )

    def check_range(self, name: str, sent: str | None, span: tuple[int, int], length: int | None, size: int) -> None:
        """Check that an answer holds the requested bytes; a faulty cache may send others.

        Args:
            name: of the shard.
            sent: the answer's Content-Range.
            span: the requested range, end exclusive.
            length: the answer's Content-Length, if it has one.
            size: bytes of the shard, from the manifest.

        Raises:
            Transient: they are other bytes; another attempt may help.
            UserError: the shard has another size, or the answer does not say which bytes it holds.
        """
        if (match := _RANGE.fullmatch(sent or "")) is None:
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
        """One attempt at `stream`, which may end early; raises Transient or UserError."""

    def _with_retries(self, name: str, attempt: Callable[[], T]) -> T:
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
        if failures == REPORTED_AT and self._reported.acquire(blocking=False):  # one report is enough
            left = self.pause_s * (2 ** (ATTEMPTS - 1) - 2 ** (failures - 1))
            print(
                f"olmo-inject: {self.where(name)}: {fault}; trying again for {left:.0f} s", file=sys.stderr, flush=True
            )
        ends = time.monotonic() + self.pause_s * 2 ** (failures - 1)
        while (left := ends - time.monotonic()) > 0:
            if self.should_stop():
                raise Halted
            time.sleep(min(left, _POLL_S))
