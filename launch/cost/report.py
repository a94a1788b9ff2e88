"""Prints costs: tables of many runs, and a page about one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from launch.cost.accelerators import Accelerator
from launch.cost.cost import Cost

COUNTED = "without the input embedding, as ai2-olmo counts"


def cost_table(costs: Sequence[Cost]) -> Table:
    """A table of FLOPs, time and money with a row for each run, their sums, and the assumptions."""
    table = _table("run", "params", "with\nemb.", "tokens", "6ND", "FLOPs", "on", "device\ntime", "time", "money")
    table.caption = f"params: {COUNTED}; with emb.: with it.\n{assumptions(costs)}"
    for cost in costs:
        numbers = (cost.parameters.without_embedding, cost.parameters.total, cost.tokens)
        flops = (cost.flops_6nd, cost.flops)
        table.add_row(
            cost.name,
            *map(short, numbers),
            *map(_power, flops),
            f"{cost.gpus} {cost.accelerator.name}",
            hours(cost.gpu_hours),
            hours(cost.hours),
            money(cost.money),
        )
    if len(costs) > 1:
        table.add_section()
        flops = (sum(cost.flops_6nd for cost in costs), sum(cost.flops for cost in costs))
        time, price = hours(sum(cost.gpu_hours for cost in costs)), money(sum(cost.money for cost in costs))
        tokens = short(sum(cost.tokens for cost in costs))
        table.add_row(f"{len(costs)} runs", "", "", tokens, *map(_power, flops), "", time, "", price)
    return table


def room_table(costs: Sequence[Cost]) -> Table:
    """A table of memory (an estimate), checkpoints and corpus with a row for each run. Runs share the corpus."""
    table = _table("run", "strategy", "memory\nof each", "of", "full", "weights", "checkpoints", "corpus")
    for cost in costs:
        disk = cost.checkpoints
        table.add_row(
            cost.name,
            cost.strategy,
            in_bytes(cost.memory.total),
            in_bytes(cost.accelerator.memory) + ("" if cost.fits else ": too much"),
            str(disk.full),
            str(disk.weights_only),
            in_bytes(disk.bytes),
            in_bytes(cost.corpus_bytes),
        )
    if len(costs) > 1:
        table.add_section()
        most, disk = max(cost.memory.total for cost in costs), sum(cost.checkpoints.bytes for cost in costs)
        corpus = in_bytes(max(cost.corpus_bytes for cost in costs))
        table.add_row(f"{len(costs)} runs", "", f"max {in_bytes(most)}", "", "", "", in_bytes(disk), f"max {corpus}")
    return table


def assumptions(costs: Sequence[Cost]) -> str:
    """A line about the utilization and price of each accelerator."""
    kinds = {cost.accelerator for cost in costs}
    each = [
        f"{used.name} at {100 * used.utilization:.3g}% of its peak, {_price(used)}" for used in sorted(kinds, key=str)
    ]
    return f"assumed: {'; '.join(each)}; small models reach less: `olmo-inject cost --calibrate` measures it"


def run_table(cost: Cost, measured: bool = False) -> Table:
    """A table about one run, with a row for each number.

    Args:
        cost: of the run.
        measured: whether its utilization was measured or is assumed.
    """
    used, memory, disk = cost.accelerator, cost.memory, cost.checkpoints
    table = Table(box=SIMPLE, show_header=False, padding=(0, 1))
    rows = {
        "parameters": f"{cost.parameters.without_embedding:,} {COUNTED}; {cost.parameters.total:,} with it",
        "tokens": f"{cost.tokens:,} in {cost.steps:,} steps",
        "FLOPs": f"{cost.flops:.4g} with attention; {cost.flops_6nd:.4g} as 6ND",
        "accelerators": f"{cost.gpus} {used.name}, {used.peak_flops:.4g} FLOP/s each",
        "utilization": f"{100 * used.utilization:.3g}% of that, "
        + ("measured" if measured else "assumed; small models reach less: --calibrate measures it"),
        "time": f"{hours(cost.gpu_hours)} of one, {hours(cost.hours)} wall clock, {cost.step_seconds:.3g} s per step",
        "money": f"{money(cost.money)} at {_price(used)} (assumed)",
        f"memory, {cost.strategy}": f"{in_bytes(memory.total)} of {in_bytes(used.memory)} on each"
        + ("" if cost.fits else ": TOO MUCH"),
        "  weights": in_bytes(memory.weights),
        "  gradients": in_bytes(memory.gradients),
        "  optimizer": in_bytes(memory.optimizer),
        "  working copies": f"{in_bytes(memory.working)} (estimate)",
        "  activations": f"{in_bytes(memory.activations)} (estimate)",
        "checkpoints": f"{in_bytes(disk.bytes)} at most: {disk.full} full, {disk.weights_only} of weights only",
        "corpus": f"{in_bytes(cost.corpus_bytes)} on disk",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE, padding=0, caption_justify="left")  # no padding, so that numbers fit 80 columns
    for name in columns:
        left = name in ("run", "strategy")
        table.add_column(name, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    return table


def _power(value: float) -> str:
    return f"{value:.2e}".replace("e+", "e")


def _price(used: Accelerator) -> str:
    return f"${used.price:.2f} an hour"


def in_bytes(value: float) -> str:
    """Bytes with three digits: 20.5 GB."""
    text = short(value)
    return f"{text} B" if text[-1].isdigit() else f"{text[:-1]} {text[-1]}B"


def short(value: float) -> str:
    """A count with three digits: 371M, 4.16G."""
    units = ("", "K", "M", "G", "T", "P")
    power = next((i for i in range(len(units)) if value / 1000**i < 999.5), len(units) - 1)
    return f"{value / 1000**power:.3g}{units[power]}"


def hours(value: float) -> str:
    """Hours in a readable unit: 4.2 s, 12 min, 3.2 h, 1,204 h."""
    if value < 1 / 60:
        return f"{value * 3600:.2g} s"
    if value < 1:
        return f"{value * 60:.2g} min"
    return f"{value:.1f} h" if value < 100 else f"{value:,.0f} h"


def money(value: float) -> str:
    """US dollars."""
    return f"${value:,.2f}" if value < 100 else f"${value:,.0f}"
