"""The demo, and reports on any runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from olmo_inject.commands.shared import INTERRUPTED, CorpusOption, OverridesArgument


def demo(
    overrides: OverridesArgument = None,
    to: Annotated[Path, typer.Option(help="Folder for the corpus, the runs and the report.")] = Path("runs/demo"),
    jobs: Annotated[
        int | None, typer.Option(help="Runs that train at once; default one per core.", show_default=False)
    ] = None,
) -> None:
    """Train small models with an injected task on this machine, audit them, and write a report.

    Takes some minutes on two cores. The same command goes on after an interruption, and does nothing twice.
    """
    from launch.demo import demo as make_demo
    from launch.pool import Stopped

    try:
        succeeded = make_demo(to, jobs=jobs, overrides=overrides or ())
    except Stopped:
        print("olmo-inject: stopped; the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if not succeeded:
        raise typer.Exit(1)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, finished or not, or folders of runs.")],
    to: Annotated[Path, typer.Option(help="The HTML file to write.")],
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Injection report",
    corpus: CorpusOption = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Also write each figure into this folder, as SVG and PNG.", show_default=False),
    ] = None,
) -> None:
    """Write one self-contained HTML page about any set of runs.

    Example: `olmo-inject report runs/demo/runs/* --to report.html`
    """
    from analysis.report.report import write_report

    for path in write_report(runs, to, title=title, figures_to=figures, corpus=corpus):
        print(path)
