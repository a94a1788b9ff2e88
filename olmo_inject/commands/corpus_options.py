"""Arguments and options that several commands of `corpus` share."""

from __future__ import annotations

from typing import Annotated

import typer

from olmo_inject.errors import UserError
from olmo_inject.utils.paths import PATH

PANEL = "The corpus, if it does not say so itself"

CorpusArgument = Annotated[
    str,
    PATH,
    typer.Argument(help="A corpus folder, a staged corpus, a name or file of configs/corpora, or an experiment."),
]
RootOption = Annotated[
    str | None,
    PATH,
    typer.Option(
        help="Location of a named corpus: a folder, http(s)://... or s3://...",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
ManifestOption = Annotated[
    str | None,
    PATH,
    typer.Option(
        help="Manifest of a named corpus; default: where `corpus manifest` writes it.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
BatchOption = Annotated[
    int | None, typer.Option(help="Rows of a training step.", show_default=False, rich_help_panel=PANEL)
]
LengthOption = Annotated[
    int | None, typer.Option(help="Tokens of a sequence.", show_default=False, rich_help_panel=PANEL)
]
SeedOption = Annotated[
    int | None, typer.Option(help="Seed of the training order.", show_default=False, rich_help_panel=PANEL)
]


def bpe_size(given: int | None, tokenizer: str) -> int:
    """The size of the vocabulary that is trained on the text, and nothing for other tokenizers.

    Raises:
        UserError: it is given for another tokenizer.
    """
    if given is not None and tokenizer != "bpe":
        raise UserError(f"--vocab-size: only with --tokenizer bpe, and not with {tokenizer}, which has its own")
    return 2048 if given is None else given
