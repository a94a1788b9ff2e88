"""`olmo-inject analyze gradients|patching|das`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from olmo_inject.commands.analysis import (
    OutOption,
    RunsArgument,
    TasksOption,
    app,
    deliver,
    output_folder,
    tables_of,
)
from olmo_inject.commands.shared import CorpusOption, DeviceOption, JsonOption, StepsOption
from olmo_inject.commands.spreading import Spread, spreads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd

    from analysis.read.store import Method
    from analysis.report.page import Section

METHOD = "Method"


@app.command()
@spreads
def gradients(
    runs: RunsArgument,
    steps: StepsOption = "all",
    layer: Annotated[
        int,
        typer.Option(help="Layer whose MLP is used, from 0; `analyze patching` ranks them.", rich_help_panel=METHOD),
    ] = 0,
    neurons: Annotated[
        int,
        typer.Option(help="Neurons of it to compare, those of the largest task gradient.", rich_help_panel=METHOD),
    ] = 16,
    targets: Annotated[
        str,
        typer.Option(
            help="Targets of the task gradient: injected (TOK2, LABEL and EOS) or label.", rich_help_panel=METHOD
        ),
    ] = "injected",
    rows_per_pass: Annotated[
        int | None,
        typer.Option(
            help="Rows per pass, which bounds memory; default the run's micro-batch.",
            show_default=False,
            rich_help_panel=METHOD,
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Precision of matrix products: fp32 or bf16.", rich_help_panel=METHOD)
    ] = "fp32",
    corpus: CorpusOption = None,
    device: DeviceOption = "auto",
    out: OutOption = None,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Measure gradient interference: cosines of a batch's gradient, and of its parts, with each task's gradient.

    Example: `olmo-inject analyze gradients runs/demo/runs --layer 1 --targets label`
    """
    from analysis.methods.gradients import method
    from analysis.report.gradients import section
    from olmo_inject.config import GradientConfig

    options = GradientConfig(
        layer=layer, neurons=neurons, targets=targets, rows_per_pass=rows_per_pass, precision=precision
    )
    _analyze(method(options), "cosines", section, runs, steps, None, device, out, as_json, spread, corpus)


@app.command()
@spreads
def patching(
    runs: RunsArgument,
    steps: StepsOption = "last",
    pairs: Annotated[int, typer.Option(help="Pairs of instances with different labels.")] = 256,
    tasks: TasksOption = None,
    device: DeviceOption = "auto",
    out: OutOption = None,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Rank the layers by how much exchanging the outputs of their MLPs changes the answers.

    Example: `olmo-inject analyze patching runs/demo/runs --pairs 512`
    """
    from analysis.methods.patching import method
    from analysis.report.interventions import patching_section

    _analyze(method(pairs), "layers", patching_section, runs, steps, tasks or (), device, out, as_json, spread)


@app.command()
@spreads
def das(
    runs: RunsArgument,
    steps: StepsOption = "last",
    dimensions: Annotated[
        str, typer.Option(help="Dimensions of the subspaces, separated by commas.", rich_help_panel=METHOD)
    ] = "1,2",
    updates: Annotated[
        int,
        typer.Option(help="Maximum optimizer steps per subspace; stops at convergence.", rich_help_panel=METHOD),
    ] = 200,
    pairs: Annotated[int, typer.Option(help="Training pairs, and as many held out.", rich_help_panel=METHOD)] = 1024,
    controls: Annotated[bool, typer.Option(help="Also search an untrained model.", rich_help_panel=METHOD)] = True,
    tasks: TasksOption = None,
    device: DeviceOption = "auto",
    out: OutOption = None,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Run distributed alignment search: which subspaces, at which sites, hold operands and results.

    Example: `olmo-inject analyze das runs/demo/runs --dimensions 1,2,4`
    """
    from analysis.methods.das import SearchOptions, method, parse_dimensions
    from analysis.report.interventions import das_section

    options = SearchOptions(parse_dimensions(dimensions), updates, pairs=pairs, controls=controls)
    _analyze(method(options), "sites", das_section, runs, steps, tasks or (), device, out, as_json, spread)


def _analyze(
    method: Method,
    table: str,
    section: Callable[[pd.DataFrame], Section | None],
    runs: Sequence[Path],
    steps: str,
    tasks: Sequence[Path] | None,
    device: str,
    out: Path | None,
    as_json: bool,
    spread: Spread,
    corpus: Path | None = None,
) -> None:
    """Apply a method to checkpoints and deliver its table and section."""
    from analysis.read.checkpoints import select_checkpoints
    from analysis.read.skipped import Skipped

    skipped = Skipped()
    checkpoints, folder = select_checkpoints(runs, steps, skipped, tasks, corpus), output_folder(runs, out)
    tables = tables_of(checkpoints, method, device, skipped, folder, spread)
    written = section(tables[table]) if table in tables else None
    deliver(method.name, folder, tables, [] if written is None else [written], skipped, as_json)
