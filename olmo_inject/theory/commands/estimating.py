"""`olmo-inject theory predict --from`: effective utilities from measured losses, and held-out cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from olmo_inject.theory.prediction.estimate import parse_cell
from olmo_inject.theory.prediction.measured import MeasuredTask, estimate_from_runs
from olmo_inject.theory.prediction.tables import table
from olmo_inject.utils.files import json_text
from olmo_inject.utils.terminal import Console


def estimate_from(measured: list[Path], cells: list[str], as_json: bool) -> None:
    """Estimate every injected task's utilities from the last losses of runs, and predict other cells.

    Args:
        measured: run folders, or one CSV.
        cells: to predict, each WIDTH:RATE.
        as_json: print one JSON document.

    Raises:
        UserError: too little was measured, or a cell is not WIDTH:RATE.
    """
    asked = [parse_cell(cell) for cell in cells]
    tasks = estimate_from_runs(measured)
    if as_json:
        print(json_text({"tasks": [_document(task, asked) for task in tasks]}))
        return
    for task in tasks:
        _print(Console(), task, asked)


def _document(task: MeasuredTask, asked: list[tuple[float, float]]) -> dict[str, Any]:
    estimate = task.estimate

    def cell(width: float, rate: float) -> dict[str, float]:
        return {
            "width": width,
            "frequency": rate,
            "effective_utility": float(estimate.effective_utility(width, rate)),
            "predicted_loss": float(estimate.loss(width, rate)),
        }

    return {
        "task": task.name,
        "estimate": estimate.as_json(),
        "measured": [{**cell(*place), "measured_loss": loss} for place, loss in task.cells().items()],
        "predicted": [cell(*place) for place in asked],
    }


def _print(console: Console, task: MeasuredTask, asked: list[tuple[float, float]]) -> None:
    estimate, measured, rows = task.estimate, task.cells(), []
    for width, rate in [*measured, *asked]:
        loss = measured.get((width, rate))
        shown = "-" if loss is None else f"{loss:.3f}"
        utility = f"{float(estimate.effective_utility(width, rate)):.3g}"
        rows.append([f"N={width:g}", f"{rate:.4g}", utility, f"{float(estimate.loss(width, rate)):.3f}", shown])
    console.print(f"{task.name}: effective utility f / f_half(N) and loss", style="bold")
    console.print(table(["frequency", "utility", "predicted", "measured"], rows, first="width"))
    console.print(
        f"f_half(N) = {np.exp(estimate.log_half):.3g} N^-{estimate.exponent:.3g}, from loss {estimate.ceiling:.3g} "
        f"down to {estimate.floor:.3g}. Misfit {estimate.residual:.3g}; of cells held out one at a time "
        f"{estimate.held_out:.3g}."
    )
