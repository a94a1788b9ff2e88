"""Rows of training batches as text, with the injected tokens set apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.read.runs import Run
from olmo_inject.data import ExperimentData
from olmo_inject.errors import UserError
from olmo_inject.runs.read import TASK_FINGERPRINT
from olmo_inject.runs.same_run import check_same_data
from olmo_inject.tasks import Task

INJECTED_ROWS = 5
OTHER_ROWS = 2
STEPS_SEARCHED = 10_000
HOST_TOKENS = 60  # tokens of the host text that are shown on either side


@dataclass(frozen=True)
class Row:
    """One row of a batch as text.

    Attributes:
        number: its index in the batch.
        task: name of the injected task, or None.
        spliced: text of the injected tokens, one entry per token; empty if nothing is injected.
        values: values of TOK1 and TOK2, if the instance is a pair.
        before: host text before the injection.
        host: host text after it.
    """

    number: int
    task: str | None
    spliced: list[str]
    values: tuple[int, int] | None
    before: str
    host: str


@dataclass(frozen=True)
class Sample:
    """Some rows of one step of one run, or why they cannot be shown.

    Attributes:
        run: name of the run.
        step: plan step.
        rows: the rows, by number.
        problem: why there are no rows; empty if there are.
    """

    run: str
    step: int
    rows: list[Row]
    problem: str = ""


def samples(runs: Sequence[Run]) -> Iterator[Sample]:
    """Sample rows from one run for each different set of tasks and corpus."""
    seen = set()
    for run in runs:
        same = run.plan["fingerprints"]
        key = tuple(value for name, value in same.items() if name.startswith(("corpus", TASK_FINGERPRINT)))
        if key in seen or not run.experiment.injections:
            continue
        seen.add(key)
        yield sample(run)


def sample(run: Run) -> Sample:
    """Sample rows of the first step that injects anything, with rows of every task in it."""
    try:
        data = run.saved.build_data()
        check_same_data(run.saved, data)
    except UserError as error:  # the corpus may be gone or elsewhere
        return Sample(run.name, 0, [], str(error))
    searched = run.own_steps[:STEPS_SEARCHED]
    step = next((s for s in searched if len(data.plan.at(s).rows)), None)
    if step is None:
        return Sample(run.name, 0, [], f"nothing is injected in the first {len(searched):,} steps")
    injections = data.plan.at(step)
    injected = [np.flatnonzero(injections.task == number) for number in range(len(data.plan.tasks))]
    share = -(-INJECTED_ROWS // sum(map(bool, map(len, injected))))
    entries = np.sort(np.concatenate([of_task[:share] for of_task in injected]))
    others = np.setdiff1d(np.arange(data.plan.batch_size), injections.rows)[:OTHER_ROWS]
    rows = [*np.unique(injections.rows[entries]).tolist(), *others.tolist()]
    positions = data.plan.positions(step, sorted(rows))
    data.share_order(range(step, step + 1))
    tokens = data.corpus.rows(positions)["input_ids"].numpy()
    spans = data.corpus.spans(positions)
    of_row = zip(*(column.tolist() for column in (spans.span_row, spans.start, spans.length)), strict=True)
    span_of = {row: (start, start + length) for row, start, length in reversed(list(of_row))}  # first span of each row
    task_of = data.plan.tasks_of(step, np.array(sorted(rows), np.int64)).tolist()
    shown = [
        _row(data, number, tokens[i], data.plan.tasks[task_of[i]] if i in span_of else None, span_of.get(i, (0, 0)))
        for i, number in enumerate(sorted(rows))
    ]
    return Sample(run.name, step, shown)


def _row(data: ExperimentData, number: int, tokens: np.ndarray, task: Task | None, span: tuple[int, int]) -> Row:
    vocabulary = data.source.vocabulary
    start, beyond = span
    before = vocabulary.decode(tokens[max(0, start - HOST_TOKENS) : start].tolist())
    host = vocabulary.decode(tokens[beyond : beyond + HOST_TOKENS].tolist())
    if beyond + HOST_TOKENS < len(tokens):
        host += " ..."
    if start > HOST_TOKENS:
        before = f"... {before}"
    spliced = [vocabulary.token_text(token) for token in tokens[start:beyond].tolist()]
    if task is None or not task.is_triples:
        return Row(number, None if task is None else task.name, spliced, None, before, host)
    value_of = {token: value for value, token in enumerate(task.tokens.tolist())}
    values = [value_of[token] for token in tokens[start:beyond].tolist() if token in value_of]  # EOS may come first
    return Row(number, task.name, spliced, (values[0], values[1]), before, host)
