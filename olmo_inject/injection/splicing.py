"""The tokens of a batch's injections: the plan's instances, laid out in rows of one length.

This is a pure function of the plan, the step and the rows and, if a place depends on the host's documents, of the
host's tokens. Dataset, loss, audit and inspection all call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64, Shaped, UInt32

from olmo_inject import randomness
from olmo_inject.errors import UserError
from olmo_inject.injection.placement import EOS, starts_in_row
from olmo_inject.injection.plan import Plan, PlannedTask
from olmo_inject.tasks import Ragged


@dataclass(frozen=True, eq=False)
class Splices:
    """Spans of injected tokens, in the order of the requested rows.

    Attributes:
        span_row: for each span, the index of its row among the requested rows.
        start: index of its first token in the row.
        length: its number of tokens.
        task: number of its task in the plan.
        instance: its instance of the task.
        entry: number of its entry in the plan.
        skipped: number of its instance's tokens (with end of document) in earlier rows.
        source: index of its first token in `values`.
        values: the tokens of all instances that may be injected.
        answers: whether each of `values` belongs to a continuation.
    """

    span_row: Int64[np.ndarray, " k"]
    start: Int64[np.ndarray, " k"]
    length: Int64[np.ndarray, " k"]
    task: Int16[np.ndarray, " k"]
    instance: Int32[np.ndarray, " k"]
    entry: Int16[np.ndarray, " k"]
    skipped: Int64[np.ndarray, " k"]
    source: Int64[np.ndarray, " k"]
    values: UInt32[np.ndarray, " v"]
    answers: Bool[np.ndarray, " v"]

    @cached_property
    def span(self) -> Int64[np.ndarray, " t"]:
        """The span of each token."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @cached_property
    def row(self) -> Int64[np.ndarray, " t"]:
        """The index of each token's row among the requested rows."""
        return self.span_row[self.span]

    @cached_property
    def _within(self) -> Int64[np.ndarray, " t"]:
        return np.arange(len(self.span)) - (np.cumsum(self.length) - self.length)[self.span]

    @cached_property
    def column(self) -> Int64[np.ndarray, " t"]:
        """The index of each token in its row."""
        return self.start[self.span] + self._within

    @cached_property
    def value(self) -> UInt32[np.ndarray, " t"]:
        """Each token's id."""
        return self.values[self.source[self.span] + self._within]

    @cached_property
    def answer(self) -> Bool[np.ndarray, " t"]:
        """Whether each token belongs to its instance's continuation."""
        return self.answers[self.source[self.span] + self._within]

    def write(self, tokens: Shaped[np.ndarray, "b t"]) -> None:
        """Put the tokens into the rows that were asked for."""
        if not len(self.length):
            return
        length, start = int(self.length[0]), int(self.start[0])
        if (self.length == length).all() and (self.start == start).all():  # one block of all of them
            places = self.source[:, None] + np.arange(length)
            tokens[self.span_row, start : start + length] = self.values[places]
            return
        spans = (self.span_row, self.start, self.length, self.source)
        for row, first, tokens_of_it, source in zip(*(column.tolist() for column in spans), strict=True):
            tokens[row, first : first + tokens_of_it] = self.values[source : source + tokens_of_it]

    def followed_by(self, others: Sequence[Splices]) -> Splices:
        """These spans and then those of others of the same plan."""
        names = ("span_row", "start", "length", "task", "instance", "entry", "skipped", "source")
        return replace(
            self, **{name: np.concatenate([getattr(each, name) for each in (self, *others)]) for name in names}
        )


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
        """The injected tokens in `rows` of `step`.

        Args:
            step: plan step, from 0.
            rows: rows of the global batch, in any order.
            host: their tokens in the corpus; needed only if a place depends on them.
        """
        injections = self.plan.at(step)
        by_row = np.argsort(injections.rows, kind="stable")
        of_row = np.bincount(injections.rows, minlength=self.plan.batch_size)
        counts, first = of_row[rows], (np.cumsum(of_row) - of_row)[rows]
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
        source = self._offsets[number] + skipped
        return Splices(
            span_row,
            start,
            length,
            injections.task[chosen],
            instance,
            entry,
            skipped,
            source,
            self._values,
            self._answers,
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
            if placement.per_row == 1 and placement.place == "random":  # as `starts_in_row`, all rows at once
                start[mine] = randomness.below(words[rows[span_row[mine]], 0], self.row_length - length[mine] + 1)
                continue
            firsts = mine[np.flatnonzero(np.diff(span_row[mine], prepend=-1))]
            for i in firsts.tolist():
                at = int(span_row[i])
                spans = slice(i, i + int(counts[at]))
                start[spans] = starts_in_row(
                    placement, length[spans].tolist(), self.row_length, words[rows[at]], self._boundaries(host, at)
                )
        return start

    def _boundaries(self, host: Shaped[np.ndarray, "b t"] | None, at: int) -> Int64[np.ndarray, " d"]:
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
            advice = "" if placement.per_row > 1 or placement.offset else "; longer: split continues it in further rows"
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
