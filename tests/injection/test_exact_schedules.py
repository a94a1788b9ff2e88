"""Schedules of repetitions, lists and phases: exact, whatever the window."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from plans import TASKS

from olmo_inject import randomness
from olmo_inject.errors import UserError
from olmo_inject.injection import ExactWindow, Listed, Phases, Plan, PlannedTask, Scattered, Uniform, is_exact
from olmo_inject.injection.overflow import worst
from olmo_inject.injection.placement import Placement

TASK = TASKS[0]
TRAIN = TASK.train_ids.tolist()


@given(st.integers(1, 9), st.integers(0, 20), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_each_instance_is_repeated_exactly(times: int, start: int, length: int, even: bool, seed: int) -> None:
    total, stop = times * len(TRAIN), start + length
    schedule = (
        ExactWindow(Uniform(Fraction(total, length)), start, stop) if even else Scattered(total, start, stop, seed)
    )
    assume(schedule.max_count <= 64)
    plan = Plan([PlannedTask(TASK, schedule, "epochs" if even else "shuffled", times=times)], 64, seed, stop + 5)
    drawn = np.concatenate([plan.at(step).instance for step in range(stop + 5)])
    assert np.bincount(drawn, minlength=len(TASK.instances))[TRAIN].tolist() == [times] * len(TRAIN)
    outside = [step for step in range(stop + 5) if not start <= step < stop]
    assert not any(len(plan.at(step).rows) for step in outside)


@given(st.integers(0, 500), st.integers(0, 30), st.integers(1, 50), st.integers(0, 99))
def test_counts_of_a_random_spread(total: int, start: int, length: int, seed: int) -> None:
    schedule = Scattered(total, start, start + length, seed)
    counts = [schedule.count(step) for step in range(start + length + 3)]
    assert sum(counts) == total == schedule.before(start + length + 3)
    assert is_exact(schedule)
    assert [schedule.before(step) for step in range(len(counts))] == np.cumsum([0, *counts])[:-1].tolist()
    assert schedule.counts(start, np.arange(length)).tolist() == counts[start : start + length]
    assert schedule.max_count == max(counts)
    assert schedule == Scattered(total, start, start + length, seed)


def test_a_random_spread_is_random() -> None:
    counts = Scattered(100_000, 0, 1000, 5).counts(0, np.arange(1000))
    assert abs(counts.var() / 100 - 1) < 0.2, "as of independent draws, whose variance is their mean"


@given(st.integers(1, 3000), st.integers(0, 99))
def test_permuted_is_a_permutation(n: int, key: int) -> None:
    whole = randomness.permuted(key, n, np.arange(n))
    assert sorted(whole.tolist()) == list(range(n))
    some = np.arange(0, n, 3)
    assert randomness.permuted(key, n, some).tolist() == whole[some].tolist()


def test_permuted_is_golden_and_random() -> None:
    assert randomness.permuted(3, 10, np.arange(10)).tolist() == GOLDEN
    large = randomness.permuted(7, 51_200_000, np.arange(100_000))
    assert abs(large.mean() / 51_200_000 - 0.5) < 0.01
    assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 0.02


GOLDEN = [3, 6, 5, 0, 8, 7, 1, 2, 9, 4]


@given(st.data())
def test_phases_hold_their_rates(data: st.DataObject) -> None:
    edges = sorted(data.draw(st.sets(st.integers(0, 60), min_size=2, max_size=6)))
    rates = [data.draw(st.fractions(0, 8, max_denominator=9)) for _ in edges[1:]]
    parts = [ExactWindow(Uniform(rate), a, b) for rate, a, b in zip(rates, edges[:-1], edges[1:], strict=True)]
    kept = [part for part in parts if data.draw(st.booleans())] or parts[:1]
    schedule = Phases(tuple(kept))
    for step in range(70):
        inside = [part for part in kept if part.start <= step < part.stop]
        assert schedule.count(step) == sum(part.inner.count(step) for part in inside)
        assert schedule.before(step + 1) - schedule.before(step) == schedule.count(step)
    total = sum(part.inner.before(part.stop) - part.inner.before(part.start) for part in kept)
    assert schedule.before(70) == total
    most = max((schedule.count(step) for step in range(70)), default=0)
    assert worst([schedule], max(0, most - 1), 70).exact == most


def test_windows_that_never_meet_may_fill_the_batch_each() -> None:
    entries = [
        PlannedTask(
            TASK, Phases((ExactWindow(Uniform(Fraction(12)), 0, 10), ExactWindow(Uniform(Fraction(4)), 20, 30)))
        ),
        PlannedTask(TASK, Phases((ExactWindow(Uniform(Fraction(16)), 10, 20),))),
    ]
    plan = Plan(entries, 16, 0, 40)
    assert [len(plan.at(step).rows) for step in (0, 9, 10, 19, 20, 29, 30)] == [12, 12, 16, 16, 4, 4, 0]
    with pytest.raises(UserError, match=r"step 20 gets 4 of first \+ 16 of first instances"):
        Plan([entries[0], PlannedTask(TASK, ExactWindow(Uniform(Fraction(16)), 10, 21))], 16, 0, 40)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(-1, 7), st.booleans()), min_size=1, max_size=20))
def test_a_list_is_followed_to_the_letter(lines: list[tuple[int, int, bool]]) -> None:
    wanted = {(step, row): None for step, row, _ in lines if row >= 0}
    lines = [line for line in dict.fromkeys(lines) if line[1] < 0 or wanted.pop(line[:2], 0) is None]
    lines = sorted(lines, key=lambda line: line[0])
    assume(lines)
    steps, rows, named = (np.array(column, np.int64) for column in zip(*lines, strict=True))
    instances = np.where(named == 1, TRAIN[2], -1)
    listed = PlannedTask(TASK, Listed(steps, rows, instances))
    plan = Plan([PlannedTask(TASKS[1], Uniform(Fraction(9))), listed], 32, 0, 13)
    for step in range(14):
        found = plan.at(step)
        mine = np.flatnonzero(found.entry == 1)
        here = np.flatnonzero(steps == step)
        assert len(mine) == len(here)
        assert len(set(found.rows.tolist())) == len(found.rows)
        for at, line in zip(mine.tolist(), here.tolist(), strict=True):
            assert rows[line] in (-1, found.rows[at])
            assert instances[line] in (-1, found.instance[at])
            assert found.instance[at] in TRAIN


@pytest.mark.parametrize(
    ("rows", "takes"),
    [([*range(8)], 8), ([0, 0, 0, 0, 7, 7, 7, 7], 2), ([3, 3, 5, -1, -1, -1, -1, -1], 4), ([-1] * 8, 2)],
)
def test_a_list_takes_the_rows_that_it_names(rows: list[int], takes: int) -> None:
    listed = Listed(np.full(8, 2), np.array(rows), np.full(8, -1))
    shared = PlannedTask(TASK, listed, placement=Placement(per_row=4))
    plan = Plan([PlannedTask(TASKS[1], Uniform(Fraction(10 - takes))), shared], 10, 0, 4)
    found = plan.at(2)
    assert len(set(found.rows.tolist())) == 10
    assert len(set(found.rows[found.entry == 1].tolist())) == takes
    with pytest.raises(
        UserError, match=r"step 2 gets \d of second \+ 8 of first instances(?: in 11 rows)?, more than its 10"
    ):
        Plan([PlannedTask(TASKS[1], Uniform(Fraction(11 - takes))), shared], 10, 0, 4)


def test_a_row_is_listed_once() -> None:
    listed = Listed(np.array([3, 3]), np.array([5, 5]), np.array([-1, -1]))
    with pytest.raises(UserError, match="injections: first: row 5 of step 3 is listed too often"):
        Plan([PlannedTask(TASK, listed)], 8, 0)
    Plan([PlannedTask(TASK, listed, placement=Placement(per_row=2))], 8, 0)
    once = Listed(np.array([3]), np.array([5]), np.array([-1]))
    with pytest.raises(UserError, match="injections: second: row 5 of step 3 is listed too often"):
        Plan([PlannedTask(TASK, once), PlannedTask(TASKS[1], once)], 8, 0)
