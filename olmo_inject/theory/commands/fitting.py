"""`olmo-inject theory fit`: a scaling law through measured losses."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from olmo_inject.errors import UserError
from olmo_inject.theory.commands.checking import AsJson
from olmo_inject.utils.files import json_text
from olmo_inject.utils.terminal import Console

if TYPE_CHECKING:
    from olmo_inject.theory.scaling.fit import Fit


def fit(
    measured: Annotated[list[Path], typer.Argument(metavar="RUNS|CSV", help="Run folders, or a CSV with losses.")],
    against: Annotated[str, typer.Option(help="size, data, frequency, width, or size,data for both.")] = "size,data",
    task: Annotated[str | None, typer.Option(help="Task whose loss is fitted; corpus: the rest of the batch.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap fits for the 95% intervals.")] = 200,
    picture: Annotated[Path | None, typer.Option(help="Draw points, fit and band: .png, .svg or .pdf.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit L = E + A N^-alpha + B D^-beta, or E + A x^-gamma, with the uncertainty of each number.

    Example: `olmo-inject theory fit runs/my-sweep --against size --task less --picture fit.svg`
    """
    from olmo_inject.theory.measurements import QUANTITIES, column, last_of_each_run, of_task, read_measurements
    from olmo_inject.theory.prediction.tables import table
    from olmo_inject.theory.scaling.fit import fit_power_law, fit_scaling_law
    from olmo_inject.utils.figure_style import check_format, save
    from olmo_inject.utils.output_file import PICTURES, check_output

    names = against.split(",")
    if names != ["size", "data"] and (len(names) > 1 or names[0] not in QUANTITIES):
        raise UserError(f"--against must be one of {', '.join(QUANTITIES)} or size,data, got {against!r}")
    if picture is not None:
        check_output(picture, PICTURES[check_format(picture)], "--picture")
    points = of_task(read_measurements(measured), task)
    if "data" not in names:
        points = last_of_each_run(points)
    columns = [column(points, name) for name in names]
    losses = column(points, "loss")
    if len(names) == 2:
        fit: Fit[Any] = fit_scaling_law(columns[0], columns[1], losses, resamples)
    else:
        fit = fit_power_law(columns[0], losses, resamples, name=names[0])
    if picture is not None:
        from olmo_inject.theory.drawing.fits import fitted_law

        save(fitted_law(fit, names, columns, losses), picture)
    if as_json:
        print(json_text(_document(fit, names, len(losses))))
        return
    rows = []
    for name, value in asdict(fit.law).items():
        interval = "cannot be told" if name in fit.unidentified else _shown(*fit.intervals.get(name, ()))
        rows.append([name, f"{value:.4g}", f"{fit.errors[name]:.2g}", interval])
    console = Console()
    console.print(table(["value", "standard error", f"95% interval, {resamples} resamples"], rows, first="number"))
    console.print(
        f"{len(losses)} points, misfit {fit.residual:.2%}. Intervals take the scatter of points as independent: "
        "points of one run are not quite."
    )


def _shown(low: float | None = None, high: float | None = None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _document(fit: Fit[Any], names: list[str], count: int) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    numbers = {
        name: {
            "value": value,
            "standard_error": finite(fit.errors[name]),
            "interval": [finite(end) for end in fit.intervals[name]] if fit.intervals else None,
        }
        for name, value in asdict(fit.law).items()
    }
    return {"against": names, "points": count, "misfit": fit.residual, "law": numbers}
