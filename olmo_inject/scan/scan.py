"""Search a corpus in several processes for what tasks inject and for natural statements. Counts are exact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from olmo_inject.corpus.shards import TokenShards
from olmo_inject.errors import UserError
from olmo_inject.scan.finder import StatementFinder
from olmo_inject.scan.instances import MAX_IDS, InstanceIndex
from olmo_inject.scan.piece import ScanPiece, ScanResult, Search, flags_of_ids, scan_piece
from olmo_inject.scan.prefilter import Prefilter
from olmo_inject.scan.text_index import TextIndex
from olmo_inject.tasks import Task
from olmo_inject.utils.options import check_options
from olmo_inject.utils.parallel_jobs import each_result
from olmo_inject.utils.parts_of_work import Item, Spreading, in_one_process
from olmo_inject.vocabulary import Vocabulary

PIECE = 2**26  # tokens per job
VERSION = 1  # increased when other things are found, so that kept results of jobs are not mistaken for new ones


@dataclass(frozen=True)
class ReferenceOptions:
    """How natural statements are kept: `context` tokens before an answer, at most `items` of each kind."""

    context: int = 64
    items: int = 1000


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
    return Search(flags_of_ids(indexes, finder, vocabulary.size, size), indexes, finder)


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


def _finder(vocabulary: Vocabulary, size: int, options: ReferenceOptions) -> StatementFinder:
    check_options(context=options.context, items=options.items)
    token_bytes = vocabulary.token_bytes()
    prefilter = Prefilter.of(vocabulary, token_bytes, size)
    return StatementFinder(prefilter, token_bytes, vocabulary.eos_id, options.context, options.items)
