"""Show the decoded rows of one training step, as text or as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.text import Text

from olmo_inject.corpus.open import OpenCorpus
from olmo_inject.corpus.splice import Splice
from olmo_inject.data import TaskPlan
from olmo_inject.errors import UserError
from olmo_inject.injection import Plan
from olmo_inject.utils.terminal import Console
from olmo_inject.utils.words import counted
from olmo_inject.visible_text import visible
from olmo_inject.vocabulary import Vocabulary

ROWS_SHOWN = 8
INDENT = "  "  # before each line of a row's text


def parse_rows(text: str, batch_size: int) -> list[int]:
    """Parse rows such as `0-3,17`, or `all`.

    Raises:
        UserError: another form, or rows that a batch does not have.
    """
    if text == "all":
        return list(range(batch_size))
    rows: list[int] = []
    try:
        for span in text.split(","):
            first, dash, last = span.partition("-")
            within = range(int(first), int(last if dash else first) + 1)
            if not within:
                raise UserError(f"--rows: {text}: {span} holds no row")
            if within[-1] >= batch_size:
                raise UserError(f"--rows: {text}: a batch has rows 0 to {batch_size - 1}")
            rows += within
    except ValueError:
        raise UserError(f"--rows: {text!r} is neither `all` nor numbers and spans such as 0-3,17") from None
    return list(dict.fromkeys(rows))


def show_step(
    corpus: OpenCorpus, step: int, rows: Sequence[int] | None, planned: TaskPlan | None = None
) -> dict[str, Any]:
    """The rows of a step as plain values. Only their sequences are read.

    Args:
        corpus: what to read, after `prepare` was called for the step.
        step: plan step.
        rows: rows of the batch; None: the first few that the corpus holds, injected ones if there are any.
        planned: an experiment's plan; None shows the corpus without injections.

    Raises:
        UserError: the corpus cannot be read, or is a staged corpus without these rows.
    """
    size, order = corpus.order.batch_size, corpus.order
    order.require(range(0), np.array(rows or [], np.int64), "--rows")
    plan = Plan([], size, 0) if planned is None else planned.plan
    vocabulary = corpus.source.vocabulary
    injections = plan.at(step)
    if rows is None:
        there = np.intersect1d(injections.rows, order.rows)
        rows = [int(row) for row in (there if len(there) else order.rows)[:ROWS_SHOWN]]
    positions = plan.positions(step, rows)
    sequences = order[positions]
    tokens = corpus.shards.read(sequences)
    spans = Splice(plan, vocabulary.eos_id).into(tokens, positions)
    columns = (spans.span_row, spans.task, spans.instance, spans.start, spans.length)
    injected: dict[int, list[dict[str, Any]]] = {}
    for at, task, instance, begin, length in zip(*(column.tolist() for column in columns), strict=True):
        span = {"task": plan.tasks[task].name, "instance": instance, "start": begin, "tokens": length}
        injected.setdefault(rows[at], []).append(span)
    shown = []
    for row, position, sequence, ids in zip(rows, positions.tolist(), sequences.tolist(), tokens.tolist(), strict=True):
        path, start = corpus.shards.locate(sequence)
        shown.append(
            {
                "row": row,
                "position": position,
                "shard": str(path),
                "first_token": start,
                "injected": injected.get(row, []),
                "tokens": ids,
                "text": vocabulary.decode(ids),
            }
        )
    return {
        "corpus": corpus.name,
        "step": step,
        "epoch": step // order.epoch_steps + 1,
        "batch_size": size,
        "sequence_length": corpus.shards.sequence_length,
        "injected_rows": len(np.unique(injections.rows)) if planned is not None else None,
        "rows": shown,
    }


def print_shown(shown: dict[str, Any], corpus: OpenCorpus, tokens: int, console: Console) -> None:
    """Print what `show_step` returned. Spliced tokens are named and coloured.

    Args:
        shown: returned by `show_step`.
        corpus: the corpus that was given to `show_step`.
        tokens: number of tokens to print of each row.
        console: where to print.
    """
    vocabulary = corpus.source.vocabulary
    head = f"{shown['corpus']}, step {shown['step']}: {shown['batch_size']} rows of {shown['sequence_length']} tokens"
    if shown["injected_rows"] is not None:
        head += f", {shown['injected_rows']} injected"
    if shown["epoch"] > 1:
        head += f" (epoch {shown['epoch']}: the corpus has {counted(corpus.order.epoch_steps, 'step')})"
    console.print(head, markup=False, highlight=False)
    for row in shown["rows"]:
        where = f"\nrow {row['row']}, position {row['position']}: {row['shard']} from token {row['first_token']}"
        console.print(where, style="dim", markup=False, highlight=False, soft_wrap=True)
        text = _row_text(row, tokens, vocabulary)
        if len(row["tokens"]) > tokens:
            text.append(f" ... {len(row['tokens']) - tokens} more tokens", style="dim")
        console.print(text, soft_wrap=True)
    if (more := (shown["injected_rows"] or 0) - sum(bool(row["injected"]) for row in shown["rows"])) > 0:
        console.print(f"\n{counted(more, 'more injected row')}: see --rows", style="dim", highlight=False)


def _row_text(row: dict[str, Any], tokens: int, vocabulary: Vocabulary) -> Text:
    """The first tokens of a row, with spliced tokens named and coloured."""
    text, at = Text(INDENT), 0
    for span in sorted(row["injected"], key=lambda span: span["start"]):
        if span["start"] >= tokens:
            break
        text.append(_decoded(vocabulary, row["tokens"][at : span["start"]]))
        at = span["start"] + span["tokens"]
        spliced = " ".join(vocabulary.token_text(token) for token in row["tokens"][span["start"] : at][:tokens])
        text.append(visible(f"[{span['task']} {span['instance']}: {spliced}]"), style="bold red")
    text.append(_decoded(vocabulary, row["tokens"][at : max(at, tokens)]))
    return text


def _decoded(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    return visible(vocabulary.decode(ids)).replace("\n", f"\n{INDENT}")
