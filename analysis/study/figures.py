"""The figures of the study, from its tables: 5, 6, 8 and 9 of the paper in miniature, and the saturation ladder."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pyright: reportIndexIssue=false
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.style import style
from analysis.study.measures import LEARNED_AUC, cells_with_series, over_seeds, retained
from analysis.study.theory import utilities
from olmo_inject.utils.figure_style import GREY, colour_and_marker

TEXTS = {"t128": "128 sequences", "t1024": "1,024", "t8192": "8,192", "whole": "the whole corpus"}
LEARNING_RATES = {"full": "3e-3", "quarter": "7.5e-4"}  # of `study-stop`
GRIDS = {  # measures over width and frequency, with their labels and the limits of their colours
    "study-tcmp": {
        "auc_unmirrored": ("AUC, unmirrored test pairs", 0.5, 1),
        "order": ("order probe, held-out $R^2$", 0, 1),
    },
    "study-tadd": {
        "accuracy_unmirrored": ("accuracy, unmirrored test pairs", 0, 1),
        "modes": ("distinct Fourier modes", 0, None),
    },
}
SEEDS_FOR_INTERVALS = 3
EVALUATED_EVERY = 40  # steps; between them in some windows only
LADDER_PANELS = (
    ("residual", "residual of the text (nats)"),
    ("auc_unmirrored", "AUC, unmirrored test pairs"),
    ("within", "loss among the labels (nats)"),
    ("label_mass", "label mass"),
    ("kept", "share of a burst's gain kept"),
    ("gain", "gain of a burst at its largest (nats)"),
    ("half_life", "half-life of a burst's gain (steps)"),
    ("order", "order probe, held-out $R^2$"),
    ("alignment", "alignment search,\naccuracy above controls"),
    ("rest_cos_rms", "RMS of cos($g_{nt}$, $g_r$)"),
    ("rest_null_rms", "the same, labels permuted (null)"),
    ("rest_among_rms", "the same, loss among the labels"),
)


def all_of(tables: Mapping[str, pd.DataFrame], results: Path) -> Iterator[tuple[str, Figure]]:
    """Every figure whose cells are there, with its name."""
    for name in ("study-ladder", "study-ladder-often", "study-ladder-rare"):
        if name in tables:
            yield f"{name}-widths", over_widths(tables[name])
            yield f"{name}-residual", over_residual(tables[name])
            yield f"{name}-bursts", after_bursts(results / name)
            yield f"{name}-cosines", cosines(results / name)
            yield f"{name}-staircase", over_steps(results / name, "text", "whole", "model")
    for name, measures in GRIDS.items():
        for measure, labelled in measures.items() if name in tables else ():
            yield f"{name}-{measure.split('_')[0]}", grid(tables[name], measure, *labelled)
    if "study-tcmp" in tables:
        yield "study-tcmp-steps", over_steps(results / "study-tcmp", "model", "tiny-64", "rate")
    if "study-references" in tables:
        yield "study-references", beside_references(results / "study-references")
    if "study-gaps" in tables:
        yield "study-gaps", gaps(tables["study-gaps"])
    if "study-stop" in tables:
        yield "study-stop", stopped(results / "study-stop")
        yield "study-stop-residual", forgotten(tables["study-stop"])


def over_widths(table: pd.DataFrame) -> Figure:
    """Each measure of the ladder against width, a line a text, with intervals over seeds; a dot is a cell."""
    columns = [column for column, _ in LADDER_PANELS]
    summary = over_seeds(table, ["text", "width"], columns)
    with style():
        figure = Figure(figsize=(10, 10))
        for axis, (column, label) in zip(figure.subplots(4, 3).flat, LADDER_PANELS, strict=True):
            for number, (text, name) in enumerate(TEXTS.items()):
                line, cells = summary[summary["text"] == text], table[table["text"] == text]
                _points(axis, line["width"], line, column, number, name)
                axis.plot(cells["width"], cells[column], ".", ms=2, color=colour_and_marker(number)[0])
            _limit_to_cells(axis, table[column])
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted(table["width"].unique()), sorted(table["width"].unique()))
            axis.set_xlabel("width")
            axis.set_ylabel(label)
        _legend(figure)
    return figure


def over_residual(table: pd.DataFrame) -> Figure:
    """AUC, the share kept and interference of every cell against the residual of its text: one curve, or several?"""
    panels = [panel for panel in LADDER_PANELS if panel[0] in ("auc_unmirrored", "kept", "rest_cos_rms")]
    with style():
        figure = Figure(figsize=(10, 3.4))
        for axis, (column, label) in zip(figure.subplots(1, 3), panels, strict=True):
            for number, (width, cells) in enumerate(table.groupby("width")):
                colour, _ = colour_and_marker(number)
                for place, text in enumerate(TEXTS):
                    of_text = cells[cells["text"] == text]
                    marker = colour_and_marker(place)[1]
                    axis.plot(of_text["residual"], of_text[column], marker, color=colour, ms=4, alpha=0.8)
                axis.plot([], [], "o", color=colour, ms=4, label=f"width {width}")
            for place, name in enumerate(TEXTS.values()):
                axis.plot([], [], colour_and_marker(place)[1], color=GREY, ms=4, label=name)
            axis.set_xlabel("residual of the text (nats)")
            axis.set_ylabel(label)
        _legend(figure)
    return figure


def after_bursts(folder: Path) -> Figure:
    """How far the held-out loss among the labels falls after a burst and comes back (Fig. 8), a panel a text."""
    lines: dict[tuple[str, str], list[pd.Series]] = {}
    for cell, series in cells_with_series(folder):
        kept = retained(series, cell, "tcmp")
        if kept is not None:
            key = cell["labels"]["text"], cell["labels"]["model"]
            lines.setdefault(key, []).append(pd.Series(kept.mean, kept.after))
    return _panels_of_lines(lines, "steps after the burst", "gain in loss among\nthe labels (nats)", 0.0)


def cosines(folder: Path) -> Figure:
    """cos(g_nt, g_r) of all measured steps and seeds by width, beside the null; a panel a text (Fig. 9)."""
    cosines_of: dict[str, dict[int, list[tuple[pd.Series, pd.Series]]]] = {}
    for cell, series in cells_with_series(folder):
        both = series["gradient/tcmp/cos_rest"], series["gradient/tcmp/null_rest"]
        cosines_of.setdefault(cell["labels"]["text"], {}).setdefault(cell["width"], []).append(both)
    with style():
        figure = Figure(figsize=(1.2 + 2.6 * len(cosines_of), 3.2))
        for axis, (text, of_width) in zip(
            np.atleast_1d(figure.subplots(1, len(cosines_of), sharey=True)), cosines_of.items(), strict=True
        ):
            widths = sorted(of_width)
            for kind, label in enumerate(("the task's labels", "labels permuted (null)")):
                colour, _ = colour_and_marker(kind)
                axis.boxplot(
                    [np.concatenate([both[kind] for both in of_width[width]]) for width in widths],
                    positions=np.arange(len(widths)) + 0.36 * kind - 0.18,
                    widths=0.3,
                    whis=(2.5, 97.5),
                    showfliers=False,
                    **{f"{part}props": {"color": colour} for part in ("box", "whisker", "cap", "median")},
                )
                axis.plot([], [], color=colour, label=label)
            axis.set_xticks(range(len(widths)), widths)
            axis.axhline(0, color=GREY, lw=0.6)
            axis.set_title(TEXTS.get(text, text))
            axis.set_xlabel("width")
        figure.axes[0].set_ylabel("cos($g_{nt}$, $g_r$)")
        _legend(figure)
    return figure


def over_steps(folder: Path, label: str, chosen: str, by: str) -> Figure:
    """Three measures over steps, mean over seeds, a line for each value of an axis.

    Args:
        folder: of a sweep's results.
        label: the sweep's axis of which one value is drawn.
        chosen: that value.
        by: the axis that gives the lines.
    """
    measures = (
        ("auc_unmirrored", "AUC, unmirrored test pairs"),
        ("loss_among_labels_unmirrored", "loss among the labels (nats)"),
        ("label_mass", "label mass"),
    )
    cells = [(cell["labels"][by], of) for cell, of in cells_with_series(folder) if cell["labels"][label] == chosen]
    with style():
        figure = Figure(figsize=(10, 3.2))
        for panel, (measure, words) in zip(figure.subplots(1, 3), measures, strict=True):
            for number, line in enumerate(dict.fromkeys(of for of, _ in cells)):
                all_series = [series[f"eval/tcmp/test/{measure}"] for of, series in cells if of == line]
                mean = _mean_of(all_series)
                colour, marker = colour_and_marker(number)
                named = _a_batch(line) if by == "rate" else line
                panel.plot(mean.index, mean, marker, ls="-", ms=2.5, lw=1, color=colour, label=named)
            panel.set_xlabel("step")
            panel.set_ylabel(words)
        _legend(figure, TEXTS.get(chosen, chosen))
    return figure


def beside_references(folder: Path) -> Figure:
    """Loss and accuracy over steps by rate, and of the additions that the text holds (Fig. 6a); mean over seeds."""
    cells = [(cell["labels"]["rate"], of) for cell, of in cells_with_series(folder)]
    panels = (("loss", "loss of the answers (nats)"), ("accuracy", "accuracy"))
    with style():
        figure = Figure(figsize=(8, 3.4))
        for axis, (measure, label) in zip(figure.subplots(1, 2), panels, strict=True):
            for number, rate in enumerate(dict.fromkeys(rate for rate, _ in cells)):
                mean = _mean_of([of[f"eval/tcmp/test/{measure}"] for label, of in cells if label == rate])
                colour, marker = colour_and_marker(number)
                axis.plot(mean.index, mean, marker, ls="-", ms=2.5, lw=1, color=colour, label=_a_batch(rate))
            mean = _mean_of([of[f"eval/R_add/reference/{measure}"] for _, of in cells])
            axis.plot(mean.index, mean, ls="--", lw=1.2, color=GREY, label="R_add, 0.1 a batch")
            axis.set_xlabel("step")
            axis.set_ylabel(label)
        _legend(figure)
    return figure


def _a_batch(rate: str) -> str:
    """A label of the axis `rate` in words: `r1of4` is 1/4 a batch."""
    return f"{rate[1:].replace('of', '/')} a batch"


def _mean_of(series: Sequence[pd.Series]) -> pd.Series:
    """The mean of series, at the evaluations that are 40 steps apart, just before bursts."""
    mean = pd.concat(list(series), axis=1).mean(axis=1)
    return mean.loc[mean.index % EVALUATED_EVERY == 0]


def grid(table: pd.DataFrame, measure: str, label: str, low: float, high: float | None) -> Figure:
    """A measure over width and frequency (Fig. 5, 7), mean over seeds and in brackets the lowest and highest.

    Framed are the cells in which the theory expects the task: its utility is at least that of one more slot of text.

    Args:
        table: `sweep_table` of a sweep with an axis of rates.
        measure: column of it.
        label: of its colours.
        low: value of the darkest colour.
        high: value of the lightest; None: the largest there is.
    """
    table = table.assign(utility=utilities(table))
    widths, rates = sorted(table["width"].unique()), sorted(table["often"].unique())
    with style():
        figure = Figure(figsize=(1.8 + 0.95 * len(rates), 1.4 + 0.55 * len(widths)))
        axis = figure.subplots()
        values = np.full((len(widths), len(rates)), np.nan)
        for (width, rate), cells in table.groupby(["width", "often"]):
            row, column = widths.index(width), rates.index(rate)
            values[row, column] = cells[measure].mean()
            over_seeds = f"\n({cells[measure].min():.2f} to {cells[measure].max():.2f})" if len(cells) > 1 else ""
            text = f"{values[row, column]:.2f}{over_seeds}"
            axis.text(column, row, text, ha="center", va="center", fontsize=7)
            if cells["utility"].mean() >= 1:
                axis.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, lw=1.2))
        image = axis.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto", alpha=0.6)
        axis.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axis.set_yticks(range(len(widths)), widths)
        axis.set_xlabel("instances a batch\nin brackets: range over seeds; framed: expected by the theory")
        axis.set_ylabel("width")
        figure.colorbar(image, label=label)
    return figure


def gaps(table: pd.DataFrame) -> Figure:
    """Loss among the labels and AUC against the gap at one long-run frequency (Fig. 6b)."""
    table = table.assign(gap=table["burst"].str[1:].astype(int))
    summary = over_seeds(table, ["width", "gap"], ["within", "auc_unmirrored", "label_mass"])
    ticks = sorted(set(table["gap"]))
    panels = (("within", "loss among the labels (nats)"), ("auc_unmirrored", "AUC"), ("label_mass", "label mass"))
    with style():
        figure = Figure(figsize=(10, 3.2))
        for axis, (column, label) in zip(figure.subplots(1, 3), panels, strict=True):
            for number, (width, line) in enumerate(summary.groupby("width")):
                _points(axis, line["gap"], line, column, number, f"width {width}")
            axis.set_xscale("log")
            axis.set_xticks(ticks, [str(gap) for gap in ticks])
            axis.minorticks_off()
            axis.set_xlabel("N: instances at once, and batches between")
            axis.set_ylabel(label)
        _legend(figure)
    return figure


def stopped(folder: Path) -> Figure:
    """AUC after the last injection, a panel a text and learning rate, mean over seeds."""
    lines: dict[tuple[str, str], list[pd.Series]] = {}
    for cell, series in cells_with_series(folder):
        labels, auc = cell["labels"], series["eval/tcmp/test/auc_unmirrored"]
        panel = f"{TEXTS[labels['text']]}, {LEARNING_RATES[labels['lr']]}"
        lines.setdefault((panel, labels["model"]), []).append(auc[auc.index >= 1400])
    return _panels_of_lines(lines, "step (injections end at 1,500)", "AUC", LEARNED_AUC)


def forgotten(table: pd.DataFrame) -> Figure:
    """AUC lost after the last injection against the text's residual, of each cell that had learned the task."""
    with style():
        figure = Figure(figsize=(4.6, 3.4))
        axis = figure.subplots()
        for number, (width, cells) in enumerate(table.groupby("width")):
            colour, _ = colour_and_marker(number)
            for place, rate in enumerate(LEARNING_RATES):
                of_rate = cells[cells["lr"] == rate]
                axis.plot(of_rate["residual"], of_rate["forgotten"], colour_and_marker(place)[1], color=colour, ms=4)
            axis.plot([], [], "o", color=colour, ms=4, label=f"width {width}")
        for place, rate in enumerate(LEARNING_RATES.values()):
            axis.plot([], [], colour_and_marker(place)[1], color=GREY, ms=4, label=f"learning rate {rate}")
        axis.axhline(0, color=GREY, lw=0.6)
        axis.set_xlabel("residual of the text (nats)")
        axis.set_ylabel("AUC lost in 500 steps of text alone")
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _panels_of_lines(lines: Mapping[tuple[str, str], Sequence[pd.Series]], x: str, y: str, level: float) -> Figure:
    """A panel for each first part of the keys, a line for each second part: means over the series of a key."""
    places = list(dict.fromkeys(place for place, _ in lines))
    kinds = sorted({kind for _, kind in lines}, key=lambda kind: int(kind.rsplit("-", 1)[1]))
    with style():
        figure = Figure(figsize=(1.2 + 2.6 * max(len(places), 1), 3.2))
        for axis, place in zip(
            np.atleast_1d(figure.subplots(1, max(len(places), 1), sharey=True)), places, strict=False
        ):
            for number, kind in enumerate(kinds):
                if series := lines.get((place, kind)):
                    mean = pd.concat(list(series), axis=1).mean(axis=1)
                    axis.plot(mean.index, mean, lw=1.1, color=colour_and_marker(number)[0], label=kind)
            axis.axhline(level, color=GREY, lw=0.6)
            axis.set_title(TEXTS.get(place, place))
            axis.set_xlabel(x)
        figure.axes[0].set_ylabel(y)
        _legend(figure)
    return figure


def _points(axis: Axes, x: pd.Series, line: pd.DataFrame, column: str, number: int, label: str) -> None:
    """Means with their intervals over seeds, where there are enough seeds for one that says anything."""
    colour, marker = colour_and_marker(number)
    enough = line["seeds"] >= SEEDS_FOR_INTERVALS
    reach = [(line[column] - line[f"{column}_{end}"]).abs().where(enough, 0).fillna(0) for end in ("low", "high")]
    axis.errorbar(x, line[column], yerr=reach, fmt=marker, ls="-", ms=4, lw=1, capsize=2, color=colour, label=label)


def _limit_to_cells(axis: Axes, values: pd.Series) -> None:
    """Show the range of the cells, where few seeds would give intervals many times as long."""
    low, high = values.min(), values.max()
    if np.isfinite(low) and high > low:
        axis.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))


def _legend(figure: Figure, title: str | None = None) -> None:
    handles, labels = max((axis.get_legend_handles_labels() for axis in figure.axes), key=lambda both: len(both[0]))
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, title=title)
