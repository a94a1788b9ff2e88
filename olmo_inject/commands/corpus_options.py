"""Arguments that several commands of `corpus` take."""

from __future__ import annotations

from typing import Annotated

import typer

from olmo_inject.paths import PATH

CorpusArgument = Annotated[
    str,
    PATH,
    typer.Argument(
        help="A name of configs/corpora or a file like them, a corpus folder, a staged corpus, or an experiment's file."
    ),
]
RootOption = Annotated[
    str | None,
    PATH,
    typer.Option(help="Where a named corpus is: a folder, http(s)://... or s3://...", show_default=False),
]
ManifestOption = Annotated[
    str | None, PATH, typer.Option(help="Its manifest, if not where `corpus manifest` puts it.", show_default=False)
]
BatchOption = Annotated[int | None, typer.Option(help="Rows of a step, if nothing else says it.", show_default=False)]
LengthOption = Annotated[
    int | None, typer.Option(help="Tokens of a sequence, if nothing else says it.", show_default=False)
]
SeedOption = Annotated[int | None, typer.Option(help="Of the order, if nothing else says it.", show_default=False)]
