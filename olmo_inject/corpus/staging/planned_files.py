"""The files that a stage will have, each assembled in memory and written at once."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from olmo_inject.corpus.not_token_ids import LOOKED_AT, check_tokens
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources.source import Halted
from olmo_inject.corpus.staged import StageFile
from olmo_inject.corpus.staging.layout import Layout
from olmo_inject.corpus.staging.pieces import Halt, in_parallel
from olmo_inject.corpus.staging.spill_runs import Advance, SpilledRuns, StageInMemory
from olmo_inject.errors import UserError
from olmo_inject.utils.files import read_json, replacing, write_json

WRITE = 1 << 20  # bytes per write
READ_BACK = 4 << 20


@dataclass(frozen=True)
class PlannedFile:
    """A file that a stage will have, the unit of work.

    Attributes:
        path: of the tokens.
        marker: path of the JSON with the file's record. It is written last, so it shows that the file is complete.
        first: place in the stage of its first sequence.
        sequences: number of sequences in it.
    """

    path: Path
    marker: Path
    first: int
    sequences: int

    def done(self, sequence_bytes: int) -> StageFile | None:
        """The file's record if it is complete, else None."""
        with suppress(UserError, TypeError, OSError):
            record = StageFile(**read_json(self.marker))
            if record.sequences == self.sequences and self.path.stat().st_size == self.sequences * sequence_bytes:
                return record
        return None

    def assemble(
        self,
        layout: Layout,
        shards: TokenShards,
        streamed: StageInMemory | SpilledRuns,
        connections: int,
        halt: Halt,
    ) -> UInt8[np.ndarray, "n b"]:
        """The file's sequences: those that were streamed, and the others read by ranges.

        Args:
            layout: of the stage.
            shards: of the source.
            streamed: the sequences that were streamed.
            connections: ranges asked for at once.
            halt: ends the reading of ranges.

        Raises:
            Halted: it was halted.
            UserError: as in `Source.read`; a run is damaged; a file holds something other than token ids.
        """
        rows, filled = streamed.read(self.first, self.sequences)
        self._fill(rows, np.flatnonzero(~filled), layout, shards, connections, halt)
        files, _ = layout.locate(np.arange(self.first, self.first + self.sequences))
        for file, row in zip(files.tolist(), rows, strict=True):
            where = shards.source.where(layout.files[file])
            check_tokens(where, row[:LOOKED_AT].tobytes(), shards.dtype, is_start=False)
        return rows

    def _fill(
        self,
        into: np.ndarray,
        missing: Int64[np.ndarray, " k"],
        layout: Layout,
        shards: TokenShards,
        connections: int,
        halt: Halt,
    ) -> None:
        """Read the rows `missing` of `into` by ranges, in the order in which they lie in their files."""
        source, width = shards.source, shards.sequence_bytes
        files, indices = layout.locate(missing + self.first)
        by_file = np.lexsort((indices, files))
        cuts = np.flatnonzero(np.diff(files[by_file])) + 1
        groups = [
            group[i : i + source.rows_at_once]
            for group in np.split(by_file, cuts)
            for i in range(0, len(group), source.rows_at_once)
        ]

        def fetch(group: np.ndarray) -> None:
            file = int(files[group[0]])
            rows = [into[row] for row in missing[group].tolist()]
            source.read_rows(layout.files[file], (indices[group] * width).tolist(), rows, layout.file_sizes[file])

        if not in_parallel([partial(fetch, group) for group in groups], connections, halt):
            raise Halted

    def write(self, rows: UInt8[np.ndarray, "n b"], advance: Advance) -> None:
        """Write the file, read it back from the disk, compare, and write the marker.

        Args:
            rows: as `assemble` gives it.
            advance: called with the number of bytes read back.

        Raises:
            UserError: it cannot be written, or the disk gives back other bytes.
        """
        digest, content = hashlib.sha256(), rows.reshape(-1)
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            for start in range(0, len(content), WRITE):
                piece = content[start : start + WRITE].data
                file.write(piece)
                digest.update(piece)  # while the piece is in the processor's cache
        if not _is_on_disk(self.path, content, advance):
            raise UserError(f"{self.path}: the disk returns other bytes than were written, so it cannot be trusted")
        write_json(self.marker, asdict(StageFile(self.path.name, self.sequences, digest.hexdigest())))


def _is_on_disk(path: Path, content: UInt8[np.ndarray, " n"], advance: Advance) -> bool:
    """Whether a file holds `content`, read past the page cache if the system allows that."""
    offset = 0
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(READ_BACK):
            if chunk != content[offset : offset + len(chunk)].tobytes():
                return False
            offset += len(chunk)
            advance(len(chunk))
    return offset == len(content)
