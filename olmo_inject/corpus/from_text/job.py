"""One job of a build: read inputs, tokenize them and write shards. A killed job is continued where it stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from olmo_inject.corpus.from_text.documents import Document, Reading, read_documents
from olmo_inject.corpus.from_text.encoding import encode_documents
from olmo_inject.corpus.from_text.inputs import Input, TextOptions
from olmo_inject.corpus.from_text.shard_writer import WORK, ShardWriter, finished_shards
from olmo_inject.utils.files import read_json, write_json
from olmo_inject.utils.parallel_jobs import Report
from olmo_inject.vocabulary import Vocabulary

JOB_BYTES = 64 * 2**20  # small files are read together up to this size, so that shards are not too small
# Left out and counted: documents without text, damaged lines, files whose rest cannot be read.
LEFT_OUT: tuple[str, ...] = ("empty", "damaged", "broken_off")
BATCH_DOCUMENTS = 512  # documents tokenized at once
BATCH_CHARACTERS = 2**21


@dataclass(frozen=True)
class BuildOptions:
    """Everything that decides the bytes of a built corpus.

    Attributes:
        tokenizer: `dolma`, `bpe` (trained on the beginnings of the inputs), a path or a bundled name.
        vocab_size: number of ids of the `bpe` tokenizer, special tokens included.
        eos_id: EOS, if the tokenizer has none of a usual name.
        pad_id: PAD, if the tokenizer has none of a usual name.
        shard_tokens: maximum tokens of a shard.
        skip_damaged: count damaged lines and continue.
        text: how documents are found.
    """

    tokenizer: str = "dolma"
    vocab_size: int = 2048
    eos_id: int | None = None
    pad_id: int | None = None
    shard_tokens: int = 2**29
    skip_damaged: bool = False
    text: TextOptions = field(default_factory=TextOptions)


@dataclass(frozen=True)
class Job:
    """Inputs that one process turns into shards.

    Attributes:
        number: number of the job, in the order of the corpus.
        inputs: in the order of the corpus.
        folder: the corpus folder.
        options: of the build.
        tokenizer: path or name of the tokenizer.
        eos_id: ends every document.
        pad_id: does not occur in the shards.
    """

    number: int
    inputs: tuple[Input, ...]
    folder: Path
    options: BuildOptions
    tokenizer: str
    eos_id: int
    pad_id: int


def make_jobs(inputs: Sequence[Input], folder: Path, options: BuildOptions, vocabulary: Vocabulary) -> list[Job]:
    """Divide inputs into jobs, in order. Small inputs of one source share a job. The same inputs give the same jobs.

    Args:
        inputs: the inputs of all sources.
        folder: the corpus folder.
        options: options of the build.
        vocabulary: supplies tokenizer, EOS and PAD.
    """
    ids = vocabulary.eos_id, vocabulary.pad_id
    return [
        Job(number, group, folder, options, vocabulary.identifier, *ids) for number, group in enumerate(grouped(inputs))
    ]


def grouped(inputs: Sequence[Input]) -> Iterator[tuple[Input, ...]]:
    """The inputs of each job."""
    for _, members in groupby(inputs, key=lambda i: i.source):
        group: list[Input] = []
        for member in members:
            alone = member.kind in ("saved", "dataset")
            if group and (alone or sum(i.size for i in group) + member.size > JOB_BYTES):
                yield tuple(group)
                group = []
            group.append(member)
        yield tuple(group)


def job_marker(folder: Path, number: int) -> Path:
    """The file that shows that a job is finished."""
    return folder / WORK / f"job-{number:05d}.json"


def run_job(job: Job, report: Report) -> dict[str, int]:
    """Write the missing shards of a job. Returns the numbers of documents or lines left out, by reason."""
    path = job_marker(job.folder, job.number)
    if path.is_file():
        report(sum(i.size for i in job.inputs), 0)
        return read_json(path)
    vocabulary = Vocabulary.load(job.tokenizer, eos_id=job.eos_id, pad_id=job.pad_id)
    finished = finished_shards(job.folder, job.number)
    read = finished[-1]["read"] if finished else 0
    dtype = token_dtype(vocabulary)
    writer = ShardWriter(job.folder, job.number, len(finished), dtype, job.options.shard_tokens)
    counts = dict.fromkeys(LEFT_OUT, 0)
    numbered = enumerate(_job_documents(job, counts, report))
    with closing(writer):
        for batch in _batches(islice(numbered, read, None)):
            tokens = _write_batch(batch, vocabulary, writer)
            report(0, tokens)
            read = batch[-1][0] + 1
        writer.finish(read)
    write_json(path, counts)
    return counts


def _job_documents(job: Job, counts: dict[str, int], report: Report) -> Iterator[Document]:
    """The documents with text of all inputs of a job; reports progress."""
    for source in job.inputs:
        reading, reported = Reading(job.options.skip_damaged), 0
        for document in read_documents(source, job.options.text, reading):
            if reading.position != reported:
                report(reading.position - reported, 0)
                reported = reading.position
            if document.text.strip():
                yield document
            else:
                counts["empty"] += 1
        source.check_unchanged()
        report(source.size - reported, 0)
        counts["damaged"] += reading.damaged
        counts["broken_off"] += reading.broken_off


def _batches(documents: Iterator[tuple[int, Document]]) -> Iterator[list[tuple[int, Document]]]:
    batch: list[tuple[int, Document]] = []
    characters = 0
    for numbered in documents:
        batch.append(numbered)
        characters += len(numbered[1].text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _write_batch(batch: list[tuple[int, Document]], vocabulary: Vocabulary, writer: ShardWriter) -> int:
    """Tokenize a batch and append its documents. Returns the number of tokens."""
    documents = [document for _, document in batch]

    def where(number: int) -> str:
        return f"{documents[number].source}: line {documents[number].line}"

    ids, ends = encode_documents([document.text for document in documents], vocabulary, writer.dtype, where)
    writer.add(ids, ends, documents, batch[0][0])
    return len(ids)


def token_dtype(vocabulary: Vocabulary) -> np.dtype:
    """The smallest type that holds every id and that ai2-olmo reads."""
    return np.dtype(np.uint16 if vocabulary.size <= 2**16 else np.uint32)
