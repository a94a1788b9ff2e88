"""What a stage needs of each file of the corpus, and whether that is read by ranges or by streaming."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64, UInt32

from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources.source import Cost
from olmo_inject.corpus.staged import StageRecord

LOOKED_UP = 1 << 20  # places at once
SPILL_BYTES_PER_S = 0.5e9  # a run is written once and read once
READS = ("auto", "ranges", "stream")


class Layout:
    """Place in the stage -> file and index in it; memory is 14 bytes a sequence.

    A file that stands more than once among the shards is one file here.

    Args:
        record: what is staged.
        shards: of the source.
        order: of the source.
    """

    def __init__(self, record: StageRecord, shards: TokenShards, order: Order) -> None:
        self.epoch_steps = order.epoch_steps
        self.files = list(dict.fromkeys(shards.names))
        number = {name: i for i, name in enumerate(self.files)}
        self._file_of_shard = np.array([number[name] for name in shards.names])
        self.file_sizes = [0] * len(self.files)
        for name, size in zip(shards.names, shards.sizes, strict=True):
            self.file_sizes[number[name]] = size
        self._offsets = shards.offsets
        self._sequences: UInt32[np.ndarray, " n"] = np.empty(record.sequences, np.uint32)
        files = np.empty(record.sequences, np.min_scalar_type(len(self.files)))
        for start in range(0, record.sequences, LOOKED_UP):
            places = np.arange(start, min(start + LOOKED_UP, record.sequences))
            sequences = order[record.positions(places)]
            self._sequences[places] = sequences
            files[places] = self._file_of_shard[self._shards_of(sequences)]
        self.counts: Int64[np.ndarray, " files"] = np.bincount(files, minlength=len(self.files)).astype(np.int64)
        self._by_file = np.argsort(files, kind="stable")
        self._bounds = np.concatenate([[0], np.cumsum(self.counts)])

    def of_file(self, file: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The sequences needed of a file: their indices in it, ascending, and the places where they belong."""
        places = self._by_file[self._bounds[file] : self._bounds[file + 1]]
        _, indices = self.locate(places)
        ascending = np.argsort(indices, kind="stable")
        return indices[ascending], places[ascending]

    def locate(self, places: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The files of `places`, and the indices of their sequences there."""
        sequences = self._sequences[places].astype(np.int64)
        shards = self._shards_of(sequences)
        return self._file_of_shard[shards], sequences - self._offsets[shards]

    def _shards_of(self, sequences: Int64[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        return np.searchsorted(self._offsets, sequences, side="right") - 1


@dataclass(frozen=True)
class Estimate:
    """What reading the files costs, of which those in `streamed` are streamed whole.

    Attributes:
        streamed: files that are streamed, ascending.
        ranged: how many are read by ranges.
        streamed_bytes: to read by streaming.
        ranges: number of ranges.
        ranged_bytes: to read by ranges.
        seconds: roughly, for reading and for the runs.
        otherwise: roughly, if all files were read the other way: by ranges, by streaming.
    """

    streamed: tuple[int, ...]
    ranged: int
    streamed_bytes: int
    ranges: int
    ranged_bytes: int
    seconds: float
    otherwise: tuple[float, float]


def estimate(
    layout: Layout,
    sequence_bytes: int,
    cost: Cost,
    streams: int,
    connections: int,
    read: str = "auto",
    streamed: Sequence[int] | None = None,
) -> Estimate:
    """Choose for each file the cheaper way of reading it.

    Args:
        layout: what is needed.
        sequence_bytes: of one sequence.
        cost: of the source.
        streams: read at once.
        connections: ranges asked for at once.
        read: `auto`, or `ranges` or `stream` for all files.
        streamed: a choice that was made already.
    """
    counts, sizes = layout.counts, np.array(layout.file_sizes)
    needed = counts * sequence_bytes
    by_ranges = (counts * cost.request_s + needed / cost.bytes_per_s) / connections
    by_streams = ((counts > 0) * (cost.request_s + sizes / cost.bytes_per_s)) / streams + needed / SPILL_BYTES_PER_S
    if streamed is not None:
        chosen = np.isin(np.arange(len(counts)), np.array(streamed, np.int64))
    else:
        chosen = {"auto": by_streams < by_ranges, "ranges": counts < 0, "stream": counts > 0}[read]
    return Estimate(
        streamed=tuple(np.flatnonzero(chosen).tolist()),
        ranged=int(np.count_nonzero(~chosen & (counts > 0))),
        streamed_bytes=int(sizes[chosen].sum()),
        ranges=int(counts[~chosen].sum()),
        ranged_bytes=int(needed[~chosen].sum()),
        seconds=float(np.where(chosen, by_streams, by_ranges).sum()),
        otherwise=(float(by_ranges.sum()), float(by_streams.sum())),
    )
