"""Shards in a folder of this machine, or of a file system mounted on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from olmo_inject.corpus.sources.source import CHUNK, Cost, Source
from olmo_inject.errors import UserError


class LocalSource(Source):
    """Files under a folder; a fault is final, since nothing gets better by asking a disk again."""

    cost = Cost(request_s=1e-3, bytes_per_s=1e9)  # a parallel file system; a solid-state disk is quicker at ranges
    connections = 16
    rows_at_once = 256

    def _size(self, name: str) -> int:
        try:
            return os.stat(self._path(name)).st_size  # noqa: PTH116
        except OSError as error:
            raise UserError(f"corpus: cannot read shard {self._path(name)}: {error.strerror}") from None

    def _open(self, name: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        path = self._path(name)
        try:
            with path.open("rb", buffering=0) as file:
                self.check_size(name, os.fstat(file.fileno()).st_size, size)
                while start < stop:
                    chunk = os.pread(file.fileno(), min(CHUNK, stop - start), start)
                    if not chunk:
                        raise UserError(f"{path} ended at byte {start:,} while it was read: it has changed")
                    start += len(chunk)
                    yield chunk
        except OSError as error:
            raise UserError(f"corpus: cannot read shard {path}: {error.strerror}") from None

    def read_rows(self, name: str, starts: Sequence[int], rows: Sequence[UInt8[np.ndarray, " b"]], size: int) -> None:
        """As `Source.read_rows`; the file is opened once and read straight into the rows."""
        path = self._path(name)
        try:
            with path.open("rb", buffering=0) as file:
                descriptor = file.fileno()
                self.check_size(name, os.fstat(descriptor).st_size, size)
                for start, row in zip(starts, rows, strict=True):
                    done = os.preadv(descriptor, [row.data], start)  # mostly all of it
                    while done < len(row):
                        found = os.preadv(descriptor, [row.data[done:]], start + done)
                        if not found:
                            raise UserError(f"{path} ended at byte {start + done:,} while it was read: it has changed")
                        done += found
        except OSError as error:
            raise UserError(f"corpus: cannot read shard {path}: {error.strerror}") from None

    def where(self, name: str) -> str:
        """The file's path."""
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        return Path(self.root) / name
