"""Figures and findings of activation patching and of distributed alignment search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.counterfactuals import TOK1
from analysis.page import Drawing, Section
from analysis.results import rows
from analysis.style import COLOURS, GREY, SMALL, style

PATCHING_TITLE = "Which layers' MLPs the task depends on"
DAS_TITLE = "Where the values are held"
MEASURES = (("effect", "fall of the logit difference"), ("recovery", "recovered logit difference"))


def patching_section(table: pd.DataFrame) -> Section | None:
    """The section of a table `layers` joined over checkpoints, or None where it is empty."""
    if table.empty:
        return None
    drawings, findings = [], []
    for (run, step, task), group in _by_checkpoint(table):
        where = _where(run, step)
        caption = (
            f"{task}, {where}: mean over pairs with 95% bootstrap intervals of exchanging one layer's MLP between "
            "two instances with different labels. Dashed: exchanging all of the input. Grey: untrained weights."
        )
        drawings.append(Drawing(_name("layers", task, run, step), layers(group), caption))
        first = rows(group, weights="trained", rank=1).iloc[0]
        findings.append(
            f"{task}, {where}: the MLP of layer {first['layer']} has the largest effect, {first['effect']:.2f} logits "
            f"({first['effect_low']:.2f} to {first['effect_high']:.2f}) of {first['whole']:.2f} for all of the input, "
            f"and takes {first['surprise']:.2f} nats of log-probability from the label."
        )
    return Section(PATCHING_TITLE, findings=findings, drawings=drawings)


def das_section(table: pd.DataFrame) -> Section | None:
    """The section of a table `sites` joined over checkpoints, or None where it is empty."""
    if table.empty:
        return None
    drawings, findings = [], []
    for (run, step, task), group in _by_checkpoint(table):
        where = _where(run, step)
        caption = (
            f"{task}, {where}: interchange accuracy on held-out pairs over layers, sites and dimensions. Top row: "
            "subspaces found by search; below, controls. Changing nothing gives the accuracy in the titles."
        )
        drawings.append(Drawing(_name("sites", task, run, step), sites(group), caption))
        found = rows(group, weights="trained", subspace="found")
        for position, variable in dict.fromkeys(zip(found["position"], found["variable"], strict=True)):
            of_site = rows(found, position=position, variable=variable)
            best = of_site.loc[of_site["accuracy"].idxmax()]
            findings.append(
                f"{task}, {where}: {_variable(variable)} at {_token(position)} is best exchanged after "
                f"{best['layer']} blocks in {best['dimension']} dimensions: {best['accuracy']:.3f} "
                f"({best['low']:.3f} to {best['high']:.3f}) of held-out pairs, against {best['nothing']:.3f} for "
                "changing nothing."
            )
    return Section(DAS_TITLE, findings=findings, drawings=drawings)


def layers(table: pd.DataFrame) -> Figure:
    """Effect and recovery of every layer's MLP, for one task and checkpoint."""
    with style():
        n = int(table["layer"].max()) + 1
        figure = Figure(figsize=(2.4 + 2 * max(1.2, 0.28 * n), 2.9))
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (name, label) in zip(axes, MEASURES, strict=True):
            for offset, (weights, colour) in ((-0.2, ("trained", COLOURS[0])), (0.2, ("untrained", "#BBBBBB"))):
                of_model = rows(table, weights=weights).sort_values("layer")
                reach = [of_model[name] - of_model[f"{name}_low"], of_model[f"{name}_high"] - of_model[name]]
                axis.bar(of_model["layer"] + offset, of_model[name], 0.38, color=colour, label=weights)
                axis.errorbar(
                    of_model["layer"] + offset, of_model[name], reach, fmt="none", color="black", lw=0.8, capsize=2
                )
            whole = table.loc[table["weights"] == "trained", "whole"].iloc[0]
            axis.axhline(whole, color=GREY, ls="--", lw=0.9, label="all of the input")
            axis.axhline(0, color=GREY, lw=0.6)
            axis.set_title(label)
            axis.set_xlabel("layer of the MLP")
            axis.set_xticks(range(0, n, max(1, n // 8)))
        axes[0].set_ylabel("logits")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=SMALL + 1)
    return figure


def sites(table: pd.DataFrame) -> Figure:
    """Interchange accuracy over layers and dimensions (cells), variables and positions (columns), controls (rows)."""
    questions = list(dict.fromkeys(zip(table["position"], table["variable"], strict=True)))
    controls = [
        (weights, subspace)
        for weights, subspace in (("trained", "found"), ("trained", "random"), ("untrained", "found"))
        if ((table["weights"] == weights) & (table["subspace"] == subspace)).any()
    ]
    dimensions, depth = sorted(table["dimension"].unique()), int(table["layer"].max()) + 1
    with style():
        height = max(1.0, 0.32 * depth)
        figure = Figure(
            figsize=(1.9 + len(questions) * max(1.35, 0.45 * len(dimensions)), 0.9 + len(controls) * (height + 0.35))
        )
        axes = figure.subplots(len(controls), len(questions), squeeze=False, sharex=True, sharey=True)
        for row, (weights, subspace) in enumerate(controls):
            for column, (position, variable) in enumerate(questions):
                chosen = rows(table, weights=weights, subspace=subspace, position=position, variable=variable)
                cells = chosen.pivot(index="layer", columns="dimension", values="accuracy").to_numpy(float)
                axis = axes[row, column]
                axis.imshow(cells, cmap="cividis", vmin=0, vmax=1, origin="lower", aspect="auto")
                for (layer, place), value in np.ndenumerate(cells):
                    colour = "black" if value > 0.6 else "white"
                    axis.text(place, layer, f"{value:.2f}", ha="center", va="center", fontsize=SMALL, color=colour)
                if row == 0:
                    nothing = chosen["nothing"].iloc[0]
                    title = f"{_variable(variable)}\nat {_token(position)} ({nothing:.2f})"
                    axis.set_title(title, fontsize=SMALL + 1.5)
                axis.set_xticks(range(len(dimensions)), dimensions)
                axis.set_yticks(range(0, depth, max(1, depth // 8)))
                axis.spines[:].set_visible(False)
            label = "found" if (weights, subspace) == ("trained", "found") else f"{subspace}, {weights}"
            label = "random subspace" if subspace == "random" else "untrained model" if weights != "trained" else label
            axes[row, 0].set_ylabel(f"{label}\nafter blocks", fontsize=SMALL + 1.5)
        figure.supxlabel("dimensions of the subspace", fontsize=SMALL + 2)
        figure.colorbar(axes[0, 0].images[0], ax=axes, label="interchange accuracy", shrink=0.8)
    return figure


def _by_checkpoint(table: pd.DataFrame) -> Iterator[tuple[tuple[str, int, str], pd.DataFrame]]:
    for place, group in table.groupby(["run", "step", "task"], sort=False):
        assert isinstance(place, tuple)
        yield place, group


def _where(run: str, step: int) -> str:
    return run if step < 0 else f"{run} before step {step}"


def _name(what: str, task: str, run: str, step: int) -> str:
    return f"{what}-{task}-{run}" + ("" if step < 0 else f"-step{step}")


def _variable(variable: str) -> str:
    return {"first": "value(TOK1)", "second": "value(TOK2)"}.get(variable, "the result")


def _token(position: int) -> str:
    return "TOK1" if position == TOK1 else "TOK2"
