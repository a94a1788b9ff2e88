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
from numpy.lib.stride_tricks import as_strided

from olmo_inject import randomness
from olmo_inject.errors import UserError
from olmo_inject.injection.placement import EOS, starts_alone, starts_in_row
from olmo_inject.injection.plan import Plan, PlannedTask
from olmo_inject.tasks import Ragged


@dataclass(frozen=True, eq=False)
class InjectedSpans:
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

    @cached_property
    def is_target(self) -> Bool[np.ndarray, " t"]:
        """Whether each token is a target: a row's first token is none, since nothing comes before it."""
        return self.column > 0

    def answers_of_tasks(self, tasks: int) -> list[int]:
        """For each of the plan's tasks, the number of targets that belong to continuations.

        Args:
            tasks: the number of tasks.
        """
        return np.bincount(self.task[self.span][self.answer & self.is_target], minlength=tasks).tolist()

    def write(self, tokens: Shaped[np.ndarray, "b t"]) -> None:
        """Put the tokens into the rows that were asked for."""
        if len(self.length):
            _write(tokens, self.values, self.span_row, self.start, self.source, self.length)

    def followed_by(self, others: Sequence[InjectedSpans]) -> InjectedSpans:
        """These spans and then those of others of the same plan."""
        if not others:
            return self
        names = ("span_row", "start", "length", "task", "instance", "entry", "skipped", "source")
        return replace(
            self, **{name: np.concatenate([getattr(each, name) for each in (self, *others)]) for name in names}
        )


class InstanceLayout:
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
        self._keys = [
            randomness.key("place", plan.seed, entry.task.name, n)
            for entry, n in zip(plan.entries, plan.number_in_task, strict=True)
        ]
        places = [entry.placement for entry in plan.entries]
        alone = [each.per_row == 1 and not each.is_drawn for each in places]  # in its row, at a place that is not drawn
        self._fixed = np.array([each.offset if each.place == "offset" else 0 for each in places], np.int64)
        self._at_end = [n for n, each in enumerate(places) if alone[n] and each.place == "end"]
        self._others = [n for n in range(len(places)) if not alone[n]]
        self._share_rows = any(each.per_row > 1 for each in places)

    def at(
        self, step: int, rows: Int64[np.ndarray, " b"], host: Shaped[np.ndarray, "b t"] | None = None
    ) -> InjectedSpans:
        """The injected tokens in `rows` of `step`.

        Args:
            step: plan step, from 0.
            rows: rows of the global batch, in any order.
            host: their tokens in the corpus; needed only if a place depends on them.
        """
        injections = self.plan.at(step)
        span_row, chosen = self._in_rows(injections.rows, rows)
        entry, instance, piece = (
            column[chosen] for column in (injections.entry, injections.instance, injections.piece)
        )
        number = self._first[entry] + instance
        skipped = piece.astype(np.int64) * self.row_length
        length = np.minimum(self._lengths[number] - skipped, self.row_length)
        start = self._starts(step, rows, span_row, entry, length, host)
        source = self._offsets[number] + skipped
        return InjectedSpans(
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

    def _in_rows(
        self, injected: Int32[np.ndarray, " i"], rows: Int64[np.ndarray, " b"]
    ) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
        """Which of a step's injections stand in `rows`, in their order, and the place of the row of each among them."""
        numbers = np.arange(len(injected))
        if not self._share_rows:
            of_row = np.full(self.plan.batch_size, -1)
            of_row[injected] = numbers
            number_of = of_row[rows]
            span_row = np.flatnonzero(number_of >= 0)
            return span_row, number_of[span_row]
        by_row = np.argsort(injected, kind="stable")
        of_row = np.bincount(injected, minlength=self.plan.batch_size)
        counts, first = of_row[rows], (np.cumsum(of_row) - of_row)[rows]
        span_row = np.repeat(np.arange(len(rows)), counts)
        ends = np.cumsum(counts)
        return span_row, by_row[np.arange(len(span_row)) + np.repeat(first - (ends - counts), counts)]

    def _starts(
        self,
        step: int,
        rows: Int64[np.ndarray, " b"],
        span_row: Int64[np.ndarray, " k"],
        entry: Int16[np.ndarray, " k"],
        length: Int64[np.ndarray, " k"],
        host: Shaped[np.ndarray, "b t"] | None,
    ) -> Int64[np.ndarray, " k"]:
        """The first token of each span. All spans of a row are of one entry."""
        start = self._fixed[entry]
        for n in self._at_end:
            mine = np.flatnonzero(entry == n)
            start[mine] = self.row_length - length[mine]
        for n in self._others:
            placement = self.plan.entries[n].placement
            mine = np.flatnonzero(entry == n)
            words = randomness.bits(self._keys[n], self.plan.batch_size * placement.per_row, step)
            words = words.reshape(self.plan.batch_size, placement.per_row)
            if placement.per_row == 1:
                at = span_row[mine]
                boundaries = self._boundaries(host, at) if placement.reads_host else (mine[:0], mine[:0])
                start[mine] = starts_alone(placement, length[mine], self.row_length, words[rows[at], 0], boundaries)
                continue
            for spans in np.split(mine, np.flatnonzero(np.diff(span_row[mine])) + 1) if len(mine) else ():
                at = span_row[spans[:1]]
                start[spans] = starts_in_row(
                    placement,
                    length[spans].tolist(),
                    self.row_length,
                    words[rows[at[0]]],
                    self._boundaries(host, at)[1],
                )
        return start

    def _boundaries(
        self, host: Shaped[np.ndarray, "b t"] | None, chosen: Int64[np.ndarray, " k"]
    ) -> tuple[Int64[np.ndarray, " d"], Int64[np.ndarray, " d"]]:
        """Where documents begin inside the chosen of a host's rows: places among those chosen, and places in a row."""
        if host is None:
            return chosen[:0], chosen[:0]
        whole = len(chosen) == len(host)  # then in order: each row has one instance
        ends = np.flatnonzero((host if whole else host[chosen]) == self.eos_id)
        row, column = np.divmod(ends, self.row_length)
        return row, column + 1


def _write(
    tokens: Shaped[np.ndarray, "b t"],
    values: UInt32[np.ndarray, " v"],
    row: Int64[np.ndarray, " k"],
    start: Int64[np.ndarray, " k"],
    source: Int64[np.ndarray, " k"],
    length: Int64[np.ndarray, " k"],
) -> None:
    """Copy spans of `values` to places in `tokens`; no two places overlap.

    Spans of one length are one copy of windows. Two windows as wide as the shortest span cover any of up to twice its
    length, so spans of all lengths take two copies for each doubling.
    """
    width, longest = int(length.min()), int(length.max())
    if longest > 2 * width:
        for some in (length <= 2 * width, length > 2 * width):
            _write(tokens, values, row[some], start[some], source[some], length[some])
        return
    into, out_of = _windows(tokens, width), _windows(values, width)
    into[row, start] = out_of[source]
    if longest > width:
        into[row, start + length - width] = out_of[source + length - width]


def _windows(array: Shaped[np.ndarray, ...], width: int) -> Shaped[np.ndarray, "... w"]:
    """Views of `width` entries from each place along the last axis: `sliding_window_view` at a tenth of its cost."""
    *outer, last = array.shape
    return as_strided(array, (*outer, last - width + 1, width), (*array.strides, array.strides[-1]))


def check_fits(plan: Plan, row_length: int) -> None:
    """Check that a row holds what an entry puts into it.

    Raises:
        UserError: an entry, and how much room it needs.
    """
    for entry in plan.entries:
        placement = entry.placement
        lengths = entry.task.instances.lengths[entry.ids]
        longest = int(lengths.max()) + placement.beside
        if placement.split and plan.row_length == row_length:
            continue
        needed = placement.offset + placement.per_row * longest
        if needed > row_length:
            named = entry.task.instance_id(int(entry.ids[lengths.argmax()]))
            what = f"instance {named}" if placement.per_row == 1 else f"{placement.per_row} instances such as {named}"
            what += " and EOS" if placement.beside else ""
            what += f" after {placement.offset} tokens" if placement.offset else ""
            splits = placement.per_row == 1 and not placement.offset
            advice = "; longer: split with place: start continues it in further rows" if splits else ""
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
