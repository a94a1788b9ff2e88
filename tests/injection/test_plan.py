"""The plan: a pure function of seed, step and row, with the promises that runs at different rates rest on."""

from __future__ import annotations

import math
import pickle
import threading
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made import tasks_of, vocabulary
from plans import TASKS, draw_plan, multiplied, schedules
from scipy import stats

from olmo_inject.errors import UserError
from olmo_inject.injection import (
    Bernoulli,
    Burst,
    Injections,
    Plan,
    PlannedTask,
    Schedule,
    Uniform,
    is_exact,
    windowed,
)
from olmo_inject.injection.overflow import worst
from olmo_inject.tasks import Task

SIZES = st.integers(1, 48)
STEPS = st.integers(0, 10**6)


def rows_of(injections: Injections) -> list[tuple[int, int, int]]:
    """(row, task, instance) of every entry."""
    return list(zip(*(column.tolist() for column in injections[:3]), strict=True))


def one(task: Task, schedule: Schedule, draw: str = "independent", size: int = 32, seed: int = 0) -> Plan:
    return Plan([PlannedTask(task, schedule, draw)], size, seed)  # type: ignore[arg-type]


@given(st.data(), SIZES, STEPS)
def test_a_step_holds_what_the_schedules_say(data: st.DataObject, size: int, step: int) -> None:
    plan = draw_plan(data, size)
    for s in (*range(12), step):
        rows, task, instance, *_ = plan.at(s)
        assert len(set(rows.tolist())) == len(rows) <= size, "never two instances in a row"
        assert all(0 <= row < size for row in rows)
        assert task.tolist() == sorted(task.tolist())
        for number, entry in enumerate(plan.entries):
            mine = instance[task == number]
            assert len(mine) == entry.schedule.count(s)
            assert set(mine.tolist()) <= set(entry.task.train_ids.tolist()), "only the train half is injected"
        tokens = plan.tokens(plan.at(s))
        assert tokens.tolist() == [TASKS[t].instances[i].tolist() for _, t, i in rows_of(plan.at(s))]


@given(st.data(), SIZES, st.permutations(range(10)))
def test_no_step_depends_on_what_was_asked_before(data: st.DataObject, size: int, asked: list[int]) -> None:
    plan = draw_plan(data, size)
    in_order = {step: rows_of(plan.at(step)) for step in range(10)}
    for other in (Plan(plan.entries, size, plan.seed), pickle.loads(pickle.dumps(plan))):
        assert {step: rows_of(other.at(step)) for step in asked} == in_order


@given(st.data(), SIZES, STEPS)
def test_tasks_of_is_the_inverse_of_at(data: st.DataObject, size: int, step: int) -> None:
    plan = draw_plan(data, size)
    rows = np.array(data.draw(st.permutations(range(size))))
    tasks = plan.tasks_of(step, rows)
    at = {row: task for row, task, _ in rows_of(plan.at(step))}
    assert tasks.tolist() == [at.get(row, -1) for row in rows.tolist()]


@given(st.data(), SIZES, st.integers(1, 5), STEPS)
def test_a_multiple_of_a_rate_contains_its_injections(data: st.DataObject, size: int, k: int, start: int) -> None:
    """Same step, row and instance, whatever tasks were declared before."""
    before = draw_plan(data, size, max_tasks=2)
    room = size - sum(entry.schedule.max_count for entry in before.entries)
    low = data.draw(st.fractions(min_value=0, max_value=Fraction(room, k), max_denominator=40))
    task, number = TASKS[len(before.entries)], len(before.entries)
    for schedule in (Uniform(low), Bernoulli(low, size, 5)):
        more = multiplied(schedule, k)
        if more.max_count > room:
            continue
        rare, common = (
            Plan([*before.entries, PlannedTask(task, each)], size, before.seed) for each in (schedule, more)
        )
        for step in range(start, start + 12):
            ours = [entry for entry in rows_of(rare.at(step)) if entry[1] == number]
            theirs = [entry for entry in rows_of(common.at(step)) if entry[1] == number]
            assert theirs[: len(ours)] == ours


@given(st.data(), SIZES, STEPS)
def test_a_later_task_moves_nothing(data: st.DataObject, size: int, step: int) -> None:
    plan = draw_plan(data, size)
    assume(plan.entries)
    kept = data.draw(st.integers(0, len(plan.entries) - 1))
    alone = Plan(plan.entries[:kept], size, plan.seed)
    taken = sum(entry.schedule.max_count for entry in alone.entries)
    another = replace(plan.entries[kept], schedule=data.draw(schedules(size, size - taken)), draw="independent")
    changed = Plan([*alone.entries, another], size, plan.seed)
    for s in (*range(10), step):
        expected = [entry for entry in rows_of(plan.at(s)) if entry[1] < kept]
        assert rows_of(alone.at(s)) == expected
        assert [entry for entry in rows_of(changed.at(s)) if entry[1] < kept] == expected


@given(st.data(), SIZES, st.integers(0, 12), st.integers(1, 12), st.booleans())
def test_a_window_moves_nothing_inside_it(data: st.DataObject, size: int, start: int, length: int, burst: bool) -> None:
    rate = data.draw(st.fractions(min_value=0, max_value=size, max_denominator=40))
    inner: Schedule = Burst(size, 3, 1) if burst else Uniform(rate)
    whole, cut = one(TASKS[0], inner, size=size), one(TASKS[0], windowed(inner, start, start + length), size=size)
    for step in range(30):
        inside = start <= step < start + length
        assert rows_of(cut.at(step)) == (rows_of(whole.at(step)) if inside else [])


@given(st.data(), st.integers(1, 40), st.booleans())
def test_epochs_cover_the_train_half_once_each(data: st.DataObject, size: int, cut: bool) -> None:
    rate = data.draw(st.fractions(min_value=Fraction(1, 3), max_value=size, max_denominator=9))
    schedule: Schedule = windowed(Uniform(rate), 7, None) if cut else Uniform(rate)
    task = TASKS[1]
    train = task.train_ids.tolist()
    plan = one(task, schedule, "epochs", size)
    drawn: list[int] = []
    step = 0
    while len(drawn) < 3 * len(train):
        drawn += plan.at(step).instance.tolist()
        step += 1
    epochs = [drawn[i * len(train) : (i + 1) * len(train)] for i in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == train
    assert epochs[0] != epochs[1] != epochs[2]


def test_draws_in_epochs_do_not_depend_on_the_batches_they_fall_into() -> None:
    """The running count alone decides, so two schedules see the same sequence of instances."""
    streams = []
    for schedule in (Uniform(Fraction(1, 3)), Uniform(Fraction(7)), Burst(5, 4, 2)):
        plan = one(TASKS[1], schedule, "epochs")
        streams.append([i for step in range(120) for i in plan.at(step).instance.tolist()])
    shortest = min(map(len, streams))
    assert shortest >= 39
    assert streams[0][:shortest] == streams[1][:shortest] == streams[2][:shortest]


def test_epochs_need_an_exact_schedule() -> None:
    with pytest.raises(UserError, match=r"^injections: first: draw 'epochs' needs an exact schedule, not a random"):
        one(TASKS[0], Bernoulli(Fraction(1), 32, 0), "epochs")
    with pytest.raises(UserError, match="needs an exact schedule"):
        one(TASKS[0], windowed(Bernoulli(Fraction(1), 32, 0), 3, 9), "epochs")


def test_a_step_that_overflows_is_refused_and_named() -> None:
    full = [PlannedTask(TASKS[0], Uniform(Fraction(5, 2))), PlannedTask(TASKS[1], Burst(4, 10, 0))]
    assert len(Plan(full, 6, 0).at(0).rows) == 6, "the burst comes with the 2 of an even step, never with 3"
    with pytest.raises(
        UserError, match=r"^injections: step 0 gets 2 of first \+ 4 of second instances, more than its 5"
    ):
        Plan(full, 5, 0)
    odd = [full[0], PlannedTask(TASKS[1], Burst(4, 10, 3))]
    with pytest.raises(
        UserError, match=r"^injections: step 3 gets 3 of first \+ 4 of second instances, more than its 6"
    ):
        Plan(odd, 6, 0)
    assert Plan(odd, 6, 0, steps=3).steps == 3, "the run ends before"


def test_what_never_meets_is_not_added() -> None:
    rate = Uniform(Fraction(12))
    apart = [PlannedTask(TASKS[0], windowed(rate, 0, 50)), PlannedTask(TASKS[1], windowed(rate, 50, None))]
    assert [len(Plan(apart, 16, 0).at(step).rows) for step in (0, 49, 50, 99)] == [12] * 4
    alternating = [PlannedTask(task, Burst(16, 6, phase)) for task, phase in zip(TASKS, (0, 2, 4), strict=True)]
    plan = Plan(alternating, 16, 0)
    assert [len(plan.at(step).rows) for step in range(8)] == [16, 0, 16, 0, 16, 0, 16, 0]
    overlapping = [apart[0], PlannedTask(TASKS[1], windowed(rate, 49, None))]
    with pytest.raises(UserError, match=r"step 49 gets 12 of first \+ 12 of second"):
        Plan(overlapping, 16, 0)


@given(st.data(), st.integers(1, 12))
def test_a_plan_is_refused_just_if_a_step_overflows(data: st.DataObject, size: int) -> None:
    """Over a joint period, all of windows' edges (at most 25) and periods (of 1 to 12) behind one another."""
    chosen = [data.draw(schedules(size, size)) for _ in range(data.draw(st.integers(1, 3)))]
    chosen = [each for each in chosen if is_exact(each)]
    periods = [inner.every if isinstance(inner, Burst) else inner.rate.denominator
               for inner in (getattr(each, "inner", each) for each in chosen)]  # fmt: skip
    steps = 25 + math.lcm(1, *periods)
    assume(steps < 5000)
    fullest = max((sum(each.count(step) for each in chosen) for step in range(steps)), default=0)
    found = worst(chosen, size, None)
    assert (found.exact > size) == (fullest > size)
    cut = data.draw(st.integers(1, 60))
    fullest = max((sum(each.count(step) for each in chosen) for step in range(cut)), default=0)
    found = worst(chosen, size, cut)
    assert (found.exact > size) == (fullest > size)
    if found.step is not None:
        assert sum(each.count(found.step) for each in chosen) == found.exact


def test_large_fractions_and_late_windows_are_added_exactly() -> None:
    rare = Uniform(Fraction(1, 10**300))
    assert worst([rare, Burst(16, 2, 0)], 16, 10**6) == (16, 0, 0.0)
    far = [windowed(Uniform(Fraction(10**12 + 1, 10**12)), 2**31 - 9, None), windowed(Burst(1, 3, 1), 2**31 - 9, None)]
    found = worst(far, 2, 2**31)
    assert found.step is not None
    assert found.exact == max(sum(each.count(step) for each in far) for step in range(2**31 - 9, 2**31)) == 2


def test_small_random_rates_share_a_batch() -> None:
    """Their largest counts, 1e-18 tails, come to 24 rows of 16; all at once they have no chance that matters."""
    drawn = [PlannedTask(task, Bernoulli(Fraction(1, 10), 16, key)) for key, task in enumerate(TASKS)]
    assert sum(entry.schedule.max_count for entry in drawn) > 16
    assert 0 < Plan(drawn, 16, 0).overflow_chance < 1e-18
    often = [PlannedTask(task, Bernoulli(Fraction(4), 16, key)) for key, task in enumerate(TASKS)]
    with pytest.raises(UserError, match=r"more instances than its 16 rows with chance 0\.0\d+; drawn .* allowed 1e-18"):
        Plan(often, 16, 0)
    together = stats.binom.sf(16, 48, 1 / 4)
    assert worst([entry.schedule for entry in often], 16, None).chance == pytest.approx(together)
    beside = [PlannedTask(TASKS[0], Uniform(Fraction(14))), drawn[1], drawn[2]]
    chance = stats.binom.sf(2, 32, 1 / 160)
    with pytest.raises(UserError, match=f"with chance {chance:.2g}".replace(".", r"\.")):
        Plan(beside, 16, 0)


def test_beyond_its_rows_a_step_gives_up_what_was_drawn_last() -> None:
    """With chance below 1e-18 it comes to that; an exact schedule keeps its counts."""
    entries = [
        PlannedTask(TASKS[0], Uniform(Fraction(6))),
        PlannedTask(TASKS[1], Bernoulli(Fraction(8), 8, 1)),
        PlannedTask(TASKS[2], Bernoulli(Fraction(8), 8, 2)),
    ]
    alone = Plan(entries[:1], 8, 0)
    plan = Plan(entries[:1], 8, 0)
    crowded = [Plan([entry], 8, 0) for entry in entries]  # what a plan of all would hold, which none is made with
    plan.entries, plan.tasks, plan._task_of, plan._pieces = tuple(entries), TASKS[:3], [0, 1, 2], [None] * 3
    plan._demands, plan._most_rows = [entry.schedule for entry in entries], [1] * 3
    plan._row_keys, plan._draw_keys = [each._row_keys[0] for each in crowded], [each._draw_keys[0] for each in crowded]
    assert [plan.at(5).task.tolist().count(number) for number in range(3)] == [6, 2, 0]
    assert rows_of(plan.at(5))[:6] == rows_of(alone.at(5))
    assert len(set(plan.at(5).rows.tolist())) == 8


@given(st.data(), SIZES, STEPS)
def test_a_task_put_in_front_takes_rows_and_nothing_else(data: st.DataObject, size: int, start: int) -> None:
    """Draws stay, and so does every step that it does not inject."""
    plan = draw_plan(data, size, max_tasks=2)
    room = size - sum(entry.schedule.max_count for entry in plan.entries)
    first = PlannedTask(TASKS[2], data.draw(schedules(size, room)))
    changed = Plan([first, *plan.entries], size, plan.seed)
    for step in (*range(10), start):
        before = rows_of(plan.at(step))
        after = [(row, task - 1, instance) for row, task, instance in rows_of(changed.at(step)) if task]
        assert [entry[1:] for entry in after] == [entry[1:] for entry in before]
        taken = {row for row, task, _ in rows_of(changed.at(step)) if task == 0}
        if not taken & {row for row, _, _ in before}:
            assert after == before


@given(st.data(), SIZES, st.integers(2, 5), STEPS)
def test_in_epochs_a_multiple_of_a_rate_contains_rows(data: st.DataObject, size: int, k: int, start: int) -> None:
    low = data.draw(st.fractions(min_value=0, max_value=Fraction(size, k), max_denominator=40))
    rare, common = (one(TASKS[0], Uniform(rate), "epochs", size) for rate in (low, k * low))
    for step in range(start, start + 12):
        ours, theirs = rare.at(step).rows.tolist(), common.at(step).rows.tolist()
        assert theirs[: len(ours)] == ours


def test_in_epochs_a_multiple_of_a_rate_draws_other_instances() -> None:
    rare, common = (one(TASKS[0], Uniform(Fraction(rate)), "epochs") for rate in (1, 10))
    assert any(rare.at(step).instance[0] != common.at(step).instance[0] for step in range(5))


def test_a_full_batch_gives_every_row_an_instance() -> None:
    plan = Plan([PlannedTask(TASKS[0], Uniform(Fraction(20))), PlannedTask(TASKS[1], Uniform(Fraction(12)))], 32, 0)
    for step in range(20):
        assert sorted(plan.at(step).rows.tolist()) == list(range(32))


def test_plan_seed_decides_rows_and_task_seed_decides_instances() -> None:
    first, second = one(TASKS[0], Uniform(Fraction(4))), one(TASKS[0], Uniform(Fraction(4)), seed=1)
    assert [rows_of(first.at(s)) for s in range(9)] != [rows_of(second.at(s)) for s in range(9)]
    for step in range(9):
        assert first.at(step).instance.tolist() == second.at(step).instance.tolist()
    other = Task.build(replace(TASKS[0].config, seed=8), vocabulary())
    third = one(other, Uniform(Fraction(4)))
    for step in range(9):
        assert first.at(step).rows.tolist() == third.at(step).rows.tolist()
    assert any(first.at(s).instance.tolist() != third.at(s).instance.tolist() for s in range(9))


def test_rows_and_instances_are_uniform() -> None:
    plan = one(TASKS[0], Uniform(Fraction(4)))
    taken = [plan.at(step) for step in range(2000)]
    rows = np.bincount(np.concatenate([each.rows for each in taken]), minlength=32)
    train = TASKS[0].train_ids
    drawn = np.concatenate([each.instance for each in taken])
    instances = np.bincount(np.searchsorted(train, drawn), minlength=len(train))
    assert stats.chisquare(rows).pvalue > 1e-3
    assert stats.chisquare(instances).pvalue > 1e-3


def test_two_tasks_on_the_same_schedule_share_no_pattern() -> None:
    """The tasks' rows and draws are keyed apart, so neither says anything of the other's."""
    first, second = tasks_of("a", "b")
    both = [one(task, Uniform(Fraction(4))) for task in (first, second)]
    same_rows = sum(len(set(both[0].at(s).rows.tolist()) & set(both[1].at(s).rows.tolist())) for s in range(1000))
    assert abs(same_rows - 1000 * 4 * 4 / 32) < 4 * np.sqrt(500)


def test_what_is_handed_out_cannot_be_changed() -> None:
    plan = one(TASKS[0], Uniform(Fraction(3)))
    for column in plan.at(0):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0


def test_steps_count_from_zero() -> None:
    with pytest.raises(ValueError, match="steps count from 0, got -1"):
        one(TASKS[0], Uniform(Fraction(1))).at(-1)


def test_many_threads_get_what_one_gets() -> None:
    entries = [PlannedTask(TASKS[0], Uniform(Fraction(30))), PlannedTask(TASKS[1], Uniform(Fraction(31)), "epochs")]
    alone, shared = Plan(entries, 64, 0), Plan(entries, 64, 0)
    expected = [rows_of(alone.at(step)) for step in range(200)]
    start = threading.Barrier(8)
    wrong: list[int] = []

    def ask(offset: int) -> None:
        start.wait()
        for i in range(200):
            step = (i + 25 * offset) % 200 if offset % 2 else i
            if rows_of(shared.at(step)) != expected[step]:
                wrong.append(step)

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_golden_plan() -> None:
    """What every run so far was given: a change here breaks all of them."""
    plan = Plan(
        [
            PlannedTask(TASKS[0], Uniform(Fraction(5, 2))),
            PlannedTask(TASKS[1], Burst(3, 4, 3), "epochs"),
            PlannedTask(TASKS[2], Bernoulli(Fraction(1), 48, 11)),
        ],
        batch_size=48,
        seed=2,
    )
    assert {step: rows_of(plan.at(step)) for step in (0, 3, 31_339)} == {
        0: [(3, 0, 2), (16, 0, 9), (36, 2, 8), (44, 2, 20)],
        3: [(18, 0, 10), (36, 0, 2), (37, 0, 23), (14, 1, 17), (3, 1, 9), (9, 1, 6)],
        31_339: [(20, 0, 2), (10, 0, 10), (12, 0, 23), (36, 1, 9), (41, 1, 18), (42, 1, 21), (24, 2, 8)],
    }
