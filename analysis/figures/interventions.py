"""Figures of activation patching and of distributed alignment search."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import SMALL, style
from analysis.methods.counterfactuals import TOK1
from analysis.read.store import rows
from olmo_inject.utils.figure_style import BLUE, GREY

MEASURES = (("effect", "fall of the logit difference"), ("recovery", "recovered logit difference"))
CONTROLS = {
    ("trained", "found", "accuracy"): "found by\nsearch",
    ("trained", "found", "unseen"): "the same, on\ntokens not seen",
    ("trained", "random", "accuracy"): "control:\nrandom subspace",
    ("untrained", "found", "accuracy"): "control:\nuntrained model",
}


def over_steps(panels: Mapping[str, pd.DataFrame], column: str, title: str) -> Figure:
    """Accuracies or effects over layers (vertical) and checkpoints (horizontal).

    Args:
        panels: rows of the table to draw, by the title of their panel.
        column: `accuracy`, or a measure of patching in logits.
        title: of the figure.
    """
    first = next(iter(panels.values()))
    steps, depth = sorted(first["step"].unique()), int(first["layer"].max()) + 1
    grids = [of.pivot(index="layer", columns="step", values=column).to_numpy(float) for of in panels.values()]
    if column == "accuracy":
        low = float(np.floor(10 * np.min(grids)) / 10)
        label, colours, high = "interchange accuracy", "cividis", 1.0
    else:
        high = max(float(np.abs(grids).max()), 1e-9)
        label, colours, low = "logits", "PuOr", -high
    with style():
        height = 1.6 + max(1.0, 0.16 * depth)
        figure = Figure(figsize=(1.7 + len(panels) * max(1.7, 0.32 * len(steps)), height))
        figure.suptitle(title, fontsize=9.5)
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, panel, grid in zip(axes, panels, grids, strict=True):
            axis.imshow(grid, cmap=colours, vmin=low, vmax=high, origin="lower", aspect="auto")
            axis.set_title(panel.replace(" at ", "\nat "), fontsize=SMALL + 1.5)
            shown = range(0, len(steps), -(-len(steps) // 8))
            axis.set_xticks(list(shown), [steps[place] for place in shown], fontsize=SMALL + 1, rotation=45)
            axis.set_yticks(range(0, depth, max(1, depth // 8)))
            axis.spines[:].set_visible(False)
        axes[0].set_ylabel("after blocks" if column == "accuracy" else "layer of the MLP")
        figure.supxlabel("step of the checkpoint", fontsize=9)
        figure.colorbar(axes[0].images[0], ax=axes, label=label)
    return figure


def reach(table: pd.DataFrame) -> tuple[float, float]:
    """The range of an axis of logits that fits all of a task's figures, so that they can be compared."""
    ends = [column for name, _ in MEASURES for column in (name, f"{name}_low", f"{name}_high")]
    low, high = min(0.0, float(table[ends].min(axis=None))), float(table[[*ends, "whole"]].max(axis=None))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def layers(table: pd.DataFrame, title: str, scale: tuple[float, float]) -> Figure:
    """Effect and recovery of every layer's MLP, for one task and checkpoint.

    Args:
        table: rows of the method `patching` for one task and checkpoint.
        title: of the figure.
        scale: lower and upper end of the logit axis.
    """
    with style():
        n = int(table["layer"].max()) + 1
        figure = Figure(figsize=(2.4 + 2 * max(1.2, 0.28 * n), 3.2))
        figure.suptitle(title, fontsize=9.5)
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (name, label) in zip(axes, MEASURES, strict=True):
            for offset, (weights, colour) in ((-0.2, ("trained", BLUE)), (0.2, ("untrained", "#BBBBBB"))):
                of_model = rows(table, weights=weights).sort_values("layer")
                errors = [of_model[name] - of_model[f"{name}_low"], of_model[f"{name}_high"] - of_model[name]]
                axis.bar(of_model["layer"] + offset, of_model[name], 0.38, color=colour, label=weights)
                axis.errorbar(
                    of_model["layer"] + offset, of_model[name], errors, fmt="none", color="black", lw=0.8, capsize=2
                )
            whole = table.loc[table["weights"] == "trained", "whole"].iloc[0]
            axis.axhline(whole, color=GREY, ls="--", lw=0.9, label="all of the input")
            axis.axhline(0, color=GREY, lw=0.6)
            axis.set_title(label)
            axis.set_xlabel("layer of the MLP")
            axis.set_xticks(range(0, n, max(1, n // 8)))
        axes[0].set_ylim(*scale)
        axes[0].set_ylabel("logits")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL + 1)
    return figure


def sites(table: pd.DataFrame, title: str) -> Figure:
    """Interchange accuracy over layers and dimensions (cells), variables and positions (columns), controls (rows)."""
    asked = questions(table)
    controls = [
        (weights, subspace, column)
        for weights, subspace, column in CONTROLS
        if rows(table, weights=weights, subspace=subspace)[column].notna().any()
    ]
    dimensions, depth = sorted(table["dimension"].unique()), int(table["layer"].max()) + 1
    low = (
        np.floor(10 * table[["accuracy", "unseen"]].min(axis=None)) / 10
    )  # one range of colours for all panels, as narrow as the values allow
    with style():
        width, height = max(1.05, 0.45 * len(dimensions)), max(1.1, 0.2 * depth)
        figure = Figure(figsize=(2.4 + len(asked) * width, 1.7 + len(controls) * (height + 0.2)))
        figure.suptitle(title, fontsize=9.5)
        axes = figure.subplots(len(controls), len(asked), squeeze=False, sharex=True, sharey=True)
        for row, (weights, subspace, measured) in enumerate(controls):
            for column, question in enumerate(asked):
                chosen = rows(table, weights=weights, subspace=subspace, position=question[0], variable=question[1])
                axis = axes[row, column]
                cells, converged = (
                    chosen.pivot(index="layer", columns="dimension", values=of).to_numpy(kind)
                    for of, kind in ((measured, float), ("converged", bool))
                )
                _draw_cells(axis, cells, converged, low)
                if row == 0:
                    place = question_label(*question).replace(" at ", "\nat ")
                    bounds = chosen.iloc[0]
                    known = f"no swap: {bounds['no_swap']:.2f}\none operand: {bounds['one_operand']:.2f}"
                    axis.set_title(f"{place}\n{known}", fontsize=SMALL + 1)
                axis.set_xticks(range(len(dimensions)), dimensions)
                axis.set_yticks(range(0, depth, max(1, depth // 8)))
                axis.spines[:].set_visible(False)
            axes[row, 0].set_ylabel(f"{CONTROLS[weights, subspace, measured]}\n\nafter blocks", fontsize=SMALL + 1.5)
        figure.supxlabel("dimensions of the subspace", fontsize=SMALL + 2)
        figure.colorbar(axes[0, 0].images[0], ax=axes, label="interchange accuracy", shrink=0.8)
    return figure


def _draw_cells(axis: Axes, cells: np.ndarray, converged: np.ndarray, low: float) -> None:
    axis.imshow(cells, cmap="cividis", vmin=low, vmax=1, origin="lower", aspect="auto")
    for (layer, place), value in np.ndenumerate(cells):
        colour = "black" if value > low + 0.6 * (1 - low) else "white"
        axis.text(
            place,
            layer,
            f"{value:.2f}" + "*" * (not converged[layer, place]),
            ha="center",
            va="center",
            fontsize=SMALL,
            color=colour,
        )


def questions(table: pd.DataFrame) -> list[tuple[int, str]]:
    """The (position, variable) pairs in the table, in its order."""
    return list(dict.fromkeys(zip(table["position"], table["variable"], strict=True)))


def question_label(position: int, variable: str) -> str:
    """A variable and a position as a label, such as `value(TOK1) at TOK2`."""
    sought = {"first": "value(TOK1)", "second": "value(TOK2)"}.get(variable, "the result")
    return f"{sought} at {'TOK1' if position == TOK1 else 'TOK2'}"
