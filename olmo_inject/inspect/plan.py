"""A plan for people and for programs: tables, JSON and Parquet."""

from __future__ import annotations

from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from olmo_inject.config import Described
from olmo_inject.data import TaskPlan
from olmo_inject.files import replacing
from olmo_inject.inspect.summary import plan_summary
from olmo_inject.progress import show_progress
from olmo_inject.tasks import SPLICED_TOKENS
from olmo_inject.terminal import Console

ROWS_SHOWN = 8
STEPS_PER_GROUP = 1000  # of the Parquet file, so that memory stays small at any length

_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("row", pa.int32()),
        ("position", pa.int64()),
        ("task", pa.dictionary(pa.int16(), pa.string())),
        ("instance", pa.int32()),
        ("tok1", pa.uint32()),
        ("tok2", pa.uint32()),
        ("label", pa.uint32()),
    ]
)


def step_record(what: TaskPlan, step: int) -> dict[str, Any]:
    """What `step` injects, row by row: task, instance, tokens and their text."""
    injections = what.plan.at(step)
    names = [task.name for task in what.plan.tasks]
    text = what.source.vocabulary.token_text
    entries = zip(*(column.tolist() for column in (*injections, what.plan.tokens(injections))), strict=True)
    return {
        "step": step,
        "injections": [
            {
                "row": row,
                "position": step * what.plan.batch_size + row,
                "task": names[task],
                "instance": instance,
                "tokens": tokens,
                "text": [text(token) for token in tokens],
            }
            for row, task, instance, tokens in entries
        ],
    }


def print_step(what: TaskPlan, step: int, console: Console, most: int | None = None) -> None:
    """Print what `step` injects, at most `most` rows of it."""
    entries = step_record(what, step)["injections"]
    table = Table(title=f"Step {step}: {len(entries)} of {what.plan.batch_size} rows injected", title_justify="left")
    for column in ("row", "task", "instance", "TOK1", "TOK2", "LABEL"):
        table.add_column(column, justify="right" if column in ("row", "instance") else "left")
    shown = entries if most is None else _some_of_each_task(entries, most)
    for entry in shown:
        table.add_row(str(entry["row"]), entry["task"], str(entry["instance"]), *entry["text"])
    if len(entries) > len(shown):
        table.add_row("...", f"{len(entries) - len(shown)} more", *[""] * 4)
    console.print(table, markup=False)


def _some_of_each_task(entries: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` entries, of each task the first few."""
    by_task = [list(group) for _, group in groupby(entries, key=lambda entry: entry["task"])]
    in_turns = [entry for turn in zip_longest(*by_task) for entry in turn if entry is not None]
    return sorted(in_turns[:most], key=entries.index)


def print_plan(experiment: Described, what: TaskPlan, console: Console) -> None:
    """Print totals, units, gaps and the first step that injects anything."""
    summary = plan_summary(experiment, what)
    console.print(
        f"{experiment.name}: {summary['steps']:,} steps of {summary['batch_size']:,} x "
        f"{summary['sequence_length']:,} tokens, {summary['tokens']:,} tokens in all",
        highlight=False,
    )
    if not what.plan.entries:
        console.print("Nothing is injected.")
        return
    rates = Table(title="Frequency", title_justify="left")
    gaps = Table(title="Observations", title_justify="left")
    for column in ("task", "schedule", "per batch", "per sequence", "per token", "instances in the run"):
        rates.add_column(column, justify="left" if column in ("task", "schedule") else "right")
    for column in (
        "task",
        "draw",
        "steps between",
        "steps between sightings of one instance",
        "train",
        "test",
    ):
        gaps.add_column(column, justify="left" if column in ("task", "draw") else "right")
    for name, task in summary["injections"].items():
        window = "" if task["start"] == 0 and task["stop"] is None else f" [{task['start']}, {task['stop'] or 'end'})"
        about = "" if task["instances_are"] == "exact" else "about "
        rates.add_row(
            name,
            task["schedule"] + window,
            task["instances_per_batch"],
            f"{task['per_sequence']:.4g}",
            f"{task['per_token']:.4g}",
            f"{about}{task['instances']:,.0f}",
        )
        between = task["steps_between_observations"]
        sighting = task["mean_steps_between_sightings_of_one_instance"]
        gaps.add_row(
            name,
            task["draw"],
            "-" if between is None else f"{between['least']} to {between['most']}, mean {between['mean']:.4g}",
            "-" if sighting is None else f"mean {sighting:,.4g}",
            f"{task['train_instances']:,}",
            f"{task['test_instances']:,}",
        )
    console.print(rates, gaps, markup=False)
    console.print(
        f"Injected tokens: {summary['injected_share_of_tokens']:.4g} of all "
        f"({SPLICED_TOKENS} an instance, with its end-of-document token).",
        highlight=False,
    )
    if what.plan.overflow_chance:
        console.print(
            f"A step gets more instances than rows with chance {what.plan.overflow_chance:.2g}; then the drawn tasks "
            "declared last get fewer.",
            highlight=False,
        )
    if not experiment.loading.document_lengths:
        console.print(
            "Without document masking the text after an instance attends to it; the instance, being first, "
            "attends to nothing else."
        )
    # Up to here nothing was enumerated; the first injecting step is near, or the schedule starts late.
    first = min(injection.start for injection in experiment.injections)
    for step in range(first, min(first + 10_000, experiment.steps)):
        if len(what.plan.at(step).rows):
            print_step(what, step, console, ROWS_SHOWN)
            break


def write_parquet(experiment: Described, what: TaskPlan, path: Path, *, progress: bool = True) -> None:
    """Write every injection of the run, one a row, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    names = pa.array([task.name for task in what.plan.tasks], pa.string())
    groups = range(0, experiment.steps, STEPS_PER_GROUP)
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, _SCHEMA) as writer,
        show_progress(path.name, experiment.steps, "steps", enabled=progress) as meter,
    ):
        for start in groups:
            steps = range(start, min(start + STEPS_PER_GROUP, experiment.steps))
            columns = [_columns(what, step) for step in steps]
            step, row, task, instance, tokens = (np.concatenate(parts) for parts in zip(*columns, strict=True))
            arrays = [
                step.astype(np.int32),
                row,
                step * what.plan.batch_size + row,
                pa.DictionaryArray.from_arrays(pa.array(task, pa.int16()), names),
                instance,
                *tokens.T,
            ]
            writer.write_table(pa.table([pa.array(a) for a in arrays], schema=_SCHEMA))
            meter.advance(len(steps))


def _columns(what: TaskPlan, step: int) -> tuple[np.ndarray, ...]:
    injections = what.plan.at(step)
    return np.full(len(injections.rows), step), *injections, what.plan.tokens(injections)
