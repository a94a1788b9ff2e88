"""`olmo-inject theory`: validate, figures, predict, fit."""

from __future__ import annotations

import typer

from olmo_inject.theory.commands.checking import validate
from olmo_inject.theory.commands.drawing import figures
from olmo_inject.theory.commands.fitting import fit
from olmo_inject.theory.commands.predicting import predict_command

app = typer.Typer(
    help="Which tasks a model of a given width holds: multi-task linear regression, in closed form.",
    no_args_is_help=True,
    add_completion=False,
)
app.command()(validate)
app.command()(figures)
app.command("predict")(predict_command)
app.command()(fit)
