"""Show a plan as tables, JSON and Parquet."""

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
from olmo_inject.inspect.summary import plan_summary
from olmo_inject.tasks import INSTANCE_TOKENS
from olmo_inject.utils.files import replacing
from olmo_inject.utils.progress import show_progress
from olmo_inject.utils.terminal import Console
from olmo_inject.visible_text import visible

ROWS_SHOWN = 8
STEPS_PER_GROUP = 1000  # steps per row group of the Parquet file, which bounds memory

TEXT_SHOWN = 60  # characters of an instance that are printed

_COLUMNS = [
    ("step", pa.int32()),
    ("row", pa.int32()),
    ("position", pa.int64()),
    ("task", pa.dictionary(pa.int16(), pa.string())),
    ("instance", pa.int32()),
]
_TRIPLE = [("tok1", pa.uint32()), ("tok2", pa.uint32()), ("label", pa.uint32())]
_TOKENS = [("piece", pa.int16()), ("tokens", pa.list_(pa.uint32()))]


def step_record(planned: TaskPlan, step: int) -> dict[str, Any]:
    """The injected rows of a step as plain values: task, instance, its tokens and their text.

    An instance longer than a row has an entry for each of its rows, all with its whole tokens; `piece` counts them.
    """
    injections = planned.plan.at(step)
    names = [task.name for task in planned.plan.tasks]
    text = planned.source.vocabulary.token_text
    columns = (injections.rows, injections.task, injections.instance, injections.piece, planned.plan.tokens(injections))
    entries = zip(*(column.tolist() for column in columns), strict=True)
    return {
        "step": step,
        "injections": [
            {
                "row": row,
                "position": step * planned.plan.batch_size + row,
                "task": names[task],
                "instance": instance,
                "piece": piece,
                "tokens": tokens,
                "text": [text(token) for token in tokens],
            }
            for row, task, instance, piece, tokens in entries
        ],
    }


def print_step(planned: TaskPlan, step: int, console: Console, most: int | None = None) -> None:
    """Print the injected rows of a step.

    Args:
        planned: the plan.
        step: plan step.
        console: where to print.
        most: maximum number of rows, some of each task; None: all.
    """
    entries = step_record(planned, step)["injections"]
    rows = len({entry["row"] for entry in entries})
    table = Table(title=f"Step {step}: {rows} of {planned.plan.batch_size} rows injected", title_justify="left")
    triples = all(task.is_triples for task in planned.plan.tasks)
    for column in ("row", "task", "instance", *(("TOK1", "TOK2", "LABEL") if triples else ("text",))):
        table.add_column(column, justify="right" if column in ("row", "instance") else "left")
    shown = entries if most is None else _some_of_each_task(entries, most)
    for entry in shown:
        text = entry["text"]
        if not triples:
            text = [visible(planned.source.vocabulary.decode(entry["tokens"])).replace("\n", " ")[:TEXT_SHOWN]]
        table.add_row(str(entry["row"]), entry["task"], str(entry["instance"]), *text)
    if len(entries) > len(shown):
        table.add_row("...", f"{len(entries) - len(shown)} more")
    console.print(table, markup=False)


def _some_of_each_task(entries: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` entries: the first few of each task."""
    by_task = [list(group) for _, group in groupby(entries, key=lambda entry: entry["task"])]
    in_turns = [entry for turn in zip_longest(*by_task) for entry in turn if entry is not None]
    return sorted(in_turns[:most], key=entries.index)


def print_plan(experiment: Described, planned: TaskPlan, console: Console, first_step: int = 0) -> None:
    """Print totals, frequencies, gaps and the first step with an injection.

    Args:
        experiment: the experiment.
        planned: its plan.
        console: where to print.
        first_step: where the run begins, as in `plan_summary`.
    """
    summary = plan_summary(experiment, planned, first_step)
    begins = f" from step {first_step:,} on" if first_step else ""
    console.print(
        f"{experiment.name}: {summary['steps'] - first_step:,} steps{begins} of {summary['batch_size']:,} x "
        f"{summary['sequence_length']:,} tokens, {summary['tokens']:,} tokens in all",
        highlight=False,
    )
    if not planned.plan.entries:
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
    if further := [name for name in summary["injections"] if "/" in name]:
        console.print(
            f"{further[0]}: entry {further[0].partition('/')[2]} of this task in `injections`.", highlight=False
        )
    console.print(
        f"Injected tokens: {summary['injected_share_of_tokens']:.4g} of all tokens "
        f"({summary['tokens_of_an_instance']} per instance, with what `eos` adds).",
        highlight=False,
    )
    if planned.plan.overflow_chance:
        console.print(
            f"A step has more instances than rows with probability {planned.plan.overflow_chance:.2g}; then the drawn "
            "tasks declared last get fewer.",
            highlight=False,
        )
    places = {entry.placement.place for entry in planned.plan.entries}
    if places == {"start"} and not experiment.loading.document_lengths:
        console.print(
            "Without document masking the text after an instance attends to it; the instance comes first, so it "
            "attends to nothing else."
        )
    first = max(first_step, min(injection.start for injection in experiment.injections))
    for step in range(first, min(first + 10_000, experiment.steps)):
        if len(planned.plan.at(step).rows):
            print_step(planned, step, console, ROWS_SHOWN)
            break


def write_parquet(experiment: Described, planned: TaskPlan, path: Path, first_step: int = 0) -> None:
    """Write every injection of the run to a Parquet file, one per row. The file appears whole or not at all.

    Args:
        experiment: supplies the number of steps.
        planned: the plan.
        path: of the Parquet file.
        first_step: where the run begins, as in `plan_summary`.

    Raises:
        UserError: the file cannot be written.
    """
    names = pa.array([task.name for task in planned.plan.tasks], pa.string())
    triples = all(task.is_triples for task in planned.plan.tasks)
    schema = pa.schema(_COLUMNS + (_TRIPLE if triples else _TOKENS))
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema) as writer,
        show_progress(path.name, experiment.steps - first_step, "steps") as meter,
    ):
        for start in range(first_step, experiment.steps, STEPS_PER_GROUP):
            steps = range(start, min(start + STEPS_PER_GROUP, experiment.steps))
            of_steps = [planned.plan.at(step) for step in steps]
            step = np.repeat(list(steps), [len(each.rows) for each in of_steps]).astype(np.int32)
            row, task, instance, _, piece = (np.concatenate(parts) for parts in zip(*of_steps, strict=True))
            tokens = [planned.plan.tokens(each) for each in of_steps]
            if triples:
                rest = np.concatenate([each.values for each in tokens]).reshape(-1, INSTANCE_TOKENS).T
            else:
                rest = (piece, [sequence for each in tokens for sequence in each])
            arrays = [
                step,
                row,
                step.astype(np.int64) * planned.plan.batch_size + row,
                pa.DictionaryArray.from_arrays(pa.array(task, pa.int16()), names),
                instance,
                *rest,
            ]
            writer.write_table(pa.table([pa.array(a) for a in arrays], schema=schema))
            meter.advance(len(steps))
