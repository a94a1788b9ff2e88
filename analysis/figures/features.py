"""Figures of task features (docs/study.md, Fig. 7): by layer, as pictures, and against frequency, size and step.

Each function takes tables of the method `features`, joined over checkpoints, and returns a figure. Runs keep the order
of the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import SMALL, axis_labels, legend, panels, style
from analysis.methods.feature_amounts import HEADLINE_LAYER, HEADLINE_SITE
from analysis.methods.features import FOURIER, ORDER, PLAIN
from analysis.read.store import last_step, rows
from olmo_inject.utils.figure_style import GREY, colour_and_marker

MOST_PANELS = 12  # at most this many panels in figures with a panel per run
SMALLEST_SHARE = 0.003  # smallest share of variance that the colour scale resolves
LAYER_TICKS = 9
SITES_APART = 0.16  # horizontal distance between sites of one layer, in layers
SIZES_APART = 1.06  # horizontal distance between model sizes, a factor of the frequency
LOWEST_R2 = -0.6  # lower end of the axis; every R2 below 0 means no better than the mean
DISTINCT = "distinct"  # Fourier modes, each counted once however many layers have it
AMOUNT = {
    ORDER: "held-out $R^2$ of value(TOK2)\nafter the first block",
    FOURIER: "Fourier modes at TOK2,\nsummed over layers",
    DISTINCT: "distinct Fourier modes\nat TOK2",
}


def order_by_layer(order: pd.DataFrame) -> Figure:
    """Held-out R2 by layer: a panel for each run, a line for each site; also of plain means and untrained weights."""
    plain, order = rows(order, means=PLAIN, weights="trained"), rows(order, headline=True)
    sites = list(dict.fromkeys(order["site"]))

    def draw(axes: Axes, run: str) -> None:
        for number, site in enumerate(sites):
            colour, marker = colour_and_marker(number)
            mine = rows(order, run=run, site=site)
            trained = rows(mine, weights="trained")
            y = trained["held_out"].to_numpy(float)
            low, high = y - _errors(trained, y)[0], y + _errors(trained, y)[1]
            # Sites stand side by side, so that no bar hides another. Values below the axis are drawn at its lower end.
            apart = SITES_APART * (number - (len(sites) - 1) / 2)
            x, shown = trained["layer"].to_numpy(float) + apart, np.maximum(y, LOWEST_R2)
            reach = [shown - np.maximum(low, LOWEST_R2), np.maximum(high, LOWEST_R2) - shown]
            axes.errorbar(x, shown, reach, color=colour, ls="-", lw=1.2, capsize=1.5)
            inside = y >= LOWEST_R2
            axes.plot(x[inside], y[inside], color=colour, marker=marker, ms=3.5, ls="")
            below = {"marker": "v", "ms": 4, "mfc": "white", "ls": "", "clip_on": False}
            if not inside.all():  # an empty unclipped line would spoil the layout
                axes.plot(x[~inside], shown[~inside], color=colour, **below)
            of_plain = rows(plain, run=run, site=site)
            plain_r2 = np.maximum(of_plain["held_out"].to_numpy(float), LOWEST_R2)
            axes.plot(of_plain["layer"] + apart, plain_r2, color=colour, ls=":", lw=1)
        # One band of chance for all sites.
        random = rows(order, run=run, weights="untrained").pivot(index="layer", columns="site", values="held_out")
        low, high = np.maximum(random.min(axis=1), LOWEST_R2), np.maximum(random.max(axis=1), LOWEST_R2)
        axes.fill_between(random.index.to_numpy(int), low, high, color=GREY, alpha=0.25, lw=0, zorder=0)
        axes.axhline(0, color=GREY, lw=0.6, zorder=1)
        axes.set_ylim(LOWEST_R2 - 0.05, 1.05)
        axes.set_xticks(_ticks(order["layer"].to_numpy(int)))

    figure = _pictures(_runs(order), draw, aspect=0.9)
    with style():
        axis_labels(figure, figure.axes, "layer (0: embedding)", "$R^2$ of the value")
        means = Line2D([], [], color=GREY, lw=1, ls=":", label="plain means,\nwith the answer")
        random = Patch(color=GREY, alpha=0.25, lw=0, label="random weights")
        legend(figure, "held out", sites, [means, random])
    return figure


def order_lines(line: pd.DataFrame, order: pd.DataFrame) -> Figure:
    """Each value's held-out prediction along the order direction after the first block, a panel for each run."""
    line = rows(line, site=HEADLINE_SITE, layer=HEADLINE_LAYER)
    fits = rows(order, headline=True, site=HEADLINE_SITE, layer=HEADLINE_LAYER, weights="trained")

    def draw(axes: Axes, run: str) -> None:
        mine, fit = rows(line, run=run), rows(fits, run=run).to_dict("records")[0]
        largest = mine["value"].max()
        axes.plot([0, largest], [0, largest], color=GREY, lw=0.7, zorder=1)
        axes.scatter(mine["value"], mine["predicted"], c=mine["value"], cmap="cividis", s=9, lw=0)
        axes.set_xlim(-0.05 * largest, 1.05 * largest)
        axes.set_ylim(-0.35 * largest, 1.35 * largest)
        note = f"$R^2$ {fit['held_out']:.2f}, rank {fit['rank_correlation']:.2f}"
        axes.text(0.04, 0.97, note, transform=axes.transAxes, va="top", fontsize=SMALL)

    figure = _pictures(_runs(line), draw, aspect=0.95)
    with style():
        axis_labels(
            figure,
            figure.axes,
            "value of the token",
            "place on the order direction\nat TOK2, after the first block, held out",
        )
    return figure


def modes_by_layer(modes: pd.DataFrame) -> Figure:
    """Power of every mode at every layer at TOK2, a panel for each run. Dots mark the modes that are present."""
    modes = rows(modes, site=HEADLINE_SITE, weights="trained")
    norm = LogNorm(SMALLEST_SHARE, 1)

    def draw(axes: Axes, run: str) -> None:
        mine = rows(modes, run=run)
        grid = mine.pivot(index="layer", columns="mode", values="power").to_numpy(float)
        extent = (0.5, grid.shape[1] + 0.5, -0.5, len(grid) - 0.5)
        shown = np.maximum(grid, SMALLEST_SHARE)
        axes.imshow(shown, cmap="cividis", norm=norm, aspect="auto", origin="lower", extent=extent)
        there = rows(mine, present=True)
        axes.plot(there["mode"], there["layer"], ls="", marker="o", ms=4, mfc="white", mec="black", mew=0.7)
        axes.set_yticks(_ticks(mine["layer"].to_numpy(int)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    figure = _pictures(_runs(modes), draw, aspect=0.75)
    with style():
        axis_labels(figure, figure.axes, "Fourier mode", "layer (0: embedding)")
        bar = figure.colorbar(ScalarMappable(norm, "cividis"), ax=figure.axes, extend="min", shrink=0.9)
        bar.set_label("share of variance; dots: present", fontsize=8)
    return figure


def circles(circle: pd.DataFrame, modes: pd.DataFrame) -> Figure:
    """Values in the plane of the strongest mode, at the layer where it is strongest.

    Each value's place is computed in a plane that was estimated without it.
    """
    circle = rows(circle, site=HEADLINE_SITE)
    modes = rows(modes, site=HEADLINE_SITE, weights="trained")

    def draw(axes: Axes, run: str) -> None:
        best = max(rows(modes, run=run).to_dict("records"), key=lambda row: row["power"])
        points = rows(circle, run=run, layer=best["layer"]).sort_values("value")
        x, y, turn = (
            points["x"].to_numpy(),
            points["y"].to_numpy(),
            points["value"].to_numpy() * best["mode"] % len(points),
        )
        around = np.argsort(turn, kind="stable")
        closed = np.append(around, around[0])
        axes.plot(x[closed], y[closed], color=GREY, lw=0.5, zorder=1)
        axes.scatter(x, y, c=turn, cmap="twilight", s=26, lw=0.4, edgecolor=GREY)
        if len(points) <= 40:
            for value in range(len(points)):
                axes.annotate(str(value), (x[value], y[value]), (3, 3), textcoords="offset points", fontsize=5)
        widest = max(1.25, 1.12 * float(np.abs([x, y]).max()))
        axes.set_xlim(-widest, widest)
        axes.set_ylim(-widest, widest)
        axes.set_aspect("equal")
        share = f"{best['power']:.0%} of variance" + ("" if best["present"] else ", not present")
        note = f"mode {best['mode']} at layer {best['layer']}: {share}"
        axes.text(0.5, 1.01, note, transform=axes.transAxes, ha="center", va="bottom", fontsize=SMALL)

    figure = _pictures(_runs(circle), draw, aspect=1.0, title_pad=14.0, share=False)
    with style():
        axis_labels(figure, figure.axes, "along the cosine's direction", "along the sine's direction")
    return figure


def amount_by_frequency(amounts: pd.DataFrame, feature: str) -> Figure | None:
    """The amount at each run's last checkpoint against frequency: a panel for each text, a line for each model size.

    Only runs that inject the task evenly throughout are drawn.
    """
    last = rows(last_step(amounts), evenly=True)
    if len(last) < 2:
        return None
    sizes, texts = _sizes(last), list(dict.fromkeys(last["text"]))
    ticks = sorted(set(last["per_batch"]))
    with style():
        figure = Figure(figsize=(2.2 + 3.2 * len(texts), 3.0))
        grid = figure.subplots(1, len(texts), sharey=True, squeeze=False)[0].tolist()
        for axes, text in zip(grid, texts, strict=True):
            for number, size in enumerate(sizes):
                # Sizes stand side by side at each frequency, so that no bar hides another.
                beside = SIZES_APART ** (number - (len(sizes) - 1) / 2)
                mine = rows(last, model=size, text=text).sort_values("per_batch")
                _draw_amounts(axes, mine.assign(place=beside * mine["per_batch"]), "place", number)
            axes.set_title(text)
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel("instances per batch")
        grid[0].set_ylabel(AMOUNT[feature])
        _start_counts_at_zero(grid, amounts, feature)
        legend(figure, "model", sizes, [_SHUFFLED])
    return figure


def amount_by_step(amounts: pd.DataFrame, feature: str) -> Figure | None:
    """The amount over checkpoints, a panel for each schedule and text, a line for each run, coloured by model size."""
    if len(amounts) == len(last_step(amounts)):
        return None
    amounts = amounts.sort_values(["per_batch", "schedule", "text"])
    conditions = list(dict.fromkeys(zip(amounts["schedule"], amounts["text"], strict=True)))
    sizes = _sizes(amounts)
    with style():
        figure, grid = panels(len(conditions), 3.0, 2.4)
        for axes, (schedule, text) in zip(grid, conditions, strict=True):
            mine = rows(amounts, schedule=schedule, text=text)
            for folder in dict.fromkeys(mine["folder"]):
                run = rows(mine, folder=folder).sort_values("step")
                _draw_amounts(axes, run, "step", sizes.index(run["model"].to_list()[0]))
            axes.set_title("\n".join(filter(None, (schedule, text))))
        axis_labels(figure, grid, "step", AMOUNT[feature])
        _start_counts_at_zero(grid, amounts, feature)
        legend(figure, "model", sizes, [_SHUFFLED])
    return figure


_SHUFFLED = Line2D([], [], color=GREY, ls="--", lw=0.8, marker="_", ms=9, label="values shuffled")


def _draw_amounts(axes: Axes, mine: pd.DataFrame, x: str, number: int) -> None:
    """Draw amounts with their intervals, and dashed the amount of shuffled values."""
    colour, marker = colour_and_marker(number)
    y = mine["amount"].to_numpy(float)
    errors = None if mine["low"].isna().any() else _errors(mine, y)
    axes.errorbar(mine[x], y, errors, color=colour, marker=marker, ms=4, lw=1.2, capsize=3)
    axes.plot(mine[x], mine["shuffled"], color=colour, ls="--", lw=0.8, marker="_", ms=9)
    axes.axhline(0, color=GREY, lw=0.6, zorder=1)


def _start_counts_at_zero(grid: Sequence[Axes], amounts: pd.DataFrame, feature: str) -> None:
    if feature != ORDER:
        most = max(1.0, float(amounts["amount"].max()), float(amounts["shuffled"].max()))
        for axes in grid:
            axes.set_ylim(-0.03 * most, 1.06 * most)
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _errors(mine: pd.DataFrame, y: np.ndarray) -> np.ndarray:
    """Lengths of the bars below and above `y`; a percentile interval need not contain `y`, so they are cut at 0."""
    return np.maximum([y - mine["low"].to_numpy(float), mine["high"].to_numpy(float) - y], 0)


def _pictures(
    runs: Sequence[str],
    draw: Callable[[Axes, str], None],
    aspect: float,
    *,
    title_pad: float = 4.0,
    share: bool = True,
) -> Figure:
    """A panel for each run; with more than twelve runs, the first six and the last six."""
    if len(runs) > MOST_PANELS:
        runs = [*runs[: MOST_PANELS // 2], *runs[-MOST_PANELS // 2 :]]
    with style():
        figure, grid = panels(len(runs), 2.1, 2.1 * aspect + 0.2, share=share)
        for axes, run in zip(grid, runs, strict=True):
            draw(axes, run)
            axes.set_title(run, fontsize=8, pad=title_pad)
    return figure


def _runs(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["run"]))


def _sizes(amounts: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(amounts.sort_values("parameters", ascending=False)["model"]))


def _ticks(layers: np.ndarray) -> list[int]:
    last = int(layers.max())
    return list(range(0, last + 1, -(-(last + 1) // LAYER_TICKS)))
