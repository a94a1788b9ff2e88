"""The plan: the injections of any step, as a pure function of (plan seed, step, global row)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int16, Int32, Int64

from olmo_inject import randomness
from olmo_inject.errors import UserError
from olmo_inject.injection.overflow import worst
from olmo_inject.injection.placement import Placement
from olmo_inject.injection.schedules import TAIL, Listed, Schedule, is_exact
from olmo_inject.tasks import Ragged, Task

CACHED_STEPS = 64

Draw = Literal["independent", "epochs", "shuffled"]
STUDY = Placement()


class Injections(NamedTuple):
    """What one step injects: injection i puts `instance[i]` of task number `task[i]` into global row `rows[i]`.

    No two entries of the plan share a row. A row with several instances occurs several times. An instance longer than a
    row occurs once for each of its rows, and `piece[i]` counts them from 0.
    """

    rows: Int32[np.ndarray, " k"]
    task: Int16[np.ndarray, " k"]
    instance: Int32[np.ndarray, " k"]
    entry: Int16[np.ndarray, " k"]
    piece: Int16[np.ndarray, " k"]


class _Part(NamedTuple):
    """What one entry adds to a step's injections; a number stands for a column of it."""

    rows: Int64[np.ndarray, " k"]
    task: int
    instance: Int64[np.ndarray, " k"]
    entry: int
    piece: int | Int64[np.ndarray, " k"]


@dataclass(frozen=True)
class PlannedTask:
    """One entry of a plan: a task with a schedule, a way to draw its instances, and their place in a row.

    Attributes:
        task: supplies the instances.
        schedule: decides how many instances each step gets.
        draw: `independent`; `epochs` (through the instances without replacement); or `shuffled` (a random order in
            which each instance occurs `times` times).
        placement: where in a row.
        groups: groups of instances to draw from; empty: the whole train half.
        times: repetitions of each instance, for a `shuffled` draw.
    """

    task: Task
    schedule: Schedule
    draw: Draw = "independent"
    placement: Placement = STUDY
    groups: frozenset[str] = frozenset()
    times: int = 1

    @cached_property
    def ids(self) -> Int64[np.ndarray, " n"]:
        """Ids of the instances to draw from, ascending."""
        return self.in_groups(self.task.train_ids)

    def in_groups(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
        """Those of some instances that are of the entry's groups."""
        return ids[np.isin(np.array(self.task.groups)[ids], list(self.groups))] if self.groups else ids


class Plan:
    """The injections of every step, computed on request. No list of them is stored.

    A task's rows at a step are a prefix of its own permutation of the batch's rows, without the rows of tasks that are
    declared earlier. So a task that is declared after others does not move their injections. A task that is declared
    before others takes its rows first, so from the first row that it takes from them on, they move on to their next
    free rows of that step. Instances are drawn by step (with `epochs`, by a running count), and another task never
    changes them.

    A run at a whole multiple of a task's rate contains the task's injections of the run at that rate, if the schedule
    is uniform or Bernoulli and the tasks before it are the same. This holds for step, row and, with independent draws,
    instance. With draws in epochs the running counts differ, so only steps and rows are contained.

    Args:
        entries: the entries in order of declaration; a task may have several.
        batch_size: rows in a global batch.
        seed: decides the rows. The draws of instances depend on the tasks' seeds alone.
        steps: number of steps of the run, which are checked for an overflow; None: no limit.
        row_length: tokens in a row, by which long instances are split; None if none is split.

    Attributes:
        tasks: the tasks of the entries, each once, indexed by `Injections.task`.
        number_in_task: for each entry, its number among those of its task, from 0.
        overflow_chance: probability that drawn schedules fill more than a step's rows: below 1e-18, and usually 0. In
            that case the drawn entries that are declared last get fewer.

    Raises:
        UserError: a step gets, or is likely to get, more instances than rows; or a drawn schedule is to draw without
            replacement.
    """

    def __init__(
        self,
        entries: Sequence[PlannedTask],
        batch_size: int,
        seed: int,
        steps: int | None = None,
        row_length: int | None = None,
    ) -> None:
        self.entries = tuple(entries)
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.row_length = row_length
        names = list(dict.fromkeys(entry.task.name for entry in self.entries))
        by_name = {entry.task.name: entry.task for entry in self.entries}
        self.tasks = [by_name[name] for name in names]
        self._task_of = [names.index(entry.task.name) for entry in self.entries]
        self._lists = {n: each.schedule for n, each in enumerate(self.entries) if isinstance(each.schedule, Listed)}
        self._check_lists()
        self._demands = [  # what is to have room in a step: a list's rows, the instances of other schedules
            entry.schedule.of_rows(entry.placement.per_row) if isinstance(entry.schedule, Listed) else entry.schedule
            for entry in self.entries
        ]
        self._pieces = [self._pieces_of(entry) for entry in self.entries]
        self._most_rows = [  # that one instance of an entry takes
            1 if pieces is None else int(pieces[entry.ids].max())
            for pieces, entry in zip(self._pieces, self.entries, strict=True)
        ]
        self.overflow_chance = self._check_room()
        for entry in self.entries:
            if entry.draw != "independent" and not is_exact(entry.schedule):
                raise UserError(
                    f"injections: {entry.task.name}: draw {entry.draw!r} needs an exact schedule, not a random one"
                )
        # A task's first entry is keyed by its name alone, further entries also by their number.
        self.number_in_task = [self._task_of[:number].count(task) for number, task in enumerate(self._task_of)]
        beside = [(n,) if n else () for n in self.number_in_task]
        self._row_keys = [
            randomness.key("rows", seed, entry.task.name, *also)
            for entry, also in zip(self.entries, beside, strict=True)
        ]
        self._draw_keys = [entry.task.draw_key(*also) for entry, also in zip(self.entries, beside, strict=True)]
        self._cached = lru_cache(maxsize=CACHED_STEPS)(self._compute)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Plan], tuple[tuple[PlannedTask, ...], int, int, int | None, int | None]]:
        # Loader workers started by spawn get a copy of the plan without caches and locks.
        return Plan, (self.entries, self.batch_size, self.seed, self.steps, self.row_length)

    def positions(
        self, step: int, rows: Sequence[int] | Int64[np.ndarray, " b"] | None = None
    ) -> Int64[np.ndarray, " b"]:
        """The positions of some rows of a step's batch, by default of all rows."""
        return step * self.batch_size + (np.arange(self.batch_size) if rows is None else np.array(rows, np.int64))

    def at(self, step: int) -> Injections:
        """The injections of `step` (from 0), in the order of the entries.

        The arrays are read-only and shared between callers.
        """
        with self._lock:  # several loader threads may request the same step at once: one computes, all share
            return self._cached(step)

    def tasks_of(self, step: int, rows: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        """For each of `rows` of `step`, the number of the task injected into it; -1 if there is none."""
        injections = self.at(step)
        task_of_row = np.full(self.batch_size, -1)
        task_of_row[injections.rows] = injections.task
        return task_of_row[rows]

    def tokens(self, injections: Injections) -> Ragged:
        """The tokens of every injection, without end-of-document tokens."""
        tokens = Ragged.of(())
        for number in np.unique(injections.entry).tolist():
            mine = np.flatnonzero(injections.entry == number)  # entries stand in their order
            tokens = tokens.followed_by(self.entries[number].task.instances.take(injections.instance[mine]))
        return tokens

    def _compute(self, step: int) -> Injections:
        if step < 0:
            raise ValueError(f"steps count from 0, got {step}")
        parts = []
        taken = np.zeros(self.batch_size, bool)
        listed = {number: self._listed_rows(number, step) for number in self._lists}
        for rows in listed.values():  # rows that a list assigns to its entry are not free for others
            taken[rows[rows >= 0]] = True
        for number, count in enumerate(self._counts(step)):
            if count == 0:
                continue
            instances = self._draw(number, step, count)
            free = randomness.permutation(self._row_keys[number], self.batch_size, step)
            if parts or listed:
                free = free[~taken[free]]
            part = self._in_rows(number, instances, free, listed.get(number))
            taken[part.rows] = True
            parts.append(part)
        if not parts:
            return _NOTHING
        total = sum(len(part.rows) for part in parts)
        injections = Injections(*(np.empty(total, kind) for kind in _KINDS))
        first = 0
        for part in parts:
            for column, values in zip(injections, part, strict=True):
                column[first : first + len(part.rows)] = values
            first += len(part.rows)
        for column in injections:
            column.flags.writeable = False
        return injections

    def _in_rows(
        self,
        number: int,
        instances: Int64[np.ndarray, " c"],
        free: Int64[np.ndarray, " f"],
        listed: Int64[np.ndarray, " c"] | None,
    ) -> _Part:
        """A step's instances of one entry in their rows.

        Those that have none `listed` get the rows `free`, in turn.
        """
        placement, pieces = self.entries[number].placement, self._pieces[number]
        if listed is None and pieces is None and placement.per_row == 1:
            return _Part(free[: len(instances)], self._task_of[number], instances, number, 0)
        place = np.arange(len(instances)) // placement.per_row
        piece = np.zeros(len(instances), np.int64)
        if pieces is not None:  # each keeps as many rows as the longest may need, and fills its own
            most, of_each = self._most_rows[number], pieces[instances]
            piece = np.arange(of_each.sum()) - np.repeat(np.cumsum(of_each) - of_each, of_each)
            place = np.repeat(place * most, of_each) + piece
            instances = np.repeat(instances, of_each)
        if listed is None:
            rows = free[place]
        else:
            rows, others = listed.copy(), np.flatnonzero(listed < 0)
            rows[others] = free[place[: len(others)]]
        return _Part(rows, self._task_of[number], instances, number, piece)

    def _listed_rows(self, number: int, step: int) -> Int64[np.ndarray, " c"]:
        """The rows that a list assigns to the instances of a step; -1 for those without one."""
        listed = self._lists[number]
        return listed.rows[listed.before(step) : listed.before(step + 1)]

    def _check_lists(self) -> None:
        """Check that no list assigns a row twice, or more instances to a row than may share it."""
        seen = np.empty(0, np.int64)
        for number, listed in self._lists.items():
            entry = self.entries[number]
            places = (listed.steps * self.batch_size + listed.rows)[listed.rows >= 0]
            distinct, counts = np.unique(places, return_counts=True)
            if len(twice := distinct[np.isin(distinct, seen) | (counts > entry.placement.per_row)]):
                step, row = divmod(int(twice[0]), self.batch_size)
                raise UserError(f"injections: {entry.task.name}: row {row} of step {step} is listed too often")
            seen = np.concatenate([seen, distinct])

    def _pieces_of(self, entry: PlannedTask) -> Int64[np.ndarray, " n"] | None:
        """Number of rows that each instance of an entry takes; None if all take one."""
        if not entry.placement.split:
            return None
        assert self.row_length is not None
        return -(-(entry.task.instances.lengths + entry.placement.beside) // self.row_length)

    def _counts(self, step: int) -> list[int]:
        """Number of instances of each entry. If they exceed the batch, the last declared drawn entries get fewer."""
        counts = [entry.schedule.count(step) for entry in self.entries]
        excess = sum(counts) - self.batch_size
        # Several instances may share a row, or one take several: count the rows.
        if excess > 0 or max(self._most_rows, default=1) > 1:
            excess = sum(self._rows_at(number, step) for number in range(len(counts))) - self.batch_size
        if excess > 0:
            for number in sorted(range(len(counts)), key=lambda n: (is_exact(self.entries[n].schedule), -n)):
                given_up = min(excess, counts[number])
                counts[number] -= given_up
                excess -= given_up
        return counts

    def _rows_at(self, number: int, step: int) -> int:
        """Number of rows that an entry takes in a step."""
        return int(self._rows(number, np.asarray(self._demands[number].count(step))))

    def _rows(self, number: int, counts: Int64[np.ndarray, ...]) -> np.ndarray | np.integer:
        """Number of rows of a step that this many of an entry's `_demands` take."""
        if number in self._lists:
            return counts
        return self.entries[number].placement.rows_of(counts, self._most_rows[number])

    def _check_room(self) -> float:
        """The probability of an overflow in a step, which must be negligible."""
        batch, demands = self.batch_size, self._demands
        fullest = worst(demands, batch, self.steps, [partial(self._rows, n) for n in range(len(demands))])
        if fullest.exact > batch:
            step, at = fullest.step, "a step could get" if fullest.step is None else f"step {fullest.step} gets"
            exact = [entry for entry in self.entries if is_exact(entry.schedule)]
            counts = [each.schedule.max_count if step is None else each.schedule.count(step) for each in exact]
            parts = " + ".join(f"{n} of {entry.task.name}" for n, entry in zip(counts, exact, strict=True) if n)
            in_rows = "" if fullest.exact == sum(counts) else f" in {fullest.exact} rows"
            raise UserError(f"injections: {at} {parts} instances{in_rows}, more than its {batch} rows")
        if fullest.chance > TAIL:
            raise UserError(
                f"injections: a step gets more instances than its {batch} rows with chance {fullest.chance:.2g}; "
                f"drawn schedules are allowed {TAIL:g}"
            )
        return fullest.chance

    def _draw(self, number: int, step: int, count: int) -> Int64[np.ndarray, " k"]:
        entry, key = self.entries[number], self._draw_keys[number]
        if (listed := self._lists.get(number)) is not None:
            named = listed.instances[listed.before(step) :][:count]
            return np.where(named >= 0, named, entry.ids[randomness.integers(key, count, len(entry.ids), step)])
        train = entry.ids
        if entry.draw == "independent":
            return train[randomness.integers(key, count, len(train), step)]
        schedule = entry.schedule
        assert is_exact(schedule)
        first = schedule.before(step)
        running = np.arange(first, first + count)
        if entry.draw == "shuffled":
            return train[randomness.permuted(key, len(train) * entry.times, running) // entry.times]
        epochs, places = running // len(train), running % len(train)
        drawn = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            drawn[mine] = train[_epoch_order(key, len(train), int(epoch))[places[mine]]]
        return drawn


@lru_cache(maxsize=16)
def _epoch_order(key: int, n: int, epoch: int) -> Int64[np.ndarray, " n"]:
    # Independent draws use the same counters, but no entry has both kinds of draw.
    return randomness.permutation(key, n, epoch)


_KINDS = (np.int32, np.int16, np.int32, np.int16, np.int16)
_NOTHING = Injections(*(np.empty(0, kind) for kind in _KINDS))
