"""One staging, from the request to `stage.json`. After a kill it continues where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from olmo_inject.corpus.folder import STAGING, TOKENIZER
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.staged import STAGE, STAGE_FOLDER, RankRange, StageRecord, write_stage
from olmo_inject.corpus.staging.layout import Layout, Reads, choose_reads
from olmo_inject.corpus.staging.pieces import Halt, in_parallel
from olmo_inject.corpus.staging.planned_files import PlannedFile
from olmo_inject.corpus.staging.request import (
    REQUEST,
    SHARDS,
    bytes_here,
    check_room,
    claim_folder,
    make_record,
    request_of,
)
from olmo_inject.corpus.staging.spill_runs import Advance, SpilledRuns, SpillRun, StageInMemory, plan_spill_runs
from olmo_inject.errors import UserError
from olmo_inject.utils.files import read_json, write_json
from olmo_inject.utils.options import check_options
from olmo_inject.utils.words import counted
from olmo_inject.vocabulary import Vocabulary

FILE_BYTES = 512 << 20
MEMORY_BYTES = 2 << 30


@dataclass
class Stager:
    """A staging that passed all checks; made by `open_stager`.

    Attributes:
        record: the content of `stage.json`, without the files.
        layout: which sequences are needed from which file.
        reads: how the files are read.
        shards: of the source.
        at_once: number of streams read, and of files assembled.
        file_sequences: sequences of a file.
        vocabulary: its tokenizer is copied into the stage.
        memory_bytes: streamed sequences are kept in memory if the stage is at most this large.
    """

    record: StageRecord
    layout: Layout
    reads: Reads
    shards: TokenShards
    at_once: int
    file_sequences: int
    vocabulary: Vocabulary
    memory_bytes: int

    def __post_init__(self) -> None:
        work, width = self.record.folder / STAGING, self.shards.sequence_bytes
        self.planned = [
            PlannedFile(
                self.record.folder / f"part-{number:05d}.npy",
                work / f"part-{number:05d}.json",
                first,
                min(self.file_sequences, self.record.sequences - first),
            )
            for number, first in enumerate(range(0, self.record.sequences, self.file_sequences))
        ]
        source = self.shards.source
        self.runs = [
            run for file in self.reads.streamed for run in plan_spill_runs(self.layout, file, source, width, work)
        ]

    @property
    def stage_bytes(self) -> int:
        """Bytes of the finished stage."""
        return self.record.nbytes

    @property
    def disk_bytes(self) -> int:
        """Bytes that the disk still needs: files and runs that are not there yet."""
        width = self.shards.sequence_bytes
        missing = sum(file.sequences for file in self.planned if file.done(width) is None)
        return missing * width + (self._run_bytes if missing else 0)

    @property
    def in_memory(self) -> bool:
        """Whether streamed sequences are kept in memory; else they are spilled to the disk."""
        return bool(self.runs) and self.stage_bytes <= self.memory_bytes

    @property
    def _run_bytes(self) -> int:
        """Bytes of the runs that are not there yet, with their indices."""
        if self.in_memory:
            return 0
        return sum(len(run.needed) for run in self.runs if not run.is_complete()) * (self.shards.sequence_bytes + 16)

    @property
    def work_bytes(self) -> int:
        """The sum of all that `advance` is called with: bytes streamed, and bytes written and read back."""
        return sum(run.stop - run.start for run in self.runs) + self.stage_bytes

    def choice(self) -> dict[str, Any]:
        """How files are read and how much disk this needs, as plain values."""
        return asdict(self.reads) | {"streamed": len(self.reads.streamed), "disk_bytes": self.disk_bytes}

    def describe(self) -> list[str]:
        """What will be done, as lines of text."""
        record, reads = self.record, self.reads
        steps = f"steps {record.first_step:,} to {record.beyond_step - 1:,}"
        rows = "all rows" if record.ranks is None else f"the rows of {record.ranks}"
        epoch_steps = self.layout.epoch_steps
        again = record.first_step // epoch_steps < (record.beyond_step - 1) // epoch_steps
        return [
            f"{record.folder}: {steps}, {rows}: {record.sequences:,} sequences, {decimal(self.stage_bytes)} "
            f"in {counted(len(self.planned), 'file')}",
            *([f"the corpus ends after {epoch_steps:,} steps and is then read again in another order"] * again),
            f"streamed: {counted(len(reads.streamed), 'shard')}, {decimal(reads.streamed_bytes)}; by ranges: "
            f"{counted(reads.ranged, 'shard')}, {counted(reads.ranges, 'range')}, {decimal(reads.ranged_bytes)}",
            f"disk still needed: {decimal(self.disk_bytes)}"
            + (
                f"; {decimal(self.stage_bytes)} of memory for streamed sequences"
                if self.in_memory
                else f", of which {decimal(self._run_bytes)} for runs that are deleted at the end"
                if self._run_bytes
                else ""
            ),
        ]

    def check_disk(self) -> None:
        """Check that the disk has room.

        Raises:
            UserError: it is too small.
        """
        check_room(self.record.folder, self.disk_bytes)

    def run(self, advance: Advance, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Do the remaining work. Returns True if the stage is complete, False if it was stopped first.

        Args:
            advance: called with numbers of finished bytes, including those that an earlier attempt finished.
            should_stop: called often; finished files and runs are kept.

        Raises:
            UserError: the source fails or has changed; the disk is full or fails.
        """
        folder, width = self.record.folder, self.shards.sequence_bytes
        with STAGE_FOLDER.held(folder):
            self._begin()
            halt = self._halt(advance, should_stop)
            missing = [file for file in self.planned if file.done(width) is None]
            if missing:
                streamed = self._stream(halt)
                if streamed is None or not self._assemble(missing, streamed, halt):
                    return False
            else:
                advance(self.work_bytes)
            self._finish()
            STAGE_FOLDER.remove_work(folder)
        return True

    def spill(self, runs: Sequence[SpillRun], advance: Advance, should_stop: Callable[[], bool]) -> bool:
        """Stream some runs to the disk while other processes stream others. False if it was stopped first.

        Args:
            runs: some of `runs`.
            advance: called with numbers of bytes read.
            should_stop: as in `run`.

        Raises:
            UserError: as in `run`.
        """
        width = self.shards.sequence_bytes
        with self._together(advance, should_stop) as halt:
            return in_parallel([partial(run.spill, width, halt.advance) for run in runs], self.at_once, halt)

    def write_files(self, files: Sequence[PlannedFile], advance: Advance, should_stop: Callable[[], bool]) -> bool:
        """Write some files while other processes write others. All runs are complete. False if it was stopped first.

        Args:
            files: some of `planned`.
            advance: called with numbers of bytes written and read back.
            should_stop: as in `run`.

        Raises:
            UserError: as in `run`.
        """
        with self._together(advance, should_stop) as halt:
            return self._write(files, SpilledRuns(self.runs, self.shards.sequence_bytes), halt)

    @contextmanager
    def _together(self, advance: Advance, should_stop: Callable[[], bool]) -> Iterator[Halt]:
        """Hold the folder with other processes that do parts of this staging."""
        folder = self.record.folder

        def is_begun() -> bool:
            return (folder / REQUEST).is_file() and read_json(folder / REQUEST) == self._request()

        with STAGE_FOLDER.held_together(folder, is_begun, self._begin):
            yield self._halt(advance, should_stop)

    def _begin(self) -> None:
        """Write the request and remove what a kill left, while this process alone holds the folder."""
        folder = self.record.folder
        self._check_unchanged()
        write_json(folder / REQUEST, self._request())
        for leftover in (*folder.glob(".*.tmp"), *(folder / STAGING).glob(".*.tmp")):
            if leftover.parent.name == STAGING or STAGE_FOLDER.files.fullmatch(leftover.name):
                leftover.unlink()

    def _halt(self, advance: Advance, should_stop: Callable[[], bool]) -> Halt:
        halt = Halt(advance, should_stop)
        self.shards.source.should_stop = lambda: halt.is_on
        return halt

    def _check_unchanged(self) -> None:
        """Check that no other process staged in the folder since `open_stager` looked at it."""
        folder = self.record.folder
        begun = folder / REQUEST
        if (folder / STAGE).is_file() or (begun.is_file() and read_json(begun) != self._request()):
            raise UserError(f"{folder}: another process has staged there meanwhile; give the same command again")

    def _stream(self, halt: Halt) -> StageInMemory | SpilledRuns | None:
        """Stream files into memory or into runs; None if it was stopped first."""
        width = self.shards.sequence_bytes
        if self.in_memory:
            stage = StageInMemory(self.record.sequences, width)
            pieces = [partial(run.read_into, stage, halt.advance) for run in self.runs]
            return stage if in_parallel(pieces, self.at_once, halt) else None
        todo = []
        for run in self.runs:
            if run.is_complete():
                halt.advance(run.stop - run.start)
            else:
                todo.append(partial(run.spill, width, halt.advance))
        return SpilledRuns(self.runs, width) if in_parallel(todo, self.at_once, halt) else None

    def _assemble(self, missing: Sequence[PlannedFile], streamed: StageInMemory | SpilledRuns, halt: Halt) -> bool:
        halt.advance(self.stage_bytes - sum(file.sequences for file in missing) * self.shards.sequence_bytes)
        return self._write(missing, streamed, halt)

    def _write(self, missing: Sequence[PlannedFile], streamed: StageInMemory | SpilledRuns, halt: Halt) -> bool:
        connections = -(-self.shards.source.connections // max(1, min(self.at_once, len(missing))))

        def write(file: PlannedFile) -> None:
            assembled = file.assemble(self.layout, self.shards, streamed, connections, halt)
            halt.advance(0)
            file.write(assembled, halt.advance)

        return in_parallel([partial(write, file) for file in missing], self.at_once, halt)

    def _finish(self) -> None:
        folder, width = self.record.folder, self.shards.sequence_bytes
        records = [file.done(width) for file in self.planned]
        files = tuple(record for record in records if record is not None)
        assert len(files) == len(self.planned)
        if self.record.tokenizer == TOKENIZER:
            shutil.copyfile(self.vocabulary.identifier, folder / TOKENIZER)
        write_stage(replace(self.record, files=files))

    def _request(self) -> dict[str, Any]:
        more = {SHARDS: self.shards.identity(), "streamed": list(self.reads.streamed)}
        return request_of(self.record, self.file_sequences) | more


def open_stager(
    shards: TokenShards,
    order: Order,
    vocabulary: Vocabulary,
    steps: range,
    to: Path,
    *,
    ranks: RankRange | None = None,
    read: str = "auto",
    at_once: int = 4,
    file_bytes: int = FILE_BYTES,
    memory_bytes: int = MEMORY_BYTES,
    overwrite: bool = False,
    prepare: Callable[[], None] = lambda: None,
) -> Stager:
    """Check the request and the folder, and plan the remaining work. Deletes another stage if `overwrite`.

    Args:
        shards: of the corpus.
        order: of its training.
        vocabulary: of its token ids.
        steps: to stage.
        to: the stage's folder; an interrupted staging with the same arguments is continued.
        ranks: stage only the rows that these ranks read.
        read: `ranges` or `stream` for all files, or `auto`.
        at_once: streams and files; each holds 256 MB or a file in memory.
        file_bytes: approximate size of a file.
        memory_bytes: streamed sequences of a stage of at most this size are kept in memory; after a kill they are
            streamed again. Those of a larger stage are spilled to the disk, once more its size.
        overwrite: delete another stage that is there.
        prepare: called after all checks, before the order is read.

    Raises:
        UserError: impossible arguments, something else in the folder, or a disk too small for the stage.
        Staged: the stage is complete already.
    """
    to = to.resolve()
    record = make_record(shards, order, vocabulary, steps, to, ranks)
    check_options(read=read, at_once=at_once)
    file_sequences = file_bytes // shards.sequence_bytes
    if file_sequences < 1:
        raise UserError(f"--file-size: {file_bytes} bytes do not hold a sequence of {shards.sequence_bytes}")
    # Checked before anything takes long or is removed. The room for runs is known and checked later.
    check_room(to, record.nbytes, bytes_here(to))
    streamed = claim_folder(record, file_sequences, shards.identity(), overwrite)
    prepare()
    layout = Layout(record, shards, order)
    reads = choose_reads(layout, shards.sequence_bytes, shards.source.range_cost, read, streamed)
    return Stager(record, layout, reads, shards, at_once, file_sequences, vocabulary, memory_bytes)
