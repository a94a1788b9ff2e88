"""Where and what: the injections of any step, as a pure function of (plan seed, step, global row)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int16, Int32, Int64, UInt32

from olmo_inject import randomness
from olmo_inject.errors import UserError
from olmo_inject.injection.overflow import worst
from olmo_inject.injection.schedules import TAIL, Schedule, is_exact
from olmo_inject.tasks import Task

CACHED_STEPS = 64

Draw = Literal["independent", "epochs"]


class Injections(NamedTuple):
    """What one step injects: entry i puts `instance[i]` of task number `task[i]` into global row `rows[i]`."""

    rows: Int32[np.ndarray, " k"]
    task: Int16[np.ndarray, " k"]
    instance: Int32[np.ndarray, " k"]


@dataclass(frozen=True)
class PlannedTask:
    """One task with its schedule and its way of drawing instances from the train half."""

    task: Task
    schedule: Schedule
    draw: Draw = "independent"


class Plan:
    """The injections of every step, computed when asked; holds no list of them.

    A task's rows at a step are a prefix of its own permutation of the batch's rows, less the rows that
    tasks declared earlier took. So a task declared after others moves nothing of theirs; one put before
    others, or a change of its rate, moves those of their injections whose rows it takes, and with them the
    rows that follow in that step. Instances are drawn by step (or, in epochs, by a running count) and never
    moved by another task.

    A run at a whole multiple of a task's rate contains the task's injections of the run at that rate, if the
    schedule is uniform or Bernoulli and the tasks before it are the same: step, row and, with independent
    draws, instance. With draws in epochs the running counts differ, so steps and rows are contained and
    instances are not.

    Args:
        entries: the tasks in order of declaration.
        batch_size: rows in a global batch.
        seed: decides the rows; the draws of instances depend on the tasks' seeds alone.
        steps: of the run, which alone are checked for an overflow; None for as many as one likes.

    Attributes:
        overflow_chance: that the drawn schedules fill more than a step's rows; below 1e-18, and most often 0. Then
            the drawn ones declared last get fewer.

    Raises:
        UserError: a step gets, or may well get, more instances than rows; a drawn schedule is to draw without
            replacement.
    """

    def __init__(self, entries: Sequence[PlannedTask], batch_size: int, seed: int, steps: int | None = None) -> None:
        self.entries = tuple(entries)
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.overflow_chance = self._check_room()
        for entry in self.entries:
            if entry.draw == "epochs" and not is_exact(entry.schedule):
                raise UserError(
                    f"injections: {entry.task.name}: draw 'epochs' needs an exact schedule, not a random one"
                )
        self._row_keys = [randomness.key("rows", seed, entry.task.name) for entry in self.entries]
        self._draw_keys = [entry.task.draw_key() for entry in self.entries]
        self._cached = lru_cache(maxsize=CACHED_STEPS)(self._compute)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Plan], tuple[tuple[PlannedTask, ...], int, int, int | None]]:
        # Loader workers started by spawn get a plan of their own; caches and locks stay behind.
        return Plan, (self.entries, self.batch_size, self.seed, self.steps)

    @property
    def tasks(self) -> list[Task]:
        """The tasks, indexed by `Injections.task`."""
        return [entry.task for entry in self.entries]

    def at(self, step: int) -> Injections:
        """What `step` (from 0) injects; rows are distinct, entries ordered by task.

        The arrays are shared between callers and read-only.
        """
        with self._lock:  # several loader threads ask for the same step at once: one computes, all share
            return self._cached(step)

    def entries_of(self, step: int, rows: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        """For each of `rows` of `step`, its entry in `at(step)`, or -1 where nothing is injected."""
        injected = self.at(step).rows
        entry_of_row = np.full(self.batch_size, -1)
        entry_of_row[injected] = np.arange(len(injected))
        return entry_of_row[rows]

    def tokens(self, injections: Injections) -> UInt32[np.ndarray, "k 3"]:
        """TOK1, TOK2, LABEL of every entry."""
        if len(self.entries) == 1:
            return self.entries[0].task.instances[injections.instance]
        out = np.empty((len(injections.rows), 3), np.uint32)
        for number, entry in enumerate(self.entries):
            mine = injections.task == number
            out[mine] = entry.task.instances[injections.instance[mine]]
        return out

    def _compute(self, step: int) -> Injections:
        if step < 0:
            raise ValueError(f"steps count from 0, got {step}")
        rows, tasks, instances = [], [], []
        taken = np.zeros(self.batch_size, bool)
        for number, count in enumerate(self._counts(step)):
            if count == 0:
                continue
            free = randomness.permutation(self._row_keys[number], self.batch_size, step)
            if rows:
                free = free[~taken[free]]
            chosen = free[:count]
            taken[chosen] = True
            rows.append(chosen)
            tasks.append(np.full(count, number))
            instances.append(self._draw(number, step, count))
        if not rows:
            return _NOTHING
        columns = (np.concatenate(rows), np.concatenate(tasks), np.concatenate(instances))
        injections = Injections(columns[0].astype(np.int32), columns[1].astype(np.int16), columns[2].astype(np.int32))
        for column in injections:
            column.flags.writeable = False
        return injections

    def _counts(self, step: int) -> list[int]:
        """How many of each task; beyond the batch's rows the last declared give way, drawn schedules first."""
        counts = [entry.schedule.count(step) for entry in self.entries]
        excess = sum(counts) - self.batch_size
        if excess > 0:
            for number in sorted(range(len(counts)), key=lambda n: (is_exact(self.entries[n].schedule), -n)):
                given_up = min(excess, counts[number])
                counts[number] -= given_up
                excess -= given_up
        return counts

    def _check_room(self) -> float:
        """The chance of an overflow in a step, if it may be neglected."""
        schedules, rows = [entry.schedule for entry in self.entries], self.batch_size
        found = worst(schedules, rows, self.steps)
        if found.exact > rows:
            step, at = found.step, "a step could get" if found.step is None else f"step {found.step} gets"
            counts = [each.max_count if step is None else each.count(step) for each in schedules if is_exact(each)]
            names = [entry.task.name for entry in self.entries if is_exact(entry.schedule)]
            parts = " + ".join(f"{n} of {name}" for n, name in zip(counts, names, strict=True) if n)
            raise UserError(f"injections: {at} {parts} instances, more than its {rows} rows")
        if found.chance > TAIL:
            raise UserError(
                f"injections: a step gets more instances than its {rows} rows with chance {found.chance:.2g}; "
                f"drawn schedules are allowed {TAIL:g}"
            )
        return found.chance

    def _draw(self, number: int, step: int, count: int) -> Int64[np.ndarray, " k"]:
        entry, key = self.entries[number], self._draw_keys[number]
        train = entry.task.train_ids
        if entry.draw == "independent":
            return train[randomness.integers(key, count, len(train), step)]
        schedule = entry.schedule
        assert is_exact(schedule)
        first = schedule.before(step)
        running = np.arange(first, first + count)
        epochs, places = running // len(train), running % len(train)
        drawn = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            drawn[mine] = train[_epoch_order(key, len(train), int(epoch))[places[mine]]]
        return drawn


@lru_cache(maxsize=16)
def _epoch_order(key: int, n: int, epoch: int) -> Int64[np.ndarray, " n"]:
    # Counters are shared with the independent draws, which the same task never uses in the same plan.
    return randomness.permutation(key, n, epoch)


_NOTHING = Injections(np.empty(0, np.int32), np.empty(0, np.int16), np.empty(0, np.int32))
