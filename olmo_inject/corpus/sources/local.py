"""Shards in a folder of this machine or of a mounted file system."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from olmo_inject.corpus.sources.source import CHUNK, Source
from olmo_inject.errors import UserError


class LocalSource(Source):
    """Files below a folder. Every error is final, since reading a disk again does not help."""

    range_cost = 1 << 18  # for a parallel file system; on a solid-state disk ranges cost less
    connections = 16
    rows_at_once = 256

    def _size(self, name: str) -> int:
        try:
            return os.stat(self.local_path(name)).st_size  # noqa: PTH116
        except OSError as error:
            raise UserError(f"corpus: cannot read shard {self.local_path(name)}: {error.strerror}") from None

    def _open(self, name: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        path = self.local_path(name)
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
        """Read rows of a shard. The file is opened once and read into the rows without a copy.

        Args:
            name: as in `Source.read_rows`.
            starts: as in `Source.read_rows`.
            rows: as in `Source.read_rows`.
            size: as in `Source.read_rows`.

        Raises:
            UserError: the file is missing, cannot be read, or has been shortened.
        """
        path = self.local_path(name)
        try:
            with path.open("rb", buffering=0) as file:
                descriptor = file.fileno()
                self.check_size(name, os.fstat(descriptor).st_size, size)
                for start, row in zip(starts, rows, strict=True):
                    done = os.preadv(descriptor, [row.data], start)  # mostly the whole row
                    while done < len(row):
                        more = os.preadv(descriptor, [row.data[done:]], start + done)
                        if not more:
                            raise UserError(f"{path} ended at byte {start + done:,} while it was read: it has changed")
                        done += more
        except OSError as error:
            raise UserError(f"corpus: cannot read shard {path}: {error.strerror}") from None

    def local_path(self, name: str) -> Path:
        """As `Source.local_path`."""
        return Path(self.root) / name

    def where(self, name: str) -> str:
        """The file's path."""
        return str(self.local_path(name))

    def address(self, name: str) -> str:
        """As `Source.address`: the absolute path."""
        return str(self.local_path(name).absolute())
