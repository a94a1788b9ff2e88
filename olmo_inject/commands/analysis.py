"""`olmo-inject analyze features|memory|behaviour`, and what all commands of `analyze` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from olmo_inject.commands.shared import DeviceOption, JsonOption, StepsOption, print_json, table_console
from olmo_inject.commands.spreading import JOBS, Spread, spreads

if TYPE_CHECKING:
    import rich.table

    from analysis.read.checkpoints import StoredModel
    from analysis.read.runs import Run
    from analysis.read.skipped import Skipped
    from analysis.read.store import Method, Tables
    from analysis.report.page import Section, Table

app = typer.Typer(
    no_args_is_help=True,
    help="Measure what checkpoints have learned: tables, figures and sections of the report.",
    epilog="Checkpoints that cannot be read are named and left out; the exit status is then 1. The results of each "
    "checkpoint are kept beside its run and never computed twice, so `--submit` and a later plain command share them.",
)

RunsArgument = Annotated[
    list[Path],
    typer.Argument(help="Run folders or folders of runs; with --tasks also models of ai2-olmo or transformers."),
]
TasksOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Task file (a run's tasks/NAME.json) for models that belong to no run; may be repeated.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(help="Folder for figures and tables; default analysis/ in or beside the runs.", show_default=False),
]


def output_folder(runs: Sequence[Path], out: Path | None) -> Path:
    """The folder for figures and tables, checked to be writable before anything is computed.

    Args:
        runs: existing paths, as the user gave them.
        out: the folder; None: `analysis/` in the folder that all runs have in common.

    Raises:
        UserError: the folder cannot be written, or the default is a Python package.
    """
    from olmo_inject.errors import UserError
    from olmo_inject.utils.owned_folder import check_writable

    folder = out or Path(os.path.commonpath([run.resolve() for run in runs]), "analysis")
    if (folder / "__init__.py").is_file():
        raise UserError(f"--out: give a folder for figures and tables; {folder} is a Python package")
    check_writable(folder)
    return folder


def tables_of(
    checkpoints: Sequence[StoredModel], method: Method, device: str, skipped: Skipped, folder: Path, spread: Spread
) -> Tables:
    """Apply a method to checkpoints, or to the part of them that this process is to do.

    Args:
        checkpoints: all of the command's.
        method: the analysis.
        device: auto, cpu or cuda.
        skipped: receives a message for each checkpoint that was skipped.
        folder: for figures and tables, from `output_folder`.
        spread: how the work is divided.

    Returns:
        The method's tables, joined over all checkpoints.

    Raises:
        typer.Exit: this process does a part, or has submitted all parts.
    """
    from analysis.read.store import analyze, is_kept
    from olmo_inject.training.parallel import choose_device

    to_do = spread.to_do(
        checkpoints, lambda one: is_kept(one, method), lambda one: one.name, "checkpoint", folder / JOBS
    )
    if spread.part is None:
        spread.end_of_part()
    _announce(to_do, method)
    before = len(skipped.messages)
    tables = analyze(to_do, method, choose_device(device), skipped)
    left_out = len(skipped.messages) - before
    spread.end_of_part(len(to_do) - left_out, "checkpoint", status=1 if left_out else 0)
    return tables


def _announce(checkpoints: Sequence[StoredModel], method: Method) -> None:
    """Say what the computation takes, if no part of a checkpoint's work shows its progress."""
    from analysis.read.store import is_kept
    from olmo_inject.utils.words import counted

    work = method.work(checkpoints[0]) if checkpoints else ""
    if work and (missing := sum(not is_kept(one, method) for one in checkpoints)):
        fewer = "; --steps takes fewer" if missing > 1 else ""
        what = f"{counted(missing, 'checkpoint')} to compute, each {work}{fewer}"
        print(f"{method.name}: {what}", file=sys.stderr, flush=True)


def deliver(
    method: str,
    folder: Path,
    tables: Tables,
    sections: Sequence[Section],
    skipped: Skipped,
    as_json: bool,
) -> None:
    """Write tables as Parquet and drawings as SVG and PNG, print the sections' tables, and set the exit status.

    Args:
        method: prefix of the file names.
        folder: where files are written, from `output_folder`.
        tables: tables joined over checkpoints.
        sections: sections of the report, whose tables and drawings are delivered.
        skipped: what was left out; if anything was, the exit status is 1.
        as_json: print one JSON document instead of tables.
    """
    from analysis.read.store import write_table
    from analysis.report.page import write_figures

    written = []
    for name, table in tables.items():
        written.append(folder / f"{method}-{name}.parquet")
        write_table(table, written[-1])
    drawings = [drawing for section in sections for drawing in section.drawings]
    written += write_figures(drawings, folder, f"{method}-")
    shown = [table for section in sections for table in section.tables]
    if as_json:
        files = [str(path) for path in written]
        results = {table.title: list(table.rows) for table in shown}
        print_json({"method": method, "results": results, "files": files, "left_out": skipped.messages})
    else:
        for table in shown:
            table_console().print(_printed(table))
        for path in written:
            print(path)
    if skipped.messages:
        raise typer.Exit(1)


def _printed(table: Table) -> rich.table.Table:
    """A table of the report, for the terminal."""
    from rich.box import SIMPLE
    from rich.table import Table as Printed

    printed = Printed(box=SIMPLE, title=table.title, title_justify="left", padding=(0, 1), show_edge=False)
    for heading in table.rows[0]:
        printed.add_column(heading, justify="left" if heading in table.words else "right", overflow="fold")
    for row in table.rows:
        printed.add_row(*row.values())
    return printed


def _runs_of(checkpoints: Sequence[StoredModel]) -> list[Run]:
    """The runs that checkpoints belong to, each once."""
    return list({checkpoint.run.folder: checkpoint.run for checkpoint in checkpoints if checkpoint.run}.values())


@app.command()
@spreads
def features(
    runs: RunsArgument,
    steps: StepsOption = "last",
    tasks: TasksOption = None,
    device: DeviceOption = "auto",
    out: OutOption = None,
    components: Annotated[int, typer.Option(help="Principal components that the order probe uses.")] = 50,
    permutations: Annotated[int, typer.Option(help="Shuffles of the values for each baseline.")] = 300,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Look for features of the tasks in activations: the order of a comparison, the Fourier modes of an addition.

    Example: `olmo-inject analyze features runs/demo/runs --steps last`
    """
    from analysis.methods.features import features_method
    from analysis.read.checkpoints import select_checkpoints
    from analysis.read.skipped import Skipped
    from analysis.report.features import feature_section

    method, skipped = features_method(components, permutations), Skipped()
    checkpoints, folder = select_checkpoints(runs, steps, skipped, tasks or ()), output_folder(runs, out)
    tables = tables_of(checkpoints, method, device, skipped, folder, spread)
    section = feature_section(tables, _runs_of(checkpoints))
    deliver("features", folder, tables, [section] if section else [], skipped, as_json)


@app.command()
@spreads
def memory(
    runs: RunsArgument,
    steps: StepsOption = "all",
    tasks: TasksOption = None,
    device: DeviceOption = "auto",
    out: OutOption = None,
    max_instances: Annotated[
        int | None, typer.Option(min=1, help="Maximum instances of each half.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Draw memorization of texts against repetitions, forgetting, contamination and exposure.

    Example: `olmo-inject analyze memory runs/texts`
    """
    from analysis.methods.memory import METHOD, memory_method
    from analysis.read.checkpoints import select_checkpoints
    from analysis.read.skipped import Skipped
    from analysis.report.memory import contamination_section, memory_section

    skipped = Skipped()
    checkpoints, folder = select_checkpoints(runs, steps, skipped, tasks or ()), output_folder(runs, out)
    tables = tables_of(checkpoints, memory_method(max_instances), device, skipped, folder, spread)
    of_runs = _runs_of(checkpoints)
    sections = [memory_section(tables, of_runs), contamination_section(of_runs)]
    deliver(METHOD, folder, tables, [section for section in sections if section], skipped, as_json)


@app.command()
@spreads
def behaviour(
    runs: RunsArgument,
    steps: StepsOption = "all",
    tasks: TasksOption = None,
    device: DeviceOption = "auto",
    out: OutOption = None,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Draw learning, forgetting and retention from a run's measurements, and score checkpoints it did not evaluate.

    Example: `olmo-inject analyze behaviour runs/demo/runs`
    """
    from analysis.methods.scores import scores_method, unmeasured, with_scores
    from analysis.read.checkpoints import select_checkpoints
    from analysis.read.runs import read_runs
    from analysis.read.skipped import Skipped
    from analysis.report.behaviour import behaviour_drawings, behaviour_section, behaviour_tables
    from olmo_inject.runs.checkpoints import steps_of
    from olmo_inject.runs.read import expand, is_run

    skipped, paths, folder = Skipped(), expand(runs), output_folder(runs, out)
    # A run without checkpoints is drawn from its measurements.
    with_weights = [path for path in paths if not is_run(path) or steps_of(path)]
    scored = unmeasured(select_checkpoints(with_weights, steps, skipped, tasks or ()))
    scores = tables_of(scored, scores_method(), device, skipped, folder, spread)
    of_runs = [path for path in paths if is_run(path)]
    measured = [with_scores(run, scores) for run in read_runs(of_runs)] if of_runs else []
    sections = [behaviour_section(measured), behaviour_drawings(measured)]
    tables = behaviour_tables(measured, scores)
    deliver("behaviour", folder, tables, [section for section in sections if section], skipped, as_json)
