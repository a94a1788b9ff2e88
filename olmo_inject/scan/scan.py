"""Search a corpus in several processes for what tasks inject and for natural statements. Counts are exact.

Each token is looked up in one table of flags. Only the few places whose flags can begin a hit are examined further.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from olmo_inject.corpus.references import chosen
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import Source
from olmo_inject.errors import UserError
from olmo_inject.options import check_options
from olmo_inject.parallel_jobs import Report, each_result
from olmo_inject.parts_of_work import Item, Spreading, in_one_process
from olmo_inject.scan.chunks import Stretch, stretches
from olmo_inject.scan.finder import AROUND, SLACK, FoundStatements, StatementFinder
from olmo_inject.scan.hits import TaskHits, add_hits, no_hits
from olmo_inject.scan.instances import MAX_IDS, InstanceIndex
from olmo_inject.scan.prefilter import Prefilter
from olmo_inject.scan.text_hits import TextHits, look_for_texts
from olmo_inject.scan.text_index import TextIndex
from olmo_inject.tasks import Task
from olmo_inject.vocabulary import Vocabulary

CHUNK = 2**16  # tokens examined at once, so that their flags stay in the processor's cache
PIECE = 2**26  # tokens per job
_LOOKED_AT = 2**20  # tokens whose anchors are examined together, to share the cost of array operations
_REPORT = 2**20
VERSION = 1  # increased when other things are found, so that kept results of jobs are not mistaken for new ones
_FIRST, _SECOND, _TASK, _ANCHOR, _FOREIGN = 1, 2, 4, 8, 128


@dataclass(frozen=True)
class ReferenceOptions:
    """How natural statements are kept: `context` tokens before an answer, at most `items` of each kind."""

    context: int = 64
    items: int = 1000


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


def scan_corpus(
    shards: TokenShards,
    vocabulary: Vocabulary,
    tasks: Sequence[Task],
    references: ReferenceOptions | None = None,
    texts: TextIndex | None = None,
    *,
    processes: int = 1,
    progress: bool = False,
    spreading: Spreading = in_one_process,
) -> ScanResult:
    """Search all tokens of a corpus, including those after the last whole sequence of a shard.

    A shard that is listed twice counts twice, since it is trained on twice. In a stage each sequence is searched by
    itself, since its neighbours there are not its neighbours in the text. Remote shards are streamed once; each process
    holds a few megabytes.

    Args:
        shards: of the corpus.
        vocabulary: of its token ids.
        tasks: the tasks of pairs with labels to search for.
        references: also find natural statements and keep some of them; None: do not.
        texts: the texts of other tasks; None: there are none.
        processes: number of processes that search.
        progress: whether to show progress on standard error.
        spreading: gives the results of all jobs, computed here or elsewhere.

    Returns:
        Counts and places, in the order of `tasks`.

    Raises:
        UserError: ids outside the vocabulary, or a tokenizer in which statements cannot be found.
    """
    search, pieces = prepare_scan(shards, vocabulary, tasks, references, texts)
    result = search.nothing()
    for of_piece in _results(search, pieces, shards, processes, progress, spreading):
        result.add(of_piece, 0 if references is None else references.items)
    return replace(result, tokens=sum(shards.shard_tokens))


def count_instances(
    shards: TokenShards,
    vocabulary: Vocabulary,
    tasks: Sequence[Task],
    *,
    processes: int = 1,
    progress: bool = False,
    spreading: Spreading = in_one_process,
) -> list[int]:
    """The number of natural instances of each of many tasks, in one pass over the corpus.

    Each process needs about 50 bytes of memory per instance of all tasks.

    Args:
        shards: as in `scan_corpus`.
        vocabulary: as in `scan_corpus`.
        tasks: as in `scan_corpus`.
        processes: as in `scan_corpus`.
        progress: as in `scan_corpus`.
        spreading: as in `scan_corpus`.

    Raises:
        UserError: ids outside the vocabulary.
    """
    index = InstanceIndex(*tasks)
    search = replace(_search_of(shards, vocabulary, [index], None), each=True)
    counts = np.zeros(len(index.instances), np.int64)
    for of_piece in _results(search, scan_pieces(shards), shards, processes, progress, spreading):
        (hits,) = of_piece.tasks
        assert hits.each is not None
        counts += hits.each
    return [int(counts[index.numbers_of(task)].sum()) for task in tasks]


def _results(
    search: Search,
    pieces: Sequence[ScanPiece],
    shards: TokenShards,
    processes: int,
    progress: bool,
    spreading: Spreading,
) -> Iterator[ScanResult]:
    """The result of `scan_piece` for each piece, computed in several processes."""

    def compute(todo: list[ScanPiece]) -> Iterator[Any]:
        total = sum(piece.stop - piece.start for piece in todo)
        how = {"processes": processes, "what": "scanning", "total": total, "unit": "tokens", "progress": progress}
        for of_piece in each_result(partial(scan_piece, search), todo, **how):
            yield of_piece.record()

    about = {"scan": VERSION, "search": _fingerprint(search), "corpus": shards.identity()}

    def item(piece: ScanPiece) -> Item[ScanPiece]:
        where = {"row": piece.row, "shard": piece.shard, "start": piece.start, "stop": piece.stop}
        return Item(piece, f"{piece.name} {piece.start}:{piece.stop}", about | where)

    items = [item(piece) for piece in pieces]
    return map(ScanResult.from_record, spreading(items, compute))


def _fingerprint(search: Search) -> str:
    """SHA-256 of what is searched for, and of what is kept of it."""
    digest = hashlib.sha256(search.table.tobytes())
    for index in search.indexes:
        digest.update(index.instances.tobytes() + b"\0")
    if search.texts is not None:
        digest.update(search.texts.identity)
    finder = search.finder
    kept = None if finder is None else (finder.context, finder.most, finder.eos_id, list(finder.token_bytes))
    digest.update(repr((search.each, kept, PIECE)).encode())
    return digest.hexdigest()


def prepare_scan(
    shards: TokenShards,
    vocabulary: Vocabulary,
    tasks: Sequence[Task],
    references: ReferenceOptions | None = None,
    texts: TextIndex | None = None,
) -> tuple[Search, list[ScanPiece]]:
    """What `scan_corpus` searches for, and its jobs in the order of the corpus.

    Args:
        shards: as in `scan_corpus`.
        vocabulary: as in `scan_corpus`.
        tasks: as in `scan_corpus`.
        references: as in `scan_corpus`.
        texts: as in `scan_corpus`.

    Raises:
        UserError: as in `scan_corpus`.
    """
    search = _search_of(shards, vocabulary, [InstanceIndex(task) for task in tasks], references)
    return replace(search, texts=texts), scan_pieces(shards)


def _search_of(
    shards: TokenShards, vocabulary: Vocabulary, indexes: list[InstanceIndex], references: ReferenceOptions | None
) -> Search:
    if vocabulary.size > MAX_IDS:
        raise UserError(f"a vocabulary of {vocabulary.size:,} ids cannot be searched: at most {MAX_IDS:,}")
    size = 2**16 if shards.dtype.itemsize <= 2 else vocabulary.size
    finder = None if references is None else _finder(vocabulary, size, references)
    return Search(_table(indexes, finder, vocabulary.size, size), indexes, finder)


def scan_pieces(shards: TokenShards) -> list[ScanPiece]:
    """The jobs of a scan, in the order of the corpus."""
    row = None if shards.is_running_text else shards.sequence_length
    source, dtype = shards.source, shards.dtype
    return [
        ScanPiece(source, name, size, dtype.name, row, number, start, min(start + PIECE, length))
        for number, (name, size) in enumerate(zip(shards.names, shards.sizes, strict=True))
        for length in (size // dtype.itemsize,)
        for start in range(0, length, PIECE)
    ]


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


def _table(
    indexes: Sequence[InstanceIndex], finder: StatementFinder | None, vocabulary_size: int, size: int
) -> UInt8[np.ndarray, " v"]:
    """The flags of every id that the shards' dtype can hold."""
    table = np.zeros(size, np.uint8)
    table[vocabulary_size:] = _FOREIGN
    for index in indexes:
        table[index.first] |= _FIRST
        table[index.second] |= _SECOND
        table[index.tokens] |= _TASK
    if finder is not None:
        table[finder.prefilter.anchors] |= _ANCHOR
    return table


def _finder(vocabulary: Vocabulary, size: int, options: ReferenceOptions) -> StatementFinder:
    check_options(context=options.context, items=options.items)
    token_bytes = vocabulary.token_bytes()
    prefilter = Prefilter.of(vocabulary, token_bytes, size)
    return StatementFinder(prefilter, token_bytes, vocabulary.eos_id, options.context, options.items)
