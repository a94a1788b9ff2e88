"""Parts: the files of a stage, each put together in memory and written at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.stage import StagePart
from olmo_inject.corpus.staging.layout import Layout
from olmo_inject.corpus.staging.runs import Advance, OpenRun
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, replacing, write_json

READ_BACK = 16 << 20  # bytes


@dataclass(frozen=True)
class Part:
    """One part, a unit of work; its marker is written last and vouches for it.

    Attributes:
        path: of the tokens.
        marker: of the JSON file that says the part is complete.
        first: its first place.
        sequences: how many it holds.
    """

    path: Path
    marker: Path
    first: int
    sequences: int

    def done(self, sequence_bytes: int) -> StagePart | None:
        """The part's record if it is complete, else None."""
        with suppress(UserError, TypeError, OSError):
            record = StagePart(**read_json(self.marker))
            if record.sequences == self.sequences and self.path.stat().st_size == self.sequences * sequence_bytes:
                return record
        return None

    def assemble(
        self, layout: Layout, shards: TokenShards, runs: Sequence[OpenRun], pool: Executor
    ) -> UInt8[np.ndarray, "n b"]:
        """The part's bytes: slices of the runs, and for what they lack, ranges of the source.

        Raises:
            UserError: as `Source.read`; a damaged run.
        """
        part = np.empty((self.sequences, shards.sequence_bytes), np.uint8)
        there = np.zeros(self.sequences, bool)
        for run in runs:
            run.copy(self.first, part, there)
        self._fill(part, np.flatnonzero(~there), layout, shards, pool)
        return part

    def _fill(self, part: np.ndarray, lacking: np.ndarray, layout: Layout, shards: TokenShards, pool: Executor) -> None:
        """Read the rows `lacking` by ranges, in the order in which they lie in their files."""
        source, width = shards.source, shards.sequence_bytes
        files, indices = layout.locate(lacking + self.first)
        by_file = np.lexsort((indices, files))
        cuts = np.flatnonzero(np.diff(files[by_file])) + 1
        groups = [
            group[i : i + source.rows_at_once]
            for group in np.split(by_file, cuts)
            for i in range(0, len(group), source.rows_at_once)
        ]

        def fetch(group: np.ndarray) -> None:
            file = int(files[group[0]])
            rows = np.empty((len(group), width), np.uint8)
            source.read_rows(layout.files[file], (indices[group] * width).tolist(), rows, layout.file_sizes[file])
            part[lacking[group]] = rows

        for _ in pool.map(fetch, groups):
            pass

    def write(self, part: UInt8[np.ndarray, "n b"], advance: Advance) -> None:
        """Write the part, read it back from the disk, and vouch for it.

        Raises:
            UserError: it cannot be written, or the disk gives back something else.
        """
        digest = hashlib.sha256(part.data).hexdigest()
        with replacing(self.path) as temporary:
            part.tofile(temporary)
        if sha256_on_disk(self.path, advance) != digest:
            raise UserError(f"{self.path}: the disk gives back something else than was written; it is not trusted")
        write_json(self.marker, asdict(StagePart(self.path.name, self.sequences, digest)))


def sha256_on_disk(path: Path, advance: Advance) -> str:
    """SHA-256 of a file as the disk holds it, past the page cache where the system lets us ask for that."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(READ_BACK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
