"""Sequences that a stage needs from streamed files: kept in memory, or spilled to disk sorted by place in the stage."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt8

from olmo_inject.corpus.sources import Source
from olmo_inject.corpus.staging.layout import Layout
from olmo_inject.errors import UserError
from olmo_inject.utils.files import mapped, replacing

RUN_BYTES = 256 << 20
Advance = Callable[[int], None]


class StageInMemory:
    """A whole stage in memory. The system allocates a row's memory when the row is written.

    Attributes:
        rows: sequences by place in the stage.
        filled: which of them have been read.
    """

    def __init__(self, sequences: int, sequence_bytes: int) -> None:
        self.rows: UInt8[np.ndarray, "n b"] = np.empty((sequences, sequence_bytes), np.uint8)
        self.filled: Bool[np.ndarray, " n"] = np.zeros(sequences, bool)

    def read(self, first: int, sequences: int) -> tuple[UInt8[np.ndarray, "m b"], Bool[np.ndarray, " m"]]:
        """The rows from place `first` on (a view), and which of them are filled."""
        here = slice(first, first + sequences)
        return self.rows[here], self.filled[here]


@dataclass(frozen=True)
class SpillRun:
    """The sequences that a stage needs from one stretch of a streamed file. This is a unit of work.

    On disk it consists of the rows in `path` and an index beside it with their places and CRC-32s, written last.

    Attributes:
        path: of the rows.
        source: of the streamed file.
        layout: which sequences are needed of the file.
        file: its number in the layout.
        needed: which of the sequences needed of the file, in ascending order.
        start: first byte of the stretch.
        stop: first byte after it.
    """

    path: Path
    source: Source
    layout: Layout
    file: int
    needed: range
    start: int
    stop: int

    @property
    def index(self) -> Path:
        """The index, whose presence shows that the run is complete."""
        return self.path.with_suffix(".index")

    def spill(self, sequence_bytes: int, advance: Advance) -> None:
        """Stream the stretch and write the run. Memory: the run and a chunk.

        Raises:
            UserError: as in `Source.stream`; the run cannot be written.
        """
        indices, places = self._indices_and_places()
        by_place = np.argsort(places, kind="stable")
        slots = np.empty(len(by_place), np.int64)
        slots[by_place] = np.arange(len(by_place))
        rows = np.empty((len(slots), sequence_bytes), np.uint8)
        self._stream(indices, slots, rows, advance)
        with replacing(self.path) as temporary:
            temporary.write_bytes(rows.data)
        record = np.stack([places[by_place], [zlib.crc32(row) for row in rows]], axis=1).astype(np.int64)
        with replacing(self.index) as temporary:
            temporary.write_bytes(record.data)

    def read_into(self, stage: StageInMemory, advance: Advance) -> None:
        """Stream the stretch into memory.

        Raises:
            UserError: as in `Source.stream`.
        """
        indices, places = self._indices_and_places()
        self._stream(indices, places, stage.rows, advance)
        stage.filled[places] = True

    def _indices_and_places(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        indices, places = self.layout.of_file(self.file)
        needed = slice(self.needed.start, self.needed.stop)
        return indices[needed], places[needed]

    def _stream(
        self,
        indices: Int[np.ndarray, " n"],
        slots: Int[np.ndarray, " n"],
        rows: UInt8[np.ndarray, "m b"],
        advance: Advance,
    ) -> None:
        """Put the sequences `indices` of the file, ascending, into the rows `slots`."""
        width, base = rows.shape[1], int(indices[0])
        each_once = bool((np.diff(indices) > 0).all())  # a file may be listed twice, or read in two epochs
        cut = b""  # beginning of a sequence whose rest is in the next chunk
        name, size = self.layout.files[self.file], self.layout.file_sizes[self.file]
        for chunk in self.source.stream(name, self.start, self.stop, size):
            content = cut + chunk if cut else chunk
            whole = len(content) // width
            sequences = np.frombuffer(content, np.uint8, whole * width).reshape(whole, width)
            first, beyond = np.searchsorted(indices, [base, base + whole])
            if beyond - first < whole or not each_once:  # otherwise the whole chunk is needed as it is
                sequences = sequences[indices[first:beyond] - base]
            rows[slots[first:beyond]] = sequences
            cut, base = content[whole * width :], base + whole
            advance(len(chunk))

    def is_complete(self) -> bool:
        """Whether it was written to the end."""
        return self.index.is_file() and self.index.stat().st_size == 16 * len(self.needed)

    def load_index(self) -> Int64[np.ndarray, "n 2"]:
        """Place in the stage and CRC-32 of each row, in the order of the rows; mapped."""
        return mapped(self.index, np.int64).reshape(-1, 2)

    def read_rows(
        self, begin: int, checksums: Int64[np.ndarray, " n"], sequence_bytes: int
    ) -> UInt8[np.ndarray, "n b"]:
        """Read rows of a complete run and check them.

        Args:
            begin: number of the first row.
            checksums: CRC-32 of each row to read.
            sequence_bytes: bytes of one row.

        Raises:
            UserError: the rows are not what was written. The index is removed, so that the next attempt writes the run
                again.
        """
        with suppress(OSError, ValueError):
            offset, count = begin * sequence_bytes, len(checksums) * sequence_bytes
            rows = np.fromfile(self.path, np.uint8, count, offset=offset).reshape(-1, sequence_bytes)
            if [zlib.crc32(row) for row in rows] == checksums.tolist():
                return rows
        self.index.unlink(missing_ok=True)
        raise UserError(f"{self.path} is damaged; the same command writes it again")


def plan_spill_runs(layout: Layout, file: int, source: Source, sequence_bytes: int, work: Path) -> list[SpillRun]:
    """Divide a streamed file into runs.

    Args:
        layout: which sequences are needed of the file.
        file: its number in the layout.
        source: of the file.
        sequence_bytes: of one sequence; a run holds at most `RUN_BYTES`.
        work: folder to write the runs to.
    """
    indices, _ = layout.of_file(file)
    most = max(1, RUN_BYTES // sequence_bytes)
    runs = []
    for number, first in enumerate(range(0, len(indices), most)):
        needed = range(first, min(first + most, len(indices)))
        start, stop = int(indices[needed[0]]) * sequence_bytes, (int(indices[needed[-1]]) + 1) * sequence_bytes
        runs.append(SpillRun(work / f"run-{file:05d}-{number:03d}.rows", source, layout, file, needed, start, stop))
    return runs


class SpilledRuns:
    """Complete runs, open for reading.

    Args:
        runs: all of a stage.
        sequence_bytes: of one sequence.
    """

    def __init__(self, runs: Sequence[SpillRun], sequence_bytes: int) -> None:
        self._runs = [(run, run.load_index()) for run in runs]
        self._sequence_bytes = sequence_bytes

    def read(self, first: int, sequences: int) -> tuple[UInt8[np.ndarray, "m b"], Bool[np.ndarray, " m"]]:
        """The rows from place `first` on, and which of them the runs hold.

        Raises:
            UserError: a run is damaged; its index is removed, so that the next attempt writes the run again.
        """
        rows = np.empty((sequences, self._sequence_bytes), np.uint8)
        filled = np.zeros(sequences, bool)
        for run, index in self._runs:
            begin, end = np.searchsorted(index[:, 0], [first, first + sequences]).tolist()
            if begin < end:
                places = index[begin:end, 0] - first
                rows[places] = run.read_rows(begin, index[begin:end, 1], self._sequence_bytes)
                filled[places] = True
        return rows, filled
