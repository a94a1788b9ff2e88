"""Instances of any length at any place: what stands where, and that nothing is written over."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made import EOS, vocabulary
from plans import TASKS

from olmo_inject.errors import UserError
from olmo_inject.injection import Plan, PlannedTask, Uniform
from olmo_inject.injection.layout import InstanceLayout
from olmo_inject.injection.placement import EOS as EOS_WORDS
from olmo_inject.injection.placement import PLACES, Placement, starts_alone, starts_in_row
from olmo_inject.tasks import Ragged, Task, TaskConfig

ROWS, LENGTH = 6, 24


def task_of(lengths: list[int], name: str = "ragged", groups: tuple[str, ...] = ()) -> Task:
    """A task of instances of these lengths, each token of which says whose and which it is."""
    ends = np.cumsum(lengths)
    instances = Ragged(np.arange(10, 10 + int(ends[-1]), dtype=np.uint32), np.concatenate([[0], ends]))
    return Task(
        TaskConfig(name, "texts", train_fraction=1.0),
        tokens=np.empty(0, np.uint32),
        instances=instances,
        train_ids=np.arange(len(lengths)),
        test_ids=np.empty(0, np.int64),
        continuation=np.array([max(1, length - 1) for length in lengths]),
        groups=groups,
    )


def hosts(step: int) -> np.ndarray:
    """Rows of a step, of ids 1 to 3 and EOS."""
    return np.random.default_rng(step).integers(0, 4, (ROWS, LENGTH))


@st.composite
def placements(draw: st.DrawFn, longest: int) -> Placement:
    place, eos = draw(st.sampled_from(PLACES)), draw(st.sampled_from(list(EOS_WORDS)))
    whole = longest + sum(EOS_WORDS[eos])
    if place == "start" and draw(st.booleans()):
        return Placement(eos=eos, split=True)
    per_row = draw(st.integers(1, max(1, min(3, LENGTH // whole))))
    offset = draw(st.integers(0, max(0, LENGTH - whole * per_row))) if place == "offset" else 0
    return Placement(place, offset, eos, per_row)


@given(st.data(), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 10**6))
def test_every_token_of_every_instance_stands_once_and_nothing_else_moves(
    data: st.DataObject, lengths: list[int], step: int
) -> None:
    placement = data.draw(placements(max(lengths)))
    whole = max(lengths) + placement.beside
    assume(placement.split or whole * placement.per_row + placement.offset <= LENGTH)
    pieces = -(-whole // LENGTH) if placement.split else 1
    room = ROWS // pieces * placement.per_row
    assume(room)
    count, task = data.draw(st.integers(1, room)), task_of(lengths)
    plan = Plan([PlannedTask(task, Uniform(Fraction(count)), "epochs", placement)], ROWS, 3, None, LENGTH)
    layout, host = InstanceLayout(plan, LENGTH, EOS), hosts(step)
    found = layout.at(step, np.arange(ROWS), host)
    places = list(zip(found.row.tolist(), found.column.tolist(), strict=True))
    assert len(set(places)) == len(places), "no token is spliced over another"
    assert all(0 <= column < LENGTH for _, column in places)
    drawn = plan.at(step)
    instances = drawn.instance[drawn.piece == 0].tolist()
    assert len(instances) == count
    before, after = ([EOS] * n for n in EOS_WORDS[placement.eos])
    expected = [[*before, *task.instances[i].tolist(), *after] for i in instances]
    spans = [found.value[found.span == span].tolist() for span in range(len(found.start))]
    by_instance: dict[int, list[int]] = {}
    for instance, tokens in zip(found.instance.tolist(), spans, strict=True):
        by_instance.setdefault(instance, []).extend(tokens)
    for instance in set(instances):
        times = instances.count(instance)
        assert sorted(by_instance[instance]) == sorted(expected[instances.index(instance)] * times)
    for start, length, tokens in zip(found.start.tolist(), found.length.tolist(), spans, strict=True):
        assert len(tokens) == length
        if placement.per_row == 1:
            firsts = {"start": 0, "end": LENGTH - length, "offset": placement.offset}
            assert start == firsts.get(placement.place, start)
    if placement.place == "document":
        for row, start in zip(found.span_row.tolist(), found.start.tolist(), strict=True):
            begins = {0, *(np.flatnonzero(host[row] == EOS) + 1).tolist()}
            others = {s + n for r, s, n in zip(found.span_row, found.start, found.length, strict=True) if r == row}
            assert start in begins | others
    assert int(found.answer.sum()) == int(task.continuation[instances].sum()), "the continuation, and it alone"
    written = host.copy()
    found.write(written)
    expected_rows = host.copy()
    expected_rows[found.row, found.column] = found.value
    assert written.tolist() == expected_rows.tolist(), "what is written is what the tokens, one by one, say"
    some = np.array(data.draw(st.lists(st.integers(0, ROWS - 1), max_size=8)), np.int64)
    again = pickle.loads(pickle.dumps(plan))
    part = InstanceLayout(again, LENGTH, EOS).at(step, some, host[some])
    for at, row in enumerate(some.tolist()):
        for name in ("column", "value", "answer"):
            assert getattr(part, name)[part.row == at].tolist() == getattr(found, name)[found.row == row].tolist()


@pytest.mark.slow
def test_places_are_drawn_evenly_and_anew_in_each_step() -> None:
    plan = Plan([PlannedTask(task_of([5]), Uniform(Fraction(ROWS)), "epochs", Placement("random"))], ROWS, 0)
    layout = InstanceLayout(plan, LENGTH, EOS)
    starts = np.concatenate([layout.at(step, np.arange(ROWS)).start for step in range(2000)])
    counts = np.bincount(starts, minlength=LENGTH - 5)
    assert len(counts) == LENGTH - 5, "it and its EOS fit at 19 places"
    assert counts.min() > len(starts) / len(counts) * 0.8
    assert counts.max() < len(starts) / len(counts) * 1.2


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sampled_from(["random", "document"]), st.integers(0, 99)
)
def test_rows_at_once_are_placed_as_one_by_one(lengths: list[int], place: str, seed: int) -> None:
    rng, row_length = np.random.default_rng(seed), 40
    words = rng.integers(0, 2**64, len(lengths), np.uint64)
    ends = rng.random((len(lengths), row_length)) < 0.1
    row, column = np.nonzero(ends)
    found = starts_alone(Placement(place), np.array(lengths), row_length, words, (row, column + 1))
    each = [
        starts_in_row(Placement(place), [length], row_length, words[i : i + 1], np.flatnonzero(ends[i]) + 1)
        for i, length in enumerate(lengths)
    ]
    assert found.tolist() == [start for (start,) in each]


def test_two_entries_never_share_a_row() -> None:
    task = task_of([3, 9, 5], groups=("a", "b", "a"))
    entries = [
        PlannedTask(task, Uniform(Fraction(2)), groups=frozenset({"a"}), placement=Placement("random")),
        PlannedTask(task, Uniform(Fraction(4)), "epochs", Placement(per_row=2), frozenset({"b"})),
        PlannedTask(TASKS[0], Uniform(Fraction(1))),
    ]
    plan = Plan(entries, ROWS, 1)
    assert [each.name for each in plan.tasks] == ["ragged", TASKS[0].name]
    for step in range(50):
        found = plan.at(step)
        assert np.bincount(found.entry).tolist() == [2, 4, 1]
        rows = [set(found.rows[found.entry == n].tolist()) for n in range(3)]
        assert [len(of) for of in rows] == [2, 2, 1]
        assert len(set.union(*rows)) == 5
        assert set(found.instance[found.entry == 0].tolist()) <= {0, 2}
        assert set(found.instance[found.entry == 1].tolist()) == {1}
    too_many = r"step 0 gets 2 of ragged \+ 8 of ragged \+ 1 of first instances in 7 rows, more than its 6"
    with pytest.raises(UserError, match=too_many):
        Plan([entries[0], PlannedTask(task, Uniform(Fraction(8)), "epochs", Placement(per_row=2)), entries[2]], ROWS, 1)


def test_another_task_does_not_move_the_drawn_places() -> None:
    entry = PlannedTask(task_of([5]), Uniform(Fraction(1)), placement=Placement("random"))
    other = PlannedTask(TASKS[0], Uniform(Fraction(1)), placement=Placement("random"))
    alone, second = (InstanceLayout(Plan(entries, ROWS, 0), LENGTH, EOS) for entries in ([entry], [other, entry]))
    for step in range(50):
        found, beside = alone.at(step, np.arange(ROWS)), second.at(step, np.arange(ROWS))
        mine = beside.entry == 1
        if beside.span_row[mine].tolist() == found.span_row.tolist():  # else the other task took its row
            assert beside.start[mine].tolist() == found.start.tolist()


def test_two_entries_of_a_task_draw_apart() -> None:
    entry = PlannedTask(TASKS[0], Uniform(Fraction(2)))
    found = [Plan([entry, entry], ROWS, 0).at(step) for step in range(20)]
    assert any(each.instance[:2].tolist() != each.instance[2:].tolist() for each in found)
    alone = [Plan([entry], ROWS, 0).at(step) for step in range(20)]
    assert [each.instance[:2].tolist() for each in found] == [each.instance.tolist() for each in alone]


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (
            Placement(),
            "sequences of 24 tokens; instance 1 and EOS need 41; longer: split with place: start continues it .* rows",
        ),
        (Placement("offset", 3, "none"), "sequences of 24 tokens; instance 1 after 3 tokens need 43"),
        (Placement("end", 0, "both", 2), "sequences of 24 tokens; 2 instances such as 1 and EOS need 84"),
    ],
)
def test_what_does_not_fit_is_refused(placement: Placement, message: str) -> None:
    plan = Plan([PlannedTask(task_of([3, 40]), Uniform(Fraction(1)), placement=placement)], ROWS, 0)
    with pytest.raises(UserError, match=f"^injections: ragged: {message}$"):
        InstanceLayout(plan, LENGTH, EOS)


def test_the_study_s_place_is_the_default() -> None:
    assert Placement() == Placement("start", 0, "after", 1, False)
    plan = Plan([PlannedTask(TASKS[0], Uniform(Fraction(3)))], ROWS, 0)
    found = InstanceLayout(plan, 4, EOS).at(5, np.arange(ROWS))
    assert found.start.tolist() == [0] * 3
    assert found.value.reshape(3, 4)[:, 3].tolist() == [EOS] * 3
    assert found.answer.reshape(3, 4).tolist() == [[False, False, True, False]] * 3
    assert vocabulary().eos_id == EOS
