"""Schedules: how many instances of a task each step gets.

A schedule is a function of the step alone. Exact schedules also know in closed form how many instances came before a
step, so that nothing needs to be replayed to find out about step 31,337.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
from jaxtyping import Int64

from olmo_inject import randomness

# A Bernoulli count is cut at the quantile of this tail, so that a batch can never overflow.
TAIL = 1e-18
HUGE = 1 << 40  # larger than any batch
DRAWN_AT_ONCE = 1 << 20


@runtime_checkable
class Schedule(Protocol):
    """How many instances of one task step `step` gets, for every step from 0."""

    @property
    def rate(self) -> Fraction:
        """Long-run mean, instances per batch."""
        ...

    @property
    def max_count(self) -> int:
        """The most that any step gets."""
        ...

    def count(self, step: int) -> int:
        """Instances in `step`."""
        ...


@runtime_checkable
class ExactSchedule(Schedule, Protocol):
    """A schedule whose counts follow from arithmetic and are not drawn."""

    @property
    def period(self) -> int | None:
        """Number of steps after which the counts repeat; None if they do not repeat."""
        ...

    def before(self, step: int) -> int:
        """Instances in all steps before `step`."""
        ...

    def counts(self, start: int, steps: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """`count` of the steps `start + steps`."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Exactly `rate` instances per batch, as evenly as whole numbers allow: 1/10 is one in every ten batches.

    Step s gets floor((s + 1) rate) - floor(s rate), so any window of n batches holds floor(n rate) or ceil(n rate).
    """

    rate: Fraction

    @property
    def max_count(self) -> int:
        """The rate, rounded up."""
        return math.ceil(self.rate)

    def count(self, step: int) -> int:
        """Instances in `step`."""
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> int:
        """Instances in all steps before `step`."""
        return step * self.rate.numerator // self.rate.denominator

    @property
    def period(self) -> int:
        """Steps after which the counts repeat."""
        return self.rate.denominator

    def counts(self, start: int, steps: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """`count` of the steps `start + steps`. Large fractions are computed with Python's integers."""
        above, below = self.rate.numerator, self.rate.denominator
        # The start is reduced to its remainder, so that numbers stay small.
        within = steps + start % below
        largest = (int(within[-1]) + 1) * above if len(within) else 0
        before = within if max(largest, below) < 2**63 else within.astype(object)
        return ((before + 1) * above // below - before * above // below).astype(np.int64)


@dataclass(frozen=True)
class Burst:
    """`instances` in every `every`-th batch, first in batch `phase` (the study's matched-frequency runs)."""

    instances: int
    every: int
    phase: int

    @property
    def rate(self) -> Fraction:
        """Long-run mean, instances per batch."""
        return Fraction(self.instances, self.every)

    @property
    def max_count(self) -> int:
        """The burst."""
        return self.instances

    def count(self, step: int) -> int:
        """Instances in `step`."""
        return self.instances if step % self.every == self.phase else 0

    def before(self, step: int) -> int:
        """Instances in all steps before `step`."""
        return self.instances * ((step - self.phase + self.every - 1) // self.every)

    @property
    def period(self) -> int:
        """Steps after which the counts repeat."""
        return self.every

    def counts(self, start: int, steps: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """`count` of the steps `start + steps`. A burst larger than any batch is cut to `HUGE`."""
        return np.where((start % self.every + steps) % self.every == self.phase, min(self.instances, HUGE), 0)


@dataclass(frozen=True)
class Scattered:
    """Exactly `total` instances in steps `start` to `stop` (exclusive), each in a random step.

    Only the counts of steps are stored, not the instances.

    Attributes:
        total: number of instances.
        start: first step.
        stop: end of the steps, exclusive.
        key: key of the random draws.
    """

    total: int
    start: int
    stop: int
    key: int

    @property
    def rate(self) -> Fraction:
        """Mean inside the window, instances per batch."""
        return Fraction(self.total, self.stop - self.start)

    @property
    def max_count(self) -> int:
        """The fullest step's."""
        return int(np.diff(self._ends, prepend=0).max())

    @cached_property
    def _ends(self) -> Int64[np.ndarray, " s"]:
        """Instances up to and with each step of the window."""
        steps = self.stop - self.start
        counts = np.zeros(steps, np.int64)
        for number, first in enumerate(range(0, self.total, DRAWN_AT_ONCE)):
            drawn = randomness.integers(self.key, min(DRAWN_AT_ONCE, self.total - first), steps, number)
            counts += np.bincount(drawn, minlength=steps)
        return np.cumsum(counts)

    def count(self, step: int) -> int:
        """Instances in `step`."""
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> int:
        """Instances in all steps before `step`."""
        return 0 if step <= self.start else int(self._ends[min(step, self.stop) - self.start - 1])

    @property
    def period(self) -> None:
        """The counts do not repeat."""
        return

    def counts(self, start: int, steps: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """`count` of the steps `start + steps`, all inside the window."""
        return np.diff(self._ends, prepend=0)[steps + (start - self.start)]


@dataclass(frozen=True, eq=False)
class Listed:
    """The injections in a list.

    Attributes:
        steps: step of each injection, ascending.
        rows: row of each; -1 if it is drawn.
        instances: instance of each; -1 if it is drawn.
        of_run: number of steps of the run; None: up to the last listed one.
    """

    steps: Int64[np.ndarray, " k"]
    rows: Int64[np.ndarray, " k"]
    instances: Int64[np.ndarray, " k"]
    of_run: int | None = None

    @property
    def start(self) -> int:
        """The first listed step."""
        return int(self.steps[0])

    @property
    def stop(self) -> int:
        """The step after the last listed one."""
        return int(self.steps[-1]) + 1

    @property
    def rate(self) -> Fraction:
        """Mean over the run, instances per batch."""
        return Fraction(len(self.steps), self.of_run or self.stop)

    @property
    def max_count(self) -> int:
        """The fullest step's."""
        return int(np.unique(self.steps, return_counts=True)[1].max())

    def count(self, step: int) -> int:
        """Instances in `step`."""
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> int:
        """Instances in all steps before `step`."""
        return int(np.searchsorted(self.steps, step))

    @property
    def period(self) -> None:
        """The counts do not repeat."""
        return

    def counts(self, start: int, steps: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """`count` of the steps `start + steps`."""
        return np.searchsorted(self.steps, start + steps + 1) - np.searchsorted(self.steps, start + steps)

    def of_rows(self, per_row: int) -> Listed:
        """A list with one injection for each row that this one fills.

        Those are the rows that it names, and as many as the others need with `per_row` in each.
        """
        named = self.rows >= 0
        drawn, counts = np.unique(self.steps[~named], return_counts=True)
        steps = np.concatenate(
            [np.unique(np.stack([self.steps, self.rows])[:, named], axis=1)[0], np.repeat(drawn, -(-counts // per_row))]
        )
        none = np.full(len(steps), -1)
        return Listed(np.sort(steps), none, none, self.of_run)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the list."""
        return hashlib.sha256(
            b"".join(column.tobytes() for column in (self.steps, self.rows, self.instances))
        ).hexdigest()


@dataclass(frozen=True)
class Bernoulli:
    """Every row of every batch gets an instance with probability `rate / batch_size`, so counts are binomial.

    Of two rates the higher gives every step at least as many instances, since both compare the same draws with their
    probability. Counts beyond the 1e-18 tail are cut to `max_count`.
    """

    rate: Fraction
    batch_size: int
    key: int

    @property
    def max_count(self) -> int:
        """The smallest m with P(count > m) < 1e-18, at most the batch."""
        return _binomial_quantile(self.batch_size, float(self.rate / self.batch_size))

    def count(self, step: int) -> int:
        """Instances in `step`."""
        draws = randomness.bits(self.key, self.batch_size, step)
        # u < p as integers: u / 2^64 < rate / batch_size.
        threshold = int(self.rate * 2**64 / self.batch_size)
        hits = self.batch_size if threshold >= 2**64 else int((draws < np.uint64(threshold)).sum())
        return min(hits, self.max_count)


@dataclass(frozen=True)
class Window:
    """A schedule restricted to steps `start` <= step < `stop` (None: to the end). Its injections there do not move."""

    inner: Schedule
    start: int
    stop: int | None

    @property
    def rate(self) -> Fraction:
        """Long-run mean inside the window, instances per batch."""
        return self.inner.rate

    @property
    def max_count(self) -> int:
        """The most that any step gets."""
        return self.inner.max_count

    def count(self, step: int) -> int:
        """Instances in `step`."""
        inside = self.start <= step and (self.stop is None or step < self.stop)
        return self.inner.count(step) if inside else 0


@dataclass(frozen=True)
class ExactWindow(Window):
    """A window on an exact schedule, exact itself."""

    inner: ExactSchedule

    @property
    def period(self) -> int | None:
        """As the inner schedule's, inside the window."""
        return self.inner.period

    def counts(self, start: int, steps: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """`count` of the steps `start + steps`, all inside the window."""
        return self.inner.counts(start, steps)

    def before(self, step: int) -> int:
        """Instances in all steps before `step`."""
        end = step if self.stop is None else min(step, self.stop)
        return max(0, self.inner.before(end) - self.inner.before(self.start)) if end > self.start else 0


@dataclass(frozen=True)
class Phases:
    """Exact schedules in consecutive windows. Nothing is injected between the windows.

    Attributes:
        parts: the windows, each with an end.
        of_run: number of steps of the run; None: up to the end of the last window.
    """

    parts: tuple[ExactWindow, ...]
    of_run: int | None = None

    @property
    def rate(self) -> Fraction:
        """Mean over the run, instances per batch."""
        steps = self.of_run or self.parts[-1].stop
        assert steps is not None
        return Fraction(self.before(steps), steps)

    @property
    def max_count(self) -> int:
        """The most that any step gets."""
        return max(part.max_count for part in self.parts)

    def count(self, step: int) -> int:
        """Instances in `step`."""
        return sum(part.count(step) for part in self.parts)

    def before(self, step: int) -> int:
        """Instances in all steps before `step`."""
        return sum(part.before(step) for part in self.parts)

    @property
    def period(self) -> None:
        """The counts do not repeat."""
        return

    def counts(self, start: int, steps: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """`count` of the steps `start + steps`."""
        return np.array([self.count(step) for step in (start + steps).tolist()], np.int64)


def is_exact(schedule: Schedule) -> TypeGuard[ExactSchedule]:
    """Whether the schedule is exact, as draws without replacement require."""
    return hasattr(schedule, "before")


def windowed(schedule: Schedule, start: int, stop: int | None) -> Schedule:
    """Restrict `schedule` to a window; return it unchanged if the window is everything.

    Args:
        schedule: any schedule.
        start: first step.
        stop: end of the window, exclusive; None: no end.
    """
    if start == 0 and stop is None:
        return schedule
    return ExactWindow(schedule, start, stop) if is_exact(schedule) else Window(schedule, start, stop)


@lru_cache(maxsize=64)
def _binomial_quantile(n: int, p: float) -> int:
    if p <= 0 or p >= 1:
        return n if p >= 1 else 0
    tail, m = 0.0, n
    while m > 0:
        log_pmf = math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)
        tail += math.exp(log_pmf + m * math.log(p) + (n - m) * math.log1p(-p))
        if tail >= TAIL:
            return m
        m -= 1
    return 0
