"""The cells of a sweep before anything runs: what each trains, on what, and what it costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from launch.cost.accelerators import CORE, Accelerator, find_accelerator
from launch.cost.cost import Cost, estimate
from launch.cost.memory import count_parameters
from launch.cost.report import COUNTED, short
from launch.sweep import Cell, Sweep


def cell_record(cell: Cell) -> dict[str, Any]:
    """A cell for JSON."""
    return {
        "cell": cell.name,
        "identity": cell.identity,
        "labels": cell.labels,
        "steps": cell.experiment.steps,
        "parameters": count_parameters(cell.experiment.model).without_embedding,
        "learning_rate": cell.experiment.train.optimizer.learning_rate,
        "resources": asdict(cell.resources),
    }


def grid_table(sweep: Sweep) -> Table:
    """A table with a row for each cell."""
    table = Table(
        title=f"{sweep.name}: {len(sweep.cells)} cells in {sweep.folder}",
        title_justify="left",
        caption=f"params: {COUNTED}. ranks: nodes x processes. rows: of a micro-batch.",
        caption_justify="left",
    )
    table.add_column("cell", no_wrap=True)
    for column in ("params", "steps", "lr", "ranks", "rows", "strategy", "identity"):
        table.add_column(column, justify="right")
    for cell in sweep.cells:
        train, resources = cell.experiment.train, cell.resources
        table.add_row(
            cell.name,
            short(count_parameters(cell.experiment.model).without_embedding),
            f"{cell.experiment.steps:,}",
            f"{train.optimizer.learning_rate:.3g}",
            f"{resources.nodes}x{resources.ranks_per_node}",
            str(train.device_train_microbatch_size),
            str(train.distributed_strategy),
            cell.identity[:8],
        )
    return table


def cell_costs(sweep: Sweep, accelerator: Accelerator) -> list[Cost]:
    """The cost of every cell on its nodes and GPUs; a cell without GPUs is counted on cores, one per rank."""
    core = accelerator if accelerator.device == "cpu" else find_accelerator(CORE)
    return [
        estimate(
            cell.experiment,
            accelerator if cell.resources.gpus_per_node else core,
            nodes=cell.resources.nodes,
            gpus_per_node=cell.resources.gpus_per_node or cell.resources.ranks_per_node,
        )
        for cell in sweep.cells
    ]
