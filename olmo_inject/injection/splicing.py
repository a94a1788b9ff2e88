"""Which tokens stand where in the rows of a batch: the plan's injections, laid out in rows of one length.

A pure function of the plan, the step and the rows and, for places at the host's documents, of the host's tokens.
Dataset, loss, audit and inspection all ask it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64, Shaped, UInt32

from olmo_inject import randomness
from olmo_inject.errors import UserError
from olmo_inject.injection.placement import EOS, starts_in_row
from olmo_inject.injection.plan import Plan, PlannedTask
from olmo_inject.tasks import Ragged


class Splices(NamedTuple):
    """Spans of injected tokens, in the order of the rows that were asked for, and their tokens one after another.

    Attributes:
        span_row: of each span, its row's place among those asked for.
        start: its first token in the row.
        length: its tokens.
        task: the plan's number of its task.
        instance: of the task.
        entry: the plan's number of its entry.
        skipped: of its tokens, end of document included, how many earlier rows hold.
        row: of each token, its row's place among those asked for.
        column: its place in the row.
        value: its id.
        answer: whether it is of the instance's continuation.
        span: which span it is of.
    """

    span_row: Int64[np.ndarray, " k"]
    start: Int64[np.ndarray, " k"]
    length: Int64[np.ndarray, " k"]
    task: Int16[np.ndarray, " k"]
    instance: Int32[np.ndarray, " k"]
    entry: Int16[np.ndarray, " k"]
    skipped: Int64[np.ndarray, " k"]
    row: Int64[np.ndarray, " t"]
    column: Int64[np.ndarray, " t"]
    value: UInt32[np.ndarray, " t"]
    answer: Bool[np.ndarray, " t"]
    span: Int64[np.ndarray, " t"]


class Splicer:
    """Lays a plan's injections out in rows.

    Args:
        plan: what is injected.
        row_length: tokens in a row.
        eos_id: the end-of-document token.

    Raises:
        UserError: instances that do not fit a row.
    """

    def __init__(self, plan: Plan, row_length: int, eos_id: int) -> None:
        check_fits(plan, row_length)
        self.plan, self.row_length, self.eos_id = plan, row_length, eos_id
        forms = [_with_eos(entry, eos_id) for entry in plan.entries]
        sizes = [len(entry.task.instances) for entry in plan.entries]
        self._first = np.cumsum([0, *sizes], dtype=np.int64)  # of each entry's instances among those of all entries
        lengths = np.concatenate([np.empty(0, np.int64), *(np.diff(offsets) for _, offsets, _ in forms)])
        self._offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._lengths = lengths
        self._values = np.concatenate([np.empty(0, np.uint32), *(values for values, _, _ in forms)])
        self._answers = np.concatenate([np.empty(0, bool), *(answers for _, _, answers in forms)])
        self._keys = [randomness.key("place", plan.seed, entry.task.name, n) for n, entry in enumerate(plan.entries)]

    def at(self, step: int, rows: Int64[np.ndarray, " b"], host: Shaped[np.ndarray, "b t"] | None = None) -> Splices:
        """What stands in `rows` of `step`.

        Args:
            step: from 0.
            rows: of the global batch, in any order.
            host: their tokens as they are in the corpus, needed only if a place depends on them.
        """
        injections = self.plan.at(step)
        by_row = np.argsort(injections.rows, kind="stable")
        sorted_rows = injections.rows[by_row]
        first, beyond = np.searchsorted(sorted_rows, rows), np.searchsorted(sorted_rows, rows, side="right")
        counts = beyond - first
        span_row = np.repeat(np.arange(len(rows)), counts)
        ends = np.cumsum(counts)
        chosen = by_row[np.arange(len(span_row)) + np.repeat(first - (ends - counts), counts)]
        entry, instance, piece = (
            column[chosen] for column in (injections.entry, injections.instance, injections.piece)
        )
        number = self._first[entry] + instance
        skipped = piece.astype(np.int64) * self.row_length
        length = np.minimum(self._lengths[number] - skipped, self.row_length)
        start = self._starts(step, rows, span_row, entry, length, counts, host)
        row = np.repeat(span_row, length)
        within = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
        source = np.repeat(self._offsets[number] + skipped, length) + within
        return Splices(
            span_row,
            start,
            length,
            injections.task[chosen],
            instance,
            entry,
            skipped,
            row,
            np.repeat(start, length) + within,
            self._values[source],
            self._answers[source],
            np.repeat(np.arange(len(start)), length),
        )

    def _starts(
        self,
        step: int,
        rows: Int64[np.ndarray, " b"],
        span_row: Int64[np.ndarray, " k"],
        entry: Int16[np.ndarray, " k"],
        length: Int64[np.ndarray, " k"],
        counts: Int64[np.ndarray, " b"],
        host: Shaped[np.ndarray, "b t"] | None,
    ) -> Int64[np.ndarray, " k"]:
        """The first token of each span. All spans of a row are of one entry."""
        start = np.zeros(len(span_row), np.int64)
        for n in np.unique(entry).tolist():
            placement = self.plan.entries[n].placement
            mine = np.flatnonzero(entry == n)
            if placement.per_row == 1 and not placement.words:  # alone in its row, at a place that is not drawn
                first = {"offset": placement.offset, "end": self.row_length - length[mine]}
                start[mine] = first.get(placement.place, 0)
                continue
            words = randomness.bits(self._keys[n], self.plan.batch_size * placement.per_row, step)
            words = words.reshape(self.plan.batch_size, placement.per_row)
            firsts = mine[np.flatnonzero(np.diff(span_row[mine], prepend=-1))]
            for i in firsts.tolist():
                at = int(span_row[i])
                spans = slice(i, i + int(counts[at]))
                start[spans] = starts_in_row(
                    placement, length[spans].tolist(), self.row_length, words[rows[at]], self._boundaries(host, at)
                )
        return start

    def _boundaries(self, host: Shaped[np.ndarray, "b t"] | None, at: int) -> Int64[np.ndarray, " b"]:
        """Where documents begin inside a host's row."""
        return np.empty(0, np.int64) if host is None else np.flatnonzero(host[at] == self.eos_id) + 1


def check_fits(plan: Plan, row_length: int) -> None:
    """Check that a row holds what an entry puts into it.

    Raises:
        UserError: an entry, and how much room it needs.
    """
    for entry in plan.entries:
        placement = entry.placement
        longest = int(entry.task.instances.lengths[entry.ids].max()) + placement.beside
        if placement.split and plan.row_length == row_length:
            continue
        needed = placement.offset + placement.per_row * longest
        if needed > row_length:
            what = "an instance" if placement.per_row == 1 else f"{placement.per_row} instances"
            what += " and EOS" if placement.beside else ""
            what += f" after {placement.offset} tokens" if placement.offset else ""
            advice = "" if placement.per_row > 1 or placement.offset else "; longer: split goes on in further rows"
            raise UserError(
                f"injections: {entry.task.name}: sequences of {row_length} tokens; {what} need {needed}{advice}"
            )


def _with_eos(
    entry: PlannedTask, eos_id: int
) -> tuple[UInt32[np.ndarray, " t"], Int64[np.ndarray, " n1"], Bool[np.ndarray, " t"]]:
    """The instances of an entry with their end of document: values, offsets, and which are of the continuation."""
    instances: Ragged = entry.task.instances
    before, after = EOS[entry.placement.eos]
    n, lengths = len(instances), instances.lengths
    offsets = instances.offsets + np.arange(n + 1) * (before + after)
    values = np.full(int(offsets[-1]), eos_id, np.uint32)
    inner = np.arange(len(instances.values)) + np.repeat(np.arange(n) * (before + after) + before, lengths)
    values[inner] = instances.values
    answers = np.zeros(len(values), bool)
    within = np.arange(len(instances.values)) - np.repeat(instances.offsets[:-1], lengths)
    answers[inner] = within >= np.repeat(lengths - entry.task.continuation, lengths)
    return values, offsets, answers
