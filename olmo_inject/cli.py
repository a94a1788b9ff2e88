"""The command line, put together from the modules of `commands`; errors of the user's become one line."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Any

import typer

from olmo_inject.commands import (
    checkpoints,
    corpus,
    corpus_staging,
    corpus_text,
    costs,
    interventions,
    reporting,
    runs,
    sweeps,
)
from olmo_inject.commands.numbers import with_checked_numbers
from olmo_inject.commands.shared import INTERRUPTED
from olmo_inject.errors import UserError, report
from olmo_inject.paths import with_expanded_paths
from olmo_inject.terminal import drop_output, prepare_output
from olmo_inject.theory import commands as theory

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Controlled injection of task instances into OLMo pretraining.",
    epilog="A first run: `olmo-inject demo`. Errors of yours end with status 2 and one line.",
)
for command in (
    *(runs.plan, costs.cost, costs.preflight, runs.train, runs.audit, sweeps.sweep),
    *(checkpoints.evaluate, checkpoints.unshard, checkpoints.export, reporting.demo, reporting.report),
):
    app.command()(command)
corpora = typer.Typer(no_args_is_help=True, help="Build and look at corpora.")
for command in (
    *(corpus.sample, corpus.manifest, corpus.order, corpus.show),
    *(corpus_staging.stage, corpus_staging.verify, corpus_text.build, corpus_text.scan),
):
    corpora.command()(command)
app.add_typer(corpora, name="corpus")
app.add_typer(interventions.app, name="analyze")
app.add_typer(theory.app, name="theory")
for group in (app, corpora, interventions.app, theory.app):
    for registered in group.registered_commands:
        assert registered.callback is not None
        registered.callback = with_checked_numbers(with_expanded_paths(registered.callback))

# What was typed wrong; typer names only this kind of it publicly, and which class is above it depends on its version.
_TypedWrong: Any = typer.BadParameter.__bases__[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on standard error and status 2, Ctrl-C one line and 130.

    Where the reader of the output has gone, as `head` does, the command ends in silence with status 1; an output that
    is full is told.
    """
    prepare_output()
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        report(UserError("interrupted"))
        status = INTERRUPTED
    except BrokenPipeError:
        status = 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EBADF) or error.filename is not None:
            raise
        report(UserError(f"cannot write: {error.strerror}"))
        status = 2
    drop_output()
    raise SystemExit(status)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return app(arguments, standalone_mode=False) or 0
    except _TypedWrong as error:
        if (message := error.format_message()).count("\n") > 1:  # the help, for want of a command
            print(message)
        elif message:
            context = error.ctx
            where = f"; see `{context.command_path} --help`" if context else ""
            report(UserError(" ".join(message.split()).removesuffix(".") + where))
    except UserError as error:
        report(error)
    except OSError as error:
        if error.filename is None:  # of a connection, of the output, or of our own making
            raise
        # A folder without permission, a name that is too long, a full disk, wherever it was met.
        report(UserError(f"{error.filename}: {error.strerror}"))
    return 2
