"""Check whether a step can get more instances than its batch has rows.

Exact schedules are added up step by step, over one joint period between two edges of windows. So schedules that never
meet are never added up. For drawn schedules, the tail of their joint distribution gives the probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from olmo_inject.injection.schedules import HUGE, Bernoulli, ExactSchedule, Schedule, Window, is_exact

LONGEST_PERIOD = 1 << 22  # longest joint period that is added up step by step; beyond it, maximum counts are added
AT_ONCE = 1 << 18
NEGLIGIBLE = 1e-30  # probability that is treated as zero


class Worst(NamedTuple):
    """The fullest step of the exact schedules, and the largest probability that drawn schedules overflow a step."""

    exact: int
    step: int | None
    """The first step that gets this many; None if it was not searched for."""
    chance: float


Rows = Callable[[Int64[np.ndarray, "..."]], np.ndarray | np.integer]  # number of rows that a number of instances takes


def worst(
    schedules: Sequence[Schedule], batch_size: int, steps: int | None, rows: Sequence[Rows] | None = None
) -> Worst:
    """How full a step can get.

    Args:
        schedules: schedules of the tasks that share the batches.
        batch_size: rows in a batch.
        steps: number of steps of the run; None: no limit.
        rows: for each schedule, the number of rows that its instances take; None: one row each.
    """
    each = zip(schedules, rows or [lambda counts: counts] * len(schedules), strict=True)
    demands = [(part, taken) for schedule, taken in each for part in getattr(schedule, "parts", (schedule,))]
    edges = {0, *(edge for schedule, _ in demands for edge in _window(schedule) if edge is not None)}
    starts = sorted(edge for edge in edges if steps is None or edge < steps)
    worst_yet = Worst(0, None, 0.0)
    for start, stop in zip(starts, [*starts[1:], steps], strict=True):
        running = [(_inner(each), taken) for each, taken in demands if _runs(each, start)]
        exact = [(each, taken) for each, taken in running if is_exact(each)]
        drawn = [each for each, _ in running if isinstance(each, Bernoulli)]
        here, step = _largest(exact), None
        if here + sum(schedule.max_count for schedule in drawn) > batch_size:
            here, step = _most_together(exact, start, stop)
        chance = max(worst_yet.chance, _chance_above(drawn, batch_size - here))
        worst_yet = Worst(here, step, chance) if here > worst_yet.exact else worst_yet._replace(chance=chance)
    return worst_yet


def _inner(schedule: Schedule) -> Schedule:
    return _inner(schedule.inner) if isinstance(schedule, Window) else schedule


def _window(schedule: Schedule) -> tuple[int, int | None]:
    return getattr(schedule, "start", 0), getattr(schedule, "stop", None)


def _runs(schedule: Schedule, step: int) -> bool:
    start, stop = _window(schedule)
    return start <= step and (stop is None or step < stop)


def _largest(exact: Sequence[tuple[ExactSchedule, Rows]]) -> int:
    return int(sum(taken(np.asarray(min(schedule.max_count, HUGE))) for schedule, taken in exact))


def _most_together(exact: Sequence[tuple[ExactSchedule, Rows]], start: int, stop: int | None) -> tuple[int, int | None]:
    """The largest total count of exact schedules in a step of [start, stop), and the first such step."""
    periods = [schedule.period for schedule, _ in exact]
    length = math.lcm(*(period or 1 for period in periods))
    if stop is not None:
        length = stop - start if None in periods else min(length, stop - start)
    if length > LONGEST_PERIOD:
        return _largest(exact), None
    most, at = 0, start
    for first in range(0, length, AT_ONCE):
        steps = np.arange(first, min(first + AT_ONCE, length))
        each = (taken(schedule.counts(start, steps)) for schedule, taken in exact)
        counts = sum(each, np.zeros(len(steps), np.int64))
        if (here := int(counts.max())) > most:
            most, at = here, start + first + int(counts.argmax())
    return most, at


def _chance_above(drawn: Sequence[Bernoulli], room: int) -> float:
    """The probability that the drawn schedules together put more than `room` instances into a step."""
    if room < 0:
        return 1.0
    if not drawn or sum(schedule.max_count for schedule in drawn) <= room:
        return 0.0
    counts, least = np.ones(1), 0
    for schedule in drawn:
        first, chances = _binomial(schedule.batch_size, schedule.rate / schedule.batch_size)
        counts, least = np.convolve(counts, chances), least + first
    # All terms are positive, so a tail of 1e-18 keeps its precision.
    return float(min(1.0, counts[max(0, room + 1 - least) :].sum()))


def _binomial(n: int, share: Fraction) -> tuple[int, Float64[np.ndarray, " k"]]:
    """The smallest count with a probability that matters, and the probabilities from it on."""
    if share >= 1:
        return n, np.ones(1)
    if share == 0:
        return 0, np.ones(1)
    p, counts = float(share), np.arange(n + 1)
    logs = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)])
    chances = np.exp(logs + counts * math.log(p) + (n - counts) * math.log1p(-p))
    kept = np.flatnonzero(chances > NEGLIGIBLE)
    return int(kept[0]), chances[kept[0] : kept[-1] + 1]
