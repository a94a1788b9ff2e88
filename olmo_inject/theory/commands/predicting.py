"""`olmo-inject theory predict`: what frequencies and spectra say before any GPU is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from olmo_inject.theory.commands.checking import AsJson
from olmo_inject.theory.prediction import tables
from olmo_inject.theory.prediction.config import configured_mixture, load_predict_config
from olmo_inject.theory.prediction.predict import predict


def predict_command(
    config: Annotated[Path, typer.Argument(help="Frequencies and spectra; or a plan's JSON; or an experiment.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value over the files.")] = None,
    spectra: Annotated[Path | None, typer.Option(help="What a plan or experiment leaves out: spectra, corpus.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which tasks are held at which width and gap, before any GPU is spent."""
    settings = load_predict_config(config, spectra, overrides or ())
    prediction = predict(
        configured_mixture(settings),
        settings.widths,
        settings.gaps,
        settings.step_size,
        settings.frequent_mass,
        settings.residual_share,
    )
    if as_json:
        print(json.dumps(prediction.as_json(), indent=2))
        return
    console = Console()
    for titled in (tables.held_shares, tables.critical_widths, tables.gap_statements):
        console.print(*titled(prediction), sep="\n")
    if prediction.tied.any():
        edges = ", ".join(str(width) for width in prediction.widths[prediction.tied])
        console.print(f"At N = {edges} two utilities tie: which of them is held is not determined.")
    frequent = [prediction.mixture.names[k] for k in prediction.frequent]
    console.print(
        f"Frequent tasks, {len(frequent)} of {prediction.mixture.tasks}: {', '.join(frequent)}. "
        f"Width {prediction.residual_width} explains all but {settings.residual_share:.0%} of them."
    )
    console.print("~ beyond 2 eta T nu = 1 a burst is a large step, and this is growth from nothing alone.")
    console.print("learned: grows from nothing. kept: stays once learned. oscillates: learned in part.")
