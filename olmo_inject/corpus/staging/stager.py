"""One staging from what is needed to `stage.json`, resumable wherever it was killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from olmo_inject.corpus.folder import TOKENIZER
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.staged import STAGE, RankShard, StageRecord, write_stage
from olmo_inject.corpus.staging.layout import READS, Estimate, Layout, estimate
from olmo_inject.corpus.staging.parts import Part
from olmo_inject.corpus.staging.pieces import Halt, in_parallel
from olmo_inject.corpus.staging.request import (
    OWN_FILES,
    WORK,
    bytes_here,
    check_room,
    held,
    look_at_folder,
    make_record,
    request_of,
)
from olmo_inject.corpus.staging.spill_runs import Advance, Held, OpenRun, plan_runs
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, write_json
from olmo_inject.locks import remove_with_lock
from olmo_inject.vocabulary import Vocabulary
from olmo_inject.words import counted

PART_BYTES = 512 << 20
MEMORY_BYTES = 2 << 30


@dataclass
class Stager:
    """A staging that may begin; made by `open_stager`.

    Attributes:
        record: what `stage.json` will say, but for its parts.
        layout: which sequences are needed of which file.
        estimate: how they are read, and what that costs.
        shards: of the source.
        jobs: streams read, and parts put together, at once.
        part_sequences: in a part.
        vocabulary: whose tokenizer goes with the stage.
        memory_bytes: a stage of at most so many is put together in memory, if anything of it is streamed.
    """

    record: StageRecord
    layout: Layout
    estimate: Estimate
    shards: TokenShards
    jobs: int
    part_sequences: int
    vocabulary: Vocabulary
    memory_bytes: int

    def __post_init__(self) -> None:
        work, width = self.record.folder / WORK, self.shards.sequence_bytes
        self.parts = [
            Part(
                self.record.folder / f"part-{number:05d}.npy",
                work / f"part-{number:05d}.json",
                first,
                min(self.part_sequences, self.record.sequences - first),
            )
            for number, first in enumerate(range(0, self.record.sequences, self.part_sequences))
        ]
        source = self.shards.source
        self.runs = [
            run for file in self.estimate.streamed for run in plan_runs(self.layout, file, source, width, work)
        ]

    @property
    def stage_bytes(self) -> int:
        """Of the finished stage."""
        return self.record.nbytes

    @property
    def disk_bytes(self) -> int:
        """What the disk must still have: parts and runs that are not there yet."""
        width = self.shards.sequence_bytes
        parts = sum(part.sequences for part in self.parts if part.done(width) is None)
        return parts * width + (self._run_bytes if parts else 0)

    @property
    def in_memory(self) -> bool:
        """Whether what is streamed is kept in memory; if not, in runs on the disk."""
        return bool(self.runs) and self.stage_bytes <= self.memory_bytes

    @property
    def _run_bytes(self) -> int:
        """Rows of runs that are not there yet, and their indices."""
        if self.in_memory:
            return 0
        return sum(len(run.these) for run in self.runs if not run.is_complete()) * (self.shards.sequence_bytes + 16)

    @property
    def work_bytes(self) -> int:
        """What `advance` is told in all: bytes streamed, and bytes written and read back."""
        return sum(run.stop - run.start for run in self.runs) + self.stage_bytes

    def choice(self) -> dict[str, Any]:
        """How the files are read, as plain values."""
        return asdict(self.estimate) | {"streamed": len(self.estimate.streamed), "disk_bytes": self.disk_bytes}

    def describe(self) -> list[str]:
        """What will be done, for people."""
        record, chosen = self.record, self.estimate
        steps = f"steps {record.first_step:,} to {record.beyond_step - 1:,}"
        rows = "all rows" if record.ranks is None else f"the rows of {record.ranks}"
        by_ranges, by_streams = chosen.otherwise
        epoch_steps = self.layout.epoch_steps
        again = record.first_step // epoch_steps < (record.beyond_step - 1) // epoch_steps
        return [
            f"{record.folder}: {steps}, {rows}: {record.sequences:,} sequences, {decimal(self.stage_bytes)} "
            f"in {counted(len(self.parts), 'part')}",
            *([f"the corpus ends after {epoch_steps:,} steps, and is then read again in another order"] * again),
            f"streamed: {counted(len(chosen.streamed), 'file')}, {decimal(chosen.streamed_bytes)}; by ranges: "
            f"{counted(chosen.ranged, 'file')}, {counted(chosen.ranges, 'range')}, {decimal(chosen.ranged_bytes)}",
            f"reading takes roughly {_duration(chosen.seconds)} (all by ranges {_duration(by_ranges)}, "
            f"all streamed {_duration(by_streams)})",
            f"disk still needed: {decimal(self.disk_bytes)}"
            + (
                f"; {decimal(self.stage_bytes)} of memory hold what is streamed"
                if self.in_memory
                else f", of which {decimal(self._run_bytes)} for runs that are deleted at the end"
                if self._run_bytes
                else ""
            ),
        ]

    def check_disk(self) -> None:
        """Refuse a disk that is too small.

        Raises:
            UserError: it is.
        """
        check_room(self.record.folder, self.disk_bytes)

    def run(self, advance: Advance, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Do what is left; True when the stage is complete, False when it was stopped first.

        Args:
            advance: told of bytes as they are done, also of those that were done before.
            should_stop: asked often; what is complete by then is kept.

        Raises:
            UserError: the source fails, has changed, or the disk does.
        """
        folder, width = self.record.folder, self.shards.sequence_bytes
        with held(folder):
            self._check_unchanged()
            write_json(folder / WORK / "request.json", self._request())
            for leftover in (*folder.glob(".*.tmp"), *(folder / WORK).glob(".*.tmp")):
                if leftover.parent.name == WORK or OWN_FILES.fullmatch(leftover.name):
                    leftover.unlink()
            halt = Halt(advance, should_stop)
            self.shards.source.should_stop = lambda: halt.is_on
            missing = [part for part in self.parts if part.done(width) is None]
            streamed = self._gather(halt) if missing else []
            if streamed is None or not self._assemble(missing, streamed, halt):
                return False
            self._finish()
            remove_with_lock(folder / WORK / "lock")
        return True

    def _check_unchanged(self) -> None:
        """Refuse a folder in which another process staged since `open_stager` looked at it."""
        folder = self.record.folder
        begun = folder / WORK / "request.json"
        if (folder / STAGE).is_file() or (begun.is_file() and read_json(begun) != self._request()):
            raise UserError(f"{folder}: another process has staged there meanwhile; the same command looks again")

    def _gather(self, halt: Halt) -> Held | list[OpenRun] | None:
        """What is streamed, in memory or in runs; None where it was stopped first."""
        width = self.shards.sequence_bytes
        if self.in_memory:
            held = Held(self.record.sequences, width)
            return (
                held
                if in_parallel([partial(run.hold, held, halt.advance) for run in self.runs], self.jobs, halt)
                else None
            )
        todo = []
        for run in self.runs:
            if run.is_complete():
                halt.advance(run.stop - run.start)
            else:
                todo.append(partial(run.gather, width, halt.advance))
        return [run.opened() for run in self.runs] if in_parallel(todo, self.jobs, halt) else None

    def _assemble(self, missing: Sequence[Part], streamed: Held | Sequence[OpenRun], halt: Halt) -> bool:
        halt.advance(self.stage_bytes - sum(part.sequences for part in missing) * self.shards.sequence_bytes)
        connections = -(-self.shards.source.connections // max(1, min(self.jobs, len(missing))))

        def make(part: Part) -> None:
            assembled = part.assemble(self.layout, self.shards, streamed, connections, halt)
            halt.advance(0)
            part.write(assembled, halt.advance)

        return in_parallel([partial(make, part) for part in missing], self.jobs, halt)

    def _finish(self) -> None:
        folder, width = self.record.folder, self.shards.sequence_bytes
        records = [part.done(width) for part in self.parts]
        parts = tuple(record for record in records if record is not None)
        assert len(parts) == len(self.parts)
        if self.record.tokenizer == TOKENIZER:
            shutil.copyfile(self.vocabulary.identifier, folder / TOKENIZER)
        write_stage(replace(self.record, parts=parts))

    def _request(self) -> dict[str, Any]:
        return request_of(self.record, self.part_sequences) | {"streamed": list(self.estimate.streamed)}


def open_stager(
    shards: TokenShards,
    order: Order,
    vocabulary: Vocabulary,
    steps: range,
    to: Path,
    *,
    ranks: RankShard | None = None,
    read: str = "auto",
    jobs: int = 4,
    part_bytes: int = PART_BYTES,
    memory_bytes: int = MEMORY_BYTES,
    overwrite: bool = False,
    prepare: Callable[[], None] = lambda: None,
) -> Stager:
    """Look at what is asked and what is there already, and plan the rest; writes nothing.

    Args:
        shards: of the corpus.
        order: of its training.
        vocabulary: of its ids.
        steps: to stage.
        to: the stage's folder; a stage that was begun there with the same arguments goes on.
        ranks: stage only the rows that these read.
        read: `ranges` or `stream` for all files, or `auto`.
        jobs: streams and parts at once; each holds 256 MB or a part in memory.
        part_bytes: of a part, about.
        memory_bytes: a smaller stage of which anything is streamed is put together in memory, and written once; but
            what was streamed when it is killed is streamed again. A larger one goes through runs on the disk.
        overwrite: delete another stage that is there.
        prepare: called when nothing speaks against it, before the order is read.

    Raises:
        UserError: impossible arguments, something else in the folder, or a disk too small for the stage itself.
        Staged: nothing is left to do.
    """
    to = to.resolve()
    record = make_record(shards, order, vocabulary, steps, to, ranks)
    if read not in READS:
        raise UserError(f"--read: {read} is not one of {', '.join(READS)}")
    if jobs < 1:
        raise UserError(f"--at-once: {jobs} must be at least 1")
    part_sequences = part_bytes // shards.sequence_bytes
    if part_sequences < 1:
        raise UserError(f"--part-size: {part_bytes} bytes do not hold a sequence of {shards.sequence_bytes}")
    # Before anything takes long, or is removed; what runs need is known, and checked, later.
    check_room(to, record.nbytes, bytes_here(to))
    streamed = look_at_folder(record, part_sequences, overwrite)
    prepare()
    layout = Layout(record, shards, order)
    chosen = estimate(
        layout, shards.sequence_bytes, shards.source.cost, jobs, shards.source.connections, read, streamed
    )
    return Stager(record, layout, chosen, shards, jobs, part_sequences, vocabulary, memory_bytes)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
