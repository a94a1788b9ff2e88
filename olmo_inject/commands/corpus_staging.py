"""Parts of a corpus copied in the order of training, and their checksums: commands of `corpus`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from olmo_inject.commands.corpus_options import (
    BatchOption,
    CorpusArgument,
    LengthOption,
    ManifestOption,
    RootOption,
    SeedOption,
)
from olmo_inject.commands.shared import INTERRUPTED, JsonOption, print_json
from olmo_inject.errors import UserError

if TYPE_CHECKING:
    from olmo_inject.corpus.staged import RankShard
    from olmo_inject.corpus.staging import Stager


def stage(
    corpus: CorpusArgument,
    steps: Annotated[str, typer.Option(help="First step and the one after the last, such as 0:50000.")],
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    rank_shard: Annotated[
        str | None, typer.Option(help="Only the rows that these ranks read, such as 0-7/64.", show_default=False)
    ] = None,
    read: Annotated[str, typer.Option(help="auto, ranges or stream.")] = "auto",
    jobs: Annotated[int, typer.Option(help="Streams, then parts, at once; each takes half a GB of memory.")] = 4,
    part_size: Annotated[int, typer.Option(help="Bytes of a part, about.")] = 512 << 20,
    memory: Annotated[
        int, typer.Option(help="Bytes; a stage of no more is streamed into memory, a larger one through its disk.")
    ] = 2 << 30,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another stage in the folder.")] = False,
    root: RootOption = None,
    manifest: ManifestOption = None,
    batch_size: BatchOption = None,
    sequence_length: LengthOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the sequences of some steps, in the order of training, to be trained on with `corpus.folder`.

    The same command goes on after any interruption.

    Example: `olmo-inject corpus stage dolma-v1_7 --root s3://bucket/dolma --steps 0:50000 --to /scratch/stage`
    """
    from olmo_inject.corpus.kinds import Shape
    from olmo_inject.corpus.open import open_corpus
    from olmo_inject.corpus.staging import Staged, check_extent, open_stager

    asked = _parse_steps(steps)
    ranks = None if rank_shard is None else _parse_ranks(rank_shard)
    opened = open_corpus(corpus, root, manifest, Shape(batch_size, sequence_length, seed))
    check_extent(opened.order, asked, ranks)
    try:
        stager = open_stager(
            opened.shards,
            opened.order,
            opened.source.vocabulary,
            asked,
            to,
            prepare=lambda: opened.prepare(asked, "--steps"),
            ranks=ranks,
            read=read,
            jobs=jobs,
            part_bytes=part_size,
            memory_bytes=memory,
            overwrite=overwrite,
        )
    except Staged:
        print_json({"folder": str(to), "already": True}) if as_json else print(f"{to}: staged already, complete")
        return
    _run_stager(stager, to, as_json)


def verify(
    folder: Annotated[Path, typer.Argument(help="A staged corpus, or a corpus folder.")],
    jobs: Annotated[int, typer.Option(help="Files read at once.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of a stage or a corpus folder and compare checksums. Ends with status 1 if any differs."""
    from olmo_inject.corpus.verify import damaged, recorded_files
    from olmo_inject.progress import bytes_done
    from olmo_inject.words import counted

    files = recorded_files(folder, provenance=True)
    with bytes_done("verifying", sum(file.nbytes for file in files), not as_json) as advance:
        bad = damaged(files, advance, jobs)
    if as_json:
        print_json({"folder": str(folder), "files": len(files), "damaged": bad})
    else:
        print(f"{folder}: {counted(len(files), 'file')}, " + (f"damaged: {', '.join(bad)}" if bad else "all sound"))
    if bad:
        raise typer.Exit(1)


def _run_stager(stager: Stager, to: Path, as_json: bool) -> None:
    from olmo_inject.progress import bytes_done
    from olmo_inject.stop_signals import stop_signals

    if not as_json:
        for line in stager.describe():
            print(line, flush=True)
    stager.check_disk()
    with stop_signals() as stop, bytes_done("staging", stager.work_bytes, not as_json) as advance:
        complete = stager.run(advance, lambda: bool(stop))
    if as_json:
        print_json({"folder": str(to), "complete": complete, "bytes": stager.stage_bytes} | stager.choice())
    elif complete:
        print(f"{to}: {stager.record.sequences:,} sequences staged; train with corpus.folder={to}")
    else:
        print(f"{to}: stopped; the same command goes on")
    if not complete:
        raise typer.Exit(INTERRUPTED)


def _parse_steps(text: str) -> range:
    first, colon, beyond = text.partition(":")
    if not (colon and first.isdecimal() and beyond.isdecimal()):
        raise UserError(f"--steps: {text!r} is not first:beyond, such as 0:50000")
    return range(int(first), int(beyond))


def _parse_ranks(text: str) -> RankShard:
    import re

    from olmo_inject.corpus.staged import RankShard

    if (match := re.fullmatch(r"(\d+)(?:-(\d+))?/(\d+)", text)) is None:
        raise UserError(f"--rank-shard: {text!r} is not first-last/world, such as 0-7/64")
    return RankShard(int(match[1]), int(match[2] or match[1]), int(match[3]))
