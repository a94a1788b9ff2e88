"""The command line, assembled from the modules of `commands`. A user's error becomes one line."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from olmo_inject.commands import (
    checkpoints,
    corpus,
    corpus_build_scan,
    corpus_export,
    corpus_staging,
    costs,
    interventions,
    reporting,
    runs,
    sweeps,
)
from olmo_inject.commands.shared import with_checked_options
from olmo_inject.errors import INTERRUPTED, UserError, in_one_line, report
from olmo_inject.theory import commands as theory
from olmo_inject.utils.paths import with_expanded_paths
from olmo_inject.utils.terminal import drop_output, prepare_output


def _aborted_by_ctrl_c(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, whose KeyboardInterrupt becomes an Abort: `main` reports that, while typer ends in silence."""

    @functools.wraps(command)
    def aborted(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt:
            raise typer.Abort from None

    return aborted


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Controlled injection of task instances into OLMo pretraining.",
    epilog="Start with `olmo-inject demo`. A mistake ends with one line and exit status 2.",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"olmo-inject {version('olmo-inject')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


for command in (
    *(runs.plan, costs.cost, costs.preflight, runs.train, runs.audit),
    *(checkpoints.evaluate, checkpoints.unshard, checkpoints.export, reporting.demo, reporting.report),
):
    app.command()(command)
corpora = typer.Typer(no_args_is_help=True, help="Build, copy, search and show corpora.")
for command in (
    *(corpus.sample, corpus.manifest, corpus.order, corpus.show),
    *(
        corpus_staging.stage,
        corpus_staging.verify,
        corpus_export.export,
        corpus_build_scan.build,
        corpus_build_scan.scan,
    ),
):
    corpora.command()(command)
app.add_typer(sweeps.app, name="sweep")
app.add_typer(corpora, name="corpus")
app.add_typer(interventions.app, name="analyze")
app.add_typer(theory.app, name="theory")
for group in (app, sweeps.app, corpora, interventions.app, theory.app):
    for registered in group.registered_commands:
        assert registered.callback is not None
        registered.callback = _aborted_by_ctrl_c(with_checked_options(with_expanded_paths(registered.callback)))

# The base class of usage errors has different names in typer's versions; this subclass of it is public.
_UsageError: Any = typer.BadParameter.__bases__[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user's mistake ends with one line on standard error and status 2, Ctrl-C with 130.

    If the reader of the output has gone, as `head` does, the command ends silently with status 1.
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
        return app(arguments, prog_name="olmo-inject", standalone_mode=False) or 0
    except _UsageError as error:
        if (message := error.format_message()).count("\n") > 1:  # a group without a command prints its help
            print(message)
        elif message:
            context = error.ctx
            where = f"; see `{context.command_path} --help`" if context else ""
            report(UserError(in_one_line(message).removesuffix(".") + where))
    except UserError as error:
        report(error)
    except ModuleNotFoundError as error:
        from olmo_inject.utils.extras import missing

        if (problem := missing(error.name)) is None:
            raise
        report(problem)
    except MemoryError as error:  # a number so large that not even an array of its size can be had
        report(UserError(f"not enough memory: {in_one_line(error)}"))
    except OSError as error:
        if error.filename is None:  # not about a file but a connection, the output, or a bug
            raise
        # For example a folder without permission, a name that is too long, or a full disk.
        report(UserError(f"{error.filename}: {error.strerror}"))
    return 2
