"""Search a piece of a shard: what one process of a scan does.

Each token is looked up in one table of flags. Only the few places whose flags can begin a hit are examined further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from olmo_inject.corpus.references import chosen
from olmo_inject.corpus.sources import Source
from olmo_inject.errors import UserError
from olmo_inject.scan.chunks import Stretch, stretches
from olmo_inject.scan.finder import AROUND, SLACK, FoundStatements, StatementFinder
from olmo_inject.scan.hits import TaskHits, add_hits, no_hits
from olmo_inject.scan.instances import InstanceIndex
from olmo_inject.scan.text_hits import TextHits, look_for_texts
from olmo_inject.scan.text_index import TextIndex
from olmo_inject.utils.parallel_jobs import Report

CHUNK = 2**16  # tokens examined at once, so that their flags stay in the processor's cache
_LOOKED_AT = 2**20  # tokens whose anchors are examined together, to share the cost of array operations
_REPORT = 2**20
_FIRST, _SECOND, _TASK, _ANCHOR, _FOREIGN = 1, 2, 4, 8, 128


@dataclass(frozen=True)
class ScanResult:
    """What a search found.

    Attributes:
        tokens: number of tokens searched.
        tasks: hits of each task of pairs with labels, in order.
        statements: by kind.
        texts: hits of the texts of other tasks; None if there are none.
    """

    tokens: int
    tasks: list[TaskHits]
    statements: dict[str, FoundStatements]
    texts: TextHits | None = None

    def add(self, other: ScanResult, items: int) -> None:
        """Add what a later piece of the corpus holds, keeping at most `items` statements of each kind."""
        for ours, more in zip(self.tasks, other.tasks, strict=True):
            ours.add(more)
        for kind, more in other.statements.items():
            self.statements.setdefault(kind, FoundStatements()).add(more, items)
        if self.texts is not None and other.texts is not None:
            self.texts.add(other.texts)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "tokens": self.tokens,
            "tasks": [hits.record() for hits in self.tasks],
            "statements": {kind: asdict(of_kind) for kind, of_kind in self.statements.items()},
            "texts": None if self.texts is None else self.texts.record(),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> ScanResult:
        """What `record` gave, also through JSON."""
        return cls(
            record["tokens"],
            [TaskHits.from_record(hits) for hits in record["tasks"]],
            {kind: FoundStatements.from_record(of_kind) for kind, of_kind in record["statements"].items()},
            None if record["texts"] is None else TextHits.from_record(record["texts"]),
        )


@dataclass(frozen=True)
class ScanPiece:
    """A job: a piece of a shard to search.

    Attributes:
        source: source of the shard.
        name: name of the shard in the source.
        size: bytes of the shard.
        dtype: dtype of its ids.
        row: tokens per row, as in `Stretch`.
        shard: number of the shard in the corpus.
        start: first token to search.
        stop: end of the tokens to search, exclusive.
    """

    source: Source
    name: str
    size: int
    dtype: str
    row: int | None
    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Search:
    """What to search for. It is sent to each process once, since for 64 draws of seeds it is about 20 MB.

    Attributes:
        table: flags of each id, which say what the id can be part of.
        indexes: instances and pairs of each task.
        finder: of statements, if they are asked for.
        texts: of tasks whose instances are texts, if there are any.
        each: whether to count each instance by itself.
    """

    table: UInt8[np.ndarray, " v"]
    indexes: list[InstanceIndex]
    finder: StatementFinder | None
    texts: TextIndex | None = None
    each: bool = False

    def nothing(self) -> ScanResult:
        """An empty result."""
        texts = None if self.texts is None else TextHits.none(len(self.texts.texts))
        return ScanResult(0, [no_hits(index, self.each) for index in self.indexes], {}, texts)


def scan_piece(search: Search, piece: ScanPiece, report: Report) -> ScanResult:
    """Search one piece of a shard; a hit may reach beyond it.

    Args:
        search: what to search for.
        piece: where to search.
        report: called with numbers of tokens done.
    """
    finder = None if search.finder is None else replace(search.finder, statements={})
    result = search.nothing()
    watched = np.unique(np.concatenate([np.empty(0, np.int64), *(index.tokens for index in search.indexes)]))
    counts, reported = np.zeros(len(watched), np.int64), 0
    around = max(AROUND if finder is None else finder.around, 0 if search.texts is None else search.texts.reach)
    shard = piece.source, piece.name, piece.size, piece.dtype
    for stretch in stretches(*shard, piece.start, piece.stop, around, piece.row):
        anchors: list[np.ndarray] = [np.empty(0, np.int64)]
        looked = stretch.begin
        for begin in range(stretch.begin, stretch.end, CHUNK):
            end = min(begin + CHUNK, stretch.end)
            counts += _look(search, piece, stretch, begin, end, watched, result.tasks, anchors)
            if end - looked >= _LOOKED_AT or end == stretch.end:
                if finder is not None:
                    finder.look(stretch, np.unique(np.concatenate(anchors)), looked, end, Path(piece.name).name)
                if search.texts is not None and result.texts is not None:
                    look_for_texts(search.texts, stretch, looked, end, piece.shard, result.texts)
                looked, anchors = end, [np.empty(0, np.int64)]
            done = stretch.base + end - piece.start
            if done - reported >= _REPORT or stretch.base + end == piece.stop:
                report(done - reported, done - reported)
                reported = done
    for index, task_hits in zip(search.indexes, result.tasks, strict=True):
        task_hits.tokens = counts[np.searchsorted(watched, index.tokens)]
    if finder is not None:
        for kind, of_kind in finder.statements.items():
            of_kind.items = chosen(of_kind.items, finder.most)
            result.statements[kind] = of_kind
    return result


def _look(
    search: Search,
    piece: ScanPiece,
    stretch: Stretch,
    begin: int,
    end: int,
    watched: Int64[np.ndarray, " w"],
    hits: Sequence[TaskHits],
    anchors: list[np.ndarray],
) -> Int64[np.ndarray, " w"]:
    """Search tokens `begin` to `end` of a stretch, and add hits to `hits` and anchors of operators to `anchors`.

    Returns:
        How often each of `watched` occurs there.
    """
    tokens = stretch.tokens
    flags = _flags(search, piece, tokens[begin : end + SLACK])
    own = end - begin
    of_tasks = tokens[begin + np.flatnonzero((flags[:own] & _TASK).astype(bool))]
    pairs = begin + np.flatnonzero(((flags[:-1] & (flags[1:] >> 1))[:own] & _FIRST).view(bool))
    if len(pairs):
        pairs = pairs[stretch.whole(pairs, 2)]
        for index, task_hits in zip(search.indexes, hits, strict=True):
            add_hits(stretch, pairs, piece.shard, index, task_hits)
    if search.finder is not None:
        anchors.append(begin + np.flatnonzero((flags & _ANCHOR).astype(bool)))
    return np.bincount(np.searchsorted(watched, of_tasks), minlength=len(watched))


def _flags(search: Search, piece: ScanPiece, tokens: np.ndarray) -> UInt8[np.ndarray, " n"]:
    try:
        flags = search.table.take(tokens)
    except IndexError:
        flags = np.array([_FOREIGN], np.uint8)
    if flags.max() >= _FOREIGN:
        where = piece.source.where(piece.name)
        raise UserError(f"{where}: token id {tokens.max()} is beyond the vocabulary: wrong tokenizer or dtype?")
    return flags


def flags_of_ids(
    indexes: Sequence[InstanceIndex], finder: StatementFinder | None, vocabulary_size: int, size: int
) -> UInt8[np.ndarray, " v"]:
    """The flags of every id that the shards' dtype can hold.

    Args:
        indexes: instances and pairs of the tasks to search for.
        finder: of statements, if they are asked for.
        vocabulary_size: ids from here on are foreign.
        size: number of ids that the dtype can hold.
    """
    table = np.zeros(size, np.uint8)
    table[vocabulary_size:] = _FOREIGN
    for index in indexes:
        table[index.first] |= _FIRST
        table[index.second] |= _SECOND
        table[index.tokens] |= _TASK
    if finder is not None:
        table[finder.prefilter.anchors] |= _ANCHOR
    return table
