"""`olmo-inject corpus stage|verify`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from olmo_inject.commands.corpus_options import (
    BatchOption,
    CorpusArgument,
    LengthOption,
    ManifestOption,
    RootOption,
    SeedOption,
)
from olmo_inject.commands.shared import JsonOption, print_json
from olmo_inject.commands.spreading import Spread, spreads
from olmo_inject.errors import INTERRUPTED, UserError

if TYPE_CHECKING:
    from olmo_inject.corpus.staged import RankRange
    from olmo_inject.corpus.staging import Stager
    from olmo_inject.corpus.staging.planned_files import PlannedFile

SPEED = "Speed and memory"
BY_SIZES = "as far as names and sizes of the shards say, which have no checksums (--overwrite stages anew)"


@spreads
def stage(
    corpus: CorpusArgument,
    steps: Annotated[str, typer.Option(help="Steps start:stop, e.g. 0:50000; stop is not included.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    ranks: Annotated[
        str | None,
        typer.Option(
            "--ranks", "--rank-shard", help="Copy only the rows that these ranks read, e.g. 0-7/64.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another stage in the folder.")] = False,
    read: Annotated[str, typer.Option(help="auto, ranges or stream.", rich_help_panel=SPEED)] = "auto",
    at_once: Annotated[
        int, typer.Option(help="Files assembled at once; each takes half a GB of memory.", rich_help_panel=SPEED)
    ] = 4,
    file_size: Annotated[
        int,
        typer.Option(
            "--file-size", "--part-size", help="Approximate bytes of a file of the stage.", rich_help_panel=SPEED
        ),
    ] = 512 << 20,
    memory: Annotated[
        int,
        typer.Option(
            help="Stages up to this many bytes are streamed through memory; a larger one goes through its disk.",
            rich_help_panel=SPEED,
        ),
    ] = 2 << 30,
    root: RootOption = None,
    manifest: ManifestOption = None,
    batch_size: BatchOption = None,
    sequence_length: LengthOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Copy the sequences of some steps in training order. Train on them with `corpus.folder`.

    After an interruption the same command continues. Jobs of --submit write to the same folder, through its disk: first
    they stream what is streamed, and when the command is given again, they write the files. The command without
    --submit, or with --merge, completes the stage.

    Example: `olmo-inject corpus stage dolma-v1_7 --root s3://bucket/dolma --steps 0:50000 --out /scratch/stage`
    """
    from olmo_inject.corpus.kinds import Shape
    from olmo_inject.corpus.open import open_corpus
    from olmo_inject.corpus.staging import Staged, check_extent, open_stager
    from olmo_inject.steps import consecutive_steps

    spread.check_overwrite(overwrite)
    chosen = consecutive_steps(steps)
    of_ranks = None if ranks is None else _parse_ranks(ranks)
    opened = open_corpus(corpus, root, manifest, Shape(batch_size, sequence_length, seed))
    check_extent(opened.order, chosen, of_ranks)
    try:
        stager = open_stager(
            opened.shards,
            opened.order,
            opened.source.vocabulary,
            chosen,
            out,
            prepare=lambda: opened.prepare(chosen, "--steps"),
            ranks=of_ranks,
            read=read,
            at_once=at_once,
            file_bytes=file_size,
            memory_bytes=0 if spread.is_spread else memory,  # what is kept in memory, no other process sees
            overwrite=overwrite,
        )
    except Staged:
        known = opened.shards.contents() is not None
        if as_json:
            print_json({"folder": str(out), "already": True, "contents_known": known})
        else:
            print(f"{out}: already staged" + ("" if known else f", {BY_SIZES}"))
        return
    if not as_json:
        for line in stager.describe():
            print(line, flush=True)
    stager.check_disk()
    _divide(stager, out, spread)
    _run_stager(stager, out, as_json)


def verify(
    folder: Annotated[Path, typer.Argument(help="A staged corpus, or a corpus folder.")],
    at_once: Annotated[int, typer.Option(help="Files read at once.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Check every byte of a staged corpus or a corpus folder against its checksums; exit status 1 if any differs.

    Example: `olmo-inject corpus verify /scratch/stage`
    """
    from olmo_inject.corpus.verify import damaged, recorded_files
    from olmo_inject.utils.progress import show_progress
    from olmo_inject.utils.words import counted

    files = recorded_files(folder, provenance=True)
    with show_progress("verifying", sum(file.nbytes for file in files), "bytes", enabled=not as_json) as meter:
        bad = damaged(files, meter.advance, at_once)
    if as_json:
        print_json({"folder": str(folder), "files": len(files), "damaged": bad})
    else:
        print(f"{folder}: {counted(len(files), 'file')}, " + (f"damaged: {', '.join(bad)}" if bad else "all sound"))
    if bad:
        raise typer.Exit(1)


def _divide(stager: Stager, out: Path, spread: Spread) -> None:
    """Let several processes do the work: first the runs that are streamed, then the files, which need all of them."""
    from olmo_inject.utils.progress import show_progress
    from olmo_inject.utils.stop_signals import stop_signals

    width = stager.shards.sequence_bytes

    def doing(what: str, bytes_of: Callable[[Any], int], work: Callable[..., bool]) -> Callable[[list[Any]], None]:
        def do(items: list[Any]) -> None:
            total = sum(map(bytes_of, items))
            with stop_signals() as stop, show_progress(what, total, "bytes", enabled=not spread.as_json) as meter:
                complete = work(items, meter.advance, lambda: bool(stop))
            if not complete:
                raise typer.Exit(INTERRUPTED)

        return do

    def is_written(file: PlannedFile) -> bool:
        return file.done(width) is not None

    folder = Path(f"{out}.jobs")
    if not all(map(is_written, stager.planned)):
        spill = doing("streaming", lambda run: run.stop - run.start, stager.spill)
        spread.step(stager.runs, lambda run: run.is_complete(), lambda run: run.path.stem, "run", folder, spill)
    write = doing("writing files", lambda file: file.sequences * width, stager.write_files)
    spread.step(stager.planned, is_written, lambda file: file.path.stem, "file", folder, write)
    spread.end_of_part()


def _run_stager(stager: Stager, out: Path, as_json: bool) -> None:
    from olmo_inject.utils.progress import show_progress
    from olmo_inject.utils.stop_signals import stop_signals

    with stop_signals() as stop, show_progress("staging", stager.work_bytes, "bytes", enabled=not as_json) as meter:
        complete = stager.run(meter.advance, lambda: bool(stop))
    if as_json:
        print_json({"folder": str(out), "complete": complete, "bytes": stager.stage_bytes} | stager.choice())
    elif complete:
        print(f"{out}: {stager.record.sequences:,} sequences staged; train with corpus.folder={out}")
    else:
        print(f"{out}: stopped; the same command continues")
    if not complete:
        raise typer.Exit(INTERRUPTED)


def _parse_ranks(text: str) -> RankRange:
    import re

    from olmo_inject.corpus.staged import RankRange

    if (match := re.fullmatch(r"(\d+)(?:-(\d+))?/(\d+)", text)) is None:
        raise UserError(f"--ranks: {text!r} is not first-last/world, such as 0-7/64")
    return RankRange(int(match[1]), int(match[2] or match[1]), int(match[3]))
