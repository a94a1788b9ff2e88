"""Activation patching of several runs on one scale: a panel for each model, a line for each of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import axis_labels, panels, style
from analysis.read.store import rows
from olmo_inject.utils.figure_style import GREY, colour_and_marker

MOST_NAMED = 8  # runs of one panel that are named in its legend


def across_models(table: pd.DataFrame) -> Figure | None:
    """One task's effects by layer at each run's last checkpoint; None for a single run.

    Args:
        table: rows of the method `patching` for trained models, at the last checkpoint of each run.
    """
    runs = _runs_by_model(table)
    if table["run"].nunique() < 2:
        return None
    depth = int(table["layer"].max()) + 1
    with style():
        figure, grid = panels(len(runs), max(2.2, 0.16 * depth), 2.3)
        for axes, (model, names) in zip(grid, runs.items(), strict=True):
            for number, run in enumerate(names):
                mine = rows(table, run=run).sort_values("layer")
                colour, marker = colour_and_marker(number)
                effect = mine["effect"].to_numpy(float)
                reach = np.maximum([effect - mine["effect_low"], mine["effect_high"] - effect], 0)
                beside = mine["layer"] + 0.1 * (number - (len(names) - 1) / 2) / max(1, len(names) / 3)
                label = run if number < MOST_NAMED else None
                axes.errorbar(
                    beside, effect, reach, color=colour, marker=marker, ms=3.5, lw=1.1, capsize=2, label=label
                )
            axes.axhline(0, color=GREY, lw=0.6, zorder=1)
            axes.set_title(model)
            axes.set_xticks(range(0, depth, max(1, depth // 8)))
            axes.grid(axis="y", alpha=0.25, lw=0.5)
            axes.legend(frameon=False, fontsize=7)
        axis_labels(figure, grid, "layer of the MLP", "fall of the logit difference")
    return figure


def _runs_by_model(table: pd.DataFrame) -> Mapping[str, Sequence[str]]:
    """The names of runs by model, in the order of the table."""
    pairs = table.drop_duplicates("run")
    return {str(model): rows(pairs, model=model)["run"].to_list() for model in dict.fromkeys(pairs["model"])}
