"""`olmo-inject demo|report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from olmo_inject.commands.shared import AtOnceOption, CorpusOption, OverridesArgument, stoppable


def demo(
    overrides: OverridesArgument = None,
    out: Annotated[Path, typer.Option(help="Folder for the corpus, the runs and the report.")] = Path("runs/demo"),
    at_once: AtOnceOption = None,
) -> None:
    """Train small models with an injected task on this machine, audit them, and write a report.

    Takes some minutes on two cores. After an interruption the same command continues.

    Example: `olmo-inject demo --out runs/demo --at-once 2`
    """
    from olmo_inject.utils.extras import require

    require("olmo")
    from launch.demo import demo as make_demo

    with stoppable():
        succeeded = make_demo(out, at_once=at_once, overrides=overrides or ())
    if not succeeded:
        raise typer.Exit(1)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, finished or not, or folders of runs.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Injection report",
    corpus: CorpusOption = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Also write each figure to this folder, as SVG and PNG.", show_default=False),
    ] = None,
) -> None:
    """Write one self-contained HTML page about any runs.

    Example: `olmo-inject report runs/demo/runs/* --out report.html`
    """
    from analysis.report.report import write_report
    from olmo_inject.utils.output_file import PAGE, check_output
    from olmo_inject.utils.owned_folder import check_writable

    check_output(out, PAGE, "--out")
    if figures is not None:
        check_writable(figures)
    for path in write_report(runs, out, title=title, figures_to=figures, corpus=corpus):
        print(path)
