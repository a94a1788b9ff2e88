"""`olmo-inject theory predict --from`: effective utilities from measured losses, and held-out cells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rich.console import Console

from olmo_inject.errors import UserError
from olmo_inject.theory.measurements import CORPUS, column, last_of_each_run, read_measurements, selected
from olmo_inject.theory.prediction.estimate import UtilityEstimate, estimate_utilities, matched_cells, parse_cell
from olmo_inject.theory.prediction.tables import table

Grid = dict[tuple[float, float], float]


def estimate_from(measured: list[Path], cells: list[str], as_json: bool) -> None:
    """Estimate every injected task's utilities from the last losses of runs, and predict other cells.

    Raises:
        UserError: too little was measured, or a cell is not WIDTH:RATE.
    """
    asked = [parse_cell(cell) for cell in cells]
    points = last_of_each_run(read_measurements(measured))
    if (points["task"] != CORPUS).any():
        points = selected(points, points["task"] != CORPUS)
    documents, console = [], Console()
    for task in points["task"].unique():
        rows = selected(points, points["task"] == task)
        if "frequency" in rows:
            rows = selected(rows, rows["frequency"] > 0)
        if "gap" in rows:
            rows = selected(rows, matched_cells(rows["frequency"].to_numpy(float), rows["gap"].to_numpy(float)))
        if rows.empty:
            continue
        columns = [column(rows, "width"), column(rows, "frequency"), column(rows, "loss", least=0)]
        try:
            found = estimate_utilities(*columns)
        except UserError as error:
            raise UserError(f"task {task}: {error}") from None
        measured_cells = _means(*columns)
        documents.append(_document(str(task), found, measured_cells, asked))
        if not as_json:
            _print(console, str(task), found, measured_cells, asked)
    if not documents:
        raise UserError("no injected task has a measured loss")
    if as_json:
        print(json.dumps({"tasks": documents}, indent=2))


def _means(widths: np.ndarray, rates: np.ndarray, losses: np.ndarray) -> Grid:
    cells = sorted(set(zip(widths.tolist(), rates.tolist(), strict=True)))
    return {cell: float(losses[(widths == cell[0]) & (rates == cell[1])].mean()) for cell in cells}


def _document(task: str, found: UtilityEstimate, measured: Grid, asked: list[tuple[float, float]]) -> dict:
    def cell(width: float, rate: float) -> dict:
        return {
            "width": width,
            "frequency": rate,
            "effective_utility": float(found.effective_utility(width, rate)),
            "predicted_loss": float(found.loss(width, rate)),
        }

    return {
        "task": task,
        "estimate": found.as_json(),
        "measured": [{**cell(*place), "measured_loss": loss} for place, loss in measured.items()],
        "predicted": [cell(*place) for place in asked],
    }


def _print(
    console: Console, task: str, found: UtilityEstimate, measured: Grid, asked: list[tuple[float, float]]
) -> None:
    rows = []
    for width, rate in [*measured, *asked]:
        loss = measured.get((width, rate))
        shown = "-" if loss is None else f"{loss:.3f}"
        utility = f"{float(found.effective_utility(width, rate)):.3g}"
        rows.append([f"N={width:g}", f"{rate:.4g}", utility, f"{float(found.loss(width, rate)):.3f}", shown])
    console.print(f"{task}: effective utility f / f_half(N) and loss", style="bold")
    console.print(table(["frequency", "utility", "predicted", "measured"], rows, first="width"))
    console.print(
        f"f_half(N) = {np.exp(found.log_half):.3g} N^-{found.exponent:.3g}, from loss {found.ceiling:.3g} down to "
        f"{found.floor:.3g}. Misfit {found.residual:.3g}; of cells held out one at a time {found.held_out:.3g}."
    )
