"""Runs: what a stage needs of one stretch of a streamed file, sorted by where it belongs."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt8

from olmo_inject.corpus.sources import Source
from olmo_inject.corpus.staging.layout import Layout
from olmo_inject.errors import UserError
from olmo_inject.files import replacing

RUN_BYTES = 256 << 20
Advance = Callable[[int], None]


class Held:
    """A whole stage in memory, where what is streamed is put at once; a row is only touched when it is written.

    Attributes:
        rows: by place.
        there: which of them have been put.
    """

    def __init__(self, sequences: int, sequence_bytes: int) -> None:
        self.rows: UInt8[np.ndarray, "n b"] = np.empty((sequences, sequence_bytes), np.uint8)
        self.there: Bool[np.ndarray, " n"] = np.zeros(sequences, bool)


@dataclass(frozen=True)
class Run:
    """One run, a unit of work: rows in `path`, and beside it their places and CRC-32s, which vouch for it.

    Attributes:
        path: of the rows.
        source: of the file.
        layout: knows what is needed of the file.
        file: its number there.
        these: which of the sequences that are needed of the file, in ascending order.
        start: first byte of the stretch.
        stop: first byte after it.
    """

    path: Path
    source: Source
    layout: Layout
    file: int
    these: range
    start: int
    stop: int

    @property
    def index(self) -> Path:
        """The file whose presence says that the run is complete."""
        return self.path.with_suffix(".index")

    def gather(self, sequence_bytes: int, advance: Advance) -> None:
        """Stream the stretch and write the run; memory is the run's size and a chunk.

        Raises:
            UserError: as `Source.stream`; the run cannot be written.
        """
        indices, places = self._needed()
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

    def hold(self, held: Held, advance: Advance) -> None:
        """Stream the stretch into the memory that holds the whole stage.

        Raises:
            UserError: as `Source.stream`.
        """
        indices, places = self._needed()
        self._stream(indices, places, held.rows, advance)
        held.there[places] = True

    def _needed(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        indices, places = self.layout.of_file(self.file)
        these = slice(self.these.start, self.these.stop)
        return indices[these], places[these]

    def _stream(
        self,
        indices: Int[np.ndarray, " n"],
        slots: Int[np.ndarray, " n"],
        rows: UInt8[np.ndarray, "m b"],
        advance: Advance,
    ) -> None:
        """Put the sequences `indices` of the file, ascending, into the rows `slots`."""
        width, base = rows.shape[1], int(indices[0])
        each_once = bool((np.diff(indices) > 0).all())  # a file may stand twice, or be read in two epochs
        cut = b""  # the beginning of a sequence whose rest is in the next chunk
        name, size = self.layout.files[self.file], self.layout.file_sizes[self.file]
        for chunk in self.source.stream(name, self.start, self.stop, size):
            content = cut + chunk if cut else chunk
            whole = len(content) // width
            found = np.frombuffer(content, np.uint8, whole * width).reshape(whole, width)
            first, beyond = np.searchsorted(indices, [base, base + whole])
            if beyond - first < whole or not each_once:  # else all of the chunk is needed as it stands
                found = found[indices[first:beyond] - base]
            rows[slots[first:beyond]] = found
            cut, base = content[whole * width :], base + whole
            advance(len(chunk))

    def is_complete(self) -> bool:
        """Whether it was written to the end."""
        return self.index.is_file() and self.index.stat().st_size == 16 * len(self.these)

    def opened(self) -> OpenRun:
        """To read slices of."""
        index = np.memmap(self.index, np.int64, mode="r").view(np.ndarray)
        return OpenRun(self.path, index.reshape(-1, 2))


def plan_runs(layout: Layout, file: int, source: Source, sequence_bytes: int, work: Path) -> list[Run]:
    """The runs of a streamed file, each of at most `RUN_BYTES`."""
    indices, _ = layout.of_file(file)
    most = max(1, RUN_BYTES // sequence_bytes)
    runs = []
    for number, first in enumerate(range(0, len(indices), most)):
        these = range(first, min(first + most, len(indices)))
        start, stop = int(indices[these[0]]) * sequence_bytes, (int(indices[these[-1]]) + 1) * sequence_bytes
        runs.append(Run(work / f"run-{file:05d}-{number:03d}.rows", source, layout, file, these, start, stop))
    return runs


@dataclass(frozen=True)
class OpenRun:
    """A complete run; its index, 16 bytes a sequence, is mapped."""

    path: Path
    record: Int64[np.ndarray, "n 2"]

    def copy(self, first: int, part: UInt8[np.ndarray, "m b"], there: np.ndarray) -> None:
        """Copy what belongs into the part that begins at place `first`, and note in `there` [m] what is there.

        Raises:
            UserError: the run is damaged; it is removed, so that the next attempt makes it again.
        """
        begin, end = np.searchsorted(self.record[:, 0], [first, first + len(part)]).tolist()
        if begin == end:
            return
        width = part.shape[1]
        rows = self._read(begin, end, width)
        if rows is None:
            self.path.with_suffix(".index").unlink(missing_ok=True)
            raise UserError(f"{self.path} is damaged; the same command makes it again")
        within = self.record[begin:end, 0] - first
        part[within] = rows
        there[within] = True

    def _read(self, begin: int, end: int, width: int) -> np.ndarray | None:
        """Rows [begin, end); None where they are not what was written."""
        try:
            rows = np.fromfile(self.path, np.uint8, (end - begin) * width, offset=begin * width).reshape(-1, width)
        except (OSError, ValueError):
            return None
        return rows if [zlib.crc32(row) for row in rows] == self.record[begin:end, 1].tolist() else None
