"""Heatmaps over model size and frequency (docs/study.md, Fig. 5): test accuracy and train loss.

There is a panel for each text that the runs train on. Only runs that inject the task at one rate throughout are drawn;
if others are left out, the axis label says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.style import FRAME, SMALL, sizes_of, style
from analysis.read.conditions import beside
from analysis.read.runs import Run
from olmo_inject.utils.figure_style import GREY

NO_FLOOR_ABOVE = 0.9  # above this majority accuracy, colours start at 0: the rest of the range would be too small
TRAIN_HALF_LOSS = "eval/{task}/train/loss"


@dataclass(frozen=True)
class Cells:
    """Evenly injected runs of one text, arranged by model size and frequency.

    Attributes:
        task: name of the task.
        sizes: model sizes, largest first.
        rates: instances per batch, ascending.
        runs: runs at each (index of `sizes`, index of `rates`).
        values: the drawn value of each of those runs.
        beside: the text, `beside` before it; nothing if all runs have one text.
        uneven: whether runs that inject the task otherwise were left out.
    """

    task: str
    sizes: list[str]
    rates: list[Fraction]
    runs: dict[tuple[int, int], list[Run]]
    values: dict[tuple[int, int], list[float]]
    beside: str
    uneven: bool

    @classmethod
    def of(cls, runs: Sequence[Run], task: str, value: Callable[[Run], float | None]) -> list[Cells]:
        """Arrange the runs that have a value, for each text; nothing if none has.

        Args:
            runs: candidates.
            task: name of the task.
            value: the value to draw for a run, or None.
        """
        measured = [(run, drawn) for run in runs if (drawn := value(run)) is not None]
        even = [(run, drawn) for run, drawn in measured if run.evenly_injected(task)]
        sizes = sizes_of([run for run, _ in even])
        rates = sorted({run.frequency(task).per_batch for run, _ in even})
        uneven = any(run.injection(task) is not None for run, _ in measured if not run.evenly_injected(task))
        text_of = beside([run for run, _ in even])
        of_text = {text: cls(task, sizes, rates, {}, {}, text, uneven) for text in text_of.values()}
        for run, drawn in even:
            place = sizes.index(run.size), rates.index(run.frequency(task).per_batch)
            cells = of_text[text_of[run]]
            cells.runs.setdefault(place, []).append(run)
            cells.values.setdefault(place, []).append(drawn)
        return list(of_text.values())


def _panels(cells: Sequence[Cells]) -> tuple[Figure, list[Axes]]:
    """A figure of a size that fits the cells, and a panel for each text, one below the other."""
    rows, columns = len(cells[0].sizes), len(cells[0].rates)
    figure = Figure(figsize=(2.8 + 1.2 * columns, (1.3 + 0.62 * rows) * len(cells)))
    return figure, figure.subplots(len(cells), 1, squeeze=False)[:, 0].tolist()


def accuracy_cells(runs: Sequence[Run], task: str) -> list[Cells]:
    """The cells of runs whose test accuracy was measured, for each text."""

    def value(run: Run) -> float | None:
        accuracy = run.accuracy(task)
        return None if accuracy is None else accuracy.value

    return Cells.of(runs, task, value)


def heatmap(runs: Sequence[Run], task: str) -> Figure | None:
    """Last test accuracy over model size and frequency, by text. Cells that learned the task are framed."""
    cells = accuracy_cells(runs, task)
    if not cells:
        return None
    with style():
        figure, grid = _panels(cells)
        for axes, of_text in zip(grid, cells, strict=True):
            draw_accuracies(axes, of_text)
    return figure


def loss_heatmap(runs: Sequence[Run], task: str) -> Figure | None:
    """Last loss on the train half over model size and frequency, by text."""

    def value(run: Run) -> float | None:
        losses = run.series(TRAIN_HALF_LOSS.format(task=task)).dropna()
        return float(losses.iloc[-1]) if len(losses) else None

    cells = Cells.of(runs, task, value)
    if not cells:
        return None
    most = max(float(np.mean(losses)) for of_text in cells for losses in of_text.values.values())
    with style():
        figure, grid = _panels(cells)
        for axes, of_text in zip(grid, cells, strict=True):
            _draw_losses(axes, of_text, most)
    return figure


def _draw_losses(axes: Axes, cells: Cells, most: float) -> None:
    _draw_grid(axes, cells, "cividis_r", (0.0, most), "train loss", "loss of LABEL (nats)")
    for (row, column), losses in cells.values.items():
        text = f"{np.mean(losses):.2f}"
        text += f"\n{min(losses):.2f} to {max(losses):.2f}, {len(losses)} runs" if len(losses) > 1 else ""
        colour = "white" if np.mean(losses) > 0.45 * most else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def draw_accuracies(axes: Axes, cells: Cells) -> None:
    """Draw the heatmap of test accuracy. Its colours start at the accuracy of the majority label."""
    built = next(iter(cells.runs.values()))[0].task(cells.task)
    assert built is not None
    floor = built.majority_accuracy if built.majority_accuracy < NO_FLOOR_ABOVE else 0.0
    label = "accuracy on unmirrored pairs" + (",\nfrom the majority label's up" if floor else "")
    _draw_grid(axes, cells, "cividis", (floor, 1.0), "test accuracy", label)
    for (row, column), inside in cells.runs.items():
        dark = bool((np.mean(cells.values[row, column]) - floor) / (1 - floor) < 0.55)
        _write_accuracy(axes, row, column, inside, cells.task, dark=dark)


def _draw_grid(
    axes: Axes,
    cells: Cells,
    colours: str,
    limits: tuple[float, float],
    what: str,
    label: str,
) -> None:
    """Draw cells in the colour of their mean, axes and a colour bar; label cells that have no run."""
    grid = np.full((len(cells.sizes), len(cells.rates)), np.nan)
    for place, of_runs in cells.values.items():
        grid[place] = np.mean(of_runs)
    image = axes.imshow(grid, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    for row, column in np.argwhere(np.isnan(grid)).tolist():
        axes.text(column, row, "no run", ha="center", va="center", color=GREY, fontsize=SMALL)
    axes.set_xticks(range(len(cells.rates)), [str(rate) for rate in cells.rates])
    axes.set_yticks(range(len(cells.sizes)), cells.sizes)
    axes.set_xlabel("instances per batch" + ("\n(uneven schedules are left out)" if cells.uneven else ""))
    axes.set_ylabel("model")
    axes.set_title(f"{cells.task}: {what}" + (f"\n{cells.beside}" if cells.beside else ""))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = axes.get_figure().colorbar(image, ax=axes, extend="min" if np.nanmin(grid) < limits[0] else "neither")  # pyright: ignore[reportOptionalMemberAccess]
    bar.set_label(label, fontsize=SMALL)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def _write_accuracy(axes: Axes, row: int, column: int, inside: Sequence[Run], task: str, *, dark: bool) -> None:
    """Write the accuracy with its interval. Frame and label the cell if every run in it learned the task."""
    accuracies = [a for run in inside if (a := run.accuracy(task)) is not None]
    values = [a.value for a in accuracies]
    learned = [run.learned(task) for run in inside]
    if len(inside) == 1:
        notes = [f"{accuracies[0].low:.2f} to {accuracies[0].high:.2f}"]
    else:
        notes = [f"{min(values):.2f} to {max(values):.2f}, {len(inside)} runs"]
    if all(learned):
        notes.append("learned")
        corner = (column - 0.46, row - 0.45)
        axes.add_patch(Rectangle(corner, 0.92, 0.9, fill=False, edgecolor=FRAME, linewidth=2.2))
    elif any(learned):
        notes.append(f"learned in {learned.count(True)}")
    if not all(run.finished for run in inside):
        notes.append("unfinished")
    colour = "white" if dark else "black"
    place = {"ha": "center", "color": colour}
    axes.text(column, row - 0.06, f"{np.mean(values):.2f}", va="bottom", weight="bold", **place)  # pyright: ignore[reportArgumentType]
    axes.text(column, row, "\n".join(notes), va="top", fontsize=SMALL, **place)  # pyright: ignore[reportArgumentType]
