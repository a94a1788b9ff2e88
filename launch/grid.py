"""The cells of a sweep as tables: what each trains, on what, and what it costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from launch.cost import Accelerator, Cost, cost, count_parameters, total
from launch.sweep import Sweep


def grid_records(sweep: Sweep) -> list[dict[str, Any]]:
    """Every cell as plain values."""
    return [
        {
            "cell": cell.name,
            "identity": cell.identity,
            "labels": cell.labels,
            "steps": cell.experiment.steps,
            "parameters": count_parameters(cell.experiment.model)[1],
            "learning_rate": cell.experiment.train.optimizer.learning_rate,
            "resources": asdict(cell.resources),
        }
        for cell in sweep.cells
    ]


def grid_table(sweep: Sweep) -> Table:
    """Every cell, for people."""
    axes = list(sweep.cells[0].labels)
    table = Table(
        title=f"{sweep.name}: {len(sweep.cells)} cells in {sweep.folder}",
        title_justify="left",
        caption="params: without the input embedding. ranks: nodes x processes. rows: of a micro-batch.",
        caption_justify="left",
    )
    for column in axes:
        table.add_column(column)
    for column in ("params", "steps", "lr", "ranks", "rows", "strategy", "identity"):
        table.add_column(column, justify="right")
    for cell in sweep.cells:
        train, resources = cell.experiment.train, cell.resources
        table.add_row(
            *cell.labels.values(),
            short(count_parameters(cell.experiment.model)[1]),
            f"{cell.experiment.steps:,}",
            f"{train.optimizer.learning_rate:.3g}",
            f"{resources.nodes}x{resources.ranks_per_node}",
            str(train.device_train_microbatch_size),
            str(train.distributed_strategy),
            cell.identity[:8],
        )
    return table


def cell_costs(sweep: Sweep, card: Accelerator, utilization: float) -> dict[str, Cost]:
    """The cost of every cell."""
    return {
        cell.name: cost(cell.experiment, cell.resources.nodes * cell.resources.gpus_per_node, card, utilization)
        for cell in sweep.cells
    }


COLUMNS = ("cells", "tokens", "FLOP", "GPU h", "hours", "US$", "GB/GPU", "ckpts", "corpus")


def cost_table(sweep: Sweep, costs: dict[str, Cost], card: Accelerator, utilization: float) -> Table:
    """Costs of the cells, a row for those of one cost, and their sum."""
    table = Table(
        title=f"Cost on {card.name} at {utilization:.0%} of {card.tflops:g} TFLOP/s, {card.price:g} US$ an hour",
        title_justify="left",
        caption="Each cell's, and of all: sums, but the longest hours and the largest memory (an estimate). "
        "FLOP: 6ND and attention. ckpts, corpus: GB on disk; one corpus serves all.",
        caption_justify="left",
        show_footer=len(costs) > 1,
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", footer="all", no_wrap=True)
    for column, footer in zip(COLUMNS, _row(len(costs), total(list(costs.values()))), strict=True):
        table.add_column(column, justify="right", footer=footer, no_wrap=True)
    alike: dict[Cost, list[dict[str, str]]] = {}
    for cell in sweep.cells:
        alike.setdefault(costs[cell.name], []).append(cell.labels)
    for one, labels in alike.items():
        common = [label for axis, label in labels[0].items() if all(other[axis] == label for other in labels)]
        table.add_row(" ".join(common), *_row(len(labels), one))
    return table


def _row(n_cells: int, one: Cost) -> list[str]:
    return [
        str(n_cells),
        short(one.tokens),
        f"{one.flops:.2e}".replace("e+", "e"),
        *(plain(value) for value in (one.gpu_hours, one.hours, one.dollars)),
        *(plain(value) for value in (one.memory_gb, one.checkpoints_gb, one.corpus_gb)),
    ]


def short(count: float) -> str:
    """A count as people say it: 1.18B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:g}"


def plain(value: float) -> str:
    """Three digits, or all of a large number, never an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-3 else "0.000"
