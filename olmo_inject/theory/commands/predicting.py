"""`olmo-inject theory predict`: predictions from frequencies and spectra, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from olmo_inject.errors import UserError
from olmo_inject.theory.commands.checking import AsJson
from olmo_inject.utils.files import json_text
from olmo_inject.utils.terminal import Console

if TYPE_CHECKING:
    from olmo_inject.theory.mixtures.mixture import Mixture
    from olmo_inject.theory.mixtures.overlapping import OverlappingMixture
    from olmo_inject.theory.prediction.config import PredictConfig
    from olmo_inject.theory.prediction.optimizers import Simulated


def predict_command(
    config: Annotated[
        Path | None, typer.Argument(help="YAML with frequencies and spectra, a run's plan.json, or an experiment.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes as key=value.")] = None,
    spectra: Annotated[Path | None, typer.Option(help="YAML with what a plan lacks: spectra, corpus.")] = None,
    measured: Annotated[
        list[Path] | None, typer.Option("--from", help="Run folders or a CSV: estimate utilities from their losses.")
    ] = None,
    at: Annotated[list[str] | None, typer.Option(help="With --from: a cell to predict, such as 128:1/10.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict which tasks are held at which width and gap, without training.

    Example: `olmo-inject theory predict docs/predict.yaml`
    """
    from olmo_inject.theory.commands.estimating import estimate_from
    from olmo_inject.theory.prediction import tables
    from olmo_inject.theory.prediction.config import configured_mixture, load_predict_config
    from olmo_inject.theory.prediction.overlapping import with_overlaps
    from olmo_inject.theory.prediction.predict import predict

    if measured:
        if config or spectra:
            raise UserError("--from replaces a configuration: give one of the two")
        estimate_from(measured, at or [], as_json)
        return
    if config is None:
        raise UserError("give a configuration, a plan or an experiment, or measured runs with --from")
    if at:
        raise UserError("--at says which cells to predict from measured runs: it needs --from")
    settings = load_predict_config(config, spectra, overrides or ())
    mixture = configured_mixture(settings)
    overlapping = with_overlaps(settings, mixture)
    if overlapping is not None:
        _print_overlapping(overlapping, settings, as_json)
        return
    simulated = _simulated(settings, mixture)
    prediction = predict(
        mixture,
        settings.widths,
        settings.gaps,
        _step_size(settings, float(mixture.utilities.max())),
        settings.frequent_mass,
        settings.residual_share,
    )
    if as_json:
        _print_json(prediction.as_json(), simulated)
        return
    console = Console()
    for titled in (tables.held_shares, tables.critical_widths, tables.gap_statements):
        console.print(*titled(prediction), sep="\n")
    if prediction.tied.any():
        edges = ", ".join(str(width) for width in prediction.widths[prediction.tied])
        console.print(f"At N = {edges} two utilities are equal, so it is not determined which of them is held.")
    frequent = [prediction.mixture.names[k] for k in prediction.frequent]
    console.print(
        f"Frequent tasks, {len(frequent)} of {prediction.mixture.tasks}: {', '.join(frequent)}. "
        f"Width {prediction.residual_width} explains all but {settings.residual_share:.0%} of them."
    )
    console.print("~ the burst is a large step there, 2 eta T nu > 1: this width is for learning from nothing alone.")
    console.print("learned: grows from nothing. kept: stays once learned. oscillates: grows, and stays in part.")
    _print_simulated(console, simulated)


def _print_json(document: dict[str, Any], simulated: list[Simulated]) -> None:
    if simulated:
        document["simulated"] = [run.as_json() for run in simulated]
    print(json_text(document))


def _print_simulated(console: Console, simulated: list[Simulated]) -> None:
    for run in simulated:
        console.print(*run.table(), sep="\n")
        held = ", ".join(f"N={N}: {gap or 'none'}" for N, gap in zip(run.widths, run.longest_held(), strict=True))
        console.print(f"Longest of these gaps that keep half of the static signal in all seeds: {held}.")


def _print_overlapping(mixture: OverlappingMixture, settings: PredictConfig, as_json: bool) -> None:
    from olmo_inject.theory.prediction.overlapping import predict_overlapping

    simulated = _simulated(settings, mixture)
    followed = [mixture.names.index(name) for name in settings.tasks]
    step_size = _step_size(settings, float(mixture.slots[0]))
    prediction = predict_overlapping(mixture, followed, settings.widths, settings.gaps, step_size)
    if as_json:
        _print_json(prediction.as_json(), simulated)
        return
    console = Console()
    for titled in prediction.tables():
        console.print(*titled, sep="\n")
    _print_simulated(console, simulated)


def _step_size(settings: PredictConfig, largest: float) -> float:
    """Eta times the largest eigenvalue of M, from a plain optimizer's learning rate if it has one."""
    rate = settings.optimizer.learning_rate
    if rate is None or settings.optimizer.name != "plain":
        return settings.step_size
    return rate * largest


def _simulated(settings: PredictConfig, mixture: Mixture) -> list[Simulated]:
    """Simulate every declared task in bursts, under an optimizer without closed forms."""
    from olmo_inject.theory.prediction.optimizers import OptimizerSettings, simulate

    given = {key: value for key, value in vars(settings.optimizer).items() if value is not None}
    chosen = OptimizerSettings(**given)
    if chosen.name == "plain":
        return []
    tasks = [mixture.index(name) for name in settings.tasks]
    return [simulate(mixture.turned(), task, settings.widths, settings.gaps, chosen) for task in tasks]
