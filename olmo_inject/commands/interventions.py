"""Interventions in checkpoints, and gradients of them, on the command line of `analyze`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from olmo_inject.commands.analysis import (
    RunsArgument,
    TasksOption,
    ToOption,
    app,
    deliver,
    folder_for,
)
from olmo_inject.commands.shared import CorpusOption, DeviceOption, JsonOption, StepsOption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd

    from analysis.read.store import Method
    from analysis.report.page import Section


@app.command()
def gradients(
    runs: RunsArgument,
    steps: StepsOption = "all",
    layer: Annotated[int, typer.Option(help="Whose MLP, from 0; `analyze patching` ranks them.")] = 0,
    neurons: Annotated[int, typer.Option(help="Its neurons with the largest task gradient that are compared.")] = 16,
    targets: Annotated[str, typer.Option(help="g_t is from: injected (TOK2, LABEL and EOS) or label.")] = "injected",
    rows_per_pass: Annotated[
        int | None, typer.Option(help="Rows of one pass, which bounds memory; by default the run's micro-batch.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the matrix products: fp32 or bf16.")] = "fp32",
    corpus: CorpusOption = None,
    device: DeviceOption = "auto",
    to: ToOption = None,
    as_json: JsonOption = False,
) -> None:
    """Gradient interference: cosines of a batch's gradient, and its parts, with each task's."""
    from analysis.methods.gradients import Options, method
    from analysis.report.gradients import section

    options = Options(layer, neurons, targets, rows_per_pass, precision)
    _analyze(method(options), "cosines", section, runs, steps, None, device, to, as_json, corpus)


@app.command()
def patching(
    runs: RunsArgument,
    steps: StepsOption = "last",
    pairs: Annotated[int, typer.Option(help="Pairs of instances with different labels.")] = 256,
    task: TasksOption = None,
    device: DeviceOption = "auto",
    to: ToOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the layers' MLPs by what exchanging their outputs does to the answers."""
    from analysis.methods.patching import method
    from analysis.report.interventions import patching_section

    _analyze(method(pairs), "layers", patching_section, runs, steps, task or (), device, to, as_json)


@app.command()
def das(
    runs: RunsArgument,
    steps: StepsOption = "last",
    dimensions: Annotated[str, typer.Option(help="Of the subspaces, joined by commas.")] = "1,2",
    updates: Annotated[int, typer.Option(help="Of each subspace, at most; fewer where it has converged.")] = 200,
    pairs: Annotated[int, typer.Option(help="Pairs to train on, and as many held out.")] = 1024,
    controls: Annotated[bool, typer.Option(help="Also search in an untrained model.")] = True,
    task: TasksOption = None,
    device: DeviceOption = "auto",
    to: ToOption = None,
    as_json: JsonOption = False,
) -> None:
    """Distributed alignment search: at which sites, in how many dimensions, values and results are held."""
    from analysis.methods.das import Options, method, parse_dimensions
    from analysis.report.interventions import das_section

    options = Options(parse_dimensions(dimensions), updates, pairs=pairs, controls=controls)
    _analyze(method(options), "sites", das_section, runs, steps, task or (), device, to, as_json)


def _analyze(
    method: Method,
    table: str,
    section: Callable[[pd.DataFrame], Section | None],
    runs: Sequence[Path],
    steps: str,
    tasks: Sequence[Path] | None,
    device: str,
    to: Path | None,
    as_json: bool,
    corpus: Path | None = None,
) -> None:
    """Apply a method to checkpoints, and deliver its table and section."""
    from analysis.read.checkpoints import select_checkpoints
    from analysis.read.skipped import Skipped
    from analysis.read.store import analyze
    from olmo_inject.training.parallel import choose_device

    skipped, chosen = Skipped(), choose_device(device)
    checkpoints, folder = select_checkpoints(runs, steps, skipped, tasks, corpus), folder_for(runs, to)
    tables = analyze(checkpoints, method, chosen, skipped)
    found = section(tables[table]) if table in tables else None
    deliver(method.name, folder, tables, [] if found is None else [found], skipped, as_json)
