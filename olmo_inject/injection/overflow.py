"""Whether some step can get more instances than its batch has rows.

Exact schedules are added up step by step, over one joint period of theirs between two edges of windows: what never
meets is never added. Drawn ones add the tail of their joint distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from olmo_inject.injection.schedules import Bernoulli, Burst, Schedule, Uniform, Window, is_exact

MOST_STEPS = 1 << 22  # added up one by one; where a joint period is longer, the largest counts are added instead
AT_ONCE = 1 << 18
HUGE = 1 << 40  # more than any batch
NEGLIGIBLE = 1e-30  # beside any chance that matters


class Worst(NamedTuple):
    """The fullest step: what exact schedules put into it and, of drawn ones, the largest chance to overflow a step."""

    exact: int
    step: int | None
    """The first step that gets so many; None where it was not looked for."""
    chance: float


def worst(schedules: Sequence[Schedule], batch_size: int, steps: int | None) -> Worst:
    """How full a step can get.

    Args:
        schedules: of the tasks that share the batches.
        batch_size: rows of each.
        steps: of the run; None for as many as one likes.
    """
    edges = {0, *(edge for schedule in schedules for edge in _window(schedule) if edge is not None)}
    starts = sorted(edge for edge in edges if steps is None or edge < steps)
    found = Worst(0, None, 0.0)
    for start, stop in zip(starts, [*starts[1:], steps], strict=True):
        running = [schedule for schedule in schedules if _runs(schedule, start)]
        exact = [_inner(schedule) for schedule in running if is_exact(schedule)]
        drawn = [each for each in map(_inner, running) if isinstance(each, Bernoulli)]
        here, step = sum(schedule.max_count for schedule in exact), None
        if here + sum(schedule.max_count for schedule in drawn) > batch_size:
            here, step = _most_together(exact, start, stop)
        chance = max(found.chance, _chance_above(drawn, batch_size - here))
        found = Worst(here, step, chance) if here > found.exact else found._replace(chance=chance)
    return found


def _inner(schedule: Schedule) -> Schedule:
    return _inner(schedule.inner) if isinstance(schedule, Window) else schedule


def _window(schedule: Schedule) -> tuple[int, int | None]:
    return (schedule.start, schedule.stop) if isinstance(schedule, Window) else (0, None)


def _runs(schedule: Schedule, step: int) -> bool:
    start, stop = _window(schedule)
    return start <= step and (stop is None or step < stop)


def _most_together(schedules: Sequence[Schedule], start: int, stop: int | None) -> tuple[int, int | None]:
    """The largest sum of the counts of exact schedules at a step from `start` to before `stop`, and the first such."""
    length = math.lcm(*map(_period, schedules))
    if stop is not None:
        length = min(length, stop - start)
    if length > MOST_STEPS:
        return sum(schedule.max_count for schedule in schedules), None
    most, at = 0, start
    for first in range(0, length, AT_ONCE):
        steps = np.arange(first, min(first + AT_ONCE, length))
        counts = sum((_counts(each, start, steps) for each in schedules), np.zeros(len(steps), np.int64))
        if (here := int(counts.max())) > most:
            most, at = here, start + first + int(counts.argmax())
    return most, at


def _period(schedule: Schedule) -> int:
    if isinstance(schedule, Uniform):
        return schedule.rate.denominator
    assert isinstance(schedule, Burst)
    return schedule.every


def _counts(schedule: Schedule, start: int, steps: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The counts at `start + steps`; large fractions are counted in Python's integers."""
    if isinstance(schedule, Burst):
        return np.where(
            (start % schedule.every + steps) % schedule.every == schedule.phase, min(schedule.instances, HUGE), 0
        )
    assert isinstance(schedule, Uniform)
    above, below = schedule.rate.numerator, schedule.rate.denominator
    # The counts repeat every `below` steps, so a late start does not make the numbers large.
    within = steps + start % below
    fits = (int(within[-1]) + 1) * above < 2**63
    before = within if fits else within.astype(object)
    return ((before + 1) * above // below - before * above // below).astype(np.int64)


def _chance_above(drawn: Sequence[Bernoulli], room: int) -> float:
    """The chance that the drawn schedules together put more than `room` instances into a step."""
    if room < 0:
        return 1.0
    if not drawn or sum(schedule.max_count for schedule in drawn) <= room:
        return 0.0
    counts, least = np.ones(1), 0
    for schedule in drawn:
        first, chances = _binomial(schedule.batch_size, schedule.rate / schedule.batch_size)
        counts, least = np.convolve(counts, chances), least + first
    # All terms are positive, so a tail of 1e-18 keeps its digits.
    return float(min(1.0, counts[max(0, room + 1 - least) :].sum()))


def _binomial(n: int, share: Fraction) -> tuple[int, Float64[np.ndarray, " k"]]:
    """The least count that matters and the chances of it and those after it, as long as they matter."""
    if share >= 1:
        return n, np.ones(1)
    if share == 0:
        return 0, np.ones(1)
    p, counts = float(share), np.arange(n + 1)
    logs = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)])
    chances = np.exp(logs + counts * math.log(p) + (n - counts) * math.log1p(-p))
    kept = np.flatnonzero(chances > NEGLIGIBLE)
    return int(kept[0]), chances[kept[0] : kept[-1] + 1]
