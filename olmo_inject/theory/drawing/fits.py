"""A fitted scaling law through its points."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from olmo_inject.resampling import percentile_ends
from olmo_inject.theory.drawing import style
from olmo_inject.theory.measurements import QUANTITIES
from olmo_inject.theory.scaling.fit import Fit


def fitted_law(
    fit: Fit[Any], names: list[str], columns: list[Float[np.ndarray, " n"]], losses: Float[np.ndarray, " n"]
) -> Figure:
    """Measured losses, the fit, and the middle 95% of the bootstrap's laws; a panel for every quantity.

    Args:
        fit: the fit.
        names: of the quantities.
        columns: their values at every point.
        losses: at every point.

    Raises:
        UserError: a value is not above 0.
    """
    figure, panels = style.panels(len(names))
    for axis, (axes, name) in enumerate(zip(panels, names, strict=True)):
        grid = np.geomspace(columns[axis].min(), columns[axis].max(), 120)
        # The other quantity has its largest value, where the loss is closest to the law's floor.
        others = [np.full_like(grid, values.max()) for values in columns]
        others[axis] = grid
        if fit.band:
            low, high = percentile_ends(np.array([law.loss(*others) for law in fit.band]))
            axes.fill_between(grid, low, high, color=style.BLUE, alpha=0.25, linewidth=0, label="95% band")
        axes.plot(columns[axis], losses, "o", color=style.BLACK, markersize=3, alpha=0.6, label="measured")
        where = "" if len(names) == 1 else f" at the largest {names[1 - axis]}"
        axes.plot(grid, fit.law.loss(*others), color=style.BLUE, label=f"fit{where}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        style.plain_logs(axes.xaxis, axes.yaxis)
        title = f"(E = {fit.law.irreducible:.3g}, misfit {fit.residual:.1%})"
        style.label(axes, f"Loss against {name} {title}" if axis == 0 else "", f"{name}: {QUANTITIES[name]}", "loss")
        style.legend(axes, 2)
    return figure
