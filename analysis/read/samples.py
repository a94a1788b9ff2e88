"""Rows of the training batches as text, with what was spliced into them set apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.read.runs import Run
from olmo_inject.data import ExperimentData
from olmo_inject.errors import UserError
from olmo_inject.runs.folder import check_same_data
from olmo_inject.tasks import INSTANCE_TOKENS, SPLICED_TOKENS, Task

INJECTED_ROWS = 5
OTHER_ROWS = 2
STEPS_SEARCHED = 10_000
HOST_TOKENS = 60  # shown of a row


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        number: in its batch.
        task: what is injected, or None.
        spliced: the text of TOK1, TOK2, LABEL and end of document; empty where nothing is injected.
        values: the values that TOK1 and TOK2 stand for.
        host: the text that follows.
    """

    number: int
    task: str | None
    spliced: list[str]
    values: tuple[int, int] | None
    host: str


@dataclass(frozen=True)
class Sample:
    """Some rows of one step of one run, or why they cannot be shown."""

    run: str
    step: int
    rows: list[Row]
    problem: str = ""


def samples(runs: Sequence[Run]) -> Iterator[Sample]:
    """Rows of one run for each different set of tasks and corpus: of the first step that injects."""
    seen = set()
    for run in runs:
        same = run.plan["fingerprints"]
        key = tuple(value for name, value in same.items() if name.startswith(("corpus", "task ")))
        if key in seen or not run.experiment.injections:
            continue
        seen.add(key)
        yield sample(run)


def sample(run: Run) -> Sample:
    """Rows of the first step of `run` that injects anything, of every task some."""
    try:
        data = run.saved.build_data()
        check_same_data(run.saved, data)
    except UserError as error:  # a run folder may outlive or travel without its corpus
        return Sample(run.name, 0, [], str(error))
    step = next((s for s in range(min(run.experiment.steps, STEPS_SEARCHED)) if len(data.plan.at(s).rows)), None)
    if step is None:
        return Sample(run.name, 0, [], f"nothing is injected in the first {STEPS_SEARCHED:,} steps")
    injections = data.plan.at(step)
    injected = [np.flatnonzero(injections.task == number) for number in range(len(data.plan.tasks))]
    share = -(-INJECTED_ROWS // sum(map(bool, map(len, injected))))
    entries = np.sort(np.concatenate([of_task[:share] for of_task in injected]))
    others = np.setdiff1d(np.arange(data.plan.batch_size), injections.rows)[:OTHER_ROWS]
    rows = [*injections.rows[entries].tolist(), *others.tolist()]
    positions = step * data.plan.batch_size + np.array(sorted(rows), np.int64)
    tokens = data.corpus.rows(positions)["input_ids"].numpy()
    entry_of = data.plan.entries_of(step, np.array(sorted(rows), np.int64))
    task_of = [data.plan.tasks[injections.task[entry]] if entry >= 0 else None for entry in entry_of]
    shown = [_row(data, *args) for args in zip(sorted(rows), tokens, task_of, strict=True)]
    return Sample(run.name, step, shown)


def _row(data: ExperimentData, number: int, tokens: np.ndarray, task: Task | None) -> Row:
    vocabulary = data.source.vocabulary
    first = 0 if task is None else SPLICED_TOKENS
    host = vocabulary.decode(tokens[first : first + HOST_TOKENS].tolist())
    if first + HOST_TOKENS < len(tokens):
        host += " ..."
    if task is None:
        return Row(number, None, [], None, host)
    spliced = [vocabulary.token_text(token) for token in tokens[:SPLICED_TOKENS].tolist()]
    value_of = {token: value for value, token in enumerate(task.tokens.tolist())}
    values = [value_of[token] for token in tokens[: INSTANCE_TOKENS - 1].tolist()]
    return Row(number, task.name, spliced, (values[0], values[1]), host)
