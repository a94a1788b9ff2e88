"""Parts: the files of a stage, each put together in memory and written at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from olmo_inject.corpus.foreign import LOOKED_AT, check_tokens
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources.source import Stopped
from olmo_inject.corpus.staged import StagePart
from olmo_inject.corpus.staging.layout import Layout
from olmo_inject.corpus.staging.pieces import Halt, in_parallel
from olmo_inject.corpus.staging.spill_runs import Advance, Held, OpenRun
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, replacing, write_json

WRITE = 1 << 20  # bytes at once
READ_BACK = 4 << 20


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
        self, layout: Layout, shards: TokenShards, streamed: Held | Sequence[OpenRun], connections: int, halt: Halt
    ) -> UInt8[np.ndarray, "n b"]:
        """The part's bytes: what was streamed, and for what that lacks, ranges of the source.

        Args:
            layout: of the stage.
            shards: of the source.
            streamed: what was streamed.
            connections: ranges asked for at once.
            halt: ends the reading of ranges.

        Raises:
            Stopped: it was halted.
            UserError: as `Source.read`; a damaged run; a file that holds no tokens.
        """
        if isinstance(streamed, Held):
            here = slice(self.first, self.first + self.sequences)
            part, there = streamed.rows[here], streamed.there[here]
        else:
            part = np.empty((self.sequences, shards.sequence_bytes), np.uint8)
            there = np.zeros(self.sequences, bool)
            for run in streamed:
                run.copy(self.first, part, there)
        self._fill(part, np.flatnonzero(~there), layout, shards, connections, halt)
        files, _ = layout.locate(np.arange(self.first, self.first + self.sequences))
        for file, row in zip(files.tolist(), part, strict=True):
            where = shards.source.where(layout.files[file])
            check_tokens(where, row[:LOOKED_AT].tobytes(), shards.dtype, is_start=False)
        return part

    def _fill(
        self,
        part: np.ndarray,
        lacking: np.ndarray,
        layout: Layout,
        shards: TokenShards,
        connections: int,
        halt: Halt,
    ) -> None:
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
            rows = [part[row] for row in lacking[group].tolist()]
            source.read_rows(layout.files[file], (indices[group] * width).tolist(), rows, layout.file_sizes[file])

        if not in_parallel([partial(fetch, group) for group in groups], connections, halt):
            raise Stopped

    def write(self, part: UInt8[np.ndarray, "n b"], advance: Advance) -> None:
        """Write the part, compare what the disk gives back, and vouch for it.

        Raises:
            UserError: it cannot be written, or the disk gives back something else.
        """
        digest, content = hashlib.sha256(), part.reshape(-1)
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            for start in range(0, len(content), WRITE):
                piece = content[start : start + WRITE].data
                file.write(piece)
                digest.update(piece)  # while it is in the processor's cache
        if not _is_on_disk(self.path, content, advance):
            raise UserError(f"{self.path}: the disk gives back something else than was written; it is not trusted")
        write_json(self.marker, asdict(StagePart(self.path.name, self.sequences, digest.hexdigest())))


def _is_on_disk(path: Path, content: UInt8[np.ndarray, " n"], advance: Advance) -> bool:
    """Whether a file holds `content`, read past the page cache where the system lets us ask for that."""
    at = 0
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(READ_BACK):
            if chunk != content[at : at + len(chunk)].tobytes():
                return False
            at += len(chunk)
            advance(len(chunk))
    return at == len(content)
