"""A corpus searched once for what tasks inject and for what it says of numbers by itself; exact, in several processes.

Every token goes through one table of flags; all else is done at the few places whose flags can begin a hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from olmo_inject.corpus.references import chosen
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import Source
from olmo_inject.corpus.staged import StagedShards
from olmo_inject.errors import UserError
from olmo_inject.parallel_jobs import Report, each_result
from olmo_inject.scan.chunks import Stretch, stretches
from olmo_inject.scan.finder import AROUND, SLACK, FoundStatements, StatementFinder
from olmo_inject.scan.hits import TaskHits, add_hits, no_hits
from olmo_inject.scan.instances import MAX_IDS, InstanceIndex
from olmo_inject.scan.prefilter import Prefilter
from olmo_inject.tasks import Task
from olmo_inject.vocabulary import Vocabulary

CHUNK = 2**16  # tokens at once: their flags stay in the cache
PART = 2**26  # tokens of a job
_LOOKED_AT = 2**20  # tokens whose anchors are looked at together: the cost of each array operation is shared
_REPORT = 2**20
_FIRST, _SECOND, _TASK, _ANCHOR, _FOREIGN = 1, 2, 4, 8, 128


@dataclass(frozen=True)
class ReferenceOptions:
    """How natural statements are kept: tokens before an answer, and items of each kind."""

    context: int = 64
    items: int = 1000


@dataclass(frozen=True)
class ScanResult:
    """Hits of each task, in the order given, and statements by kind."""

    tokens: int
    tasks: list[TaskHits]
    statements: dict[str, FoundStatements]


@dataclass(frozen=True)
class ScanPart:
    """Tokens `start` to `stop` of shard number `shard`; `row` as `Stretch`'s."""

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
    """What to look for: of 64 draws of seeds some 20 MB, so it is not handed over with every part.

    Attributes:
        table: what a token can be part of.
        needles: of each task.
        finder: of statements, if they are asked for.
        each: count instances one by one.
    """

    table: UInt8[np.ndarray, " v"]
    needles: list[InstanceIndex]
    finder: StatementFinder | None
    each: bool = False


def scan_corpus(
    shards: TokenShards,
    vocabulary: Vocabulary,
    tasks: Sequence[Task],
    references: ReferenceOptions | None = None,
    *,
    processes: int = 1,
    progress: bool = False,
) -> ScanResult:
    """Count what `shards` hold; a shard that stands twice counts twice, as it is trained on twice.

    Of a stage each sequence is searched by itself: its neighbours there are not its neighbours in the text. Remote
    shards are streamed, once, with a few megabytes of each process's part in memory.

    Args:
        shards: all their tokens, those after the last whole sequence too.
        vocabulary: theirs.
        tasks: whose tokens to look for.
        references: also find natural statements, and keep some.
        processes: how many search.
        progress: show a line of progress on standard error.

    Raises:
        UserError: ids beyond the vocabulary, or a tokenizer in which statements cannot be found.
    """
    search, parts = prepare_scan(shards, vocabulary, tasks, references)
    total = sum(shards.shard_tokens)
    found = each_result(
        partial(scan_part, search),
        parts,
        processes=processes,
        what="scanning",
        total=total,
        unit="tokens",
        progress=progress,
    )
    result = ScanResult(total, [no_hits(needle) for needle in search.needles], {})
    for hits, statements in found:
        for ours, more in zip(result.tasks, hits, strict=True):
            ours.add(more)
        for kind, more in statements.items():
            assert references is not None
            result.statements.setdefault(kind, FoundStatements()).add(more, references.items)
    return result


def count_instances(
    shards: TokenShards, vocabulary: Vocabulary, tasks: Sequence[Task], *, processes: int = 1, progress: bool = False
) -> list[int]:
    """How many instances of each of many tasks `shards` hold, in one pass that takes all tasks for one.

    Arguments and errors are `scan_corpus`'s. Memory: some 50 bytes an instance of all tasks in each process.
    """
    needles = InstanceIndex(*tasks)
    search = replace(_search_of(shards, vocabulary, [needles], None), each=True)
    parts = scan_parts(shards)
    total = sum(shards.shard_tokens)
    counts = np.zeros(len(needles.instances), np.int64)
    for (hits,), _ in each_result(
        partial(scan_part, search),
        parts,
        processes=processes,
        what="scanning",
        total=total,
        unit="tokens",
        progress=progress,
    ):
        assert hits.each is not None
        counts += hits.each
    return [int(counts[needles.numbers_of(task)].sum()) for task in tasks]


def prepare_scan(
    shards: TokenShards, vocabulary: Vocabulary, tasks: Sequence[Task], references: ReferenceOptions | None = None
) -> tuple[Search, list[ScanPart]]:
    """The work of `scan_corpus`: what is looked for, and the pieces in which, in the order of the corpus."""
    return _search_of(shards, vocabulary, [InstanceIndex(task) for task in tasks], references), scan_parts(shards)


def _search_of(
    shards: TokenShards, vocabulary: Vocabulary, needles: list[InstanceIndex], references: ReferenceOptions | None
) -> Search:
    if vocabulary.size > MAX_IDS:
        raise UserError(f"a vocabulary of {vocabulary.size:,} ids: at most {MAX_IDS:,} can be searched for")
    size = 2**16 if shards.dtype.itemsize <= 2 else vocabulary.size
    finder = None if references is None else _finder(vocabulary, size, references)
    return Search(_table(needles, finder, vocabulary.size, size), needles, finder)


def scan_parts(shards: TokenShards) -> list[ScanPart]:
    """The tokens of all shards in pieces, in the order of the corpus."""
    row = shards.sequence_length if isinstance(shards, StagedShards) else None
    source, dtype = shards.source, shards.dtype
    return [
        ScanPart(source, name, size, dtype.name, row, number, start, min(start + PART, length))
        for number, (name, size) in enumerate(zip(shards.names, shards.sizes, strict=True))
        for length in (size // dtype.itemsize,)
        for start in range(0, length, PART)
    ]


def scan_part(search: Search, part: ScanPart, report: Report) -> tuple[list[TaskHits], dict[str, FoundStatements]]:
    """Search tokens `start` to `stop` of one shard, looking beyond them where a hit reaches over."""
    finder = None if search.finder is None else replace(search.finder, found={})
    hits = [no_hits(needle, search.each) for needle in search.needles]
    watched = np.unique(np.concatenate([np.empty(0, np.int64), *(needle.tokens for needle in search.needles)]))
    counts, reported = np.zeros(len(watched), np.int64), 0
    around = AROUND if finder is None else finder.around
    shard = part.source, part.name, part.size, part.dtype
    for stretch in stretches(*shard, part.start, part.stop, around, part.row):
        anchors: list[np.ndarray] = []
        looked = stretch.begin
        for begin in range(stretch.begin, stretch.end, CHUNK):
            end = min(begin + CHUNK, stretch.end)
            counts += _look(search, part, stretch, begin, end, watched, hits, anchors)
            if finder is not None and (end - looked >= _LOOKED_AT or end == stretch.end):
                finder.look(stretch, np.unique(np.concatenate(anchors)), looked, end, Path(part.name).name)
                looked, anchors = end, []
            done = stretch.base + end - part.start
            if done - reported >= _REPORT or stretch.base + end == part.stop:
                report(done - reported, done - reported)
                reported = done
    for needle, hit in zip(search.needles, hits, strict=True):
        hit.tokens = counts[np.searchsorted(watched, needle.tokens)]
    statements = {} if finder is None else finder.found
    for found in statements.values():
        found.items = chosen(found.items, finder.most if finder is not None else 0)
    return hits, statements


def _look(
    search: Search,
    part: ScanPart,
    stretch: Stretch,
    begin: int,
    end: int,
    watched: Int64[np.ndarray, " w"],
    hits: Sequence[TaskHits],
    anchors: list[np.ndarray],
) -> Int64[np.ndarray, " w"]:
    """Add what begins in tokens `begin` to `end` of a stretch; how often each of `watched` stands there.

    To `anchors` come the places of tokens in which operators may stand, for the finder of statements.
    """
    tokens = stretch.tokens
    flags = _flags(search, part, tokens[begin : end + SLACK])
    own = end - begin
    known = tokens[begin + np.flatnonzero((flags[:own] & _TASK).astype(bool))]
    pairs = begin + np.flatnonzero(((flags[:-1] & (flags[1:] >> 1))[:own] & _FIRST).view(bool))
    if len(pairs):
        pairs = pairs[stretch.whole(pairs, 2)]
        for needle, hit in zip(search.needles, hits, strict=True):
            add_hits(stretch, pairs, part.shard, needle, hit)
    if search.finder is not None:
        anchors.append(begin + np.flatnonzero((flags & _ANCHOR).astype(bool)))
    return np.bincount(np.searchsorted(watched, known), minlength=len(watched))


def _flags(search: Search, part: ScanPart, tokens: np.ndarray) -> UInt8[np.ndarray, " n"]:
    try:
        flags = search.table.take(tokens)
    except IndexError:
        flags = np.array([_FOREIGN], np.uint8)
    if flags.max() >= _FOREIGN:
        where = part.source.where(part.name)
        raise UserError(f"{where}: token id {tokens.max()} is beyond the vocabulary: wrong tokenizer or dtype?")
    return flags


def _table(
    needles: Sequence[InstanceIndex], finder: StatementFinder | None, vocabulary_size: int, size: int
) -> UInt8[np.ndarray, " v"]:
    """What a token can be part of, for every id that the shards' dtype can hold."""
    table = np.zeros(size, np.uint8)
    table[vocabulary_size:] = _FOREIGN
    for needle in needles:
        table[needle.first] |= _FIRST
        table[needle.second] |= _SECOND
        table[needle.tokens] |= _TASK
    if finder is not None:
        table[finder.prefilter.anchors] |= _ANCHOR
    return table


def _finder(vocabulary: Vocabulary, size: int, options: ReferenceOptions) -> StatementFinder:
    if options.context < 1 or options.items < 1:
        raise UserError("references: a context of at least 1 token and at least 1 item")
    token_bytes = vocabulary.token_bytes()
    prefilter = Prefilter.of(vocabulary, token_bytes, size)
    return StatementFinder(prefilter, token_bytes, vocabulary.eos_id, options.context, options.items)
